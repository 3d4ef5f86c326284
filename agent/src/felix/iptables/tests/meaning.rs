//! The replay of the original's rendering as meaning: its rules and ours do the same to every packet
//! near the edges of what they ask.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::model::{Action, Cidr, Family, PortRange};
use calico_ruleset::{End, Host, Packet, Ruleset, Strictness, Table};
use serde_json::Value;

use super::{any, family_of, recorded_rule, shared, strings, style};
use crate::desired::{ActiveRule, ActiveRules, SideMatch};
use crate::felix::iptables::rules::lines;
use crate::felix::ruleset::{self, Direction, Rule};

/// The sets that the cases name: overlapping, so that both together are neither.
const SETS: &str = "create cali40ipsetid1 hash:net family inet
add cali40ipsetid1 10.0.0.0/25
create cali40ipsetid2 hash:net family inet
add cali40ipsetid2 10.0.0.64/26
add cali40ipsetid2 10.2.0.0/16
create cali60ipsetid1 hash:net family inet6
add cali60ipsetid1 fd00::/64
";

/// The nets of those sets.
fn set_nets(family: Family) -> Vec<Cidr> {
    let of = |family| match family {
        Family::V4 => ["10.0.0.0/25", "10.0.0.64/26", "10.2.0.0/16"].as_slice(),
        Family::V6 => &["fd00::/64"],
    };
    of(family).iter().map(|net| net.parse().unwrap()).collect()
}

fn address(family: Family, n: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(n & 0xffff_ffff).unwrap()).into(),
        Family::V6 => Ipv6Addr::from_bits(n).into(),
    }
}

/// The first and last addresses of each net, and those just outside.
fn near(nets: &[Cidr], family: Family) -> BTreeSet<IpAddr> {
    let nets = nets.iter().filter(|net| net.family() == family && net.prefix_len() > 0);
    nets.flat_map(|net| {
        let (bits, first) = match net.address() {
            IpAddr::V4(ip) => (32, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (128, ip.to_bits()),
        };
        let last = first + ((1 << (bits - u32::from(net.prefix_len()))) - 1);
        [first - 1, first, last, last + 1].map(|n| address(family, n))
    })
    .collect()
}

/// The addresses to try at one end.
fn ends(side: &SideMatch, family: Family) -> BTreeSet<IpAddr> {
    let mut nets = [side.nets.as_slice(), &side.not_nets].concat();
    if !(side.sets.is_empty() && side.not_sets.is_empty()) {
        nets.extend(set_nets(family));
    }
    let neutral = if family == Family::V4 { "192.0.2.9" } else { "2001:db8::9" };
    let mut all = near(&nets, family);
    all.insert(neutral.parse().unwrap());
    all
}

fn ports(side: &SideMatch) -> BTreeSet<u16> {
    let ranges = side.ports.iter().chain(&side.not_ports);
    let edges = |range: &PortRange| {
        [range.first().saturating_sub(1), range.first(), range.last(), range.last() + 1]
    };
    ranges.flat_map(edges).chain([7]).collect()
}

/// Packets near the edges of what a rule asks.
fn packets(rule: &Rule, family: Family) -> Vec<Packet> {
    let mut kinds = Vec::new();
    let nowhere = address(family, 1);
    for protocol in [6, 17, 132] {
        for from in ports(&rule.source) {
            for to in ports(&rule.destination) {
                let ports = Some((from, to));
                kinds.push(Packet { ports, ..Packet::new(nowhere, nowhere, protocol) });
            }
        }
    }
    for kind in [9, 10, 11] {
        for code in [0, 11, 12, 13] {
            kinds.push(Packet::icmp(nowhere, nowhere, kind, code));
        }
    }
    kinds.extend([8, 47].map(|protocol| Packet::new(nowhere, nowhere, protocol)));
    let mut all = Vec::new();
    for source in ends(&rule.source, family) {
        for destination in ends(&rule.destination, family) {
            all.extend(kinds.iter().map(|one| Packet { source, destination, ..one.clone() }));
        }
    }
    all
}

/// How a packet leaves a chain, and which of the verdict's bits it has then.
fn leaves(ruleset: &Ruleset, chain: &str, packet: &Packet) -> (End, u32) {
    let (end, mark) = ruleset.ask(&Host::default(), Table::Filter, chain, packet).unwrap();
    let bits = style(Family::V4).marks.verdicts();
    // What is dropped has no mark any more, and it need not be told how.
    if end == End::Dropped { (end, 0) } else { (end, mark & bits) }
}

/// Both lists as chains of one ruleset, each followed by a rule that both should come to, or not.
fn both(theirs: &[String], ours: &[String], family: Family) -> Ruleset {
    let rules = |chain: &str, lines: &[String]| -> String {
        lines.iter().map(|line| format!("-A {chain} {line}\n")).collect()
    };
    let text = format!(
        "*filter\n:theirs - [0:0]\n:ours - [0:0]\n{}-A theirs --jump ACCEPT\n{}-A ours --jump ACCEPT\nCOMMIT\n",
        rules("theirs", theirs),
        rules("ours", ours),
    );
    // The cases leave the protocol away that ports and types need.
    let family = match family {
        Family::V4 => calico_ruleset::Family::V4,
        Family::V6 => calico_ruleset::Family::V6,
    };
    Ruleset::parse_with(Strictness::Fragments, family, &text, SETS).unwrap()
}

/// Asks both about every packet near the edges; how many came through to the end, and how many not.
fn agree(
    what: &str,
    theirs: &[String],
    ours: &[String],
    rule: &Rule,
    family: Family,
) -> [usize; 2] {
    let ruleset = both(theirs, ours, family);
    let mut counts = [0, 0];
    for packet in packets(rule, family) {
        let expected = leaves(&ruleset, "theirs", &packet);
        assert_eq!(
            leaves(&ruleset, "ours", &packet),
            expected,
            "{what}: {packet:?}\ntheirs: {theirs:#?}\nours: {ours:#?}"
        );
        counts[usize::from(expected != (End::Accepted, 0))] += 1;
    }
    counts
}

/// The rules of an action around a match, in the shape that the record describes.
fn shaped(matches: &str, action: Action) -> Vec<String> {
    let mark = |bit: &str, then: &str| {
        vec![
            format!("{matches} --jump MARK --set-mark {bit}/{bit}"),
            format!("-m mark --mark {bit}/{bit} --jump {then}"),
        ]
    };
    match action {
        Action::Allow => mark("0x80", "RETURN"),
        Action::Pass => mark("0x100", "RETURN"),
        Action::Deny => mark("0x800", "DROP"),
        Action::Log => {
            vec![format!("{matches} --jump LOG --log-prefix \"calico-packet\" --log-level 5")]
        }
    }
}

#[test]
fn matches_mean_what_the_originals_mean() {
    let Some(cases) = shared("rule-rendering.json") else { return };
    let marks = &cases["actions"]["marks"];
    assert_eq!((&marks["accept"], &marks["pass"]), (&Value::from("0x80"), &Value::from("0x100")));
    assert_eq!(cases["actions"]["shape"].as_object().unwrap().len(), 4);
    let matches = cases["match_cases"].as_array().unwrap();
    assert_eq!(matches.len(), 37);
    let (mut decisive, mut asked) = (0, 0);
    for case in matches {
        let recorded = recorded_rule(&case["rule"]);
        let expected = case["iptables_match"].as_str().unwrap();
        let family = family_of(case);
        for action in [Action::Allow, Action::Deny, Action::Pass, Action::Log] {
            let rule = Rule { action, ..recorded.clone() };
            let ours = lines(&rule, &style(family));
            let what = format!("{} {action:?}", case["name"]);
            let [past, caught] = agree(&what, &shaped(expected, action), &ours, &rule, family);
            asked += past + caught;
            // All but "Empty rule" catch some and let some past; Log only lets past.
            if action == Action::Log {
                assert_eq!(caught, 0, "{what}");
            } else if past > 0 && caught > 0 {
                decisive += 1;
            } else {
                assert_eq!(case["name"], "Empty rule");
            }
        }
    }
    assert_eq!(decisive, 36 * 3);
    assert!(asked > 10_000, "{asked}");
}

#[test]
fn blocks_mean_what_the_originals_mean() {
    let Some(cases) = shared("rule-rendering.json") else { return };
    let blocks = cases["cidr_block_cases"].as_array().unwrap();
    assert_eq!(blocks.len(), 10);
    for case in blocks {
        let mut rule = any(Action::Allow);
        rule.source.nets = strings(&case["src_nets"]);
        rule.source.not_nets = strings(&case["not_src_nets"]);
        rule.destination.nets = strings(&case["dst_nets"]);
        rule.destination.not_nets = strings(&case["not_dst_nets"]);
        let theirs: Vec<String> = case["iptables_append_lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().trim_start_matches("-A test ").to_owned())
            .collect();
        let ours = lines(&rule, &style(Family::V4));
        let [past, caught] = agree(&case.to_string(), &theirs, &ours, &rule, Family::V4);
        assert!(past > 0 && caught > 0, "{case}");
    }
}

#[test]
fn what_the_original_leaves_out_does_nothing() {
    let Some(cases) = shared("rule-rendering.json") else { return };
    let filtered = cases["filtered_out"].as_array().unwrap();
    assert_eq!(filtered.len(), 4);
    for case in filtered {
        assert_eq!(case["rendered"].as_array().unwrap().len(), 0);
        let rule = recorded_rule(&case["rule"]);
        let active = ActiveRule {
            origin: 0,
            action: rule.action,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: rule.source.clone(),
            destination: rule.destination.clone(),
        };
        let family = family_of(case);
        let rules = ActiveRules { ingress: vec![active], egress: Vec::new() };
        let ours: Vec<String> = ruleset::rules(&rules, Direction::Ingress, family)
            .iter()
            .flat_map(|rule| lines(rule, &style(family)))
            .collect();
        let [past, caught] = agree(&case["name"].to_string(), &[], &ours, &rule, family);
        assert!(past > 0 && caught == 0, "{case}");
    }
}

#[test]
fn another_meaning_is_found() {
    let (theirs, ours) = ("-p tcp --source 10.0.0.0/16", "-p tcp ! --source 10.0.0.0/16");
    let mut rule = any(Action::Deny);
    rule.source.nets = vec!["10.0.0.0/16".parse().unwrap()];
    for (ours, same) in [(theirs, true), (ours, false), ("--source 10.0.0.0/16", false)] {
        let [theirs, ours] = [theirs, ours].map(|text| vec![format!("{text} --jump DROP")]);
        let differ = || agree("", &theirs, &ours, &rule, Family::V4);
        assert_eq!(std::panic::catch_unwind(differ).is_ok(), same, "{ours:?}");
    }
}
