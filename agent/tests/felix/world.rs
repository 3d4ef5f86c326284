//! Desired states built by hand.

use std::net::IpAddr;
use std::sync::Arc;

use calico_agent::config::{DataplaneSetting, Settings};
use calico_agent::desired::{
    AclClass, ActiveRule, ActiveRules, AddressSet, DesiredState, DirectionAcl, LocalEndpoint,
    Member, SetId, SetKind, SideMatch, TierAcl,
};
use calico_datastore::model::{
    Action, Cidr, Name, PolicyId, PortRange, Protocol, TierAction, WorkloadEndpointId,
};

use crate::host::{Flavour, Pod, v4, v6};

/// An empty state for a flavour.
pub(crate) fn empty(flavour: Flavour) -> DesiredState {
    let mut settings = Settings {
        endpoint_to_host: calico_agent::config::HostAction::Return,
        ..Settings::default()
    };
    choose(&mut settings, flavour);
    DesiredState { generation: 1, settings: Arc::new(settings), ..DesiredState::default() }
}

/// Asks for a flavour.
pub(crate) fn choose(settings: &mut Settings, flavour: Flavour) {
    settings.iptables_backend = flavour.iptables();
    settings.dataplane = match flavour {
        Flavour::Legacy | Flavour::Nft => DataplaneSetting::Auto,
        Flavour::Nftables => DataplaneSetting::Nftables,
    };
}

pub(crate) fn settings(state: &mut DesiredState, change: impl FnOnce(&mut Settings)) {
    let mut settings = (*state.settings).clone();
    change(&mut settings);
    state.settings = Arc::new(settings);
}

pub(crate) fn id(pod: &Pod) -> WorkloadEndpointId {
    id_of(pod.n)
}

pub(crate) fn id_of(n: u8) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: Name::from("host"),
        orchestrator: Name::from("cni"),
        workload: Name::from(format!("default/pod{n}")),
        endpoint: Name::from("eth0"),
    }
}

/// An endpoint for a pod, in a class that is added with it.
pub(crate) fn endpoint(state: &mut DesiredState, pod: &Pod, class: &AclClass, with_mac: bool) {
    let endpoint = LocalEndpoint {
        interface: pod.interface.parse().unwrap(),
        active: class.active,
        mac: with_mac.then(|| pod.mac().parse().unwrap()),
        addresses: vec![Cidr::host(pod.v4()), Cidr::host(pod.v6())],
        nat: Vec::new(),
        spoof: Vec::new(),
        class: class.id(),
    };
    state.classes.insert(class.id(), Arc::new(class.clone()));
    state.endpoints.insert(id(pod), Arc::new(endpoint));
    // Classes that nobody uses any more are not part of a state.
    let used: Vec<_> = state.endpoints.values().map(|e| e.class.clone()).collect();
    state.classes = state
        .classes
        .iter()
        .filter(|(id, _)| used.contains(id))
        .map(|(k, v)| (k.clone(), Arc::clone(v)))
        .collect();
}

/// A class with profiles only.
pub(crate) fn profiles(names: &[&str]) -> AclClass {
    let acl = DirectionAcl {
        tiers: Vec::new(),
        profiles: names.iter().map(|&name| Name::from(name)).collect(),
    };
    AclClass { active: true, ingress: acl.clone(), egress: acl }
}

/// A class with tiers for packets to the endpoint, a profile that allows everything behind them,
/// and nothing but that profile for packets from it.
pub(crate) fn ingress_tiers(tiers: Vec<TierAcl>, profile: &str) -> AclClass {
    let mut class = profiles(&[profile]);
    class.ingress.tiers = tiers;
    class
}

pub(crate) fn tier(name: &str, policies: &[&str], default_action: TierAction) -> TierAcl {
    TierAcl {
        tier: Name::from(name),
        policies: policies.iter().map(|name| policy_id(name)).collect(),
        default_action,
    }
}

pub(crate) fn policy_id(name: &str) -> PolicyId {
    PolicyId { namespace: None, name: Name::from(name) }
}

pub(crate) fn any(action: Action) -> ActiveRule {
    ActiveRule {
        origin: 0,
        action,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: SideMatch::default(),
        destination: SideMatch::default(),
    }
}

pub(crate) fn tcp(action: Action, ports: &[u16]) -> ActiveRule {
    let mut rule = any(action);
    rule.protocol = Some(Protocol::TCP);
    rule.destination.ports = ports.iter().map(|&port| PortRange::single(port)).collect();
    rule
}

pub(crate) fn from_set(mut rule: ActiveRule, set: &str) -> ActiveRule {
    rule.source.sets = vec![SetId::new(set)];
    rule
}

pub(crate) fn profile(
    state: &mut DesiredState,
    name: &str,
    ingress: Vec<ActiveRule>,
    egress: Vec<ActiveRule>,
) {
    state.profiles.insert(Name::from(name), Arc::new(ActiveRules { ingress, egress }));
}

pub(crate) fn policy(state: &mut DesiredState, name: &str, ingress: Vec<ActiveRule>) {
    let rules = ActiveRules { ingress, egress: Vec::new() };
    state.policies.insert(policy_id(name), Arc::new(rules));
}

/// A set with the addresses of these pods.
pub(crate) fn set(state: &mut DesiredState, name: &str, pods: &[u8]) {
    let members = pods
        .iter()
        .flat_map(|&n| [v4(n), v6(n)])
        .map(|address: IpAddr| Member::Net(Cidr::host(address)))
        .collect();
    let set = AddressSet { kind: SetKind::Net, selector: Arc::from(name), members };
    state.sets.insert(SetId::new(name), set);
}

/// A network as rkt has it: its members may talk to each other.
pub(crate) fn network(state: &mut DesiredState, name: &str, pods: &[u8]) {
    let members = format!("s:{name}");
    set(state, &members, pods);
    let allowed = from_set(any(Action::Allow), &members);
    profile(state, name, vec![allowed], vec![any(Action::Allow)]);
}

/// The next state: a higher generation.
pub(crate) fn next(state: &DesiredState) -> DesiredState {
    DesiredState { generation: state.generation + 1, ..state.clone() }
}
