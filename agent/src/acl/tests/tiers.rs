//! Which policies decide, in which order. Every state is compared with the oracle on the way.

use calico_datastore::model::{Order, Policy, PolicyKind, TierAction, Update};

use super::Bench;
use super::make::*;
use super::show::*;

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
