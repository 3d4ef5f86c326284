//! Host endpoints of this host: calculated, and apart from what the endpoints of pods need.

use calico_datastore::model::{
    Action, HostEndpoint, Policy, PolicyKind, Profile, Rule, TierAction, Unevaluable, Update,
};

use super::make::*;
use super::show::{members, notice};
use super::{Bench, HOST};
use crate::desired::{DesiredState, HostEndpoints, LocalHostEndpoint, TierAcl};

fn host_endpoint(own: &str, profiles: &str) -> Update {
    let endpoint = hep(HOST, "172.18.0.2 172.18.0.1 172.18.0.2", own);
    put_hep("eth0", HostEndpoint { profiles: names(profiles), ..endpoint })
}

fn of_kind(kind: PolicyKind, applies_to: &str) -> Policy {
    Policy { kind, apply_on_forward: true, ..policy(applies_to) }
}

fn local(state: &DesiredState) -> &LocalHostEndpoint {
    state.host_endpoints.endpoints.values().next().unwrap()
}

fn show(tiers: &[TierAcl]) -> String {
    let tier = |tier: &TierAcl| {
        let policies: Vec<String> = tier.policies.iter().map(ToString::to_string).collect();
        format!("{}: {}", tier.tier, policies.join(" "))
    };
    tiers.iter().map(tier).collect::<Vec<_>>().join(" | ")
}

#[test]
fn each_kind_of_policy_is_in_its_own_list() {
    let mut bench = Bench::new();
    let state = bench.apply([
        host_endpoint("role=host", ""),
        put_policy("normal", policy("has(role)")),
        put_policy("forward", of_kind(PolicyKind::Normal, "has(role)")),
        put_policy("raw", of_kind(PolicyKind::Untracked, "has(role)")),
        put_policy("nat", of_kind(PolicyKind::PreDnat, "has(role)")),
        put_policy("other", policy("has(other)")),
    ]);
    let endpoint = local(&state);
    assert_eq!(show(&endpoint.normal.ingress), "default: forward normal");
    assert_eq!(show(&endpoint.normal.egress), "default: forward normal");
    assert_eq!(show(&endpoint.forward.ingress), "default: forward");
    assert_eq!(show(&endpoint.forward.egress), "default: forward");
    assert_eq!(show(&endpoint.untracked.ingress), "default: raw");
    assert_eq!(show(&endpoint.untracked.egress), "default: raw");
    assert_eq!(show(&endpoint.pre_dnat), "default: nat");
    let policies: Vec<String> =
        state.host_endpoints.policies.keys().map(ToString::to_string).collect();
    assert_eq!(policies, ["forward", "nat", "normal", "raw"]);
    let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["172.18.0.1", "172.18.0.2"]);
}

#[test]
fn a_policy_that_moves_from_kind_to_kind_moves_from_list_to_list() {
    let mut bench = Bench::new();
    bench.apply([host_endpoint("a", ""), put_wep(HOST, "w", wep("w", "10.0.0.1"))]);
    let lists = |state: &DesiredState| {
        let LocalHostEndpoint { normal, forward, untracked, pre_dnat, .. } = local(state);
        [&normal.ingress, &forward.ingress, &untracked.ingress, pre_dnat].map(|t| t.len())
    };
    let normal = |apply_on_forward| Policy { apply_on_forward, ..policy("all()") };
    for (policy, expected, pods) in [
        (normal(false), [1, 0, 0, 0], 1),
        (normal(true), [1, 1, 0, 0], 1),
        (of_kind(PolicyKind::Untracked, "all()"), [0, 0, 1, 0], 0),
        (of_kind(PolicyKind::PreDnat, "all()"), [0, 0, 0, 1], 0),
        (normal(false), [1, 0, 0, 0], 1),
    ] {
        let state = bench.apply([put_policy("p", policy)]);
        assert_eq!((lists(&state), state.policies.len()), (expected, pods));
        assert_eq!(state.host_endpoints.policies.len(), 1);
    }
}

#[test]
fn tiers_are_those_of_the_original_with_their_ends() {
    let mut bench = Bench::new();
    let state = bench.apply([
        host_endpoint("a", ""),
        put_tier("t1", order(1.0), TierAction::Pass),
        put_policy("t1.b", of_kind(PolicyKind::Untracked, "has(a)")),
        put_policy(
            "c",
            Policy { governs_egress: false, ..of_kind(PolicyKind::Untracked, "all()") },
        ),
    ]);
    let untracked = &local(&state).untracked;
    assert_eq!(show(&untracked.ingress), "t1: t1.b | default: c");
    assert_eq!(show(&untracked.egress), "t1: t1.b");
    assert_eq!(untracked.ingress[0].default_action, TierAction::Pass);
}

#[test]
fn what_only_host_endpoints_need_is_not_among_what_is_programmed() {
    let mut bench = Bench::new();
    let host_only = Policy { ingress: vec![allow_from("has(b)")], ..policy("role == 'host'") };
    let both = Policy { ingress: vec![allow_from("has(c)")], ..policy("all()") };
    let state = bench.apply([
        host_endpoint("role=host", "missing"),
        put_policy("host-only", host_only),
        put_policy("both", both),
        put_wep(HOST, "w", wep("w", "10.0.0.1")),
        put_netset("s", "10.9.0.0/16", "b c"),
    ]);
    let texts = |state: &DesiredState| {
        let policies = state.policies.keys().map(ToString::to_string);
        let sets = state.sets.values().map(|set| set.selector.to_string());
        (policies.collect::<Vec<_>>(), sets.collect::<Vec<_>>())
    };
    assert_eq!(texts(&state), (vec!["both".to_owned()], vec!["has(c)".to_owned()]));
    assert!(state.profiles.is_empty());
    let host = &state.host_endpoints;
    assert_eq!((host.policies.len(), host.profiles.len(), host.sets.len()), (2, 1, 2));
    assert!(notice(&state, "Profile missing").unwrap().contains("drops everything"));
    assert_eq!(notice(&state, "HostEndpoint eth0"), None);

    // The member comes to both parts; what is programmed changes by nothing else.
    let state = bench.apply([put_netset("t", "10.8.0.0/16", "c")]);
    assert_eq!(members(&state, "has(c)").len(), 2);
    let (id, set) = state.sets.iter().next().unwrap();
    assert_eq!(state.host_endpoints.sets[id], *set);

    // The other way round: what pods no longer need stays for the host, and the reverse.
    let state = bench.apply([no_wep(HOST, "w")]);
    assert!(state.policies.is_empty() && state.sets.is_empty());
    assert_eq!(state.host_endpoints.sets.len(), 2);
    let gone = Update::deleted(host_endpoint("", "").id());
    let state = bench.apply([put_wep(HOST, "w", wep("w", "10.0.0.1")), gone]);
    assert_eq!(texts(&state), (vec!["both".to_owned()], vec!["has(c)".to_owned()]));
    assert_eq!(state.host_endpoints, HostEndpoints::default());
}

#[test]
fn what_is_wrong_with_a_policy_is_said_as_long_as_somebody_needs_it() {
    let mut bench = Bench::new();
    let services = Rule { unevaluable: Some(Unevaluable::Services), ..allow_from("has(b)") };
    let odd = Policy { ingress: vec![services], ..policy("all()") };
    let said = |state: &DesiredState| notice(state, "GlobalNetworkPolicy odd").is_some();
    let state = bench.apply([put_policy("odd", odd)]);
    assert!(!said(&state), "nobody asks it");
    let state = bench.apply([host_endpoint("", "p1")]);
    assert!(said(&state) && notice(&state, "Profile p1").is_some());
    let pod = put_wep(HOST, "w", wep("w", "10.0.0.1"));
    assert!(said(&bench.apply([pod])));
    assert!(said(&bench.apply([no_wep(HOST, "w")])), "the host needs it still");
    let pod = put_wep(HOST, "w", wep("w", "10.0.0.1"));
    let state = bench.apply([pod, Update::deleted(host_endpoint("", "").id())]);
    assert!(said(&state) && notice(&state, "Profile p1").is_none());
    assert!(!said(&bench.apply([no_wep(HOST, "w")])));
}

#[test]
fn an_endpoint_of_another_host_is_only_a_member() {
    let mut bench = Bench::new();
    let state = bench.apply([
        put_policy("p", Policy { ingress: vec![allow_from("has(a)")], ..policy("all()") }),
        put_hep("h", hep("host-b", "172.18.0.9", "a")),
    ]);
    assert_eq!(state.host_endpoints, HostEndpoints::default());
    // Its object says where it is, and may say something else.
    let state = bench.apply([put_hep("h", hep(HOST, "172.18.0.9", "a"))]);
    assert_eq!(state.host_endpoints.sets.len(), 1);
    let state = bench.apply([put_hep("h", hep("host-b", "172.18.0.9", "a"))]);
    assert_eq!(state.host_endpoints, HostEndpoints::default());
}

#[test]
fn rules_of_policies_and_profiles_follow_their_objects() {
    let mut bench = Bench::new();
    let raw = |text: &str| Policy {
        ingress: vec![allow_from(text)],
        ..of_kind(PolicyKind::Untracked, "all()")
    };
    bench.apply([host_endpoint("a", "p1"), put_policy("raw", raw("has(x)"))]);
    let selectors = |state: &DesiredState| -> Vec<String> {
        state.host_endpoints.sets.values().map(|set| set.selector.to_string()).collect()
    };
    let state = bench.apply([put_policy("raw", raw("has(y)"))]);
    assert_eq!(selectors(&state), ["has(y)"]);
    let state = bench.apply([put_profile("p1", network_profile("net"))]);
    assert_eq!(selectors(&state).len(), 2);
    let state = bench.apply([Update::Profile("p1".into(), None), no_policy("raw")]);
    assert!(selectors(&state).is_empty());
    assert_eq!(state.host_endpoints.profiles.len(), 1, "a missing one drops everything");
}

#[test]
fn what_only_a_host_endpoint_needs_is_told_of_as_well() {
    let subject = "GlobalNetworkPolicy p";
    let services = |action| Rule { unevaluable: Some(Unevaluable::Services), ..Rule::any(action) };
    let egress = vec![Rule::any(Action::Allow), services(Action::Deny), services(Action::Allow)];
    let mut bench = Bench::new();
    let rules = Policy { egress, ..policy("has(role)") };
    let state = bench.apply([put_policy("p", rules.clone())]);
    assert_eq!(notice(&state, subject), None, "nothing here needs it");
    let state = bench.apply([host_endpoint("role=host", "net")]);
    let text = notice(&state, subject).unwrap();
    // By its place in the policy as written, as verdicts say it.
    assert!(text.contains("egress[1] never denies") && text.contains("OPEN"), "{text}");
    assert!(text.contains("egress[2] never matches"), "{text}");
    // A pod that needs it as well, and no longer.
    let mut pod = wep("w", "10.0.0.1");
    pod.labels = labels("role=pod");
    let state = bench.apply([put_wep(HOST, "w", pod)]);
    assert_eq!(notice(&state, subject).as_deref(), Some(&*text));
    let state = bench.apply([no_wep(HOST, "w")]);
    assert_eq!(notice(&state, subject).as_deref(), Some(&*text));
    // Other rules, other words.
    let harmless = Policy { egress: vec![services(Action::Allow)], ..rules };
    let state = bench.apply([put_policy("p", harmless)]);
    assert!(!notice(&state, subject).unwrap().contains("OPEN"));
    // The same for its profiles.
    assert!(notice(&state, "Profile net").unwrap().contains("drops everything"));
    let network = Profile { ingress: vec![services(Action::Deny)], ..network_profile("net") };
    let state = bench.apply([put_profile("net", network)]);
    assert!(notice(&state, "Profile net").unwrap().contains("ingress[0] never denies"));
    let gone = Update::deleted(host_endpoint("", "").id());
    let state = bench.apply([gone]);
    assert_eq!(state.notices.len(), 0);
}

/// Of every host: what is left out of it is missing from the sets of all.
#[test]
fn what_of_a_host_endpoint_could_not_be_read_is_told_with_its_name() {
    let subject = "HostEndpoint eth0";
    for node in [HOST, "another"] {
        let mut bench = Bench::new();
        let bad = HostEndpoint { left_out: Some("spec.x: bad".into()), ..hep(node, "", "") };
        let state = bench.apply([put_hep("eth0", bad)]);
        let said = "in force without what cannot be read: spec.x: bad";
        assert_eq!(notice(&state, subject).as_deref(), Some(said));
        let state = bench.apply([put_hep("eth0", hep(node, "", ""))]);
        assert_eq!(notice(&state, subject), None);
    }
}
