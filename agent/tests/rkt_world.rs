//! The world of the rkt tutorial in the v3 layout, seen by its first host: from keys and JSON to
//! the desired state.
//!
//! Read in place from the directory that `CALICO_SHARED` names; skipped aloud without it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of a test, which clippy does not take for tests"
)]

use std::path::Path;
use std::sync::Arc;

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::desired::{AclClass, DesiredState, DirectionAcl, TierAcl};
use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::{Name, TierAction, Update};
use serde_json::Value;

/// The objects of the fixture.
fn world() -> Option<Vec<Update>> {
    let Some(shared) = std::env::var_os("CALICO_SHARED") else {
        println!("skipped: CALICO_SHARED is not set");
        return None;
    };
    let bytes = std::fs::read(Path::new(&shared).join("fixtures/v3-rkt.json")).unwrap();
    let entries: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(entries.len(), 56);
    let mut updates = Vec::new();
    for entry in &entries {
        let text = |field: &str| entry[field].as_str().unwrap();
        match v3::decode(text("key"), text("value").as_bytes()) {
            Decoded::Object(update) => updates.push(update),
            Decoded::Rejected(rejection) => panic!("{rejection:?}"),
            Decoded::Unsupported { .. } | Decoded::Ignored | Decoded::Part(_) => {}
        }
    }
    Some(updates)
}

fn calculate(updates: impl IntoIterator<Item = Update>) -> Arc<DesiredState> {
    let mut calculator = Calculator::new(Name::from("calico-01"));
    calculator.apply(updates);
    calculator.desired(Arc::new(Settings::default()), 1)
}

fn class(state: &DesiredState, interface: &str) -> Arc<AclClass> {
    let found = state.endpoints.values().find(|e| e.interface.as_str() == interface);
    Arc::clone(&state.classes[&found.unwrap().class])
}

fn show(direction: &DirectionAcl) -> Vec<(&str, TierAction, Vec<String>)> {
    let policies = |tier: &TierAcl| tier.policies.iter().map(ToString::to_string).collect();
    let tiers = direction.tiers.iter();
    tiers.map(|tier| (tier.tier.as_str(), tier.default_action, policies(tier))).collect()
}

fn members(state: &DesiredState, selector: &str) -> Vec<String> {
    let set = state.sets.values().find(|set| *set.selector == *selector);
    let set = set.unwrap_or_else(|| panic!("no set {selector}: {:?}", state.sets));
    set.members.iter().map(|member| format!("{member:?}")).collect()
}

#[test]
fn the_first_host_of_the_tutorial() {
    let Some(updates) = world() else { return };
    let state = calculate(updates.clone());

    let interfaces: Vec<&str> = state.endpoints.values().map(|e| e.interface.as_str()).collect();
    assert_eq!(interfaces, ["cali0b61d5d2-77", "calic89f2f35-1b"]);

    let threats = || vec!["security.block-threats".to_owned()];
    let (frontend, backend) = (class(&state, "calic89f2f35-1b"), class(&state, "cali0b61d5d2-77"));
    assert_eq!(
        show(&frontend.ingress),
        [
            ("security", TierAction::Pass, threats()),
            ("default", TierAction::Deny, vec!["default/default.frontend-no-order".into()]),
        ]
    );
    assert_eq!(
        show(&backend.ingress),
        [
            ("security", TierAction::Pass, threats()),
            ("default", TierAction::Deny, vec!["default/default.backend-ports".into()]),
        ]
    );
    // The policy of the frontend has no egress: its profile decides there.
    assert_eq!(show(&frontend.egress), [("security", TierAction::Pass, threats())]);
    assert_eq!(frontend.egress.profiles, [Name::from("frontend")]);

    assert_eq!(
        members(&state, "has(frontend)"),
        [
            "Net(192.168.0.0/32)",
            "Net(192.168.0.65/32)",
            "Net(fd80:24e2:f998:72d6::/128)",
            "Net(fd80:24e2:f998:72d6::41/128)",
        ]
    );
    assert_eq!(
        members(&state, "has(backend)"),
        [
            "Net(192.168.0.1/32)",
            "Net(192.168.0.64/32)",
            "Net(fd80:24e2:f998:72d6::1/128)",
            "Net(fd80:24e2:f998:72d6::40/128)",
        ]
    );
    assert_eq!(
        members(&state, "all(); tcp; http"),
        [
            "Port(192.168.0.1, tcp, 8080)",
            "Port(192.168.0.64, tcp, 8080)",
            "Port(fd80:24e2:f998:72d6::1, tcp, 8080)",
            "Port(fd80:24e2:f998:72d6::40, tcp, 8080)",
        ]
    );
    assert_eq!(
        members(&state, "threat == \"yes\""),
        ["Net(203.0.113.0/24)", "Net(203.0.113.7/32)", "Net(2001:db8:bad::/48)"]
    );

    let blocks: Vec<String> = state.blocks.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["192.168.0.0/26", "fd80:24e2:f998:72d6::/122"]);
    let pools: Vec<(String, bool)> = state.pools.iter().map(|(c, n)| (c.to_string(), *n)).collect();
    let expected = [("192.168.0.0/16", true), ("fd80:24e2:f998:72d6::/64", false)];
    assert_eq!(pools, expected.map(|(cidr, nat)| (cidr.to_owned(), nat)));
    let peers = state.bgp.mesh.iter().map(|p| (p.address.to_string(), p.as_number.0));
    let peers: Vec<_> = peers.collect();
    let expected = [("172.18.18.102", 64513), ("fd00:172:18:18::102", 64513)];
    assert_eq!(peers, expected.map(|(address, number)| (address.to_owned(), number)));

    let subjects: Vec<&str> = state.notices.keys().map(|subject| &**subject).collect();
    assert_eq!(subjects, ["IPPool default-ipv4-ippool"]);

    let backwards = calculate(updates.into_iter().rev());
    assert!(state.has_content_of(&backwards));
}
