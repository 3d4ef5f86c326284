//! Profiles, labels, classes, pools, notices, generations. Every state is compared with the oracle
//! on the way.

use std::sync::Arc;

use calico_datastore::model::{
    Action, Name, Policy, PolicyKind, Profile, Update, WorkloadEndpoint,
};

use super::make::*;
use super::show::*;
use super::{Bench, HOST};

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
fn the_overlay_is_that_of_the_pool_that_counts() {
    use crate::desired::Overlay::{IpInIp, Vxlan};
    use calico_datastore::model::EncapMode::{Always, CrossSubnet, Never};
    let mut bench = Bench::new();
    let made = |ipip, vxlan| calico_datastore::model::Pool { ipip, vxlan, ..pool("10.0.0.0/16") };
    let cidr: calico_datastore::model::Cidr = "10.0.0.0/16".parse().unwrap();
    for (ipip, vxlan, expected) in [
        (Never, Never, None),
        (CrossSubnet, Never, Some(IpInIp)),
        (Never, CrossSubnet, Some(Vxlan)),
        (Always, Never, Some(IpInIp)),
        (Always, Always, Some(Vxlan)),
    ] {
        let state = bench.apply([put_pool("b", made(ipip, vxlan))]);
        assert_eq!(state.overlays.get(&cidr).copied(), expected, "{ipip:?} {vxlan:?}");
    }
    let state = bench.apply([put_pool("a", made(Never, Never))]);
    assert!(state.overlays.is_empty(), "the pool in the shadow counts");
    let state = bench.apply([put_pool("a", pool("10.9.0.0/16"))]);
    assert_eq!(state.overlays.get(&cidr), Some(&Vxlan));
    let state = bench.apply([put_pool("b", pool("10.8.0.0/16"))]);
    assert!(state.overlays.is_empty(), "a pool that moved leaves its overlay behind");
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
    assert_eq!(subjects, ["IPPool over"]);
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

#[test]
fn external_addresses_are_part_of_an_endpoint() {
    let mut bench = Bench::new();
    let nat = vec![("10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap())];
    let with = WorkloadEndpoint { nat: nat.clone(), ..wep("w", "10.0.0.1") };
    let state = bench.apply([put_wep(HOST, "w", with)]);
    assert_eq!(state.endpoints[&wep_id(HOST, "w")].nat, nat);
    // Whether they are in force is a matter of the settings and of the host's other endpoints.
    assert!(state.notices.is_empty());
    let state = bench.apply([put_wep(HOST, "w", wep("w", "10.0.0.1"))]);
    assert!(state.endpoints[&wep_id(HOST, "w")].nat.is_empty());
}

#[test]
fn a_policy_that_every_host_is_to_have_is_in_force_without_an_endpoint() {
    let mut bench = Bench::new();
    let rules = vec![allow_from("has(b)")];
    let hinted = Policy { needed_everywhere: true, ingress: rules, ..policy("has(a)") };
    let plain = Policy { needed_everywhere: false, ..hinted.clone() };
    let other = policy("has(a)");
    let state = bench.apply([put_policy("p", hinted.clone()), put_policy("q", other)]);
    let ids: Vec<_> = state.policies.keys().cloned().collect();
    assert_eq!((ids, state.sets.len()), (vec![policy_id("p")], 1), "with its sets");
    // An endpoint that needs it comes and goes.
    let mut pod = wep("w", "10.0.0.1");
    pod.labels = labels("a");
    let state = bench.apply([put_wep(HOST, "w", pod)]);
    assert_eq!(state.policies.len(), 2);
    let state = bench.apply([no_wep(HOST, "w")]);
    assert_eq!(state.policies.len(), 1);
    // It no longer says so; it says so and is for hosts alone; it is gone.
    assert!(bench.apply([put_policy("p", plain)]).policies.is_empty());
    assert_eq!(bench.apply([put_policy("p", hinted.clone())]).policies.len(), 1);
    let untracked = Policy { kind: PolicyKind::Untracked, ..hinted.clone() };
    assert!(bench.apply([put_policy("p", untracked)]).policies.is_empty());
    assert_eq!(bench.apply([put_policy("p", hinted)]).policies.len(), 1);
    let state = bench.apply([no_policy("p"), no_policy("q")]);
    assert!(state.policies.is_empty() && state.sets.is_empty());
    bench.calculator.assert_nothing_left();
}
