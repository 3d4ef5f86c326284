//! One rule of the semantics each, by name. Every state is compared with the oracle on the way.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_datastore::model::{
    Action, Name, Order, Peer, Policy, PolicyKind, PortRange, Ports, Profile, Protocol, Rule,
    TierAction, Unevaluable, Update, WorkloadEndpoint,
};

use super::make::*;
use super::{Bench, HOST};
use crate::desired::{AclClass, AddressSet, DesiredState, DirectionAcl, SetKind};

/// A local endpoint `w` with labels and profiles, at 10.0.0.1.
fn endpoint(own: &str, profiles: &str) -> Update {
    put_wep(HOST, "w", with(wep("w", "10.0.0.1"), own, profiles))
}

fn with(mut endpoint: WorkloadEndpoint, own: &str, profiles: &str) -> WorkloadEndpoint {
    endpoint.labels = labels(own);
    endpoint.profiles = names(profiles);
    endpoint
}

fn tier_policy(tier: &str, place: Order) -> Policy {
    Policy { tier: Some(tier.into()), order: place, ..policy("all()") }
}

fn class(state: &DesiredState, workload: &str) -> Arc<AclClass> {
    let endpoint = &state.endpoints[&wep_id(HOST, workload)];
    Arc::clone(&state.classes[&endpoint.class])
}

/// `tier: a b | tier2 (pass): c`.
fn show(direction: &DirectionAcl) -> String {
    let tier = |tier: &crate::desired::TierAcl| {
        let pass = if tier.default_action == TierAction::Pass { " (pass)" } else { "" };
        let policies: Vec<String> = tier.policies.iter().map(ToString::to_string).collect();
        format!("{}{pass}: {}", tier.tier, policies.join(" "))
    };
    direction.tiers.iter().map(tier).collect::<Vec<_>>().join(" | ")
}

/// The tiers of `w`, which must be the same in both directions.
#[track_caller]
fn tiers(state: &DesiredState) -> String {
    let class = class(state, "w");
    assert_eq!(class.ingress, class.egress);
    show(&class.ingress)
}

/// The set of a selector.
fn set<'a>(state: &'a DesiredState, text: &str) -> Option<&'a AddressSet> {
    let found = state.sets.values().find(|set| *set.selector == *text)?;
    Some(found)
}

/// The members of a set in order, as text.
fn members(state: &DesiredState, text: &str) -> Vec<String> {
    let set = set(state, text).unwrap_or_else(|| panic!("no set {text} in {:?}", state.sets));
    set.members.iter().map(|member| format!("{member:?}")).collect()
}

fn notice(state: &DesiredState, subject: &str) -> Option<String> {
    state.notices.get(subject).map(ToString::to_string)
}

/// A policy for `all()` with the given ingress rules, and `w` to make it active.
fn world_with_rules(rules: Vec<Rule>) -> (Bench, Arc<DesiredState>) {
    let mut bench = Bench::new();
    let governed = Policy { ingress: rules, egress: vec![], ..policy("all()") };
    let state = bench.apply([endpoint("", ""), put_policy("p", governed)]);
    (bench, state)
}

#[test]
fn tiers_are_in_order_of_number_and_name() {
    let mut bench = Bench::new();
    let state = bench.apply([
        endpoint("", ""),
        put_tier("b", order(10.0), TierAction::Deny),
        put_tier("a", order(10.0), TierAction::Deny),
        put_tier("z", order(9.5), TierAction::Deny),
        put_tier("nolast", Order::LAST, TierAction::Deny),
        put_policy("b.p", tier_policy("b", Order::LAST)),
        put_policy("a.p", tier_policy("a", Order::LAST)),
        put_policy("z.p", tier_policy("z", Order::LAST)),
        put_policy("nolast.p", tier_policy("nolast", Order::LAST)),
    ]);
    assert_eq!(tiers(&state), "z: z.p | a: a.p | b: b.p | nolast: nolast.p");
}

#[test]
fn policies_are_in_order_of_number_and_text_and_without_number_last() {
    let mut bench = Bench::new();
    let at = |place| Policy { order: place, ..policy("all()") };
    let state = bench.apply([
        endpoint("", ""),
        put_policy("a", at(Order::LAST)),
        put_policy("y", at(order(2.0))),
        put_policy("n/x", at(order(2.0))),
        put_policy("m", at(order(2.0))),
        put_policy("z", at(order(-1.5))),
    ]);
    // "m" < "n/x" < "y": the namespace is part of the text.
    assert_eq!(tiers(&state), "default: z m n/x y a");
}

#[test]
fn a_tier_that_is_named_and_missing_is_last_and_denies() {
    let mut bench = Bench::new();
    let state = bench.apply([
        endpoint("", ""),
        put_tier("last", Order::LAST, TierAction::Pass),
        put_policy("last.p", tier_policy("last", Order::LAST)),
        put_policy("gone.p", tier_policy("gone", order(1.0))),
    ]);
    assert_eq!(tiers(&state), "last (pass): last.p | gone: gone.p");
    let state = bench.apply([put_tier("gone", order(1.0), TierAction::Pass)]);
    assert_eq!(tiers(&state), "gone (pass): gone.p | last (pass): last.p");
}

#[test]
fn the_default_tier_needs_no_object() {
    let mut bench = Bench::new();
    let state = bench.apply([
        endpoint("", ""),
        put_tier("before", order(999_999.0), TierAction::Pass),
        put_tier("after", order(1_000_001.0), TierAction::Deny),
        put_policy("after.p", tier_policy("after", Order::LAST)),
        put_policy("p", policy("all()")),
        put_policy("before.p", tier_policy("before", Order::LAST)),
    ]);
    assert_eq!(tiers(&state), "before (pass): before.p | default: p | after: after.p");
    let state = bench.apply([put_tier("default", order(1.0), TierAction::Pass)]);
    assert_eq!(tiers(&state), "default (pass): p | before (pass): before.p | after: after.p");
}

#[test]
fn a_policy_without_tier_follows_the_prefix_of_its_name() {
    let mut bench = Bench::new();
    let state = bench.apply([
        endpoint("", ""),
        put_policy("secure.p", policy("all()")),
        put_policy("default.q", policy("all()")),
    ]);
    assert_eq!(tiers(&state), "default: default.q secure.p");
    let state = bench.apply([put_tier("secure", order(1.0), TierAction::Deny)]);
    assert_eq!(tiers(&state), "secure: secure.p | default: default.q");
    let state = bench.apply([Update::Tier("secure".into(), None)]);
    assert_eq!(tiers(&state), "default: default.q secure.p");
}

#[test]
fn a_tier_is_part_of_a_direction_that_one_of_its_policies_governs() {
    let mut bench = Bench::new();
    let only = |ingress| Policy {
        governs_ingress: ingress,
        governs_egress: !ingress,
        ..tier_policy("t", Order::LAST)
    };
    let state = bench.apply([
        endpoint("", "p1"),
        put_tier("t", order(1.0), TierAction::Deny),
        put_policy("t.in", only(true)),
        put_policy("elsewhere", Policy { selector: selector("has(nothing)"), ..policy("all()") }),
    ]);
    let before = class(&state, "w");
    assert_eq!((show(&before.ingress), show(&before.egress)), ("t: t.in".into(), String::new()));
    // Profiles stand behind both directions.
    assert_eq!(before.ingress.profiles, names("p1"));
    assert_eq!(before.egress.profiles, names("p1"));
    assert_eq!(state.policies.len(), 1, "a policy that matches nothing here is not in force");
    let state = bench.apply([put_policy("t.out", only(false))]);
    let after = class(&state, "w");
    assert_eq!((show(&after.ingress), show(&after.egress)), ("t: t.in".into(), "t: t.out".into()));
}

#[test]
fn a_policy_of_another_kind_governs_no_workload() {
    for (kind, field) in [(PolicyKind::Untracked, "doNotTrack"), (PolicyKind::PreDnat, "preDNAT")] {
        let mut bench = Bench::new();
        let other = Policy { kind, ..policy("all()") };
        let state = bench.apply([endpoint("", ""), put_policy("p", other)]);
        assert_eq!(tiers(&state), "");
        assert!(notice(&state, "GlobalNetworkPolicy p").unwrap().starts_with(field));
        // The same policy as a normal one applies, and the notice goes.
        let state = bench.apply([put_policy("p", policy("all()"))]);
        assert_eq!(tiers(&state), "default: p");
        assert_eq!(notice(&state, "GlobalNetworkPolicy p"), None);
        let state = bench.apply([put_policy("p", Policy { kind, ..policy("all()") })]);
        assert_eq!(tiers(&state), "");
        assert!(notice(&state, "GlobalNetworkPolicy p").is_some(), "the sweep took the notice");
    }
}

#[test]
fn a_missing_profile_drops_everything() {
    let mut bench = Bench::new();
    let state = bench.apply([endpoint("", "gone p1"), put_profile("p1", network_profile("p1"))]);
    let rules = &state.profiles["gone"];
    assert_eq!(rules.ingress.len(), 1);
    assert_eq!(rules.ingress[0].action, Action::Deny);
    assert_eq!(rules.ingress, rules.egress);
    assert_eq!(class(&state, "w").ingress.profiles, names("gone p1"), "it keeps its place");
    assert!(notice(&state, "Profile gone").is_some());
    assert!(notice(&state, "Profile p1").is_none());
    let state = bench.apply([put_profile("gone", Profile::default())]);
    assert_eq!(*state.profiles["gone"], Default::default());
    assert!(notice(&state, "Profile gone").is_none());
}

#[test]
fn the_default_allow_profile_is_built_in() {
    let mut bench = Bench::new();
    let name = Profile::DEFAULT_ALLOW;
    let state = bench.apply([endpoint("", name)]);
    let allow = &state.profiles[name].clone();
    assert_eq!(allow.ingress.len(), 1);
    assert_eq!((allow.ingress[0].action, allow.egress[0].action), (Action::Allow, Action::Allow));
    assert!(notice(&state, &format!("Profile {name}")).is_none());
    // Whatever is stored under its name changes nothing.
    let state = bench.apply([put_profile(name, network_profile("x"))]);
    assert_eq!(state.profiles[name], *allow);
}

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
fn an_own_label_wins_then_the_first_profile() {
    let mut bench = Bench::new();
    let labelled = |text: &str| Profile { labels: labels(text), ..Profile::default() };
    let state = bench.apply([
        put_policy("own", policy("k == 'own'")),
        put_policy("one", policy("k == 'one'")),
        put_policy("two", policy("k == 'two'")),
        put_profile("p1", labelled("k=one")),
        put_profile("p2", labelled("k=two")),
        endpoint("k=own", "p1 p2"),
    ]);
    assert_eq!(tiers(&state), "default: own");
    assert_eq!(tiers(&bench.apply([endpoint("", "p1 p2")])), "default: one");
    assert_eq!(tiers(&bench.apply([endpoint("", "p2 p1")])), "default: two");
    assert_eq!(tiers(&bench.apply([Update::Profile("p2".into(), None)])), "default: one");
    assert_eq!(tiers(&bench.apply([put_profile("p1", labelled(""))])), "");
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
    let source = Peer {
        selector: Some(selector("has(a)")),
        not_selector: Some(selector("has(b)")),
        not_ports,
        ..Peer::default()
    };
    let (_, state) = world_with_rules(vec![Rule { source, ..Rule::any(Action::Deny) }]);
    let rule = &state.policies[&policy_id("p")].ingress[0];
    let ids = |text: &str| {
        let id = state.sets.iter().find(|(_, set)| *set.selector == *text).map(|(id, _)| id);
        vec![id.cloned().unwrap()]
    };
    assert_eq!(rule.source.sets, ids("has(a)"));
    assert_eq!(rule.source.not_sets, ids("has(b)"));
    assert_eq!(rule.source.not_named_ports, ids("has(a); tcp; http"));
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
    assert!(text.contains("ingress rule 1") && text.contains("services"), "{text}");
    let state = bench.apply([put_policy("p", policy("all()"))]);
    assert_eq!(notice(&state, "GlobalNetworkPolicy p"), None);
}

#[test]
fn two_endpoints_of_one_interface_the_lowest_id_has_it() {
    let rivals = || {
        let rival =
            |address| WorkloadEndpoint { interface: wep("x", "").interface, ..wep("x", address) };
        [put_wep(HOST, "b", rival("10.0.0.2")), put_wep(HOST, "a", rival("10.0.0.1"))]
    };
    for swap in [false, true] {
        let mut bench = Bench::new();
        let mut updates = rivals();
        if swap {
            updates.reverse();
        }
        for update in updates {
            bench.apply([update]);
        }
        let state = bench.apply([]);
        let ids: Vec<_> = state.endpoints.keys().cloned().collect();
        assert_eq!(ids, [wep_id(HOST, "a")], "swap = {swap}");
        let subject = format!("WorkloadEndpoint {}", wep_id(HOST, "b"));
        assert!(notice(&state, &subject).unwrap().contains("host-a/cni/a/eth0"));
        let state = bench.apply([no_wep(HOST, "a")]);
        assert!(state.endpoints.contains_key(&wep_id(HOST, "b")));
        assert!(state.notices.is_empty());
    }
}

#[test]
fn endpoints_of_equal_acl_share_a_class_whatever_the_order_of_arrival() {
    let objects = || {
        vec![
            put_wep(HOST, "1", with(wep("1", "10.0.0.1"), "a=x", "net")),
            put_wep(HOST, "2", with(wep("2", "10.0.0.2"), "a=x other", "net")),
            put_wep(HOST, "3", with(wep("3", "10.0.0.3"), "", "net")),
            put_profile("net", network_profile("net")),
            put_policy("p", policy("a == 'x'")),
        ]
    };
    let forth = Bench::new().apply(objects());
    let mut bench = Bench::new();
    for object in objects().into_iter().rev() {
        bench.apply([object]);
    }
    let back = bench.apply([]);
    for state in [&forth, &back] {
        let of = |workload| state.endpoints[&wep_id(HOST, workload)].class.clone();
        assert_eq!(of("1"), of("2"));
        assert_ne!(of("1"), of("3"));
        assert_eq!(state.classes.len(), 2);
    }
    assert!(forth.has_content_of(&back));
}

#[test]
fn of_pools_with_one_cidr_the_lowest_name_counts_and_the_next_waits() {
    let mut bench = Bench::new();
    let plain = |nat| calico_datastore::model::Pool { nat_outgoing: nat, ..pool("10.0.0.0/16") };
    let disabled = calico_datastore::model::Pool { disabled: true, ..plain(true) };
    let state = bench.apply([put_pool("b", disabled), put_pool("a", plain(false))]);
    let cidr: calico_datastore::model::Cidr = "10.0.0.0/16".parse().unwrap();
    assert_eq!(state.pools.get(&cidr), Some(&false));
    assert!(notice(&state, "IPPool b").unwrap().contains("IPPool a"));
    let state = bench.apply([put_pool("a", pool("10.9.0.0/16"))]);
    assert_eq!(state.pools.get(&cidr), Some(&true), "the shadowed pool is back, though disabled");
    assert_eq!(state.pools.len(), 2);
    assert!(state.notices.is_empty());
    assert_eq!(state.bgp.pools.len(), 2);
}

#[test]
fn what_is_not_enforced_yet_has_a_notice() {
    let mut bench = Bench::new();
    let overlay = calico_datastore::model::Pool {
        ipip: calico_datastore::model::EncapMode::CrossSubnet,
        ..pool("10.0.0.0/16")
    };
    let state = bench.apply([
        put_pool("over", overlay),
        put_pool("plain", pool("10.1.0.0/16")),
        put_hep("ours", hep(HOST, "172.18.0.1", "")),
        put_hep("theirs", hep("host-b", "172.18.0.2", "")),
    ]);
    let subjects: Vec<&str> = state.notices.keys().map(|subject| &**subject).collect();
    assert_eq!(subjects, ["HostEndpoint ours", "IPPool over"]);
    assert!(notice(&state, "IPPool over").unwrap().contains("IPIP"));
}

#[test]
fn a_generation_passes_only_when_something_differs() {
    let mut bench = Bench::new();
    let first = bench.apply([endpoint("", "")]);
    assert_eq!(first.generation, 1);
    // Unused policies, other hosts' endpoints that no set holds, the same once more, and there and
    // back within one batch.
    let same = bench.apply([
        put_policy("p", policy("has(nothing)")),
        put_wep("host-b", "v", wep("v", "10.0.0.2")),
        endpoint("", ""),
        endpoint("a=x", "p1"),
        endpoint("", ""),
    ]);
    assert!(Arc::ptr_eq(&first, &same));
    let next = bench.apply([endpoint("", "p1")]);
    assert_eq!(next.generation, 2);
    let settings = crate::config::Settings { ipv6: false, ..Default::default() };
    let other = bench.calculator.desired(Arc::new(settings.clone()), 9);
    assert_eq!((other.generation, other.revision), (3, 9));
    let same = bench.calculator.desired(Arc::new(settings), 10);
    assert!(Arc::ptr_eq(&other, &same), "equal settings are equal wherever they lie");
}

#[test]
fn an_unknown_host_has_nothing() {
    let mut bench = Bench::new();
    let state = bench.apply([put_wep("host-b", "v", wep("v", "10.0.0.2"))]);
    assert!(state.endpoints.is_empty() && state.sets.is_empty() && state.classes.is_empty());
    assert_eq!(state.bgp.node, Name::from(HOST));
}
