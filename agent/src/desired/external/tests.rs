//! Who has which external address.

use std::sync::Arc;

use super::*;
use crate::config::Settings;
use crate::desired::{AclClass, LocalEndpoint};

fn id(name: &str, orchestrator: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: "host".into(),
        orchestrator: orchestrator.into(),
        workload: name.into(),
        endpoint: "eth0".into(),
    }
}

fn cni(name: &str) -> WorkloadEndpointId {
    id(name, "cni")
}

fn state(on: bool, endpoints: &[(WorkloadEndpointId, &str, &[&str], bool)]) -> DesiredState {
    let settings = Settings { floating_ips: on, ..Settings::default() };
    let mut state = DesiredState { settings: Arc::new(settings), ..DesiredState::default() };
    for (id, address, externals, active) in endpoints {
        let internal: IpAddr = address.parse().unwrap();
        let endpoint = LocalEndpoint {
            interface: format!("cali{}", id.workload.as_str()).parse().unwrap(),
            active: *active,
            mac: None,
            addresses: vec![Cidr::host(internal)],
            nat: externals.iter().map(|one| (internal, one.parse().unwrap())).collect(),
            spoof: Vec::new(),
            class: AclClass::default().id(),
        };
        state.endpoints.insert(id.clone(), Arc::new(endpoint));
    }
    state
}

fn has(externals: &Externals, address: &str) -> Option<WorkloadEndpointId> {
    externals.given.get(&address.parse::<IpAddr>().unwrap()).map(|one| one.endpoint.clone())
}

#[test]
fn the_first_that_is_up_has_it_and_the_others_are_told() {
    let two = state(
        true,
        &[
            (cni("a"), "10.0.0.1", &["192.0.2.1", "192.0.2.2"], true),
            (cni("b"), "10.0.0.2", &["192.0.2.1"], true),
        ],
    );
    let both = Externals::of(&two, |_| true);
    assert_eq!(has(&both, "192.0.2.1"), Some(cni("a")));
    assert_eq!(has(&both, "192.0.2.2"), Some(cni("a")));
    let contested: IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(both.refused, [((cni("b"), contested), Refusal::Taken(cni("a")))].into());
    let only_b = Externals::of(&two, |name| name.as_str() == "calib");
    assert_eq!(has(&only_b, "192.0.2.1"), Some(cni("b")));
    assert_eq!(only_b.refused, [((cni("a"), contested), Refusal::Taken(cni("b")))].into());
    assert_eq!(both.moved(&only_b), [contested].into());
    assert_eq!(both.moved(&both), [].into());
    // Before the interfaces are known the rules are as they will be when all are up.
    assert_eq!(Externals::of(&two, |_| false), both);
}

#[test]
fn an_own_address_is_nobodys_external_one() {
    let mut endpoints = [
        (cni("a"), "10.0.0.1", &["10.0.0.2", "192.0.2.1"][..], true),
        (cni("b"), "10.0.0.2", &[], true),
    ];
    let found = Externals::of(&state(true, &endpoints), |_| true);
    assert_eq!(has(&found, "10.0.0.2"), None);
    assert_eq!(has(&found, "192.0.2.1"), Some(cni("a")));
    let why = found.refused.values().next().unwrap().to_string();
    assert!(why.contains("own address of endpoint host/cni/b/eth0"), "{why}");
    // One that is down has no address to defend.
    endpoints[1].3 = false;
    let found = Externals::of(&state(true, &endpoints), |_| true);
    assert_eq!(has(&found, "10.0.0.2"), Some(cni("a")));
}

#[test]
fn switched_off_only_openstack_has_them() {
    let endpoints = [
        (cni("a"), "10.0.0.1", &["192.0.2.1"][..], true),
        (id("b", "openstack"), "10.0.0.2", &["192.0.2.2"], true),
    ];
    let off = Externals::of(&state(false, &endpoints), |_| true);
    assert_eq!((off.given.len(), off.off, off.is_empty()), (1, 1, false));
    assert_eq!(has(&off, "192.0.2.2"), Some(id("b", "openstack")));
    assert_eq!(Externals::of(&state(true, &endpoints), |_| true).given.len(), 2);
    let none = [(cni("a"), "10.0.0.1", &[][..], true)];
    assert!(Externals::of(&state(true, &none), |_| true).is_empty());
}

#[test]
fn one_that_is_down_and_a_family_that_is_off_have_none() {
    let endpoints = [
        (cni("a"), "10.0.0.1", &["192.0.2.1"][..], false),
        (cni("b"), "fd00::2", &["2001:db8::2"], true),
    ];
    let mut state = state(true, &endpoints);
    let found = Externals::of(&state, |_| true);
    assert_eq!(found.pairs(Family::V4).count(), 0);
    let pair = ("2001:db8::2".parse().unwrap(), "fd00::2".parse().unwrap());
    assert_eq!(found.pairs(Family::V6).collect::<Vec<_>>(), [pair]);
    state.settings = Arc::new(Settings { ipv6: false, ..(*state.settings).clone() });
    assert!(Externals::of(&state, |_| true).is_empty());
}

/// Beside pods there may be endpoints that the dataplane leaves alone.
#[test]
fn an_interface_that_is_none_of_pods_has_none_and_takes_none_away() {
    let endpoints = [
        (cni("a"), "10.0.0.1", &["192.0.2.1", "192.0.2.2"][..], true),
        (cni("b"), "10.0.0.2", &["192.0.2.1", "10.0.0.1"][..], true),
    ];
    let mut state = state(true, &endpoints);
    let all = Externals::of(&state, |_| true);
    assert_eq!(has(&all, "192.0.2.1"), Some(cni("a")));
    assert_eq!(has(&all, "10.0.0.1"), None, "it is a's own");
    let mut stray = LocalEndpoint::clone(&state.endpoints[&cni("a")]);
    stray.interface = "eth7".parse().unwrap();
    state.endpoints.insert(cni("a"), Arc::new(stray));
    // Whether the host's interfaces are up or not.
    for up in [true, false] {
        let found = Externals::of(&state, |_| up);
        assert_eq!(has(&found, "192.0.2.2"), None);
        assert_eq!(has(&found, "192.0.2.1"), Some(cni("b")));
        assert_eq!(has(&found, "10.0.0.1"), Some(cni("b")));
        assert!(found.refused.is_empty());
    }
}
