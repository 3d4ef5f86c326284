//! Short ways to write down objects.

use std::sync::Arc;

use calico_datastore::model::{
    Action, ClusterInformation, EncapMode, HostEndpoint, HostEndpointId, Labels, Name, NamedPort,
    NetworkSet, NetworkSetId, Order, Peer, Policy, PolicyId, PolicyKind, Pool, Ports, Profile,
    Protocol, Rule, Selector, Tier, TierAction, Update, WorkloadEndpoint, WorkloadEndpointId,
};

/// `a=x b` → labels; no `=` is an empty value.
pub(super) fn labels(text: &str) -> Labels {
    text.split_whitespace().map(|label| label.split_once('=').unwrap_or((label, ""))).collect()
}

pub(super) fn names(text: &str) -> Vec<Name> {
    text.split_whitespace().map(Name::from).collect()
}

pub(super) fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

pub(in crate::acl) fn order(value: f64) -> Order {
    Order::new(value).unwrap()
}

/// `http/tcp/80` → a named port.
pub(super) fn port(text: &str) -> NamedPort {
    let parts: Vec<&str> = text.split('/').collect();
    NamedPort {
        name: parts[0].into(),
        protocol: parts[1].parse().unwrap(),
        port: parts[2].parse().unwrap(),
    }
}

pub(super) fn wep_id(node: &str, workload: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: node.into(),
        orchestrator: "cni".into(),
        workload: workload.into(),
        endpoint: "eth0".into(),
    }
}

/// A workload endpoint with the interface `cali<workload>`.
pub(super) fn wep(workload: &str, addresses: &str) -> WorkloadEndpoint {
    WorkloadEndpoint {
        interface: format!("cali{workload}").parse().unwrap(),
        active: true,
        mac: None,
        addresses: addresses.split_whitespace().map(|a| a.parse().unwrap()).collect(),
        nat: Vec::new(),
        spoof: Vec::new(),
        profiles: Vec::new(),
        labels: Labels::default(),
        ports: Vec::new(),
    }
}

pub(super) fn put_wep(node: &str, workload: &str, endpoint: WorkloadEndpoint) -> Update {
    Update::WorkloadEndpoint(wep_id(node, workload), Some(Arc::new(endpoint)))
}

pub(super) fn no_wep(node: &str, workload: &str) -> Update {
    Update::WorkloadEndpoint(wep_id(node, workload), None)
}

pub(super) fn hep(node: &str, addresses: &str, own: &str) -> HostEndpoint {
    HostEndpoint {
        node: node.into(),
        interface: Some("eth0".into()),
        expected_addresses: addresses.split_whitespace().map(|a| a.parse().unwrap()).collect(),
        left_out: None,
        profiles: Vec::new(),
        labels: labels(own),
        ports: Vec::new(),
    }
}

pub(super) fn put_hep(name: &str, endpoint: HostEndpoint) -> Update {
    Update::HostEndpoint(HostEndpointId { name: name.into() }, Some(Arc::new(endpoint)))
}

pub(super) fn netset_id(name: &str) -> NetworkSetId {
    NetworkSetId { namespace: None, name: name.into() }
}

pub(super) fn put_netset(name: &str, nets: &str, own: &str) -> Update {
    let set = NetworkSet {
        nets: nets.split_whitespace().map(|net| net.parse().unwrap()).collect(),
        labels: labels(own),
        profiles: Vec::new(),
    };
    Update::NetworkSet(netset_id(name), Some(Arc::new(set)))
}

/// `name` or `namespace/name`.
pub(in crate::acl) fn policy_id(text: &str) -> PolicyId {
    match text.split_once('/') {
        Some((namespace, name)) => {
            PolicyId { namespace: Some(namespace.into()), name: name.into() }
        }
        None => PolicyId { namespace: None, name: text.into() },
    }
}

/// The cluster, of a version; nothing: it does not say one.
pub(super) fn cluster(version: &str) -> Update {
    let information = ClusterInformation {
        datastore_ready: true,
        guid: None,
        calico_version: (!version.is_empty()).then(|| version.into()),
    };
    Update::ClusterInformation(Some(Arc::new(information)))
}

/// A policy of both directions in no tier of its own that allows everything.
pub(in crate::acl) fn policy(applies_to: &str) -> Policy {
    Policy {
        tier: None,
        tier_label: None,
        order: Order::LAST,
        selector: selector(applies_to),
        ingress: vec![Rule::any(Action::Allow)],
        egress: vec![Rule::any(Action::Allow)],
        governs_ingress: true,
        governs_egress: true,
        kind: PolicyKind::Normal,
        apply_on_forward: false,
        needed_everywhere: false,
    }
}

pub(super) fn put_policy(id: &str, policy: Policy) -> Update {
    Update::Policy(policy_id(id), Some(Arc::new(policy)))
}

pub(super) fn no_policy(id: &str) -> Update {
    Update::Policy(policy_id(id), None)
}

pub(super) fn put_tier(name: &str, order: Order, default_action: TierAction) -> Update {
    Update::Tier(name.into(), Some(Arc::new(Tier { order, default_action })))
}

/// The profile that the CNI plugin writes for a network: its own label, in from those that have the
/// label, out to everywhere.
pub(super) fn network_profile(name: &str) -> Profile {
    Profile {
        ingress: vec![allow_from(&format!("has({name})"))],
        egress: vec![Rule::any(Action::Allow)],
        labels: labels(name),
    }
}

pub(super) fn put_profile(name: &str, profile: Profile) -> Update {
    Update::Profile(name.into(), Some(Arc::new(profile)))
}

pub(super) fn allow_from(text: &str) -> Rule {
    let source = Peer { selector: Some(selector(text)), ..Peer::default() };
    Rule { source, ..Rule::any(Action::Allow) }
}

/// Allows a protocol to ports by name.
pub(super) fn allow_to_port(protocol: Protocol, name: &str, text: Option<&str>) -> Rule {
    let ports = Ports { ranges: Vec::new(), named: vec![name.into()] };
    let destination = Peer { selector: text.map(selector), ports, ..Peer::default() };
    Rule { destination, protocol: Some(protocol), ..Rule::any(Action::Allow) }
}

pub(super) fn pool(cidr: &str) -> Pool {
    Pool {
        cidr: cidr.parse().unwrap(),
        ipip: EncapMode::Never,
        vxlan: EncapMode::Never,
        nat_outgoing: true,
        disabled: false,
        disable_bgp_export: false,
        block_size: 26,
        node_selector: Selector::all(),
        for_workloads: true,
        manual: false,
    }
}

pub(super) fn put_pool(name: &str, pool: Pool) -> Update {
    Update::Pool(name.into(), Some(Arc::new(pool)))
}
