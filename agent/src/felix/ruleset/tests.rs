use calico_datastore::model::{Action, Family, IcmpMatch, PortRange, Protocol};

use super::*;
use crate::desired::{ActiveRule, SetId};

fn any() -> ActiveRule {
    ActiveRule {
        origin: 0,
        action: Action::Deny,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: SideMatch::default(),
        destination: SideMatch::default(),
    }
}

fn rule(change: impl FnOnce(&mut ActiveRule)) -> ActiveRule {
    let mut rule = any();
    change(&mut rule);
    rule
}

fn of(rule: &ActiveRule, family: Family) -> Vec<Rule> {
    let active = ActiveRules { ingress: vec![rule.clone()], egress: Vec::new() };
    assert!(rules(&active, Direction::Egress, family).is_empty());
    rules(&active, Direction::Ingress, family)
}

/// How many rules IPv4 and IPv6 get.
fn counts(rule: &ActiveRule) -> (usize, usize) {
    (of(rule, Family::V4).len(), of(rule, Family::V6).len())
}

#[test]
fn what_exists_for_which_family() {
    let net = |text: &str| text.parse().unwrap();
    let echo = Some(IcmpMatch { icmp_type: 8, code: None });
    let http = PortRange::single(80);
    type Case = (&'static str, Box<dyn FnOnce(&mut ActiveRule)>, (usize, usize));
    let cases: Vec<Case> = vec![
        ("any", Box::new(|_| {}), (1, 1)),
        ("ip version", Box::new(|r| r.family = Some(Family::V6)), (0, 1)),
        ("v4 net", Box::new(move |r| r.source.nets = vec![net("10.0.0.0/8")]), (1, 0)),
        ("v6 not net", Box::new(move |r| r.source.not_nets = vec![net("fd00::/8")]), (0, 1)),
        (
            "nets of both",
            Box::new(move |r| r.source.nets = vec![net("10.0.0.0/8"), net("fd00::/8")]),
            (1, 1),
        ),
        (
            "v4 to v6",
            Box::new(move |r| {
                r.source.nets = vec![net("10.0.0.0/8")];
                r.destination.nets = vec![net("fd00::/8")];
            }),
            (0, 0),
        ),
        (
            "nowhere",
            Box::new(move |r| r.destination.not_nets = vec![net("0.0.0.0/0"), net("10.0.0.0/8")]),
            (0, 0),
        ),
        ("icmp type without protocol", Box::new(move |r| r.icmp = echo), (1, 1)),
        (
            "icmp type of v4",
            Box::new(move |r| (r.protocol, r.icmp) = (Some(Protocol::ICMP), echo)),
            (1, 0),
        ),
        (
            "icmp type of v6",
            Box::new(move |r| (r.protocol, r.not_icmp) = (Some(Protocol::ICMPV6), echo)),
            (0, 1),
        ),
        (
            "icmp type of tcp",
            Box::new(move |r| (r.protocol, r.icmp) = (Some(Protocol::TCP), echo)),
            (0, 0),
        ),
        ("a port of any protocol", Box::new(move |r| r.source.ports = vec![http]), (3, 3)),
        (
            "a port of all but udp",
            Box::new(move |r| {
                r.source.not_ports = vec![http];
                r.not_protocol = Some(Protocol::UDP);
            }),
            (2, 2),
        ),
        (
            "a named port of any protocol",
            Box::new(|r| r.destination.named_ports = vec![SetId::new("n:x")]),
            (1, 1),
        ),
        (
            "a port of icmp",
            Box::new(move |r| {
                r.destination.ports = vec![http];
                r.protocol = Some(Protocol::ICMP);
            }),
            (0, 0),
        ),
        (
            "tcp but not tcp",
            Box::new(|r| {
                r.protocol = Some(Protocol::TCP);
                r.not_protocol = Some(Protocol::TCP);
            }),
            (0, 0),
        ),
    ];
    for (name, change, expected) in cases {
        assert_eq!(counts(&rule(change)), expected, "{name}");
    }
}

#[test]
fn only_the_familys_prefixes_stay() {
    let mixed = rule(|r| {
        r.source.nets = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        r.destination.nets = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    });
    let [v4] = of(&mixed, Family::V4).try_into().unwrap();
    assert_eq!(v4.source.nets, ["10.0.0.0/8".parse().unwrap()]);
    assert!(v4.destination.nets.is_empty(), "anywhere is no criterion");
    let [v6] = of(&mixed, Family::V6).try_into().unwrap();
    assert_eq!(v6.source.nets, ["fd00::/8".parse().unwrap()]);
}

#[test]
fn a_positive_protocol_says_all() {
    let [one] = of(
        &rule(|r| {
            r.protocol = Some(Protocol::TCP);
            r.not_protocol = Some(Protocol::UDP);
        }),
        Family::V4,
    )
    .try_into()
    .unwrap();
    assert_eq!((one.protocol, one.not_protocol), (Some(Protocol::TCP), None));
}
