use super::super::keys::*;
use super::super::{Decoded, LAYOUT, decode, id_of};
use crate::model::{HostEndpointId, PolicyId, ResourceId, WorkloadEndpointId};

fn policy(name: &str) -> Option<ResourceId> {
    Some(ResourceId::Policy(PolicyId { namespace: None, name: name.into() }))
}

fn workload([node, orchestrator, workload, endpoint]: [&str; 4]) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: node.into(),
        orchestrator: orchestrator.into(),
        workload: workload.into(),
        endpoint: endpoint.into(),
    }
}

#[test]
fn escapes_are_read_in_the_reverse_order() {
    for (segment, name) in [
        ("a%2fb", "a/b"),
        ("a%25c", "a%c"),
        // What was `%2f` literally.
        ("a%252fb", "a%2fb"),
        // Capitals are none, and nothing else is.
        ("a%2Fb", "a%2Fb"),
        ("a%41", "a%41"),
        ("kns.a%2fb%25c", "kns.a/b%c"),
    ] {
        let key = format!("/calico/v1/host/h/workload/o/w/endpoint/{segment}");
        let id = ResourceId::WorkloadEndpoint(workload(["h", "o", "w", name]));
        assert_eq!(id_of(&key), Some(id.clone()), "{key}");
        // Writing and reading again ends at the same object.
        assert_eq!(key_of(&id).and_then(|key| id_of(&key)), Some(id));
        let key = format!("/calico/v1/policy/tier/default/policy/{segment}");
        assert_eq!(id_of(&key), policy(name), "{key}");
    }
}

#[test]
fn a_policy_outside_of_the_default_tier_has_its_tier_in_front() {
    assert_eq!(id_of("/calico/v1/policy/tier/default/policy/x"), policy("x"));
    assert_eq!(id_of("/calico/v1/policy/tier/security/policy/x"), policy("security.x"));
}

/// One id for each object: two hosts may have host endpoints of one name.
#[test]
fn a_host_endpoint_is_called_after_its_host() {
    let id = |name: &str| Some(ResourceId::HostEndpoint(HostEndpointId { name: name.into() }));
    assert_eq!(id_of("/calico/v1/host/a/endpoint/eth0"), id("a/eth0"));
    assert_eq!(id_of("/calico/v1/host/b/endpoint/eth0"), id("b/eth0"));
    assert_eq!(id_of("/calico/v1/host/a/endpoint/end%2fpoint"), id("a/end/point"));
    let id = HostEndpointId { name: "a/end/point".into() };
    assert_eq!(
        host_endpoint_status(&"a".into(), &id),
        "/calico/felix/v1/host/a/endpoint/end%2fpoint"
    );
}

#[test]
fn statuses_are_found_again() {
    let id = workload(["calico-01", "k8s", "a/b%c", "eth0"]);
    let key = workload_status(&id);
    assert_eq!(key, "/calico/felix/v1/host/calico-01/workload/k8s/a%2fb%25c/endpoint/eth0");
    assert!(key.starts_with(&workload_statuses_of(&id.node)));
    assert_eq!(workload_of_status(&key), Some(id));
    assert_eq!(workload_of_status("/calico/felix/v1/host/calico-01/status"), None);
    assert!(!LAYOUT.contains(&key), "what agents report is not followed");
}

#[test]
fn keys_of_others_are_ignored() {
    for key in [
        "/calico/v1/host/h/orchestrator_refs",
        "/calico/v1/host/h/config/marker",
        "/calico/v1/config/bgp_as",
        "/calico/v1/config/bgp_peer_v4/10.0.0.1",
        "/calico/v1/host/h/bgp_peer_v4/10.0.0.1",
        "/calico/v1/ipam/v4/assignment/10.1.0.0-16/10.1.0.1",
        "/calico/v1/ipam/v4/pool",
        "/calico/v1/netset/x",
        "/calico/v1/policy/profile/p/members",
        "/calico/v1/policy/profile/p",
        "/calico/v1/Ready/x",
        "/calico/bgp/v1/host/h/something",
        "/calico/libnetwork/v1/n",
        "/calico/felix/v1/host/h/status",
        "/calico/ipam/v2/config",
        "/calico/ipam/v2/handle/x",
        "/calico/v1/policy/profile/projectcalico-default-allow/rules",
    ] {
        assert_eq!(decode(key, b"true"), Decoded::Ignored, "{key}");
        assert_eq!(id_of(key), None, "{key}");
    }
}

#[test]
fn keys_that_are_malformed_are_refused_by_themselves() {
    let long = "x".repeat(513);
    for key in [
        "/calico/v1/ipam/v4/pool/577559".to_owned(),
        "/calico/v1/ipam/v4/pool/10.0.0.0".to_owned(),
        "/calico/v1/host//bird_ip".to_owned(),
        "/calico/v1/host/a b/bird_ip".to_owned(),
        "/calico/v1/policy/profile/a\"b/tags".to_owned(),
        "/calico/v1/policy/profile/../tags".to_owned(),
        "/calico/v1/policy/tier/a%2fb/metadata".to_owned(),
        format!("/calico/v1/policy/tier/default/policy/{long}"),
        "/calico/ipam/v2/assignment/ipv4/block/x".to_owned(),
    ] {
        match decode(&key, b"{}") {
            Decoded::Rejected(rejection) => assert_eq!((rejection.key, rejection.id), (key, None)),
            other => panic!("{key}: {other:?}"),
        }
    }
}

#[test]
fn the_ready_flag_is_exactly_true() {
    for (value, ready) in
        [("true", true), ("True", false), ("\"true\"", false), ("", false), ("1", false)]
    {
        assert_eq!(LAYOUT.is_ready(Some(value.as_bytes())), ready, "{value}");
    }
    assert!(!LAYOUT.is_ready(None));
}
