use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::tutorial;

/// The values of the public fixture, by key; `None` when it is not there.
fn fixture() -> Option<BTreeMap<String, String>> {
    let Some(shared) = std::env::var_os("CALICO_SHARED") else {
        eprintln!("skipped: CALICO_SHARED is not set");
        return None;
    };
    let path = std::path::Path::new(&shared).join("fixtures/v3-rkt.json");
    let entries: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap().to_owned();
    Some(entries.iter().map(|e| (text(e, "key"), text(e, "value"))).collect())
}

/// A value without what is random (`uid`), with its field order kept.
fn without_uid(value: &str) -> String {
    let Some(start) = value.find("\"uid\":\"") else { return value.to_owned() };
    format!("{}{}", &value[..start + 7], &value[start + 7 + 36..])
}

#[test]
fn the_tutorials_world_is_stored_as_the_original_clients_store_it() {
    let Some(fixture) = fixture() else { return };
    // Ours has no overlay: no tunnel address in nodes and IPv4 blocks, another mode in the pool.
    let differ = ["/nodes/", "/ippools/default-ipv4-ippool", "/assignment/ipv4/"];
    let mut compared = 0;
    for (key, value) in tutorial::base().into_iter().chain(tutorial::workloads()) {
        let expected = fixture.get(&key).unwrap_or_else(|| panic!("{key} is not in the fixture"));
        if !differ.iter().any(|part| key.contains(part)) {
            assert_eq!(without_uid(&value), without_uid(expected), "{key}");
            compared += 1;
        }
    }
    // BGP configuration, IPv6 pool, 2 profiles, 4 endpoints, 2 blocks, 4 affinities, 4 handles.
    assert_eq!(compared, 18);
}

#[test]
fn a_policy_is_stored_as_calicoctl_stores_it() {
    let Some(fixture) = fixture() else { return };
    let threat = || Entity::selector("threat == 'yes'");
    let policy = GlobalNetworkPolicy(NetworkPolicy {
        tier: Some("security".into()),
        order: Some(10),
        ingress: vec![
            Rule::new("Log").from(threat()),
            Rule::new("Deny").from(threat()),
            Rule::new("Pass"),
        ],
        egress: vec![Rule::new("Deny").to(threat()), Rule::new("Pass")],
        selector: "all()".into(),
        types: vec!["Ingress".into(), "Egress".into()],
    });
    let (key, value) = Resource::new("security.block-threats", policy)
        .label("projectcalico.org/tier", "security")
        .pair();
    assert_eq!(without_uid(&value), without_uid(&fixture[&key]));
    let tier = Resource::new("security", Tier { order: 100, default_action: "Pass".into() });
    let (key, value) = tier.pair();
    assert_eq!(without_uid(&value), without_uid(&fixture[&key]));
}

#[test]
fn selectors_are_escaped_as_gos_encoder_does() {
    assert_eq!(go_json(&"a && b < c"), r#""a \u0026\u0026 b \u003c c""#);
}
