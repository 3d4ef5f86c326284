//! What Docker, firewalld and ufw of Debian 12 wrote, recorded, and what is said of it: before they
//! were told of pods, and after what we advise. `tests/tests/managers` asks the programs themselves.

#![allow(clippy::unwrap_used, reason = "helpers of a test, which clippy does not take for tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use calico_agent::beside::manager::{Manager, advice};
use calico_agent::beside::{Bgp, Facts, Flow, Obstacle, nft, obstacles, save};
use calico_agent::config::AllowAction;
use calico_agent::felix::Flavour;
use calico_datastore::model::Family;

fn recorded(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/managers").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn facts() -> Facts {
    Facts {
        nft: Vec::new(),
        iptables: Vec::new(),
        chosen: Some(Flavour::Nft),
        allow: AllowAction::Accept,
        prefixes: vec!["cali".to_owned()],
        uplinks: vec!["eth0".to_owned()],
        pods: ["192.168.0.1", "fd80::1"].map(|ip| ip.parse::<IpAddr>().unwrap()).to_vec(),
        bgp: Bgp::Works,
    }
}

/// A record, where our chains are in iptables-nft.
fn with(name: &str, flavour: Flavour, text: &str) -> Facts {
    let mut facts = facts();
    if name.ends_with(".json") {
        facts.nft = nft::parse(text).unwrap();
    } else {
        let family = if name.starts_with("ufw6") { Family::V6 } else { Family::V4 };
        facts.iptables = vec![(flavour, family, save::parse(flavour, family, text))];
    }
    facts
}

const ALL: [Flow; 3] = [Flow::BetweenPods, Flow::FromPods, Flow::ToPods];

/// Record, whose it is, the chain, the rule that drops, and what is advised.
const RECORDS: [(&str, Manager, &str, &str, &str); 6] = [
    (
        "docker",
        Manager::Docker,
        "IPv4 iptables-legacy FORWARD",
        "policy drop",
        "iptables-legacy -I DOCKER-USER -i cali+ -j ACCEPT && \
         iptables-legacy -I DOCKER-USER -o cali+ -j ACCEPT",
    ),
    (
        "firewalld-iptables",
        Manager::Firewalld,
        "IPv4 iptables-legacy FORWARD",
        "-j REJECT --reject-with icmp-port-unreachable",
        "firewall-cmd --permanent --zone=calico --add-interface=cali+",
    ),
    (
        "firewalld-nftables",
        Manager::Firewalld,
        "inet firewalld filter_FORWARD",
        "reject with icmpx admin-prohibited (handle ",
        "firewall-cmd --permanent --policy=to-calico --add-egress-zone=calico",
    ),
    (
        "ufw",
        Manager::Ufw,
        "IPv4 iptables-legacy FORWARD",
        "policy drop",
        "ufw route allow in on cali+ && ufw route allow out on cali+",
    ),
    (
        "ufw6",
        Manager::Ufw,
        "IPv6 iptables-legacy FORWARD",
        "policy drop",
        "ufw route allow in on cali+ && ufw route allow out on cali+",
    ),
    (
        "firewalld-nftables",
        Manager::Firewalld,
        "inet firewalld filter_FORWARD",
        "reject with icmpx admin-prohibited",
        "firewall-cmd --reload",
    ),
];

fn file(name: &str, told: &str) -> String {
    let ending = if name == "firewalld-nftables" { "json" } else { "save" };
    format!("{name}{told}.{ending}")
}

#[test]
fn what_they_drop_is_named_with_what_to_tell_them() {
    for (name, manager, place, rule, command) in RECORDS {
        let name = file(name, "");
        let facts = with(&name, Flavour::Legacy, &recorded(&name));
        let found = obstacles(&facts);
        let flows: Vec<_> = found.iter().flat_map(|o| o.flows.clone()).collect();
        // firewalld rejects what falls off the zone, whichever interface it came by.
        assert_eq!(flows, ALL, "{name}: {found:#?}");
        for obstacle in &found {
            assert_eq!(obstacle.manager, manager, "{name}");
            assert_eq!(obstacle.place(), place, "{name}");
            assert!(obstacle.rule.starts_with(rule), "{name}: {}", obstacle.rule);
            assert_eq!(obstacle.unless, None, "{name}");
            let said = advice(obstacle, &facts.prefixes);
            assert!(said.contains(command), "{name}: {said}");
            let families = if name.ends_with("json") { 2 } else { 1 };
            assert_eq!(obstacle.families.len(), families, "{name}");
        }
    }
}

#[test]
fn nothing_is_said_when_they_know_of_pods() {
    for (name, ..) in RECORDS {
        let name = file(name, "-told");
        let found = obstacles(&with(&name, Flavour::Legacy, &recorded(&name)));
        assert_eq!(found, [], "{name}");
    }
}

/// What is told for half of the packets does not do.
#[test]
fn each_half_of_what_is_advised_is_needed() {
    let flows_without = |name: &str, needle: &str| -> Vec<Flow> {
        let name = file(name, "-told");
        let text = recorded(&name);
        let kept: Vec<&str> = text.lines().filter(|line| !line.contains(needle)).collect();
        assert!(kept.len() < text.lines().count(), "{name}: nothing has {needle}");
        let text = kept.join("\n").replace("},\n]}", "}\n]}");
        let found = obstacles(&with(&name, Flavour::Legacy, &text));
        found.iter().flat_map(|o: &Obstacle| o.flows.clone()).collect()
    };
    for name in ["docker", "ufw", "ufw6"] {
        assert_eq!(flows_without(name, "-o cali+"), [Flow::ToPods], "{name}");
        assert_eq!(flows_without(name, "-i cali+"), [Flow::FromPods], "{name}");
    }
    assert_eq!(flows_without("firewalld-iptables", "-o cali+"), [Flow::ToPods]);
    let jump = r#""filter_FORWARD_POLICIES_pre", "handle""#;
    assert!(flows_without("firewalld-nftables", jump).contains(&Flow::ToPods));
}

/// In the iptables that holds our chains they are asked first.
#[test]
fn where_our_chains_are_they_come_first() {
    let jump = "-A FORWARD -m comment --comment \"cali:abcdefghijklmnop\" -j cali-FORWARD\n";
    for name in ["docker", "ufw", "ufw6", "firewalld-iptables"] {
        let name = file(name, "");
        let text = recorded(&name);
        let (head, rules) = text.split_once("-A ").unwrap();
        let ours = format!("{head}:cali-FORWARD - [0:0]\n{jump}-A {rules}");
        assert_eq!(obstacles(&with(&name, Flavour::Nft, &ours)), [], "{name}");
        // Before the agent has come, and what comes before it.
        assert_eq!(obstacles(&with(&name, Flavour::Nft, &text)), [], "{name}");
        let before = format!("{head}:cali-FORWARD - [0:0]\n-A FORWARD -j DROP\n{jump}-A {rules}");
        assert_eq!(obstacles(&with(&name, Flavour::Nft, &before)).len(), 1, "{name}");
        // Where what we let pass has to pass them all the same.
        let mut facts = with(&name, Flavour::Nft, &ours);
        facts.allow = AllowAction::Return;
        assert!(!obstacles(&facts).is_empty(), "{name}");
    }
}

#[test]
fn bgp_that_is_not_let_in_is_named() {
    let peers: Vec<IpAddr> = vec!["172.18.18.102".parse().unwrap()];
    let own: Vec<IpAddr> = vec!["172.18.18.101".parse().unwrap()];
    let asked = |name: &str, flavour, text: &str, bgp: &Bgp| -> Vec<Obstacle> {
        let facts = Facts { bgp: bgp.clone(), ..with(name, flavour, text) };
        obstacles(&facts).into_iter().filter(|o| o.flows == [Flow::Bgp]).collect()
    };
    for (bgp, host) in [(Bgp::Somewhere, "<hosts>"), (Bgp::From(peers, own), "172.18.18.102")] {
        for (name, flavour, command) in [
            ("ufw.save", Flavour::Nft, "ufw allow proto tcp from HOST to any port 179"),
            ("ufw.save", Flavour::Legacy, "ufw allow proto tcp from HOST to any port 179"),
            ("firewalld-nftables.json", Flavour::Legacy, "--add-service=bgp"),
        ] {
            let text = recorded(name);
            let found = asked(name, flavour, &text, &bgp);
            assert_eq!(found.len(), 1, "{name}: {found:#?}");
            assert_eq!(found[0].unless, None, "{name}");
            let said = advice(&found[0], &["cali".to_owned()]);
            assert!(said.contains(&command.replace("HOST", host)), "{name}: {said}");
        }
        // What ufw makes of it.
        let told =
            "-A ufw-user-input -s 172.18.18.102/32 -p tcp -m tcp --dport 179 -j ACCEPT\nCOMMIT";
        let text = recorded("ufw.save").replace("COMMIT", told);
        let found = asked("ufw.save", Flavour::Nft, &text, &bgp);
        // Whether it is from the right hosts is known when they are.
        assert!(found.iter().all(|o| host == "<hosts>" && o.unless.is_some()), "{found:#?}");
    }
}

/// The page for operators prints what we advise, and nothing else: `tests/tests/managers` does it.
#[test]
fn the_page_prints_what_we_advise() {
    let mut advised = BTreeSet::new();
    let peer: Vec<IpAddr> = vec!["172.18.18.102".parse().unwrap()];
    for (name, ..) in RECORDS {
        let name = file(name, "");
        let mut facts = with(&name, Flavour::Legacy, &recorded(&name));
        facts.bgp = Bgp::From(peer.clone(), Vec::new());
        for obstacle in obstacles(&facts) {
            let said = advice(&obstacle, &facts.prefixes);
            let commands = said.split('`').nth(1).unwrap().to_owned();
            advised.extend(commands.split(" && ").map(str::to_owned));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/beside.md");
    let page = std::fs::read_to_string(path).unwrap();
    let blocks =
        page.split("```sh by: managers\n").skip(1).filter_map(|rest| rest.split("```").next());
    let printed: BTreeSet<String> = blocks.flat_map(str::lines).map(str::to_owned).collect();
    assert_eq!(printed, advised);
}

/// Whatever `nft` may print: an error or tables, and never a panic.
#[test]
fn broken_output_is_refused() {
    let text = recorded("firewalld-nftables.json");
    for cut in (0..text.len()).step_by(97) {
        assert!(nft::parse(&text[..cut]).is_err(), "{cut}");
    }
    for odd in ["{}", "[]", r#"{"nftables": 3}"#, r#"{"nftables": [null, {"rule": 3}]}"#] {
        assert_eq!(nft::parse(odd).unwrap(), []);
    }
}
