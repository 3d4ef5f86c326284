use std::sync::Arc;

use super::{accepted, rejected};
use crate::model::{Order, Policy, PolicyKind, TierAction, Update};

#[track_caller]
pub(super) fn policy(path: &str, json: &str) -> Arc<Policy> {
    match accepted(path, json) {
        Update::Policy(_, Some(policy)) => policy,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub(super) fn global(spec: &str) -> Arc<Policy> {
    policy("globalnetworkpolicies/default.p", &format!(r#"{{"spec":{spec}}}"#))
}

#[track_caller]
pub(super) fn namespaced(spec: &str) -> Arc<Policy> {
    policy("networkpolicies/prod/default.p", &format!(r#"{{"spec":{spec}}}"#))
}

#[test]
fn types_missing_or_empty_mean_both() {
    for (spec, expected) in [
        ("{}", (true, true)),
        (r#"{"types":null}"#, (true, true)),
        (r#"{"types":[]}"#, (true, true)),
        (r#"{"types":["Ingress"]}"#, (true, false)),
        (r#"{"types":["egress"]}"#, (false, true)),
        (r#"{"types":["INGRESS","Egress"]}"#, (true, true)),
        (r#"{"types":["Ingress"],"egress":[{"action":"Allow"}]}"#, (true, false)),
        (r#"{"preDNAT":true,"applyOnForward":true}"#, (true, false)),
    ] {
        let policy = global(spec);
        assert_eq!((policy.governs_ingress, policy.governs_egress), expected, "{spec}");
    }
    let reason =
        rejected("globalnetworkpolicies/p", r#"{"spec":{"types":["Ingress","Sideways"]}}"#);
    assert!(reason.starts_with("spec.types[1]: "), "{reason}");
}

#[test]
fn order_may_be_fractional_exponential_or_absent() {
    for (spec, expected) in [
        ("{}", Order::LAST),
        (r#"{"order":null}"#, Order::LAST),
        (r#"{"order":10}"#, Order::new(10.0).unwrap()),
        (r#"{"order":10.5}"#, Order::new(10.5).unwrap()),
        (r#"{"order":1e3}"#, Order::new(1000.0).unwrap()),
        (r#"{"order":-1.5E-2}"#, Order::new(-0.015).unwrap()),
    ] {
        assert_eq!(global(spec).order, expected, "{spec}");
    }
    let reason = rejected("globalnetworkpolicies/p", r#"{"spec":{"order":"first"}}"#);
    assert!(reason.starts_with("spec.order: "), "{reason}");
    rejected("globalnetworkpolicies/p", r#"{"spec":{"order":1e999}}"#);
}

#[test]
fn the_tier_comes_from_the_spec_then_from_the_label() {
    let json = |tier: &str, label: &str| {
        format!(r#"{{"metadata":{{"labels":{{{label}}}}},"spec":{{{tier}}}}}"#)
    };
    let label = r#""projectcalico.org/tier":"by-label""#;
    let tier = |text: &str| {
        let policy = policy("globalnetworkpolicies/a.b", text);
        assert!(policy.tier.is_none() || policy.tier_label.is_none(), "{text}");
        policy.tier.clone().or(policy.tier_label.clone())
    };
    assert_eq!(tier(&json(r#""tier":"by-spec""#, label)).unwrap(), "by-spec");
    assert_eq!(tier(&json(r#""tier":"""#, label)).unwrap(), "by-label");
    assert_eq!(tier(&json("", label)).unwrap(), "by-label");
    assert_eq!(tier(&json("", "")), None, "left to whoever knows which tiers exist");
}

#[test]
fn flags_of_global_policies() {
    assert_eq!(global("{}").kind, PolicyKind::Normal);
    assert_eq!(global(r#"{"doNotTrack":true}"#).kind, PolicyKind::Untracked);
    assert_eq!(global(r#"{"preDNAT":true}"#).kind, PolicyKind::PreDnat);
    assert!(!global("{}").apply_on_forward);
    assert!(global(r#"{"applyOnForward":true}"#).apply_on_forward);
    assert!(namespaced("{}").apply_on_forward);
    assert_eq!(namespaced(r#"{"doNotTrack":true,"preDNAT":true}"#).kind, PolicyKind::Normal);
    for spec in [
        r#"{"doNotTrack":true,"preDNAT":true}"#,
        r#"{"preDNAT":true,"types":["Egress"]}"#,
        r#"{"preDNAT":true,"types":["Ingress","Egress"]}"#,
        r#"{"preDNAT":true,"egress":[{"action":"Allow"}]}"#,
    ] {
        rejected("globalnetworkpolicies/p", &format!(r#"{{"spec":{spec}}}"#));
    }
}

#[test]
fn policy_selectors_are_folded() {
    let ns = r#"projectcalico.org/namespace == "prod""#;
    for (spec, expected) in [
        ("{}", ns.to_owned()),
        (r#"{"selector":""}"#, ns.to_owned()),
        (r#"{"selector":"a == 'b'"}"#, format!(r#"(a == "b" && {ns})"#)),
        (
            r#"{"selector":"a == 'b' || has(c)","serviceAccountSelector":"t == 'x'"}"#,
            format!(r#"(((a == "b" || has(c)) && {ns}) && pcsa.t == "x")"#),
        ),
        // Only global policies have this field.
        (r#"{"namespaceSelector":"a == 'b'"}"#, ns.to_owned()),
    ] {
        assert_eq!(namespaced(spec).selector.canonical(), expected, "{spec}");
    }
    for (spec, expected) in [
        ("{}", "all()"),
        (r#"{"selector":"all()"}"#, "all()"),
        (r#"{"selector":"a == 'b'"}"#, r#"a == "b""#),
        (
            r#"{"selector":"a == 'b'","namespaceSelector":"env in {'x'}"}"#,
            r#"(a == "b" && pcns.env in {"x"})"#,
        ),
        (r#"{"namespaceSelector":"all()"}"#, "has(projectcalico.org/namespace)"),
        (r#"{"serviceAccountSelector":"all()"}"#, "has(projectcalico.org/serviceaccount)"),
        (
            r#"{"namespaceSelector":"has(x)","serviceAccountSelector":"!has(y)"}"#,
            "(has(pcns.x) && !has(pcsa.y))",
        ),
    ] {
        assert_eq!(global(spec).selector.canonical(), expected, "{spec}");
    }
}

#[test]
fn a_namespace_selector_narrows_all_of_the_main_selector_too() {
    assert_eq!(
        global(r#"{"selector":"all()","namespaceSelector":"env == 'x'"}"#).selector.canonical(),
        r#"(has(projectcalico.org/namespace) && pcns.env == "x")"#
    );
    assert_eq!(
        global(r#"{"selector":"a == 'all()'","namespaceSelector":"all()"}"#).selector.canonical(),
        r#"(a == "all()" && has(projectcalico.org/namespace))"#,
        "a value is not an expression"
    );
}

#[test]
fn invalid_selectors_reject_the_policy() {
    for (spec, field) in [
        (r#"{"selector":"a ="}"#, "spec.selector"),
        (r#"{"selector":"a == 'b'\n"}"#, "spec.selector"),
        (r#"{"namespaceSelector":"a ="}"#, "spec.namespaceSelector"),
        (r#"{"serviceAccountSelector":"a ="}"#, "spec.serviceAccountSelector"),
        (
            r#"{"egress":[{"action":"Deny","destination":{"notSelector":"("}}]}"#,
            "spec.egress[0].destination.notSelector",
        ),
        (
            r#"{"egress":[{"action":"Deny","source":{"serviceAccounts":{"selector":"("}}}]}"#,
            "spec.egress[0].source.serviceAccounts.selector",
        ),
        (
            r#"{"egress":[{"action":"Deny","source":{"serviceAccounts":{"names":["'\""]}}}]}"#,
            "spec.egress[0].source.serviceAccounts.names",
        ),
    ] {
        let reason = rejected("globalnetworkpolicies/p", &format!(r#"{{"spec":{spec}}}"#));
        assert!(reason.starts_with(&format!("{field}: ")), "{reason}");
    }
}

#[test]
fn tiers() {
    let tier = |json: &str| match accepted("tiers/t", json) {
        Update::Tier(_, Some(tier)) => *tier,
        other => panic!("{other:?}"),
    };
    let security = tier(r#"{"spec":{"order":100.5,"defaultAction":"Pass"},"status":{}}"#);
    assert_eq!(security.order, Order::new(100.5).unwrap());
    assert_eq!(security.default_action, TierAction::Pass);
    for json in ["{}", r#"{"spec":{"defaultAction":"Deny"}}"#, r#"{"spec":{"defaultAction":"x"}}"#]
    {
        assert_eq!(tier(json).default_action, TierAction::Deny);
        assert_eq!(tier(json).order, Order::LAST);
    }
}

#[test]
fn a_hint_puts_a_policy_in_force_everywhere() {
    let needed = |spec: &str| {
        let json = format!(r#"{{"spec":{spec}}}"#);
        let both = ["globalnetworkpolicies/p", "networkpolicies/n/p"];
        both.map(|path| policy(path, &json).needed_everywhere)
    };
    assert_eq!(needed(r#"{"performanceHints":["AssumeNeededOnEveryNode"]}"#), [true; 2]);
    assert_eq!(needed(r#"{"performanceHints":["Other","AssumeNeededOnEveryNode"]}"#), [true; 2]);
    for spec in ["{}", r#"{"performanceHints":null}"#, r#"{"performanceHints":["Other"]}"#] {
        assert_eq!(needed(spec), [false; 2], "{spec}");
    }
}
