//! Goldens of the chains, the replay of the original's rendering, and properties of the plan.

mod meaning;

use std::sync::Arc;

use calico_datastore::model::{
    Action, Family, IcmpMatch, Name, PolicyId, PortRange, Protocol, TierAction,
};
use serde_json::Value;

use super::chains;
use super::marks::Marks;
use super::rules::{Style, lines, split_ports};
use crate::config::{AllowAction, HostAction, Settings};
use crate::desired::{ActiveRules, DesiredState, DirectionAcl, SetId, SideMatch, TierAcl};
use crate::felix::ruleset::{Direction, Rule};

fn style(family: Family) -> Style {
    Style {
        counted: false,
        family,
        // Those of the recorded cases.
        marks: Marks { accept: 0x80, pass: 0x100, scratch0: 0x200, scratch1: 0x400 },
        deny: "--jump DROP".into(),
        report: None,
        log_prefix: "calico-packet: ".to_owned(),
    }
}

fn any(action: Action) -> Rule {
    Rule {
        action,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: SideMatch::default(),
        destination: SideMatch::default(),
    }
}

fn shared(name: &str) -> Option<Value> {
    let Some(dir) = std::env::var_os("CALICO_SHARED") else {
        println!("skipped: CALICO_SHARED is not set");
        return None;
    };
    let text =
        std::fs::read_to_string(std::path::Path::new(&dir).join("cases").join(name)).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

fn port_ranges(value: &Value) -> Vec<PortRange> {
    let number = |v: &Value| u16::try_from(v.as_u64().unwrap()).unwrap();
    let pairs = value.as_array().map(Vec::as_slice).unwrap_or_default();
    pairs.iter().map(|p| PortRange::new(number(&p[0]), number(&p[1])).unwrap()).collect()
}

fn strings<T: std::str::FromStr>(value: &Value) -> Vec<T> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|v| v.as_str().unwrap().parse().ok().expect("a net")).collect()
}

fn set_ids(value: &Value) -> Vec<SetId> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|v| SetId::new(v.as_str().unwrap())).collect()
}

fn recorded_rule(value: &Value) -> Rule {
    let protocol = |value: &Value| -> Option<Protocol> {
        match value {
            Value::Number(n) => Protocol::from_number(u8::try_from(n.as_u64()?).ok()?),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    };
    let icmp = |value: &Value| {
        let byte = |key: &str| value[key].as_u64().map(|n| u8::try_from(n).unwrap());
        Some(IcmpMatch { icmp_type: byte("type")?, code: byte("code") })
    };
    let side = |prefix: &str| SideMatch {
        nets: strings(&value[format!("{prefix}Net")]),
        not_nets: strings(&value[format!("Not{prefix}Net")]),
        sets: set_ids(&value[format!("{prefix}IpSetIds")]),
        not_sets: set_ids(&value[format!("Not{prefix}IpSetIds")]),
        ports: port_ranges(&value[format!("{prefix}Ports")]),
        not_ports: port_ranges(&value[format!("Not{prefix}Ports")]),
        ..SideMatch::default()
    };
    Rule {
        action: Action::Deny,
        protocol: protocol(&value["Protocol"]),
        not_protocol: protocol(&value["NotProtocol"]),
        icmp: icmp(&value["Icmp"]),
        not_icmp: icmp(&value["NotIcmp"]),
        source: side("Src"),
        destination: side("Dst"),
    }
}

fn family_of(case: &Value) -> Family {
    if case["ip_version"] == 6 { Family::V6 } else { Family::V4 }
}

#[test]
fn matches_are_the_originals() {
    let Some(cases) = shared("rule-rendering.json") else { return };
    let matches = cases["match_cases"].as_array().unwrap();
    assert_eq!(matches.len(), 37);
    for case in matches {
        let rule = recorded_rule(&case["rule"]);
        let expected = case["iptables_match"].as_str().unwrap();
        let style = style(family_of(case));
        let denied = format!("{expected} --jump DROP");
        assert_eq!(lines(&rule, &style), [denied.trim_start()], "{}", case["name"]);
        // An allow is the same match, then the mark.
        let allowed = Rule { action: Action::Allow, ..rule };
        let marked = format!("{expected} --jump MARK --set-mark 0x80/0x80");
        assert_eq!(
            lines(&allowed, &style),
            [marked.trim_start(), "-m mark --mark 0x80/0x80 --jump RETURN"],
            "{}",
            case["name"]
        );
    }
}

#[test]
fn blocks_are_the_originals() {
    let Some(cases) = shared("rule-rendering.json") else { return };
    let blocks = cases["cidr_block_cases"].as_array().unwrap();
    assert_eq!(blocks.len(), 10);
    for case in blocks {
        let mut rule = any(Action::Allow);
        rule.source.nets = strings(&case["src_nets"]);
        rule.source.not_nets = strings(&case["not_src_nets"]);
        rule.destination.nets = strings(&case["dst_nets"]);
        rule.destination.not_nets = strings(&case["not_dst_nets"]);
        let expected: Vec<String> = case["iptables_append_lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().trim_start_matches("-A test ").to_owned())
            // Zero is spelled both ways in the record.
            .map(|line| line.replace(" 0/", " 0x0/"))
            .collect();
        assert_eq!(lines(&rule, &style(Family::V4)), expected, "{case}");
    }
}

#[test]
fn what_the_original_leaves_out_is_left_out() {
    let Some(cases) = shared("rule-rendering.json") else { return };
    let filtered = cases["filtered_out"].as_array().unwrap();
    assert_eq!(filtered.len(), 4);
    for case in filtered {
        let rule = recorded_rule(&case["rule"]);
        let active = crate::desired::ActiveRule {
            origin: 0,
            action: rule.action,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: rule.source,
            destination: rule.destination,
        };
        let rules = ActiveRules { ingress: vec![active], egress: Vec::new() };
        let rendered = crate::felix::ruleset::rules(&rules, Direction::Ingress, family_of(case));
        assert!(rendered.is_empty(), "{}", case["name"]);
    }
}

#[test]
fn port_lists_split_as_the_original() {
    let Some(cases) = shared("portranges.json") else { return };
    let splits = cases["multiport_15_slot_split"].as_array().unwrap();
    assert_eq!(splits.len(), 9);
    for case in splits {
        let ports = port_ranges(&case["ports"]);
        let expected: Vec<Vec<PortRange>> =
            case["groups"].as_array().unwrap().iter().map(port_ranges).collect();
        assert_eq!(split_ports(&ports), expected, "{}", case["name"]);
    }
}

#[test]
fn numbers_and_names_of_ports_are_alternatives() {
    let mut rule = any(Action::Pass);
    rule.protocol = Some(Protocol::TCP);
    rule.source.nets = vec!["10.0.0.0/8".parse().unwrap()];
    rule.source.ports = vec![PortRange::single(53)];
    rule.source.named_ports = vec![SetId::new("n:dns")];
    rule.destination.ports = (1..=16).map(PortRange::single).collect();
    rule.destination.not_named_ports = vec![SetId::new("n:not")];
    insta::assert_snapshot!(lines(&rule, &style(Family::V6)).join("\n"), @r"
    --jump MARK --set-mark 0x0/0x600
    -p tcp -m multiport --source-ports 53 --jump MARK --set-mark 0x200/0x200
    -p tcp -m set --match-set cali60n:dns src,src --jump MARK --set-mark 0x200/0x200
    -p tcp -m multiport --destination-ports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 --jump MARK --set-mark 0x400/0x400
    -p tcp -m multiport --destination-ports 16 --jump MARK --set-mark 0x400/0x400
    -m mark --mark 0x0/0x400 --jump MARK --set-mark 0x0/0x200
    -p tcp --source 10.0.0.0/8 -m set ! --match-set cali60n:not dst,dst -m mark --mark 0x200/0x200 --jump MARK --set-mark 0x100/0x100
    -m mark --mark 0x100/0x100 --jump RETURN
    ");
}

#[test]
fn a_third_list_starts_with_a_clean_bit() {
    let mut rule = any(Action::Deny);
    rule.protocol = Some(Protocol::UDP);
    for side in [&mut rule.source, &mut rule.destination] {
        side.nets = vec!["10.0.0.0/8".parse().unwrap(), "11.0.0.0/8".parse().unwrap()];
    }
    rule.destination.ports = (1..=16).map(PortRange::single).collect();
    let lines = lines(&rule, &style(Family::V4));
    let third = lines.iter().position(|line| line.contains("--destination-ports")).unwrap();
    assert_eq!(lines[third - 1], "--jump MARK --set-mark 0x0/0x400");
    assert_eq!(lines.last().unwrap(), "-p udp -m mark --mark 0x200/0x200 --jump DROP");
}

#[test]
fn a_log_goes_on_and_a_last_return_is_left_out() {
    let chain = chains::policy(
        &[any(Action::Log), any(Action::Deny), any(Action::Allow)],
        &style(Family::V4),
    );
    assert_eq!(
        chain,
        [
            "--jump LOG --log-prefix \"calico-packet: \" --log-level 5",
            "--jump DROP",
            "--jump MARK --set-mark 0x80/0x80",
        ]
    );
}

fn policy_id(name: &str) -> PolicyId {
    PolicyId { namespace: None, name: Name::from(name) }
}

#[test]
fn a_class_asks_tiers_then_profiles_then_drops() {
    let mut state = DesiredState::default();
    for name in ["a", "b", "c"] {
        state.policies.insert(policy_id(name), Arc::default());
    }
    state.profiles.insert(Name::from("net"), Arc::default());
    let tier = |name: &str, policies: &[&str], default_action| TierAcl {
        tier: Name::from(name),
        policies: policies.iter().map(|p| policy_id(p)).collect(),
        default_action,
    };
    let acl = DirectionAcl {
        tiers: vec![
            tier("first", &["a", "b"], TierAction::Pass),
            tier("second", &["c", "gone"], TierAction::Deny),
        ],
        profiles: vec![Name::from("net"), Name::from("gone")],
    };
    let lines = chains::class(&acl, Direction::Ingress, &state, &style(Family::V4));
    insta::assert_snapshot!(lines.join("\n"), @r"
    --jump MARK --set-mark 0x0/0x180
    --jump cali-pi-a
    -m mark --mark 0x80/0x80 --jump RETURN
    -m mark --mark 0x0/0x100 --jump cali-pi-b
    -m mark --mark 0x80/0x80 --jump RETURN
    --jump MARK --set-mark 0x0/0x100
    --jump cali-pi-c
    -m mark --mark 0x80/0x80 --jump RETURN
    -m mark --mark 0x0/0x100 --jump DROP
    -m mark --mark 0x80/0x80 --jump RETURN
    -m mark --mark 0x0/0x100 --jump DROP
    --jump cali-pri-net
    -m mark --mark 0x80/0x80 --jump RETURN
    --jump DROP
    --jump DROP
    ");
}

fn text(chains: Vec<(String, Vec<String>)>) -> String {
    chains
        .into_iter()
        .flat_map(|(name, lines)| {
            let rules = lines.into_iter().map(|line| format!("  {line}"));
            [format!("{name}:")].into_iter().chain(rules).collect::<Vec<_>>()
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_chains_of_the_settings() {
    let settings = Settings {
        endpoint_to_host: HostAction::Accept,
        endpoint_counters: false,
        ..Settings::default()
    };
    let mut style = style(Family::V4);
    style.marks = Marks::of_mask(settings.mark_mask).unwrap();
    insta::assert_snapshot!("filter_v4", text(chains::filter(&settings, &style, false, false)));
    let rkt = Settings {
        endpoint_to_host: HostAction::Drop,
        rkt_metadata_service: true,
        ..settings.clone()
    };
    insta::assert_snapshot!("filter_v4_rkt", text(chains::filter(&rkt, &style, false, false)));
    style.family = Family::V6;
    // The metadata service is one of IPv4.
    let settings = Settings {
        endpoint_to_host: HostAction::Drop,
        rkt_metadata_service: true,
        filter_allow: AllowAction::Return,
        allow_conntrack_invalid: true,
        ..settings
    };
    insta::assert_snapshot!("filter_v6", text(chains::filter(&settings, &style, false, false)));
    let spoofers = text(chains::filter(&settings, &style, true, false));
    insta::assert_snapshot!("filter_v6_spoofers", spoofers);
    insta::assert_snapshot!(
        "raw_v4",
        text(chains::raw(&settings, Family::V4, Some("cali-mac"), false))
    );
    for family in Family::ALL {
        let raw = text(chains::raw(&settings, family, None, true));
        insta::assert_snapshot!(format!("raw_{family}_spoofers"), raw);
    }
    insta::assert_snapshot!("raw_v6", text(chains::raw(&settings, Family::V6, None, false)));
    // Where packets are counted.
    let counted = Settings { endpoint_counters: true, ..settings.clone() };
    let mut counts = Style { counted: true, ..style.clone() };
    let chains = [
        chains::filter(&counted, &counts, true, false),
        chains::raw(&counted, Family::V6, None, true),
    ];
    insta::assert_snapshot!("counted_v6", text(chains.concat()));
    // With host endpoints, and packets that are rejected.
    let counted = Settings { allow_conntrack_invalid: false, ..counted };
    (counts.family, counts.deny) = (Family::V4, "--jump REJECT".into());
    let chains = [
        chains::filter(&counted, &counts, false, true),
        chains::raw(&counted, Family::V4, None, false),
    ];
    insta::assert_snapshot!("counted_v4_hosts", text(chains.concat()));
    let nat = |settings: &Settings, family, masquerade, external: &[(&str, &str)]| {
        let pair = |(a, b): &(&str, &str)| (a.parse().unwrap(), b.parse().unwrap());
        let external = external.iter().map(pair).collect();
        text(chains::nat(&chains::Nat {
            settings,
            family,
            masquerade,
            random_fully: true,
            external,
        }))
    };
    insta::assert_snapshot!("nat_v4", nat(&settings, Family::V4, true, &[]));
    let external =
        [("192.0.2.7", "10.65.0.2"), ("192.0.2.8", "10.65.0.1"), ("192.0.2.9", "10.65.0.2")];
    insta::assert_snapshot!("nat_v4_external", nat(&settings, Family::V4, true, &external));
    let external = [("2001:db8::7", "fd65::2")];
    insta::assert_snapshot!("nat_v6_external", nat(&settings, Family::V6, false, &external));
    let settings = Settings {
        nat_outgoing_addresses: vec!["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        nat_outgoing_interface: Some("eth0".to_owned()),
        ..settings
    };
    insta::assert_snapshot!("nat_v6", nat(&settings, Family::V6, true, &[]));
    assert_eq!(nat(&settings, Family::V4, false, &[]), "");
    // Only interfaces of that name, and nothing of it is there without the prefix.
    let openstack = Settings {
        interface_prefixes: vec!["cali".to_owned(), "tap".to_owned()],
        endpoint_counters: false,
        ..Settings::default()
    };
    for family in Family::ALL {
        style.family = family;
        let of_guests = |chains: Vec<(String, Vec<String>)>| {
            let lines = chains.into_iter().flat_map(|(name, lines)| {
                lines.into_iter().map(move |line| format!("{name} {line}"))
            });
            lines.filter(|line| line.contains("port ")).collect::<Vec<_>>().join("\n")
        };
        let all = |settings: &Settings| {
            let nat = chains::Nat {
                settings,
                family,
                masquerade: false,
                random_fully: true,
                external: Vec::new(),
            };
            of_guests(
                [
                    chains::raw(settings, family, None, false),
                    chains::filter(settings, &style, false, false),
                    chains::nat(&nat),
                ]
                .concat(),
            )
        };
        insta::assert_snapshot!(format!("openstack_{family}"), all(&openstack));
        assert!(all(&openstack).lines().all(|line| {
            line.contains(" -i tap+ -p ") || line.contains("--dport 4789 --jump DROP")
        }));
        let without = all(&Settings::default());
        assert!(without.lines().all(|line| line.contains("--dport 4789 --jump DROP")), "{without}");
    }
    let ports = Settings { nat_port_range: PortRange::new(32_768, 60_999), ..settings };
    for family in Family::ALL {
        insta::assert_snapshot!(format!("nat_{family}_ports"), nat(&ports, family, true, &[]));
    }
    let one = Settings {
        nat_outgoing_addresses: Vec::new(),
        nat_port_range: Some(PortRange::single(2000)),
        ..ports
    };
    insta::assert_snapshot!("nat_one_port", nat(&one, Family::V4, true, &[]));
}
