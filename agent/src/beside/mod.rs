//! What others do to packets that policy accepts: Docker, firewalld, ufw, an administrator.
//!
//! A packet that we accept is accepted in our chains only. It goes through every other base chain of
//! its hooks as well, of nf_tables and of both iptables, and each may drop it: an accept ends one base
//! chain and no more. That holds for whatever dataplane is ours.
//!
//! * [`packet`] is what is asked about, and [`rules`] what becomes of it: the first packet of a
//!   connection between pods, from a pod, to a pod;
//! * [`nft`] and [`save`] make tables of what the programs print, in one form;
//! * [`manager`] knows whose a rule is, and what to tell it;
//! * [`read`] starts the programs, and [`watch`] does it again when something has changed.
//!
//! Nothing here writes to the kernel, and nothing of others is ever changed.

pub mod manager;
pub mod nft;
pub mod packet;
pub mod read;
pub mod rules;
pub mod save;
pub mod watch;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::model::Family;

use self::manager::Manager;
use self::packet::Packet;
use self::rules::{Fate, Hook, Ours, Table, fate};
use crate::config::AllowAction;
use crate::desired::{BgpState, MeshPeer};
use crate::felix::Flavour;
use crate::felix::iptables::names::owns_chain;

/// What is judged.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The tables of nf_tables, without ours and without those of iptables.
    pub nft: Vec<Table>,
    /// The tables of every iptables.
    pub iptables: Vec<(Flavour, Family, Vec<Table>)>,
    /// The iptables that holds our chains, when one does.
    pub chosen: Option<Flavour>,
    /// What an allowed packet does at the end of our chains.
    pub allow: AllowAction,
    /// What names of pods' interfaces begin with.
    pub prefixes: Vec<String>,
    /// The interfaces that lead to other hosts.
    pub uplinks: Vec<String>,
    /// An address of a pod, of each family that is in use.
    pub pods: Vec<IpAddr>,
    /// The hosts from which BGP has to come in.
    pub bgp: Bgp,
}

/// The hosts from which BGP has to come in: of two, the one with the smaller address waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Bgp {
    /// It comes in from all, or from nowhere: nothing is asked.
    #[default]
    Works,
    /// From hosts that are not known.
    Somewhere,
    /// From these, and to these addresses of this host.
    From(Vec<IpAddr>, Vec<IpAddr>),
}

impl Bgp {
    /// What a host waits for.
    pub fn of(state: &BgpState) -> Self {
        if state.listen_port.is_some_and(|port| port != PORT_OF_BGP) {
            // Another port: the administrator knows which.
            return Self::Works;
        }
        let own = [state.ipv4.map(IpAddr::V4), state.ipv6.map(IpAddr::V6)];
        let own: Vec<IpAddr> = own.into_iter().flatten().collect();
        let comes = |peer: &&MeshPeer| {
            own.iter().any(|mine| mine.is_ipv4() == peer.address.is_ipv4() && peer.address > *mine)
        };
        Self::From(state.mesh.iter().filter(comes).map(|peer| peer.address).collect(), own)
    }

    /// What a connection comes with in a family: from whom, and to which address.
    fn connections(&self, family: Family) -> Vec<(Option<IpAddr>, IpAddr)> {
        match self {
            Self::Works => Vec::new(),
            Self::Somewhere => vec![(None, outside(family))],
            Self::From(peers, own) => {
                let of = |address: &&IpAddr| Family::of(**address) == family;
                let mine = own.iter().find(of).copied().unwrap_or(outside(family));
                peers.iter().filter(of).map(|peer| (Some(*peer), mine)).collect()
            }
        }
    }
}

/// Which packets are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// From a pod to another one on this host.
    BetweenPods,
    /// From a pod to elsewhere.
    FromPods,
    /// From elsewhere to a pod.
    ToPods,
    /// BGP, from another host to this one.
    Bgp,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BetweenPods => "between pods",
            Self::FromPods => "from pods",
            Self::ToPods => "to pods",
            Self::Bgp => "of BGP from other hosts",
        })
    }
}

/// Something that drops what policy accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The table: `inet firewalld`, `IPv4 iptables-legacy`.
    pub table: String,
    /// Its chain at the hook.
    pub chain: String,
    /// The chains on the way to the rule.
    pub path: Vec<String>,
    /// The rule.
    pub rule: String,
    /// Which packets it drops.
    pub flows: Vec<Flow>,
    /// Of which families.
    pub families: Vec<Family>,
    /// The hosts whose BGP it drops, where they are known.
    pub peers: Vec<IpAddr>,
    /// A rule that is not understood and may let them pass.
    pub unless: Option<String>,
    /// Whose it is.
    pub manager: Manager,
    /// It is in this iptables.
    pub flavour: Option<Flavour>,
    /// It is in this iptables, and our chains are in the other one.
    pub other_flavour: Option<Flavour>,
}

impl Obstacle {
    /// Where it is.
    pub fn place(&self) -> String {
        format!("{} {}", self.table, self.chain)
    }

    /// The programs that change it, when it is one of iptables.
    pub fn iptables(&self) -> Option<Vec<&'static str>> {
        let flavour = self.flavour?;
        let programs = self.families.iter().map(|family| match (family, flavour) {
            (Family::V4, Flavour::Legacy) => "iptables-legacy",
            (Family::V4, Flavour::Nft) => "iptables-nft",
            (Family::V6, Flavour::Legacy) => "ip6tables-legacy",
            (Family::V6, Flavour::Nft) => "ip6tables-nft",
        });
        Some(programs.collect())
    }

    /// What is wrong, for people.
    pub fn finding(&self) -> String {
        let whose = self.manager.name().map(|name| format!("{name}: ")).unwrap_or_default();
        let way = match self.path.len() {
            0 | 1 => String::new(),
            _ => format!(" in {}", self.path.join(" \u{2192} ")),
        };
        let flows: Vec<_> = self.flows.iter().map(ToString::to_string).collect();
        let families: Vec<_> = self.families.iter().map(ToString::to_string).collect();
        let mut text = format!(
            "{whose}`{}`{way} drops what policy accepts ({} packets {}): an accept elsewhere does \
             not count, it is dropped here all the same",
            self.rule,
            families.join(" and "),
            flows.join(", "),
        );
        if let Some(unless) = &self.unless {
            text.push_str(&format!(", unless `{unless}` lets it pass"));
        }
        text
    }
}

/// An address that nobody has (RFC 5737, RFC 3849): it stands for the outside.
fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    }
}

/// A port that no service has: what is opened for one alone is not open.
const PORT: u16 = 47_999;
/// The port of BGP.
const PORT_OF_BGP: u16 = 179;

fn packets(facts: &Facts) -> Vec<(Flow, Packet)> {
    let prefix = facts.prefixes.first().map_or("cali", String::as_str);
    let [one, two] = ["12345abcdef", "6789a012345"].map(|rest| format!("{prefix}{rest}"));
    let mut packets = Vec::new();
    for pod in &facts.pods {
        let elsewhere = outside(Family::of(*pod));
        let packet = |from: &String, to: Option<&String>, source, destination, port| Packet {
            from: from.clone(),
            to: to.cloned(),
            source,
            destination,
            port,
        };
        packets.push((Flow::BetweenPods, packet(&one, Some(&two), Some(*pod), *pod, PORT)));
        for uplink in &facts.uplinks {
            let out = packet(&one, Some(uplink), Some(*pod), elsewhere, PORT);
            let back = packet(uplink, Some(&one), Some(elsewhere), *pod, PORT);
            packets.extend([(Flow::FromPods, out), (Flow::ToPods, back)]);
            for (peer, mine) in facts.bgp.connections(Family::of(*pod)) {
                packets.push((Flow::Bgp, packet(uplink, None, peer, mine, PORT_OF_BGP)));
            }
        }
    }
    packets
}

/// Everything that drops what policy accepts.
pub fn obstacles(facts: &Facts) -> Vec<Obstacle> {
    let packets = packets(facts);
    let mut found = Vec::new();
    for table in &facts.nft {
        judge(table, None, facts, &packets, &mut found);
    }
    for (flavour, _, tables) in &facts.iptables {
        for table in tables {
            judge(table, Some(*flavour), facts, &packets, &mut found);
        }
    }
    found
}

fn judge(
    table: &Table,
    flavour: Option<Flavour>,
    facts: &Facts,
    packets: &[(Flow, Packet)],
    found: &mut Vec<Obstacle>,
) {
    let chosen = flavour.is_some() && flavour == facts.chosen;
    // What comes behind our chains in the same base chain is asked when we let it be asked. Other
    // tables have no policy to accept anything by, but that of host endpoints.
    let filter = table.chains.contains_key("FORWARD") && table.chains.contains_key("INPUT");
    let accepts = chosen && filter && facts.allow == AllowAction::Accept;
    let ours = |name: &str, flow: Flow| {
        // Our own chains let nothing of BGP in by themselves.
        (flavour.is_some() && owns_chain(name)).then_some(match accepts && flow != Flow::Bgp {
            true => Ours::Accept,
            false => Ours::Return,
        })
    };
    let bases = table.chains.iter().filter_map(|(name, chain)| Some((name, chain.base?.0)));
    for (name, hook) in bases {
        // Where our jump is missing it will come, before everything.
        let jumps = |rule: &rules::Rule| matches!(&rule.verdict, rules::Verdict::Jump(to) if owns_chain(to));
        let missing = || !table.chains[name].rules.iter().any(jumps);
        if chosen && hook == Hook::Forward && filter && missing() {
            continue;
        }
        for (flow, packet) in packets {
            let meant = table.family.is_none_or(|family| family == packet.family());
            if !meant || !Hook::of(packet).contains(&hook) {
                continue;
            }
            let Fate::Drops(dropped) = fate(table, name, packet, &|c| ours(c, *flow)) else {
                continue;
            };
            let family = packet.family();
            let peer = packet.source.filter(|_| *flow == Flow::Bgp);
            let same = found.iter_mut().find(|o: &&mut Obstacle| {
                let same = o.table == table.name && o.chain == *name && o.path == dropped.path;
                let kind = (o.flows == [Flow::Bgp]) == (*flow == Flow::Bgp);
                same && kind && o.rule == dropped.rule && o.unless == dropped.unless
            });
            match same {
                Some(obstacle) => {
                    let flows: BTreeSet<_> =
                        obstacle.flows.iter().copied().chain([*flow]).collect();
                    obstacle.flows = flows.into_iter().collect();
                    if !obstacle.families.contains(&family) {
                        obstacle.families.push(family);
                    }
                    // The same by another interface.
                    obstacle.peers.extend(peer.filter(|peer| !obstacle.peers.contains(peer)));
                }
                None => found.push(Obstacle {
                    table: table.name.clone(),
                    chain: name.clone(),
                    manager: Manager::of(table, &dropped),
                    path: dropped.path,
                    rule: dropped.rule,
                    unless: dropped.unless,
                    flows: vec![*flow],
                    families: vec![family],
                    peers: peer.into_iter().collect(),
                    flavour,
                    other_flavour: flavour.filter(|_| !chosen && facts.chosen.is_some()),
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests;
