use super::super::keys::{self, key_of};
use super::super::{Decoded, decode, id_of};
use super::{rejected, resource};

use crate::model::{HostEndpointId, Name, ResourceId, WorkloadEndpointId};

#[test]
fn every_key_reads_back() {
    for path in [
        "resources/v3/projectcalico.org/clusterinformations/default",
        "resources/v3/projectcalico.org/felixconfigurations/node.calico-01",
        "resources/v3/projectcalico.org/bgpconfigurations/default",
        "resources/v3/projectcalico.org/nodes/calico-01.example.org",
        "resources/v3/projectcalico.org/ippools/default-ipv4-ippool",
        "resources/v3/projectcalico.org/tiers/security",
        "resources/v3/projectcalico.org/profiles/kns.default",
        "resources/v3/projectcalico.org/hostendpoints/calico-01-eth0",
        "resources/v3/projectcalico.org/globalnetworkpolicies/default.host-ssh",
        "resources/v3/projectcalico.org/networkpolicies/default/knp.default.x",
        "resources/v3/projectcalico.org/globalnetworksets/bad-actors",
        "resources/v3/projectcalico.org/networksets/default/partners",
        "resources/v3/projectcalico.org/workloadendpoints/default/calico--01-cni-a--b-eth0",
        "ipam/v2/assignment/ipv4/block/192.168.0.0-26",
        "ipam/v2/assignment/ipv6/block/fd80:24e2:f998:72d6::-122",
        "ipam/v2/host/calico-01/ipv4/block/192.168.0.0-26",
        "ipam/v2/host/calico-01/ipv6/block/fd80::40-122",
    ] {
        let key = format!("/calico/{path}");
        let id = id_of(&key).unwrap_or_else(|| panic!("{key} has no id"));
        assert_eq!(key_of(&id), Some(key));
    }
    let foreign = WorkloadEndpointId {
        node: "n".into(),
        orchestrator: "cni".into(),
        workload: "no-namespace".into(),
        endpoint: "eth0".into(),
    };
    assert_eq!(key_of(&ResourceId::WorkloadEndpoint(foreign)), None);
}

#[test]
fn names_with_odd_characters_are_refused() {
    for path in [
        "globalnetworkpolicies/a b",
        "globalnetworkpolicies/a;b",
        "globalnetworkpolicies/caf\u{e9}",
        "globalnetworkpolicies/a\nb",
        "globalnetworkpolicies/..",
        "globalnetworkpolicies/",
        "globalnetworkpolicies/a/b",
        "networkpolicies/default/a$b",
        "networkpolicies/de'fault/a",
        "networkpolicies/a",
        "networkpolicies//a",
        "networkpolicies/a/",
        "networkpolicies/a/b/c",
        "profiles/a%b",
        "nodes/a/b",
    ] {
        let reason = rejected(path, r#"{"spec":{}}"#);
        assert!(reason.contains("is not"), "{reason}");
    }
}

#[test]
fn malformed_workload_endpoint_names() {
    for name in ["a-b-c", "a-b-c-d-e", "-a-b-c-d", "a-b-c-d-", "a---b-c-d", "a-b--c-d", "a-b-c---d"]
    {
        rejected(&format!("workloadendpoints/default/{name}"), "{}");
    }
}

#[test]
fn malformed_blocks() {
    for path in [
        "assignment/ipv4/block/192.168.0.0",
        "assignment/ipv4/block/192.168.0.1-26",
        "assignment/ipv4/block/192.168.0.0-33",
        "assignment/ipv4/block/192.168.0.0-+26",
        "assignment/ipv4/block/fd80::-122",
        "assignment/ipv6/block/192.168.0.0-26",
        // Other spellings of fd80::40-122.
        "assignment/ipv6/block/FD80::40-122",
        "assignment/ipv6/block/fd80:0::40-122",
        "host/a/ipv6/block/fd80::0040-122",
        "host/a b/ipv4/block/192.168.0.0-26",
        "host/a/ipv4/block/x-26",
    ] {
        let decoded = decode(&format!("{}{path}", keys::IPAM_PREFIX), b"{}");
        assert!(matches!(&decoded, Decoded::Rejected(r) if r.id.is_none()), "{path}: {decoded:?}");
    }
}

#[test]
fn what_concerns_others() {
    for key in [
        "/calico/ipam/v2/config",
        "/calico/ipam/v2/handle/x",
        "/calico/ipam/v2/virtual/lb/ipv4/block/10.0.0.0-26",
        "/calico/felix/v2/no-region/host/h/status",
        "/calico/v1/Ready",
        "/registry/pods/x",
        "",
        "/calico/resources/v3/projectcalico.org/clusterinformations/other",
        "/calico/resources/v3/projectcalico.org/profiles/projectcalico-default-allow",
    ] {
        assert_eq!(decode(key, b"nonsense"), Decoded::Ignored, "{key}");
        assert_eq!(id_of(key), None);
    }
    for kind in ["bgppeers", "bgpfilters", "ipreservations", "caliconodestatuses"] {
        let decoded = resource(&format!("{kind}/x"), "nonsense");
        assert_eq!(decoded, Decoded::Unsupported { kind: kind.to_owned() });
    }
    // Staged policies are counted and never looked at.
    for path in [
        "stagednetworkpolicies/default/p",
        "stagedglobalnetworkpolicies/p",
        "stagedkubernetesnetworkpolicies/default/p",
    ] {
        let kind = path.split('/').next().unwrap().to_owned();
        assert_eq!(resource(path, "nonsense"), Decoded::Unsupported { kind });
        assert_eq!(id_of(&format!("{}{path}", keys::RESOURCES_PREFIX)), None);
    }
}

#[test]
fn status_keys() {
    let host = Name::from("calico-01");
    assert_eq!(keys::host_status(&host), "/calico/felix/v2/no-region/host/calico-01/status");
    assert_eq!(
        keys::host_last_status(&host),
        "/calico/felix/v2/no-region/host/calico-01/last_reported_status"
    );
    let id = WorkloadEndpointId {
        node: host.clone(),
        orchestrator: "cni".into(),
        workload: "default/c89f-1b".into(),
        endpoint: "eth0".into(),
    };
    let key =
        "/calico/felix/v2/no-region/host/calico-01/workload/cni/default%2fc89f-1b/endpoint/eth0";
    assert_eq!(keys::workload_status(&id), key);
    assert!(key.starts_with(&keys::workload_statuses_of(&host)));
    assert_eq!(keys::workload_of_status(key), Some(id.clone()));
    assert_eq!(keys::workload_of_status(&keys::host_status(&host)), None);
    let odd = WorkloadEndpointId { workload: "50%2f/%25".into(), ..id };
    assert_eq!(keys::workload_of_status(&keys::workload_status(&odd)), Some(odd));
    assert_eq!(
        keys::host_endpoint_status(&host, &HostEndpointId { name: "a/b".into() }),
        "/calico/felix/v1/host/calico-01/endpoint/a%2fb"
    );
}

#[test]
fn keys_that_the_agent_reads_and_writes() {
    let node = Name::from("n1");
    let prefix = keys::RESOURCES_PREFIX;
    assert_eq!(keys::node(&node), format!("{prefix}nodes/n1"));
    assert_eq!(keys::name_of_node(&keys::node(&node)), Some("n1"));
    assert_eq!(keys::name_of_node(keys::READY_KEY), None);
    assert_eq!(keys::READY_KEY, format!("{prefix}clusterinformations/default"));
    assert_eq!(keys::felix_configuration_default(), format!("{prefix}felixconfigurations/default"));
    assert_eq!(keys::felix_configuration_of(&node), format!("{prefix}felixconfigurations/node.n1"));
    assert_eq!(keys::affinities_of(&node), "/calico/ipam/v2/host/n1/");
}
