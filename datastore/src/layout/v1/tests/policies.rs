use std::sync::Arc;

use super::{accepted, rejected};
use crate::model::{EncapMode, Order, Policy, PolicyKind, Pool, Tier, TierAction, Update};

pub(super) const KEY: &str = "/calico/v1/policy/tier/default/policy/p";
const TIER: &str = "/calico/v1/policy/tier/t/metadata";
const POOL: &str = "/calico/v1/ipam/v4/pool/10.1.0.0-16";

#[track_caller]
pub(super) fn policy(json: &str) -> Arc<Policy> {
    match accepted(KEY, json) {
        Update::Policy(_, Some(policy)) => policy,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn pool(key: &str, json: &str) -> Arc<Pool> {
    match accepted(key, json) {
        Update::Pool(_, Some(pool)) => pool,
        other => panic!("{other:?}"),
    }
}

#[test]
fn orders() {
    let order = |value| Order::new(value).unwrap();
    for (json, expected) in [
        ("{}", Order::LAST),
        (r#"{"order":null}"#, Order::LAST),
        (r#"{"order":"default"}"#, Order::LAST),
        (r#"{"order":0}"#, order(0.0)),
        (r#"{"order":10.5}"#, order(10.5)),
        (r#"{"order":-3}"#, order(-3.0)),
    ] {
        assert_eq!(policy(json).order, expected, "{json}");
        let tier = Tier { order: expected, default_action: TierAction::Deny };
        assert_eq!(accepted(TIER, json), Update::Tier("t".into(), Some(Arc::new(tier))), "{json}");
    }
    for json in [r#"{"order":"10"}"#, r#"{"order":true}"#, r#"{"order":[1]}"#] {
        assert!(rejected(KEY, json).starts_with("order"), "{json}");
        assert!(rejected(TIER, json).starts_with("order"), "{json}");
    }
}

#[test]
fn a_policy_is_in_the_tier_of_its_key() {
    assert_eq!(policy("{}").tier, Some("default".into()));
    let key = "/calico/v1/policy/tier/security/policy/quarantine";
    let Update::Policy(_, Some(policy)) = accepted(key, "{}") else { panic!("no policy") };
    assert_eq!(policy.tier, Some("security".into()));
}

#[test]
fn without_a_selector_it_applies_to_all() {
    for json in ["{}", r#"{"selector":""}"#, r#"{"selector":null}"#] {
        assert!(policy(json).selector.is_all(), "{json}");
    }
    // As Go writes `&&`.
    let json = r#"{"selector":"a == 'b' \u0026\u0026 has(c)"}"#;
    assert_eq!(policy(json).selector.canonical(), r#"(a == "b" && has(c))"#);
    assert!(rejected(KEY, r#"{"selector":"a in ["}"#).starts_with("selector: "));
}

#[test]
fn directions_of_a_policy() {
    for (json, ingress, egress) in [
        ("{}", true, true),
        (r#"{"types":[]}"#, true, true),
        (r#"{"types":["ingress"]}"#, true, false),
        (r#"{"types":["Egress"]}"#, false, true),
        (r#"{"types":["ingress","egress"]}"#, true, true),
        (r#"{"pre_dnat":true}"#, true, false),
        (r#"{"pre_dnat":true,"types":["ingress"]}"#, true, false),
    ] {
        let policy = policy(json);
        assert_eq!((policy.governs_ingress, policy.governs_egress), (ingress, egress), "{json}");
    }
    assert!(rejected(KEY, r#"{"types":["ingress","x"]}"#).starts_with("types[1]: "));
    assert!(rejected(KEY, r#"{"pre_dnat":true,"types":["egress"]}"#).starts_with("types: "));
    assert!(
        rejected(KEY, r#"{"pre_dnat":true,"outbound_rules":[{}]}"#).starts_with("outbound_rules: ")
    );
}

#[test]
fn kinds_of_policies() {
    for (json, kind) in [
        ("{}", PolicyKind::Normal),
        (r#"{"untracked":true}"#, PolicyKind::Untracked),
        (r#"{"pre_dnat":true,"untracked":false}"#, PolicyKind::PreDnat),
    ] {
        let policy = policy(json);
        assert_eq!(policy.kind, kind, "{json}");
        assert_eq!(policy.apply_on_forward, kind != PolicyKind::Normal, "{json}");
    }
    let said = rejected(KEY, r#"{"untracked":true,"pre_dnat":true}"#);
    assert!(said.starts_with("pre_dnat: "), "{said}");
}

#[test]
fn pools_of_every_writer() {
    let go = r#"{"cidr":"10.1.0.0/16","ipip":"tunl0","ipip_mode":"cross-subnet","masquerade":true,
                 "ipam":true,"disabled":false}"#;
    let written = pool(POOL, go);
    assert_eq!(written.cidr, "10.1.0.0/16".parse().unwrap());
    assert_eq!((written.ipip, written.nat_outgoing), (EncapMode::CrossSubnet, true));
    assert_eq!((written.disabled, written.block_size), (false, 26));
    for (json, ipip, disabled) in [
        ("{}", EncapMode::Never, false),
        (r#"{"ipip":"","ipip_mode":""}"#, EncapMode::Never, false),
        (r#"{"ipip":"tunl0"}"#, EncapMode::Always, false),
        (r#"{"ipip":"tunl0","ipip_mode":"always"}"#, EncapMode::Always, false),
        (r#"{"ipip_mode":"always"}"#, EncapMode::Never, false),
        (r#"{"disabled":true}"#, EncapMode::Never, true),
        (r#"{"ipam":false}"#, EncapMode::Never, true),
    ] {
        let pool = pool(POOL, json);
        assert_eq!((pool.ipip, pool.disabled), (ipip, disabled), "{json}");
        assert_eq!(pool.cidr, "10.1.0.0/16".parse().unwrap(), "of the key");
    }
    let v6 = pool("/calico/v1/ipam/v6/pool/fd80:24e2:f998:72d6::-64", r#"{"ipip":"tunl0"}"#);
    assert_eq!((v6.ipip, v6.block_size), (EncapMode::Never, 122));
    assert_eq!(v6.cidr, "fd80:24e2:f998:72d6::/64".parse().unwrap());
    // Before 0.4.9 there was no document.
    assert!(rejected(POOL, "10.1.0.0/16").contains("expected an object"));
    assert!(rejected(POOL, r#"{"cidr":"x"}"#).starts_with("cidr: "));
    assert!(rejected(POOL, r#"{"ipip":"tunl0","ipip_mode":"x"}"#).starts_with("ipip_mode: "));
}
