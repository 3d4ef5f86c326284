//! Which policies decide, in which order. Every state is compared with the oracle on the way.

use std::sync::Arc;

use calico_datastore::model::{Order, Policy, PolicyKind, TierAction, Update};

use super::make::*;
use super::show::*;
use super::{Bench, HOST};
use crate::acl::Generation;
use crate::config::Settings;

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
        put_policy("p", policy("all()")),
        put_policy("absent.p", tier_policy("absent", Order::LAST)),
    ]);
    assert_eq!(tiers(&state), "default: p | absent: absent.p");
}

#[test]
fn a_default_tier_without_object_is_behind_every_tier_that_has_one() {
    let mut bench = Bench::new();
    let state = bench.apply([
        endpoint("", ""),
        put_tier("before", order(999_999.0), TierAction::Pass),
        put_tier("after", order(1_000_001.0), TierAction::Deny),
        put_tier("zlast", Order::LAST, TierAction::Pass),
        put_policy("after.p", tier_policy("after", Order::LAST)),
        put_policy("absent.p", tier_policy("absent", Order::LAST)),
        put_policy("p", policy("all()")),
        put_policy("zlast.p", tier_policy("zlast", Order::LAST)),
        put_policy("before.p", tier_policy("before", Order::LAST)),
    ]);
    let stored = "before (pass): before.p | after: after.p | zlast (pass): zlast.p";
    assert_eq!(tiers(&state), format!("{stored} | default: p | absent: absent.p"));
    let state = bench.apply([put_tier("default", order(1.0), TierAction::Pass)]);
    assert_eq!(tiers(&state), format!("default (pass): p | {stored} | absent: absent.p"));
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
    for kind in [PolicyKind::Untracked, PolicyKind::PreDnat] {
        let mut bench = Bench::new();
        let other = Policy { kind, ..policy("all()") };
        let state = bench.apply([endpoint("", ""), put_policy("p", other)]);
        assert_eq!(tiers(&state), "");
        // The same policy as a normal one applies.
        let state = bench.apply([put_policy("p", policy("all()"))]);
        assert_eq!(tiers(&state), "default: p");
        let state = bench.apply([put_policy("p", Policy { kind, ..policy("all()") })]);
        assert_eq!(tiers(&state), "");
        assert!(state.notices.is_empty());
    }
}

/// A policy that names a tier in its spec and in its name, one that has it in the name alone, and
/// ties between namespaces.
fn mixed() -> Vec<Update> {
    let endpoint = endpoint("", "");
    vec![
        endpoint,
        put_tier("default", order(1e6), TierAction::Pass),
        put_tier("t1", order(1.0), TierAction::Deny),
        put_policy("t1.both", tier_policy("t1", order(5.0))),
        put_policy("t1.name", Policy { order: order(5.0), ..policy("all()") }),
        put_policy("z/default.a", policy("all()")),
        put_policy("a/default.z", policy("all()")),
        put_policy("default.m", policy("all()")),
    ]
}

#[test]
fn the_version_of_the_cluster_decides_about_tiers_and_ties() {
    let unversioned = "t1: t1.both t1.name | default (pass): a/default.z default.m z/default.a";
    let mut bench = Bench::new();
    let state = bench.apply(mixed());
    assert_eq!(tiers(&state), unversioned);
    for (version, expected) in [
        // No tiers: one list, and its end denies.
        ("v3.28.1", "default: t1.both t1.name a/default.z default.m z/default.a"),
        ("v3.29.0", unversioned),
        ("v3.32.1", "t1: t1.both | default (pass): t1.name z/default.a default.m a/default.z"),
        ("v3.30.0-0.dev", unversioned),
        ("", unversioned),
    ] {
        let state = bench.apply([cluster(version)]);
        assert_eq!(tiers(&state), expected, "{version}");
    }
    // It may come in any order, and before or with the rest.
    let mut other = Bench::new();
    other.apply([cluster("v3.32.1")]);
    let state = other.apply(mixed());
    assert_eq!(
        tiers(&state),
        "t1: t1.both | default (pass): t1.name z/default.a default.m a/default.z"
    );
    let state = other.apply([Update::ClusterInformation(None)]);
    assert_eq!(tiers(&state), unversioned);
}

#[test]
fn a_tier_that_comes_is_seen_by_the_policies_of_the_generation_that_holds() {
    let mut bench = Bench::new();
    bench.apply([endpoint("", ""), put_policy("t1.p", policy("all()")), cluster("v3.29.0")]);
    // Named by its policy, and missing.
    let state = bench.apply([put_policy("q", policy("all()"))]);
    assert_eq!(tiers(&state), "default: q | t1: t1.p");
    let state = bench.apply([put_tier("t1", order(1.0), TierAction::Pass)]);
    assert_eq!(tiers(&state), "t1 (pass): t1.p | default: q");
    // The index of tiers is of the generation of now.
    bench.apply([cluster("v3.32.0")]);
    let state = bench.apply([put_tier("default", order(0.5), TierAction::Pass)]);
    assert_eq!(tiers(&state), "default (pass): q t1.p");
    bench.apply([cluster("v3.31.0")]);
    let state = bench.apply([Update::Tier("t1".into(), None)]);
    assert_eq!(tiers(&state), "default (pass): q | t1: t1.p");
}

#[test]
fn who_sets_a_version_is_heard_before_the_cluster() {
    let mut bench = Bench::new();
    bench.apply(mixed());
    let set = |bench: &mut Bench, version: Option<&str>| {
        let mut settings = Settings::clone(&bench.settings);
        settings.calico_version = version.map(|version| version.parse().unwrap());
        bench.settings = Arc::new(settings);
    };
    bench.apply([cluster("v3.32.0")]);
    set(&mut bench, Some("3.28"));
    let state = bench.apply([]);
    assert_eq!(tiers(&state), "default: t1.both t1.name a/default.z default.m z/default.a");
    assert_eq!(bench.calculator.generation(), Generation::OneTier);
    // In the same breath as other changes, and taken back.
    set(&mut bench, None);
    let state = bench.apply([no_policy("t1.name")]);
    assert_eq!(tiers(&state), "t1: t1.both | default (pass): z/default.a default.m a/default.z");
    assert_eq!(bench.calculator.generation(), Generation::TierInSpec);
}

#[test]
fn a_policy_that_is_not_where_it_says_is_named() {
    let subject = "GlobalNetworkPolicy t1.both";
    let mut bench = Bench::new();
    let state = bench.apply(mixed());
    assert_eq!(notice(&state, subject), None);
    let state = bench.apply([cluster("v3.20.0")]);
    let text = notice(&state, subject).unwrap();
    assert!(text.contains("tier t1") && text.contains("tier default"), "{text}");
    assert_eq!(notice(&state, "GlobalNetworkPolicy t1.name"), None, "it says nothing");
    let state = bench.apply([cluster("v3.29.0")]);
    assert_eq!(notice(&state, subject), None);
    // Nobody is told of policies that nothing here needs.
    bench.apply([cluster("v3.20.0")]);
    let state = bench.apply([no_wep(HOST, "w")]);
    assert_eq!(state.notices.len(), 0);
}

#[test]
fn a_version_that_cannot_be_read_is_a_notice_unless_one_is_set() {
    let mut bench = Bench::new();
    let state = bench.apply([cluster("master")]);
    let text = notice(&state, "ClusterInformation default").unwrap();
    assert!(text.contains("\"master\""), "{text}");
    assert_eq!(bench.calculator.generation(), Generation::Unversioned);
    bench.settings =
        Arc::new(Settings { calico_version: Some("3.31".parse().unwrap()), ..Settings::default() });
    assert_eq!(notice(&bench.apply([]), "ClusterInformation default"), None);
    assert_eq!(bench.calculator.generation(), Generation::TierInName);
}
