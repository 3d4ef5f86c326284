use super::policies::{global, namespaced};
use super::rejected;
use crate::model::{Action, Family, IcmpMatch, Peer, Protocol, Rule, Unevaluable};

fn with_rule(rule: &str) -> String {
    format!(r#"{{"ingress":[{rule}]}}"#)
}

#[track_caller]
fn rule(text: &str) -> Rule {
    global(&with_rule(text)).ingress[0].clone()
}

/// The refusal of a global policy whose third ingress rule is this one.
#[track_caller]
fn bad_rule(text: &str) -> String {
    let spec = format!(r#"{{"ingress":[{{"action":"Allow"}},{{"action":"Log"}},{text}]}}"#);
    rejected("globalnetworkpolicies/p", &format!(r#"{{"spec":{spec}}}"#))
}

#[test]
fn rule_entities_are_folded() {
    let ns = r#"projectcalico.org/namespace == "prod""#;
    let cases: [(&str, Option<String>, Option<&str>); 11] = [
        (r#"{}"#, None, None),
        (r#"{"nets":["10.0.0.0/8"]}"#, None, None),
        (r#"{"selector":"a == 'b'"}"#, Some(format!(r#"({ns} && a == "b")"#)), None),
        (r#"{"notSelector":"a == 'b'"}"#, Some(ns.to_owned()), Some(r#"a == "b""#)),
        (r#"{"namespaceSelector":"env == 'x'"}"#, Some(r#"pcns.env == "x""#.to_owned()), None),
        (
            r#"{"namespaceSelector":"all()"}"#,
            Some("has(projectcalico.org/namespace)".to_owned()),
            None,
        ),
        (
            r#"{"namespaceSelector":"global()","selector":"a != 'b'"}"#,
            Some(r#"(!has(projectcalico.org/namespace) && a != "b")"#.to_owned()),
            None,
        ),
        (
            r#"{"namespaceSelector":"env == 'x'","selector":"all()","notSelector":"has(q)"}"#,
            Some(r#"(pcns.env == "x" && all())"#.to_owned()),
            Some("has(q)"),
        ),
        (
            r#"{"serviceAccounts":{"names":["ci","a"],"selector":"team == 'a'"}}"#,
            Some(format!(
                r#"({ns} && (pcsa.team == "a" && projectcalico.org/serviceaccount in {{"a", "ci"}}))"#
            )),
            None,
        ),
        (
            r#"{"serviceAccounts":{"names":["ci"]},"selector":"has(z)"}"#,
            Some(format!(r#"({ns} && (projectcalico.org/serviceaccount in {{"ci"}} && has(z)))"#)),
            None,
        ),
        (r#"{"serviceAccounts":{"names":[],"selector":""}}"#, None, None),
    ];
    for (entity, positive, negative) in cases {
        for side in ["source", "destination"] {
            let policy =
                namespaced(&with_rule(&format!(r#"{{"action":"Allow","{side}":{entity}}}"#)));
            let rule = &policy.ingress[0];
            let peer = if side == "source" { &rule.source } else { &rule.destination };
            let found = peer.selector.as_ref().map(|s| s.canonical().to_owned());
            assert_eq!(found, positive, "{entity}");
            assert_eq!(peer.not_selector.as_ref().map(|s| s.canonical()), negative, "{entity}");
        }
    }
    // Without a namespace there is nothing to add.
    let peer = rule(r#"{"action":"Deny","source":{"notSelector":"has(a)"}}"#).source;
    assert_eq!(peer.selector, None);
    let peer = rule(r#"{"action":"Deny","source":{"selector":"has(a)"}}"#).source;
    assert_eq!(peer.selector.unwrap().canonical(), "has(a)");
}

#[test]
fn entities_may_be_left_out() {
    let omitted = rule(r#"{"action":"Pass"}"#);
    assert_eq!(omitted, Rule::any(Action::Pass));
    assert_eq!(omitted, rule(r#"{"action":"Pass","source":{},"destination":{}}"#));
    assert_eq!(omitted, rule(r#"{"action":"Pass","source":null,"destination":null}"#));
    assert_eq!(rule(r#"{"action":"Pass","icmp":{},"notICMP":null}"#), omitted);
}

#[test]
fn ports_by_number_by_string_by_range_and_by_name() {
    let rule = rule(
        r#"{"action":"Allow","protocol":"TCP","destination":{"ports":[80,"443","8000:8999","http",0,65535,"all","1a"]},
            "source":{"notPorts":["22"]}}"#,
    );
    let Peer { ports, .. } = rule.destination;
    let ranges: Vec<String> = ports.ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["80", "443", "8000:8999", "0", "65535"]);
    assert_eq!(ports.named, ["http", "all", "1a"]);
    assert_eq!(rule.source.not_ports.ranges[0].first(), 22);

    for port in [
        "65536",
        "-1",
        "1.5",
        r#""65536""#,
        r#""10:1""#,
        r#""0:65536""#,
        r#""x y""#,
        r#""""#,
        r#""1:""#,
        r#"":1""#,
        r#""1:2:3""#,
        r#""a:b""#,
        r#""-1:5""#,
        r#""*""#,
        "99999999999999999999",
    ] {
        let reason = bad_rule(&format!(
            r#"{{"action":"Allow","protocol":"UDP","destination":{{"ports":[{port}]}}}}"#
        ));
        assert!(reason.starts_with("spec.ingress[2].destination.ports[0]: "), "{reason}");
        assert!(reason.contains("is not a port"), "{reason}");
    }
    let long = "a".repeat(129);
    bad_rule(&format!(r#"{{"action":"Allow","protocol":"TCP","source":{{"ports":["{long}"]}}}}"#));
}

#[test]
fn ports_need_a_protocol_that_has_them() {
    for side in ["source", "destination"] {
        for list in ["ports", "notPorts"] {
            for (protocol, port, ok) in [
                (r#""tcp""#, "80", true),
                ("17", "80", true),
                (r#""132""#, "80", true),
                (r#""ICMP""#, "80", false),
                ("7", "80", false),
                (r#""UDPLite""#, "80", false),
                ("null", "80", false),
                ("null", r#""http""#, true),
                (r#""ICMP""#, r#""http""#, false),
            ] {
                let text = format!(
                    r#"{{"action":"Allow","protocol":{protocol},"{side}":{{"{list}":[{port}]}}}}"#
                );
                if ok {
                    rule(&text);
                } else {
                    let reason = bad_rule(&text);
                    let field = format!("spec.ingress[2].{side}.{list}: ");
                    assert!(reason.starts_with(&field), "{reason}");
                }
            }
        }
    }
    // An empty list is no criterion.
    rule(r#"{"action":"Allow","protocol":7,"source":{"ports":[],"notPorts":null}}"#);
}

#[test]
fn protocols_in_any_form() {
    for (text, number) in [
        (r#""TCP""#, 6),
        (r#""tcp""#, 6),
        ("6", 6),
        (r#""6""#, 6),
        (r#""ICMPv6""#, 58),
        ("58", 58),
        (r#""udplite""#, 136),
        ("255", 255),
    ] {
        let rule = rule(&format!(r#"{{"action":"Deny","protocol":{text},"notProtocol":{text}}}"#));
        assert_eq!(rule.protocol, Protocol::from_number(number));
        assert_eq!(rule.not_protocol, Protocol::from_number(number));
    }
    for text in ["0", r#""0""#, "256", "-1", r#""bogus""#, r#""""#, "6.5", "true"] {
        for field in ["protocol", "notProtocol"] {
            let reason = bad_rule(&format!(r#"{{"action":"Deny","{field}":{text}}}"#));
            assert!(reason.starts_with(&format!("spec.ingress[2].{field}: ")), "{reason}");
        }
    }
}

#[test]
fn icmp_ranges_and_versions() {
    let rule = rule(
        r#"{"action":"Allow","protocol":"ICMP","ipVersion":4,"icmp":{"type":8,"code":0},"notICMP":{"type":254}}"#,
    );
    assert_eq!(rule.icmp, Some(IcmpMatch { icmp_type: 8, code: Some(0) }));
    assert_eq!(rule.not_icmp, Some(IcmpMatch { icmp_type: 254, code: None }));
    assert_eq!(rule.family, Some(Family::V4));
    for (text, field) in [
        (r#""protocol":"ICMP","icmp":{"type":255}"#, "icmp.type"),
        (r#""protocol":"ICMP","icmp":{"type":-1}"#, "icmp.type"),
        (r#""protocol":"ICMP","icmp":{"type":8,"code":256}"#, "icmp.code"),
        (r#""protocol":"ICMP","notICMP":{"code":1}"#, "notICMP.code"),
        (r#""icmp":{"type":8}"#, "icmp"),
        (r#""protocol":"TCP","notICMP":{"type":8}"#, "notICMP"),
        (r#""protocol":"ICMP","ipVersion":6"#, "protocol"),
        (r#""protocol":58,"ipVersion":4"#, "protocol"),
        (r#""ipVersion":5"#, "ipVersion"),
        (r#""ipVersion":0"#, "ipVersion"),
    ] {
        let reason = bad_rule(&format!(r#"{{"action":"Allow",{text}}}"#));
        assert!(reason.starts_with(&format!("spec.ingress[2].{field}: ")), "{reason}");
    }
}

/// The API stores them as the first four are. In other letters they mean the same: to refuse them
/// would lose the policy with every Deny in it, and there is nothing else that they could mean.
#[test]
fn an_action_counts_in_any_case() {
    for (text, action) in [
        ("Allow", Action::Allow),
        ("Deny", Action::Deny),
        ("Log", Action::Log),
        ("Pass", Action::Pass),
        ("deny", Action::Deny),
        ("allow", Action::Allow),
        ("PASS", Action::Pass),
        ("log", Action::Log),
    ] {
        assert_eq!(rule(&format!(r#"{{"action":"{text}"}}"#)).action, action);
    }
    for text in [r#""action":"""#, r#""action":null"#, r#""action":"Denyfoo""#, ""] {
        let reason = bad_rule(&format!("{{{text}}}"));
        assert!(reason.starts_with("spec.ingress[2].action: "), "{reason}");
    }
}

#[test]
fn nets_lose_their_host_bits_and_bad_ones_are_named() {
    let rule = rule(
        r#"{"action":"Allow","source":{"nets":["10.0.0.5/8","192.168.0.1","fd80::1/64"],"notNets":["10.1.0.7/16"]}}"#,
    );
    let nets: Vec<String> = rule.source.nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/8", "192.168.0.1/32", "fd80::/64"]);
    assert_eq!(rule.source.not_nets[0].to_string(), "10.1.0.0/16");
    let reason =
        bad_rule(r#"{"action":"Allow","destination":{"notNets":["10.0.0.0/8","10.0.0.0/33"]}}"#);
    assert!(reason.starts_with("spec.ingress[2].destination.notNets[1]: "), "{reason}");
}

#[test]
fn services_and_http_are_kept_as_unevaluable() {
    let rule =
        rule(r#"{"action":"Allow","destination":{"services":{"name":"s","namespace":"n"}}}"#);
    assert_eq!(rule.unevaluable, Some(Unevaluable::Services));
    let rule = self::rule(r#"{"action":"Allow","http":{"methods":["GET"]}}"#);
    assert_eq!(rule.unevaluable, Some(Unevaluable::Http));
    let rule = self::rule(r#"{"action":"Allow","http":null,"source":{"services":null}}"#);
    assert_eq!(rule.unevaluable, None);
}
