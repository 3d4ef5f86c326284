//! Goldens of the chains, the replay of the original's rendering, and properties of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_datastore::model::{
    Action, Family, IcmpMatch, Name, PolicyId, PortRange, Protocol, TierAction,
};
use proptest::prelude::*;
use serde_json::Value;

use super::chains;
use super::marks::Marks;
use super::plan::{Chain, DesiredTable, Jump, Place, Scope, plan};
use super::rules::{Style, lines, split_ports};
use super::save::{ActualTable, Table, parse};
use crate::config::{AllowAction, HostAction, Settings};
use crate::desired::{ActiveRules, DesiredState, DirectionAcl, SetId, SideMatch, TierAcl};
use crate::felix::ruleset::{Direction, Rule};

fn style(family: Family) -> Style {
    Style {
        family,
        // Those of the recorded cases.
        marks: Marks { accept: 0x80, pass: 0x100, scratch0: 0x200, scratch1: 0x400 },
        deny: "--jump DROP",
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
    let settings = Settings { endpoint_to_host: HostAction::Accept, ..Settings::default() };
    let mut style = style(Family::V4);
    style.marks = Marks::of_mask(settings.mark_mask).unwrap();
    insta::assert_snapshot!("filter_v4", text(chains::filter(&settings, &style)));
    style.family = Family::V6;
    let settings = Settings {
        endpoint_to_host: HostAction::Drop,
        filter_allow: AllowAction::Return,
        allow_conntrack_invalid: true,
        ..settings
    };
    insta::assert_snapshot!("filter_v6", text(chains::filter(&settings, &style)));
    insta::assert_snapshot!("raw_v4", text(chains::raw(&settings, Family::V4, Some("cali-mac"))));
    insta::assert_snapshot!("raw_v6", text(chains::raw(&settings, Family::V6, None)));
    insta::assert_snapshot!("nat_v4", text(chains::nat(&settings, Family::V4, true, true)));
    let settings = Settings {
        nat_outgoing_address: Some("fd00::1".parse().unwrap()),
        nat_outgoing_interface: Some("eth0".to_owned()),
        ..settings
    };
    insta::assert_snapshot!("nat_v6", text(chains::nat(&settings, Family::V6, true, true)));
    assert!(chains::nat(&settings, Family::V4, false, true).is_empty());
}

// The plan against a model of the kernel that understands the text of a transaction.

/// A table as text: chains and their rules. `cali-` chains and one chain of the kernel.
type Model = BTreeMap<String, Vec<String>>;

/// Carries out a transaction as iptables-restore --noflush does.
fn restore(model: &mut Model, text: &str) {
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words.as_slice() {
            ["COMMIT"] | ["*filter"] => {}
            [declared, ..] if declared.starts_with(':') => {
                model.insert(declared[1..].to_owned(), Vec::new());
            }
            ["-A", chain, rule] => model.get_mut(*chain).unwrap().push((*rule).to_owned()),
            ["-D", chain, rule] => {
                let rules = model.get_mut(*chain).unwrap();
                let at = rules.iter().position(|r| r == rule).expect("the rule is there");
                rules.remove(at);
            }
            ["-I", chain, rest] => {
                let (at, rule) = rest.split_once(' ').unwrap();
                let at: usize = at.parse().unwrap();
                model.get_mut(*chain).unwrap().insert(at - 1, rule.to_owned());
            }
            ["-X", chain] => {
                let gone = model.remove(*chain).expect("the chain is there");
                assert!(gone.is_empty(), "{chain} is deleted with rules in it");
                let jump = format!("--jump {chain}");
                for rules in model.values() {
                    assert!(!rules.iter().any(|r| r.ends_with(&jump)), "{chain} is in use");
                }
            }
            other => panic!("not understood: {other:?}"),
        }
    }
}

fn save(model: &Model) -> ActualTable {
    let mut text = "*filter\n".to_owned();
    for chain in model.keys() {
        text += &format!(":{chain} - [0:0]\n");
    }
    for (chain, rules) in model {
        for rule in rules {
            text += &format!("-A {chain} {rule}\n");
        }
    }
    parse(&text).remove(&Table::Filter).unwrap()
}

fn some_chains() -> impl Strategy<Value = BTreeMap<String, Vec<String>>> {
    let rule = prop::sample::select(vec!["--jump DROP", "-p tcp --jump RETURN", "--jump ACCEPT"]);
    prop::collection::btree_map(
        prop::sample::select(vec!["cali-a", "cali-b", "cali-c", "cali-pi-x"])
            .prop_map(str::to_owned),
        prop::collection::vec(rule.prop_map(str::to_owned), 0..4),
        0..4,
    )
}

fn desired(chains: &BTreeMap<String, Vec<String>>, place: Option<Place>) -> DesiredTable {
    let mut chains = chains.clone();
    let jumps = match place {
        Some(place) => {
            chains.entry("cali-FORWARD".to_owned()).or_default();
            vec![Jump { from: "FORWARD", to: "cali-FORWARD", place }]
        }
        None => Vec::new(),
    };
    let chains = chains
        .into_iter()
        .map(|(name, lines)| (name.clone(), Arc::new(Chain::new(&name, lines))))
        .collect();
    DesiredTable { chains, jumps }
}

fn some_place() -> impl Strategy<Value = Option<Place>> {
    prop::sample::select(vec![None, Some(Place::Top), Some(Place::Anywhere), Some(Place::End)])
}

proptest! {
    #[test]
    fn a_plan_leads_from_anything_to_what_should_be(
        before in some_chains(),
        before_place in some_place(),
        after in some_chains(),
        place in some_place(),
        foreign in prop::collection::vec(prop::sample::select(vec!["-s 1.2.3.4/32 -j ACCEPT", "-j DOCKER"]), 0..3),
        tampered in prop::bool::ANY,
        above in prop::bool::ANY,
    ) {
        let whole = |delete| Scope { only: None, hold: const { &BTreeSet::new() }, delete };
        let mut model: Model = [("FORWARD".to_owned(), foreign.iter().map(|r| (*r).to_owned()).collect())].into();
        // An earlier run…
        let first = desired(&before, before_place);
        if let Some(plan) = plan(Table::Filter, &first, &save(&model), whole(true)) {
            restore(&mut model, &plan.text);
        }
        // …and somebody who was at it meanwhile.
        if tampered && let Some(rules) = model.get_mut("cali-a") {
            rules.push("-j ACCEPT".to_owned());
        }
        if above {
            model.get_mut("FORWARD").unwrap().insert(0, "-j ABOVE".to_owned());
        }
        let theirs = |model: &Model| -> Vec<String> {
            model["FORWARD"].iter().filter(|r| !r.contains("cali:")).cloned().collect()
        };
        let untouched = theirs(&model);

        let wanted = desired(&after, place);
        let mut known = save(&model);
        if let Some(plan) = plan(Table::Filter, &wanted, &known, whole(true)) {
            restore(&mut model, &plan.text);
            plan.done(&mut known);
        }
        let read = save(&model);
        prop_assert_eq!(&known.chains, &read.chains);
        for (name, chain) in &wanted.chains {
            let hashes: Vec<_> = chain.hashes.iter().copied().map(Some).collect();
            prop_assert_eq!(&read.chains[name], &hashes);
        }
        prop_assert_eq!(read.chains.len(), wanted.chains.len());
        prop_assert_eq!(theirs(&model), untouched);
        let ours: Vec<usize> = model["FORWARD"].iter().enumerate().filter(|(_, r)| r.contains("cali:")).map(|(i, _)| i).collect();
        prop_assert_eq!(ours.len(), wanted.jumps.len());
        if place == Some(Place::Top) {
            prop_assert_eq!(ours, [0]);
        }
        // Done is done, by what is read and by what is remembered.
        prop_assert!(plan(Table::Filter, &wanted, &read, whole(true)).is_none());
        prop_assert!(plan(Table::Filter, &wanted, &known, whole(true)).is_none());
    }
}
