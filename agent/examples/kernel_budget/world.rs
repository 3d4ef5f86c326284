//! Worlds to write: endpoints of some classes, each class with three policies of three rules of its own
//! in both directions.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use calico_agent::config::{DataplaneSetting, IptablesBackend, Settings};
use calico_agent::desired::{
    AclClass, ActiveRule, ActiveRules, AddressSet, DesiredState, DirectionAcl, LocalEndpoint,
    Member, SetId, SetKind, SideMatch, TierAcl,
};
use calico_datastore::model::{
    Action, Cidr, InterfaceName, Mac, Name, PolicyId, PortRange, Protocol, TierAction,
    WorkloadEndpointId,
};
use clap::ValueEnum;

/// What carries policy into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dataplane {
    Legacy,
    Nft,
    Nftables,
}

impl Dataplane {
    /// Its name, as `make bench` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
            Self::Nftables => "nftables",
        }
    }

    /// The tools that write the same.
    pub fn tools(self) -> &'static str {
        match self {
            Self::Legacy | Self::Nft => "iptables-restore, ipset",
            Self::Nftables => "nft -f, ip",
        }
    }
}

/// How large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub endpoints: u32,
    pub classes: u32,
}

impl Size {
    /// In words.
    pub fn label(self) -> String {
        format!("{} endpoints, {} classes", self.endpoints, self.classes)
    }
}

/// The size that the budgets speak of.
pub const BUDGETED: Size = Size { endpoints: 2000, classes: 100 };

/// A host without pods. Nothing is read back by the clock.
pub fn empty(dataplane: Dataplane) -> DesiredState {
    let never = Duration::from_secs(86_400);
    let settings = Settings {
        iptables_refresh: never,
        iptables_post_write_check: never,
        ipsets_refresh: never,
        iptables_backend: match dataplane {
            Dataplane::Legacy => IptablesBackend::Legacy,
            Dataplane::Nft => IptablesBackend::Nft,
            Dataplane::Nftables => IptablesBackend::Auto,
        },
        dataplane: match dataplane {
            Dataplane::Legacy | Dataplane::Nft => DataplaneSetting::Auto,
            Dataplane::Nftables => DataplaneSetting::Nftables,
        },
        ..Settings::default()
    };
    DesiredState { generation: 1, settings: Arc::new(settings), ..DesiredState::default() }
}

/// The whole of it.
pub fn full(dataplane: Dataplane, size: Size) -> DesiredState {
    let mut state = empty(dataplane);
    for class in 0..size.classes {
        add_policies(&mut state, class);
    }
    for number in 0..size.endpoints {
        put(&mut state, number, &class(number % size.classes));
    }
    state
}

/// The name of the interface of an endpoint.
pub fn interface(number: u32) -> InterfaceName {
    format!("cali{number:08x}").parse().unwrap()
}

fn policy(class: u32, number: u32) -> PolicyId {
    PolicyId { namespace: None, name: Name::from(format!("default.c{class}-p{number}")) }
}

/// Three rules of a policy; `other` are other ones.
pub fn rules(class: u32, number: u32, other: bool) -> Arc<ActiveRules> {
    let rule = |n: u32| {
        let third = u8::try_from(number * 3 + n).unwrap();
        let net = Ipv4Addr::new(10, u8::try_from(class % 256).unwrap(), third, 0);
        let port = 1000 + 10 * number + n + if other { 5000 } else { 0 };
        let mut rule = any();
        rule.protocol = Some(Protocol::TCP);
        rule.source.nets = vec![Cidr::new(IpAddr::V4(net), 24).unwrap()];
        rule.destination.ports = vec![PortRange::single(u16::try_from(port).unwrap())];
        rule
    };
    let rules: Vec<_> = (0..3).map(rule).collect();
    Arc::new(ActiveRules { ingress: rules.clone(), egress: rules })
}

fn any() -> ActiveRule {
    ActiveRule {
        origin: 0,
        action: Action::Allow,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: SideMatch::default(),
        destination: SideMatch::default(),
    }
}

/// The policies of a class come.
pub fn add_policies(state: &mut DesiredState, class: u32) {
    for number in 0..3 {
        state.policies.insert(policy(class, number), rules(class, number, false));
    }
}

/// The rules of the first policy of a class are other ones.
pub fn change_rules(state: &mut DesiredState, class: u32) {
    state.policies.insert(policy(class, 0), rules(class, 0, true));
}

/// The class of that number.
pub fn class(number: u32) -> AclClass {
    class_of((0..3).map(|n| policy(number, n)).collect())
}

/// The same with its policies the other way round: another list of the same policies.
pub fn turned(number: u32) -> AclClass {
    class_of((0..3).rev().map(|n| policy(number, n)).collect())
}

fn class_of(policies: Vec<PolicyId>) -> AclClass {
    let tier = TierAcl { tier: "default".into(), policies, default_action: TierAction::Deny };
    let acl = DirectionAcl { tiers: vec![tier], profiles: Vec::new() };
    AclClass { active: true, ingress: acl.clone(), egress: acl }
}

fn id(number: u32) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: "host".into(),
        orchestrator: "cni".into(),
        workload: Name::from(format!("default/pod{number}")),
        endpoint: "eth0".into(),
    }
}

/// An endpoint comes, or gets another class.
pub fn put(state: &mut DesiredState, number: u32, class: &AclClass) {
    let [_, _, high, low] = number.to_be_bytes();
    let endpoint = LocalEndpoint {
        interface: interface(number),
        active: true,
        mac: Some(Mac::new([2, 0, 0, 0, high, low])),
        addresses: vec![address(number)],
        nat: Vec::new(),
        spoof: Vec::new(),
        class: class.id(),
    };
    state.endpoints.insert(id(number), Arc::new(endpoint));
    if !state.classes.contains_key(&class.id()) {
        state.classes.insert(class.id(), Arc::new(class.clone()));
    }
}

/// A class that nobody is in is not part of a state, and neither are its policies.
pub fn remove_class(state: &mut DesiredState, number: u32) {
    state.classes.remove(&class(number).id());
    for of_it in 0..3 {
        state.policies.remove(&policy(number, of_it));
    }
}

fn address(number: u32) -> Cidr {
    Cidr::host(IpAddr::V4(Ipv4Addr::from_bits(0x0a40_0000 + number)))
}

/// The name of the set of [`with_set`].
const LARGE: &str = "s:large";
/// Prefixes of a few lengths.
const LENGTHS: [u8; 3] = [24, 26, 28];

/// One endpoint whose policy names a set of so many addresses, or prefixes.
pub fn with_set(dataplane: Dataplane, members: u32, prefixes: bool) -> DesiredState {
    let mut state = full(dataplane, Size { endpoints: 1, classes: 1 });
    let mut rule = any();
    rule.source.sets = vec![SetId::new(LARGE)];
    let rules = ActiveRules { ingress: vec![rule], egress: Vec::new() };
    state.policies.insert(policy(0, 0), Arc::new(rules));
    let members = (0..members).map(|number| member(number, prefixes)).collect();
    let (kind, selector) = (SetKind::Net, Arc::from("large"));
    state.sets.insert(SetId::new(LARGE), AddressSet { kind, selector, members });
    state
}

/// One endpoint whose policy has so many rules.
pub fn long(dataplane: Dataplane, rules: u32) -> DesiredState {
    let mut state = full(dataplane, Size { endpoints: 1, classes: 1 });
    let rule = |number: u32| {
        let mut rule = any();
        let net = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + (number << 8)));
        rule.source.nets = vec![Cidr::new(net, 24).unwrap()];
        rule
    };
    let rules = ActiveRules { ingress: (0..rules).map(rule).collect(), egress: Vec::new() };
    state.policies.insert(policy(0, 0), Arc::new(rules));
    state
}

/// One member more.
pub fn add_member(state: &mut DesiredState, number: u32, prefixes: bool) {
    let mut set = state.sets[&SetId::new(LARGE)].clone();
    set.members.insert(member(number, prefixes));
    state.sets.insert(SetId::new(LARGE), set);
}

fn member(number: u32, prefix: bool) -> Member {
    let bits = if prefix { 0x2000_0000 + (number << 8) } else { 0x0b00_0000 + number };
    let length = if prefix { LENGTHS[number as usize % LENGTHS.len()] } else { 32 };
    Member::Net(Cidr::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), length).unwrap())
}
