use super::policies::policy;
use super::rejected;
use crate::model::{Action, Family, IcmpMatch, Peer, Protocol, Rule, Selector};

#[track_caller]
fn rule(json: &str) -> Rule {
    policy(&format!(r#"{{"inbound_rules":[{json}]}}"#)).ingress[0].clone()
}

/// The refusal of a policy whose second outbound rule is this one.
#[track_caller]
fn bad_rule(json: &str) -> String {
    rejected(super::policies::KEY, &format!(r#"{{"outbound_rules":[{{}},{json}]}}"#))
}

fn canonical(selector: &Option<Selector>) -> Option<&str> {
    selector.as_ref().map(Selector::canonical)
}

#[test]
fn actions_and_what_a_rule_without_one_means() {
    for (json, action) in [
        ("{}", Action::Allow),
        (r#"{"action":null}"#, Action::Allow),
        (r#"{"action":""}"#, Action::Allow),
        (r#"{"action":"allow"}"#, Action::Allow),
        (r#"{"action":"deny"}"#, Action::Deny),
        (r#"{"action":"log","log_prefix":"web"}"#, Action::Log),
        (r#"{"action":"next-tier"}"#, Action::Pass),
        (r#"{"action":"pass"}"#, Action::Pass),
        (r#"{"action":"Deny"}"#, Action::Deny),
    ] {
        assert_eq!(rule(json), Rule::any(action), "{json}");
    }
}

/// Every key that a rule can have, in both forms.
#[test]
fn every_criterion() {
    let all = rule(
        r#"{"action":"deny","ip_version":4,"protocol":"tcp","!protocol":17,
        "src_tag":"frontend","src_net":"10.0.0.5/8","src_nets":["172.16.0.0/12"],
        "src_selector":"role == 'x'","src_ports":[1234,"2048:4000","80"],
        "!src_tag":"a","!src_net":"10.9.0.0/16","!src_nets":["10.8.0.0/16"],
        "!src_selector":"has(z)","!src_ports":[22],
        "dst_tag":"backend","dst_net":"10.1.0.0/16","dst_nets":["10.2.0.0/16"],
        "dst_selector":"has(y)","dst_ports":[80],
        "!dst_tag":"b","!dst_net":"10.3.0.0/16","!dst_nets":["10.4.0.0/16"],
        "!dst_selector":"has(w)","!dst_ports":["1:1023"]}"#,
    );
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
    let ports = |peer: &Peer| {
        [&peer.ports, &peer.not_ports].map(|ports| {
            assert!(ports.named.is_empty());
            ports.ranges.iter().map(ToString::to_string).collect::<Vec<_>>()
        })
    };
    assert_eq!((all.action, all.family), (Action::Deny, Some(Family::V4)));
    assert_eq!((all.protocol, all.not_protocol), (Some(Protocol::TCP), Some(Protocol::UDP)));
    let source = &all.source;
    assert_eq!(source.nets, nets(&["172.16.0.0/12", "10.0.0.0/8"]));
    assert_eq!(source.not_nets, nets(&["10.8.0.0/16", "10.9.0.0/16"]));
    assert_eq!(canonical(&source.selector), Some(r#"(role == "x" && has(frontend))"#));
    assert_eq!(canonical(&source.not_selector), Some("(has(z) || has(a))"));
    assert_eq!(ports(source), [vec!["1234", "2048:4000", "80"], vec!["22"]]);
    let destination = &all.destination;
    assert_eq!(destination.nets, nets(&["10.2.0.0/16", "10.1.0.0/16"]));
    assert_eq!(destination.not_nets, nets(&["10.4.0.0/16", "10.3.0.0/16"]));
    assert_eq!(canonical(&destination.selector), Some("(has(y) && has(backend))"));
    assert_eq!(canonical(&destination.not_selector), Some("(has(w) || has(b))"));
    assert_eq!(ports(destination), [vec!["80"], vec!["1:1023"]]);

    let icmp =
        rule(r#"{"protocol":"icmp","icmp_type":8,"icmp_code":0,"!icmp_type":3,"!icmp_code":1}"#);
    assert_eq!(icmp.icmp, Some(IcmpMatch { icmp_type: 8, code: Some(0) }));
    assert_eq!(icmp.not_icmp, Some(IcmpMatch { icmp_type: 3, code: Some(1) }));
    assert_eq!(icmp.protocol, Some(Protocol::ICMP));
}

/// Neither of two: a packet from either must not match. The intersection would let through what is
/// in one of them.
#[test]
fn a_negated_tag_beside_a_negated_selector_excludes_both() {
    let rule = rule(r#"{"!src_tag":"a","!src_selector":"has(b)"}"#);
    let excluded = rule.source.not_selector.unwrap();
    let labels = |label: &str| [(label, "")].into_iter().collect::<crate::model::Labels>();
    assert!(excluded.matches(&labels("a")) && excluded.matches(&labels("b")));
    assert!(!excluded.matches(&labels("c")));
}

#[test]
fn protocols_in_every_form() {
    for (json, expected) in [
        (r#""tcp""#, Some(Protocol::TCP)),
        ("6", Some(Protocol::TCP)),
        (r#""6""#, Some(Protocol::TCP)),
        (r#""udplite""#, Some(Protocol::UDPLITE)),
        ("null", None),
    ] {
        assert_eq!(rule(&format!(r#"{{"protocol":{json}}}"#)).protocol, expected, "{json}");
    }
}

#[test]
fn unknown_keys_of_a_rule_are_tolerated() {
    assert_eq!(rule(r#"{"action":"deny","whatever":[1]}"#), Rule::any(Action::Deny));
}

#[test]
fn what_is_wrong_with_a_rule_is_named() {
    for (json, reason) in [
        (r#"{"action":"drop"}"#, "action: "),
        (r#"{"ip_version":5}"#, "ip_version: "),
        (r#"{"protocol":0}"#, "protocol: "),
        (r#"{"protocol":"x"}"#, "protocol: "),
        (r#"{"!protocol":256}"#, "!protocol: "),
        (r#"{"protocol":"icmp","icmp_type":255}"#, "icmp_type: "),
        (r#"{"protocol":"icmp","icmp_code":0}"#, "icmp_code: "),
        (r#"{"protocol":"icmp","!icmp_type":300}"#, "!icmp_type: "),
        (r#"{"icmp_type":8}"#, "icmp_type: "),
        (r#"{"protocol":"icmp","ip_version":6}"#, "protocol: "),
        (r#"{"protocol":"icmpv6","ip_version":4}"#, "protocol: "),
        (r#"{"src_net":"x"}"#, "src_net: "),
        (r#"{"!dst_nets":["10.0.0.0/8","x"]}"#, "!dst_nets[1]: "),
        (r#"{"src_selector":"a =="}"#, "src_selector: "),
        (r#"{"!dst_selector":"("}"#, "!dst_selector: "),
        (r#"{"src_tag":"a b"}"#, "src_tag: "),
        (r#"{"protocol":"tcp","dst_ports":[65536]}"#, "dst_ports[0]: "),
        (r#"{"protocol":"tcp","src_ports":[1,"9:1"]}"#, "src_ports[1]: "),
        (r#"{"dst_ports":[80]}"#, "dst_ports: "),
        (r#"{"protocol":"icmp","!src_ports":[80]}"#, "!src_ports: "),
    ] {
        let said = bad_rule(json);
        let path = format!("outbound_rules[1].{reason}");
        assert!(said.starts_with(&path), "{json}: {said}");
    }
    assert!(bad_rule(r#"["deny"]"#).starts_with("outbound_rules[1]"));
}
