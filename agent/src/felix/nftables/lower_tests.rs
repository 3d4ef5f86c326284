use std::fmt::Write as _;

use calico_datastore::model::PortRange;

use super::*;
use crate::felix::nftables::object::{CtStates, Verdict};

fn rule(matches: Vec<Match>, statements: Vec<Statement>) -> Rule {
    Rule { matches, statements, comment: None }
}

fn udp() -> Match {
    Match::Protocol { number: 17, not: false }
}

fn ports(ranges: &[(u16, u16)], not: bool) -> Match {
    let ranges = ranges.iter().map(|(a, b)| PortRange::new(*a, *b).unwrap()).collect();
    Match::Ports { side: Side::Destination, ranges, not }
}

fn address(net: &str, not: bool) -> Match {
    Match::Address { side: Side::Source, net: net.parse().unwrap(), not }
}

fn among(nets: &[&str], not: bool) -> Match {
    let nets = nets.iter().map(|net| net.parse().unwrap()).collect();
    Match::AddressAmong { side: Side::Destination, nets, not }
}

fn icmp(number: u8, code: Option<u8>, not: bool) -> Vec<Match> {
    vec![Match::Protocol { number, not: false }, Match::Icmp { icmp_type: 3, code, not }]
}

fn port_set(family: Family) -> Match {
    Match::AddressPortIn { side: Side::Destination, family, set: "set".into(), not: true }
}

fn interface_set(way: Way, family: Family) -> Match {
    Match::InterfaceAddressIn { way, family, set: "set".into(), not: false }
}

/// What nft writes for the same lines (`nft --debug=netlink`), register by register.
#[test]
fn rules_become_what_nft_makes_of_them() {
    let accept = || vec![Statement::Verdict(Verdict::Accept)];
    let masked = Match::AddressIn {
        side: Side::Source,
        family: Family::V6,
        set: "set".into(),
        mask: Some(62),
        not: false,
    };
    let snat = |to: Option<&str>, ports, random_fully| Statement::Snat {
        to: to.map(|to| to.parse().unwrap()),
        ports,
        random_fully,
    };
    let states = CtStates::NEW.or(CtStates::INVALID);
    let mut text = String::new();
    for (name, rule) in [
        (
            "ip saddr 10.0.0.0/8 ip daddr { … }, the family once",
            rule(
                vec![address("10.0.0.0/8", false), among(&["10.0.0.1", "11.0.0.0/8"], true)],
                accept(),
            ),
        ),
        ("ip saddr != 10.1.2.0/23", rule(vec![address("10.1.2.0/23", true)], accept())),
        ("ip6 saddr fd00::1", rule(vec![address("fd00::1", false)], accept())),
        ("ip saddr 0.0.0.0/0", rule(vec![address("0.0.0.0/0", false)], accept())),
        (
            "ip daddr { 10.0.0.0/9, 10.128.0.0/9 }, which is one prefix",
            rule(vec![among(&["10.0.0.0/9", "10.128.0.0/9"], false)], accept()),
        ),
        ("ip6 saddr & ffff:ffff:ffff:fffc:: @set", rule(vec![masked], accept())),
        (
            "udp dport { 80, 8000-8080 }",
            rule(vec![udp(), ports(&[(80, 80), (8000, 8080)], false)], accept()),
        ),
        ("udp dport != 80-90", rule(vec![udp(), ports(&[(85, 90), (80, 86)], true)], accept())),
        ("icmp type 3 code 4", rule(icmp(1, Some(4), false), accept())),
        ("icmpv6 type . code != { 3 . 4 }", rule(icmp(58, Some(4), true), accept())),
        ("ip daddr . meta l4proto . th dport != @set", rule(vec![port_set(Family::V4)], accept())),
        ("ip6 daddr . meta l4proto . th dport != @set", rule(vec![port_set(Family::V6)], accept())),
        ("iifname . ip6 saddr @set", rule(vec![interface_set(Way::In, Family::V6)], accept())),
        ("oifname . ip daddr @set", rule(vec![interface_set(Way::Out, Family::V4)], accept())),
        (
            "iifname . ether saddr @set",
            rule(vec![Match::SourceMacIn { set: "set".into(), not: false }], accept()),
        ),
        ("ct state ! new,invalid", rule(vec![Match::CtState { states, not: true }], accept())),
        ("meta mark set", rule(vec![], vec![Statement::SetMark { mask: 0xff00, value: 0xff1234 }])),
        (
            "snat ip to 10.0.0.1:80-90 fully-random",
            rule(vec![udp()], vec![snat(Some("10.0.0.1"), PortRange::new(80, 90), true)]),
        ),
        ("masquerade to :80", rule(vec![udp()], vec![snat(None, PortRange::new(80, 80), false)])),
    ] {
        writeln!(text, "{name}").unwrap();
        for expr in lower(&rule) {
            writeln!(text, "  {expr:?}").unwrap();
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_mark_that_changes_nothing_is_nothing() {
    assert_eq!(lower(&rule(vec![], vec![Statement::SetMark { mask: 0, value: 7 }])), []);
}

#[test]
fn what_nft_cannot_quote_is_replaced_and_what_is_too_long_cut() {
    assert_eq!(comment("a \"b\"\n\tc"), "a 'b'  c");
    let long = "ü".repeat(100);
    assert_eq!(comment(&long).len(), 128);
    let cut = comment(&format!("x{long}"));
    assert!(cut.len() == 127 && cut.ends_with('ü'), "{cut}");
    let Expr::Log { prefix, .. } =
        &lower(&rule(vec![], vec![Statement::Log { prefix: long.into() }]))[0]
    else {
        panic!("no log")
    };
    assert_eq!(prefix.len(), 126);
}
