//! Rules, and the address sets that they need. Every state is compared with the oracle on the way.

use std::collections::BTreeSet;

use calico_datastore::model::{
    Action, Peer, PortRange, Ports, Protocol, Rule, Unevaluable, Update,
};

use super::make::*;
use super::show::*;
use super::{Bench, HOST};
use crate::desired::{AclClass, SetKind};

#[test]
fn a_network_is_a_label_with_an_empty_value() {
    let mut bench = Bench::new();
    let state = bench.apply([
        endpoint("", "frontend"),
        put_profile("frontend", network_profile("frontend")),
        put_wep("host-b", "v", with(wep("v", "10.0.0.2 fd00::2"), "", "frontend")),
        put_wep("host-b", "u", with(wep("u", "10.0.0.3"), "", "backend")),
        put_profile("backend", network_profile("backend")),
    ]);
    assert_eq!(
        members(&state, "has(frontend)"),
        ["Net(10.0.0.1/32)", "Net(10.0.0.2/32)", "Net(fd00::2/128)"]
    );
    assert!(set(&state, "has(backend)").is_none(), "no rule in force here uses it");
    assert_eq!(state.sets.len(), 1);
}

#[test]
fn an_address_stays_until_its_last_owner_goes() {
    let mut bench = Bench::new();
    let state = bench.apply([
        endpoint("", "net"),
        put_profile("net", network_profile("net")),
        put_wep("host-b", "v", with(wep("v", "10.0.0.9"), "net", "")),
        put_wep("host-c", "v", with(wep("v", "10.0.0.9 10.0.0.9"), "net", "")),
    ]);
    let both = ["Net(10.0.0.1/32)", "Net(10.0.0.9/32)"];
    assert_eq!(members(&state, "has(net)"), both);
    let state = bench.apply([no_wep("host-c", "v")]);
    assert_eq!(members(&state, "has(net)"), both);
    let state = bench.apply([put_wep("host-b", "v", with(wep("v", "10.0.0.9"), "", ""))]);
    assert_eq!(members(&state, "has(net)"), ["Net(10.0.0.1/32)"]);
}

#[test]
fn overlapping_prefixes_of_network_sets_are_all_members() {
    let (mut bench, _) = world_with_rules(vec![allow_from("has(out)")]);
    let state = bench.apply([
        put_netset("s", "10.0.0.0/8 10.1.0.0/16 2001:db8::/32", "out"),
        put_netset("r", "10.1.0.0/16", "out"),
        put_hep("h", hep("host-b", "172.18.0.9", "out")),
    ]);
    let all = ["10.0.0.0/8", "10.1.0.0/16", "172.18.0.9/32", "2001:db8::/32"];
    assert_eq!(members(&state, "has(out)"), all.map(|net| format!("Net({net})")));
    let state = bench.apply([Update::NetworkSet(netset_id("s"), None)]);
    assert_eq!(members(&state, "has(out)"), ["Net(10.1.0.0/16)", "Net(172.18.0.9/32)"]);
}

#[test]
fn an_inactive_endpoint_drops_all_and_stays_a_member() {
    let (mut bench, _) = world_with_rules(vec![allow_from("all()")]);
    let mut down = wep("v", "10.0.0.2");
    down.active = false;
    let state = bench.apply([put_wep(HOST, "v", down)]);
    assert_eq!(*class(&state, "v"), AclClass::default());
    assert!(!state.endpoints[&wep_id(HOST, "v")].active);
    assert_eq!(members(&state, "all()"), ["Net(10.0.0.1/32)", "Net(10.0.0.2/32)"]);
}

#[test]
fn a_named_port_is_address_protocol_and_port_of_whom_the_selector_matches() {
    let (mut bench, _) = world_with_rules(vec![
        allow_to_port(Protocol::TCP, "http", Some("has(web)")),
        allow_to_port(Protocol::UDP, "http", None),
    ]);
    let server = |own: &str, addresses| {
        let mut endpoint = with(wep("s", addresses), own, "");
        endpoint.ports =
            ["http/tcp/8080", "http/tcp/8081", "http/udp/80", "dns/tcp/53"].map(port).to_vec();
        endpoint
    };
    let state = bench.apply([
        put_wep("host-b", "s", server("web", "10.0.0.2 fd00::2")),
        put_wep("host-c", "s", server("", "10.0.0.3")),
        put_netset("n", "10.0.0.4/32", "web"),
    ]);
    assert_eq!(
        members(&state, "has(web); tcp; http"),
        [
            "Port(10.0.0.2, tcp, 8080)",
            "Port(10.0.0.2, tcp, 8081)",
            "Port(fd00::2, tcp, 8080)",
            "Port(fd00::2, tcp, 8081)",
        ]
    );
    assert_eq!(
        members(&state, "all(); udp; http"),
        ["Port(10.0.0.2, udp, 80)", "Port(10.0.0.3, udp, 80)", "Port(fd00::2, udp, 80)"]
    );
    let rules = &state.policies[&policy_id("p")].ingress;
    let port_set = set(&state, "has(web); tcp; http").unwrap();
    assert_eq!(port_set.kind, SetKind::Port);
    assert!(rules[0].destination.sets.is_empty(), "the selector's own set is redundant");
    assert_eq!(rules[0].destination.named_ports.len(), 1);
    assert!(set(&state, "has(web)").is_none());
}

#[test]
fn a_selector_beside_a_numbered_port_keeps_its_set() {
    let mut rule = allow_to_port(Protocol::TCP, "http", Some("has(web)"));
    rule.destination.ports.ranges.push(PortRange::single(443));
    let (_, state) = world_with_rules(vec![rule]);
    let rule = &state.policies[&policy_id("p")].ingress[0];
    assert_eq!((rule.destination.sets.len(), rule.destination.named_ports.len()), (1, 1));
    assert!(set(&state, "has(web)").is_some());
}

#[test]
fn named_ports_take_the_protocol_of_the_rule_or_tcp() {
    for (protocol, expected) in [
        (None, "tcp"),
        (Some(Protocol::ICMP), "tcp"),
        (Some(Protocol::UDP), "udp"),
        (Some(Protocol::SCTP), "sctp"),
    ] {
        let rule = allow_to_port(Protocol::TCP, "x", None);
        let (_, state) = world_with_rules(vec![Rule { protocol, ..rule }]);
        assert!(set(&state, &format!("all(); {expected}; x")).is_some(), "{protocol:?}");
    }
}

#[test]
fn negated_criteria_have_sets_of_their_own() {
    let not_ports = Ports { ranges: vec![], named: names("http http") };
    let source = Peer { not_selector: Some(selector("has(b)")), not_ports, ..Peer::default() };
    let (_, state) = world_with_rules(vec![Rule { source, ..Rule::any(Action::Deny) }]);
    let rule = &state.policies[&policy_id("p")].ingress[0];
    assert_eq!(rule.source.sets, []);
    assert_eq!(rule.source.not_sets, [set_id(&state, "has(b)")]);
    assert_eq!(rule.source.not_named_ports, [set_id(&state, "all(); tcp; http")]);
}

#[test]
fn a_selector_and_its_exception_are_one_set() {
    let source = Peer {
        selector: Some(selector("has(a) && has(c)")),
        not_selector: Some(selector("has(b) || has(d)")),
        not_ports: Ports { ranges: vec![], named: names("http") },
        ..Peer::default()
    };
    let (mut bench, state) = world_with_rules(vec![Rule { source, ..Rule::any(Action::Deny) }]);
    let rule = &state.policies[&policy_id("p")].ingress[0];
    let both = "((has(a) && has(c)) && !(has(b) || has(d)))";
    assert_eq!(rule.source.sets, [set_id(&state, both)]);
    assert_eq!(rule.source.not_sets, []);
    assert_eq!(rule.source.not_named_ports, [set_id(&state, &format!("{both}; tcp; http"))]);
    // Who is excepted brings nothing, and takes nothing away from others.
    let state = bench.apply([
        put_netset("meant", "10.9.0.0/16 10.8.0.1/32", "a c"),
        put_netset("excepted", "10.9.0.0/16 10.7.0.1/32", "a c d"),
    ]);
    assert_eq!(members(&state, both), ["Net(10.8.0.1/32)", "Net(10.9.0.0/16)"]);
}

#[test]
fn set_ids_are_the_originals() {
    let (_, state) = world_with_rules(vec![
        allow_from("all()"),
        allow_from("b == 'b'"),
        allow_to_port(Protocol::TCP, "tcpport", None),
        allow_to_port(Protocol::UDP, "udpport", None),
        allow_to_port(Protocol::TCP, "tcpport", Some("profile == 'prof-1'")),
    ]);
    let ids: BTreeSet<&str> = state.sets.keys().map(|id| id.as_str()).collect();
    let expected = BTreeSet::from([
        "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug",
        "s:8Fb8HeM2GAxsfgNYVjbNrgSZ2H4cZJI8ODNBVg",
        "n:RMAIMXhhyW5sWWm_0o9euzK6TlyAbtjf6Ta9Jw",
        "n:5YQ6-gZ6SvCf1nYFL_lTk8BESMWhrnAtL1f2dA",
        "n:Qk1tT7A0zB8ZTZb72iCvrQ3ZBtREebNqdhqdyw",
    ]);
    assert_eq!(ids, expected);
}

#[test]
fn a_rule_that_cannot_be_evaluated_is_left_out_and_named() {
    let services = Rule { unevaluable: Some(Unevaluable::Services), ..allow_from("has(x)") };
    let (mut bench, state) = world_with_rules(vec![Rule::any(Action::Log), services]);
    let rules = &state.policies[&policy_id("p")];
    assert_eq!(rules.ingress.len(), 1);
    assert_eq!(rules.ingress[0].action, Action::Log);
    assert!(state.sets.is_empty(), "its set is of no use");
    let text = notice(&state, "GlobalNetworkPolicy p").unwrap();
    assert!(text.contains("ingress[1] never matches") && text.contains("services"), "{text}");
    let state = bench.apply([put_policy("p", policy("all()"))]);
    assert_eq!(notice(&state, "GlobalNetworkPolicy p"), None);
}

#[test]
fn http_takes_the_force_from_an_allow_but_not_from_a_deny() {
    for action in [Action::Allow, Action::Pass, Action::Log, Action::Deny] {
        let http = Rule { action, unevaluable: Some(Unevaluable::Http), ..allow_from("has(x)") };
        let (_, state) = world_with_rules(vec![http]);
        let left: Vec<_> = state.policies[&policy_id("p")].ingress.iter().collect();
        assert_eq!(left.len(), usize::from(action == Action::Deny), "{action:?}: {left:?}");
        let text = notice(&state, "GlobalNetworkPolicy p").unwrap();
        assert_eq!(text.contains("denies"), action == Action::Deny, "{text}");
        assert!(!text.contains("OPEN"), "{text}");
        assert!(text.contains("ingress[0] ") && text.contains("http"), "{text}");
    }
    // Services stand for a set without members: not even a Deny matches.
    let services = Rule {
        action: Action::Deny,
        unevaluable: Some(Unevaluable::Services),
        ..allow_from("has(x)")
    };
    let (_, state) = world_with_rules(vec![services]);
    assert_eq!(state.policies[&policy_id("p")].ingress, []);
    let text = notice(&state, "GlobalNetworkPolicy p").unwrap();
    assert!(text.contains("never denies") && text.contains("OPEN"), "{text}");
}

#[test]
fn a_rule_knows_its_place_in_the_policy_as_written() {
    let services = Rule { unevaluable: Some(Unevaluable::Services), ..allow_from("has(x)") };
    let (log, allow) = (Rule::any(Action::Log), Rule::any(Action::Allow));
    let (_, state) = world_with_rules(vec![log, services.clone(), allow.clone(), services, allow]);
    let rules = &state.policies[&policy_id("p")].ingress;
    let places: Vec<_> = rules.iter().map(|rule| (rule.origin, rule.action)).collect();
    assert_eq!(places, [(0, Action::Log), (2, Action::Allow), (4, Action::Allow)]);
}

#[test]
fn a_notice_is_short_however_many_rules_it_is_about() {
    let services = Rule { unevaluable: Some(Unevaluable::Services), ..allow_from("has(x)") };
    let (_, state) = world_with_rules(vec![services; 2_000]);
    let text = notice(&state, "GlobalNetworkPolicy p").unwrap();
    assert!(text.contains("ingress[4] ") && text.ends_with("; and 1995 more"), "{text}");
    assert!(text.len() < 1_000, "{}", text.len());
}
