//! The answer that `explain` has to give, put together from the reference.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_agent::config::{HostAction, Settings};
use calico_agent::explain::document::Outcome;
use calico_datastore::model::{HostEndpointId, InterfaceName, Name, WorkloadEndpointId};
use calico_reference::{
    Account, Direction, Failsafe, Hook, Host, Interface, Packet, Place, Reason, Reference, Subject,
};

use super::lines::{Lines, head, of_account};

/// What goes on.
const GOES_ON: &str = "nothing decides there, so it goes on";
/// Messages by which neighbours and routers are found.
const DISCOVERY: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];

/// Everything that an expectation depends on.
pub(crate) struct Expected<'a> {
    pub(crate) reference: &'a Reference,
    pub(crate) settings: &'a Settings,
    /// Hosts and their addresses.
    pub(crate) nodes: &'a BTreeMap<Name, Vec<IpAddr>>,
    /// The interface that a packet passes, of every host.
    pub(crate) interface: InterfaceName,
}

/// One end of a packet.
struct End {
    pods: Vec<WorkloadEndpointId>,
    /// The host that it is on, or is.
    node: Option<Name>,
    is_host: bool,
}

/// A side: what it says, and whether that decided anything.
struct Side {
    lines: Vec<String>,
    allowed: bool,
    said: String,
    goes_on: bool,
}

impl Expected<'_> {
    /// What has to be answered about a packet, and what the reference's walk makes of it as a whole.
    pub(crate) fn answer(&self, packet: &Packet) -> (Lines, Option<bool>) {
        let [from, to] = [packet.source, packet.destination].map(|address| self.end(address));
        if from.pods.len() == 1 && from.pods == to.pods {
            let because = "a pod reaches itself without asking its host".to_owned();
            return (Lines { outcome: Outcome::Unpoliced, because, sides: Vec::new() }, None);
        }
        let mut sides: Vec<Side> = Vec::new();
        sides.extend(from.pods.iter().map(|pod| self.pod(pod, Direction::Egress, packet, &to)));
        if from.node.is_none() || from.node != to.node {
            for (end, direction) in [(&from, Direction::Egress), (&to, Direction::Ingress)] {
                sides.extend(self.host_endpoint(end, direction, packet));
            }
        }
        sides.extend(to.pods.iter().map(|pod| self.pod(pod, Direction::Ingress, packet, &from)));
        let walks = self.walks(&from, &to, packet);
        (conclude(sides), walks)
    }

    fn end(&self, address: IpAddr) -> End {
        // Of each host those in force, or else those that are not.
        let mut by_node: BTreeMap<&Name, [Vec<WorkloadEndpointId>; 2]> = BTreeMap::new();
        for (id, endpoint) in self.reference.workloads() {
            if endpoint.addresses.iter().any(|net| net.contains(address)) {
                let of_node = by_node.entry(&id.node).or_default();
                of_node[usize::from(!endpoint.active)].push(id.clone());
            }
        }
        let chosen =
            |[active, others]: [Vec<_>; 2]| if active.is_empty() { others } else { active };
        let mut pods: Vec<_> = by_node.into_values().flat_map(chosen).collect();
        pods.sort();
        let host = self.nodes.iter().find(|(_, all)| all.contains(&address));
        let is_host = pods.is_empty() && host.is_some();
        let node = pods.first().map(|pod| pod.node.clone());
        let node = node.or_else(|| host.map(|(name, _)| name.clone()));
        End { pods, node, is_host }
    }

    fn pod(
        &self,
        id: &WorkloadEndpointId,
        direction: Direction,
        packet: &Packet,
        other: &End,
    ) -> Side {
        let whose = format!("{} on {}", id.on_host(), id.node);
        let subject = Subject::Workload(id.clone());
        let account = self.reference.account(&subject, Hook::Normal, direction, packet).unwrap();
        let verdict = self.reference.workload(id, direction, packet).unwrap();
        assert_eq!(account.verdict, verdict, "the reference contradicts itself");
        let own_host = other.is_host && other.node.as_ref() == Some(&id.node);
        let inactive = verdict.reason == Reason::Inactive;
        if own_host && !inactive {
            if direction == Direction::Ingress {
                return side(
                    direction,
                    &whose,
                    None,
                    (true, "it comes from the host itself"),
                    None,
                );
            }
            if is_discovery(packet) {
                return side(direction, &whose, None, (true, "it is neighbour discovery"), None);
            }
            if verdict.allowed && self.settings.endpoint_to_host == HostAction::Drop {
                let why = (false, "DefaultEndpointToHostAction is Drop");
                return side(direction, &whose, None, why, Some(&account));
            }
        }
        let why = words(&verdict.reason, direction);
        side(direction, &whose, None, (verdict.allowed, &why), Some(&account))
    }

    /// The host endpoint of the end's host, hook by hook.
    fn host_endpoint(&self, end: &End, direction: Direction, packet: &Packet) -> Vec<Side> {
        let mut sides = Vec::new();
        let Some(node) = &end.node else { return sides };
        let Some(id) = self.governing(node) else { return sides };
        let hooks: &[Hook] = match (direction, end.is_host) {
            (Direction::Ingress, true) => &[Hook::Untracked, Hook::PreDnat, Hook::Normal],
            (Direction::Ingress, false) => &[Hook::Untracked, Hook::PreDnat, Hook::Forward],
            (Direction::Egress, true) => &[Hook::Untracked, Hook::Normal],
            (Direction::Egress, false) => &[Hook::Forward],
        };
        let whose = format!("HostEndpoint {} on {node}", id.name);
        for hook in hooks.iter().copied() {
            let subject = Subject::Host(id.clone());
            let account = self.reference.account(&subject, hook, direction, packet).unwrap();
            let verdict = self.reference.host(id, hook, direction, packet).unwrap();
            assert_eq!(account.verdict, verdict, "the reference contradicts itself");
            let (name, early) = match hook {
                Hook::Untracked => ("doNotTrack", true),
                Hook::PreDnat => ("preDNAT", true),
                Hook::Normal => ("host", false),
                Hook::Forward => ("applyOnForward", false),
            };
            if early && account.told.is_empty() {
                continue;
            }
            let safe = hook != Hook::Forward && self.is_failsafe(hook, direction, packet);
            let found = hook != Hook::Forward && is_discovery(packet);
            let one = if found {
                side(direction, &whose, Some(name), (true, "it is neighbour discovery"), None)
            } else if safe {
                side(direction, &whose, Some(name), (true, "it is a fail-safe port"), None)
            } else {
                let why = words(&verdict.reason, direction);
                side(direction, &whose, Some(name), (verdict.allowed, &why), Some(&account))
            };
            let by_policy = matches!(verdict.reason, Reason::Policy { .. }) && !safe && !found;
            let last = by_policy || !one.allowed;
            sides.push(one);
            if last {
                break;
            }
        }
        sides
    }

    fn governing(&self, node: &Name) -> Option<&HostEndpointId> {
        let addresses = self.nodes.get(node).cloned().unwrap_or_default();
        let interface = Interface { name: self.interface.clone(), addresses };
        self.reference.host_endpoint_of(node, &interface)
    }

    fn is_failsafe(&self, hook: Hook, direction: Direction, packet: &Packet) -> bool {
        let host = self.host(&Name::from(""));
        let (own, other, peer) = match direction {
            Direction::Ingress => (&host.failsafe_in, &host.failsafe_out, packet.source),
            Direction::Egress => (&host.failsafe_out, &host.failsafe_in, packet.destination),
        };
        let is = |one: &Failsafe, port| {
            one.protocol.number() == packet.protocol
                && one.port == port
                && one.net.is_none_or(|net| net.contains(peer))
        };
        packet.ports.is_some_and(|(from, to)| {
            own.iter().any(|one| is(one, to))
                || (hook == Hook::Untracked && other.iter().any(|one| is(one, from)))
        })
    }

    fn host(&self, node: &Name) -> Host {
        let list = |all: &[calico_agent::config::Failsafe]| {
            let one = |one: &calico_agent::config::Failsafe| Failsafe {
                protocol: one.protocol,
                port: one.port,
                net: one.net,
            };
            all.iter().map(one).collect()
        };
        let addresses = self.nodes.get(node).cloned().unwrap_or_default();
        Host {
            node: node.clone(),
            interfaces: vec![Interface { name: self.interface.clone(), addresses }],
            failsafe_in: list(&self.settings.failsafe_inbound),
            failsafe_out: list(&self.settings.failsafe_outbound),
        }
    }

    /// Does the packet pass every host on its way, hook by hook? `None` where several have an address.
    fn walks(&self, from: &End, to: &End, packet: &Packet) -> Option<bool> {
        let place = |end: &End| match &end.pods[..] {
            [] if end.is_host => Some(Place::Local),
            [] => Some(Place::Interface(self.interface.clone())),
            [pod] => Some(Place::Workload(pod.clone())),
            _ => None,
        };
        let (source, target) = (place(from)?, place(to)?);
        let outside = Place::Interface(self.interface.clone());
        // Neighbours are found, whatever policy says.
        let at_host = from.is_host || to.is_host;
        let discovers = is_discovery(packet) && at_host;
        let walk = |node: &Name, from: &Place, to: &Place| {
            self.reference.walk(&self.host(node), from, to, packet).allowed
        };
        if discovers {
            return None;
        }
        Some(match (&from.node, &to.node) {
            (Some(node), Some(other)) if node == other => {
                let dropped = to.is_host
                    && !from.is_host
                    && self.settings.endpoint_to_host == HostAction::Drop;
                walk(node, &source, &target) && !dropped
            }
            (first, last) => {
                first.as_ref().is_none_or(|node| walk(node, &source, &outside))
                    && last.as_ref().is_none_or(|node| walk(node, &outside, &target))
            }
        })
    }
}

fn side(
    direction: Direction,
    whose: &str,
    hook: Option<&str>,
    (allowed, why): (bool, &str),
    account: Option<&Account>,
) -> Side {
    let word = if direction == Direction::Ingress { "ingress" } else { "egress" };
    let mut lines = vec![head(word, whose, hook, allowed, why)];
    lines.extend(account.into_iter().flat_map(|account| of_account(account, direction)));
    let name = whose.split(" on ").next().unwrap_or_default();
    let said = match hook {
        Some(_) => format!("{word} of {name}: {why}"),
        None => format!("{word}: {why}"),
    };
    Side { lines, allowed, said, goes_on: why == GOES_ON }
}

fn conclude(sides: Vec<Side>) -> Lines {
    let denied = sides.iter().find(|side| !side.allowed);
    let (outcome, because) = if let Some(denied) = denied {
        (Outcome::Denied, denied.said.clone())
    } else if sides.is_empty() {
        let because =
            "neither end is a pod, and no host endpoint is on the way: no policy is asked";
        (Outcome::Unpoliced, because.to_owned())
    } else {
        let all = sides.iter().all(|side| side.goes_on);
        let mut said: Vec<&str> =
            sides.iter().filter(|side| all || !side.goes_on).map(|side| &side.said[..]).collect();
        said.dedup();
        (Outcome::Allowed, said.join("; "))
    };
    Lines { outcome, because, sides: sides.into_iter().map(|side| side.lines).collect() }
}

pub(crate) fn is_discovery(packet: &Packet) -> bool {
    packet.protocol == 58
        && packet.source.is_ipv6()
        && packet.icmp.is_some_and(|(kind, _)| DISCOVERY.contains(&kind))
}

/// A reason as `explain` says it.
fn words(reason: &Reason, direction: Direction) -> String {
    let side = if direction == Direction::Ingress { "ingress" } else { "egress" };
    match reason {
        Reason::Policy { tier, policy, rule } => {
            format!("policy {policy} of tier {tier}, {side}[{rule}]")
        }
        Reason::EndOfTier(tier) => format!("no policy of tier {tier} allows it"),
        Reason::Profile { profile, rule } => format!("profile {profile}, {side}[{rule}]"),
        Reason::MissingProfile(profile) => format!("profile {profile} does not exist"),
        Reason::NothingAllows => "no policy and no profile allows it".to_owned(),
        Reason::Inactive => "the endpoint is not in force".to_owned(),
        Reason::NotItsAddress => "the address is not the endpoint's".to_owned(),
        Reason::Tunnel => "endpoints may not make tunnels".to_owned(),
        Reason::Failsafe => "it is a fail-safe port".to_owned(),
        // `explain` is asked about first packets only.
        Reason::Answered | Reason::Invalid => panic!("{reason} of a first packet"),
        Reason::NotAsked => GOES_ON.to_owned(),
    }
}
