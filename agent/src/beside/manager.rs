//! Who keeps the rules that drop what policy accepts, and what to tell it: pure.
//!
//! Rules of others are theirs. Nothing is written into them; here is said what they are told to pass
//! packets of pods, in words that a shell takes.

use super::rules::{Dropped, Table};
use super::{Flow, Obstacle};

/// Who keeps rules beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manager {
    /// Docker.
    Docker,
    /// firewalld.
    Firewalld,
    /// ufw.
    Ufw,
    /// Somebody else, or an administrator.
    Other,
}

impl Manager {
    /// Its name; `None`: not known.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Docker => Some("Docker"),
            Self::Firewalld => Some("firewalld"),
            Self::Ufw => Some("ufw"),
            Self::Other => None,
        }
    }

    /// Whose rule it is, by the chains around it.
    pub fn of(table: &Table, dropped: &Dropped) -> Self {
        if table.name.contains(" firewalld") {
            return Self::Firewalld;
        }
        // Docker from version 29 on can keep tables of nf_tables: `ip docker-bridges`.
        if table.name.contains(" docker") {
            return Self::Docker;
        }
        let among = |prefix: &str| dropped.path.iter().skip(1).any(|c| c.starts_with(prefix));
        let holds =
            |name: &str| table.chains.get(name).is_some_and(|chain| !chain.rules.is_empty());
        // What a base chain does by itself is whoever's has chains in the table.
        let base = dropped.path.len() == 1;
        if among("ufw") || base && (holds("ufw-before-forward") || holds("ufw6-before-forward")) {
            Self::Ufw
        } else if among("FWD_") || among("IN_") || base && holds("FORWARD_ZONES") {
            Self::Firewalld
        } else if among("DOCKER") || base && table.chains.contains_key("DOCKER-USER") {
            Self::Docker
        } else {
            Self::Other
        }
    }
}

/// What an administrator does about it: words for people, with commands between backquotes.
pub fn advice(obstacle: &Obstacle, prefixes: &[String]) -> String {
    if obstacle.flows == [Flow::Bgp] {
        return bgp(obstacle);
    }
    match obstacle.manager {
        // It is there while firewalld reloads, and stays when that fails.
        Manager::Firewalld if obstacle.table.ends_with(" firewalld_policy_drop") => {
            "firewalld did not finish its reload: `systemctl restart firewalld`".to_owned()
        }
        Manager::Firewalld => format!("tell firewalld of pods: `{}`", firewalld(prefixes)),
        Manager::Ufw => {
            let routes = prefixes.iter().flat_map(|prefix| {
                ["in", "out"].map(|way| format!("ufw route allow {way} on {prefix}+"))
            });
            let routes: Vec<_> = routes.collect();
            format!("tell ufw of pods: `{}`{}", routes.join(" && "), same_iptables(obstacle))
        }
        Manager::Docker => format!(
            "tell Docker of pods, again after each boot: `{}`{}",
            iptables(obstacle, prefixes, "DOCKER-USER"),
            same_iptables(obstacle)
        ),
        Manager::Other if obstacle.iptables().is_some() => format!(
            "accept packets of pods before it: `{}`{}",
            iptables(obstacle, prefixes, &obstacle.chain),
            same_iptables(obstacle)
        ),
        Manager::Other => {
            let rules = prefixes.iter().flat_map(|prefix| {
                ["iifname", "oifname"].map(|way| {
                    let Obstacle { table, chain, .. } = obstacle;
                    format!("nft insert rule {table} {chain} {way} '{prefix}*' accept")
                })
            });
            let rules: Vec<_> = rules.collect();
            format!(
                "accept packets of pods before it, also where its rules are kept: `{}`",
                rules.join(" && ")
            )
        }
    }
}

/// A zone of its own for pods: what policy accepted is accepted from there and to there.
fn firewalld(prefixes: &[String]) -> String {
    let mut commands = vec!["--new-zone=calico".to_owned()];
    commands.push("--zone=calico --set-target=ACCEPT".to_owned());
    commands.extend(prefixes.iter().map(|p| format!("--zone=calico --add-interface={p}+")));
    commands.push("--new-policy=to-calico".to_owned());
    commands.push("--policy=to-calico --set-target=ACCEPT".to_owned());
    commands.push("--policy=to-calico --add-ingress-zone=ANY".to_owned());
    commands.push("--policy=to-calico --add-egress-zone=calico".to_owned());
    let mut text = String::new();
    for command in commands {
        text.push_str(&format!("firewall-cmd --permanent {command} && "));
    }
    text + "firewall-cmd --reload"
}

fn iptables(obstacle: &Obstacle, prefixes: &[String], chain: &str) -> String {
    let programs = obstacle.iptables().unwrap_or_default();
    let rules = programs.iter().flat_map(|program| {
        prefixes.iter().flat_map(move |prefix| {
            ["-i", "-o"].map(|way| format!("{program} -I {chain} {way} {prefix}+ -j ACCEPT"))
        })
    });
    rules.collect::<Vec<_>>().join(" && ")
}

/// Where an ACCEPT counts, nothing else has to be told.
fn same_iptables(obstacle: &Obstacle) -> String {
    match obstacle.other_flavour {
        Some(flavour) => {
            let setting = match flavour {
                crate::felix::Flavour::Legacy => "legacy",
                crate::felix::Flavour::Nft => "nft",
            };
            format!(
                "; or let the agent use the same iptables: FELIX_IPTABLESBACKEND={setting}, and \
                 restart it"
            )
        }
        None => String::new(),
    }
}

/// More hosts than this are not written out.
const MOST_PEERS: usize = 8;

fn bgp(obstacle: &Obstacle) -> String {
    let peers: Vec<String> = match obstacle.peers.len() {
        1..=MOST_PEERS => obstacle.peers.iter().map(ToString::to_string).collect(),
        _ => vec!["<hosts>".to_owned()],
    };
    let Obstacle { table, chain, .. } = obstacle;
    let each = |one: &dyn Fn(&str) -> String| {
        peers.iter().map(|peer| one(peer)).collect::<Vec<_>>().join(" && ")
    };
    let how = match (obstacle.manager, obstacle.iptables().unwrap_or_default().first()) {
        (Manager::Firewalld, _) => {
            "firewall-cmd --permanent --add-service=bgp && firewall-cmd --reload".to_owned()
        }
        (Manager::Ufw, _) => {
            each(&|peer| format!("ufw allow proto tcp from {peer} to any port 179"))
        }
        (_, Some(program)) => {
            each(&|peer| format!("{program} -I {chain} -p tcp --dport 179 -s {peer} -j ACCEPT"))
        }
        (_, None) => each(&|peer| {
            let family = if peer.contains(':') { "ip6" } else { "ip" };
            format!("nft insert rule {table} {chain} {family} saddr {peer} tcp dport 179 accept")
        }),
    };
    format!("let it in from the other hosts: `{how}`")
}
