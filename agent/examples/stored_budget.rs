//! Measures how long the policy on disk of a full host takes to write and to read.
//!
//! ```text
//! cargo run --release --example stored_budget [endpoints] [sets] [members of each set]
//! ```
//!
//! The file is written to the current directory's file system, and synced, as the agent does.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool for people that stops at whatever is wrong"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use calico_agent::desired::{
    AclClass, ActiveRule, ActiveRules, AddressSet, DesiredState, DirectionAcl, LocalEndpoint,
    Member, SetId, SetKind, SideMatch, TierAcl,
};
use calico_agent::stored::StoreSettings;
use calico_agent::stored::file::{read, replace};
use calico_agent::stored::format::{Draft, write};
use calico_datastore::model::{Action, Cidr, Name, PolicyId, TierAction, WorkloadEndpointId};

fn address(number: usize) -> Cidr {
    let bits = 0x0a00_0000 + u32::try_from(number).unwrap();
    Cidr::host(IpAddr::V4(Ipv4Addr::from_bits(bits)))
}

/// A policy, and a class and a set of its own, for each set; endpoints spread over the classes.
fn state(endpoints: usize, sets: usize, members: usize) -> DesiredState {
    let mut state = DesiredState::default();
    let mut classes = Vec::new();
    for number in 0..sets {
        let set = SetId::new(format!("s:{number}"));
        let members = (0..members).map(|member| Member::Net(address(number * 7 + member)));
        let (kind, selector) = (SetKind::Net, Arc::from(format!("app == 'a{number}'")));
        let members = AddressSet { kind, selector, members: members.collect() };
        let policy = PolicyId { namespace: None, name: Name::from(format!("default.p{number}")) };
        let rule = ActiveRule {
            origin: 0,
            action: Action::Allow,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: SideMatch { sets: vec![set.clone()], ..SideMatch::default() },
            destination: SideMatch::default(),
        };
        let rules = ActiveRules { ingress: vec![rule; 10], egress: Vec::new() };
        let tier = TierAcl {
            tier: "default".into(),
            policies: vec![policy.clone()],
            default_action: TierAction::Deny,
        };
        let ingress = DirectionAcl { tiers: vec![tier], profiles: Vec::new() };
        let class = AclClass { active: true, ingress, egress: DirectionAcl::default() };
        state.sets.insert(set, members);
        state.policies.insert(policy, Arc::new(rules));
        classes.push(class.id());
        state.classes.insert(class.id(), Arc::new(class));
    }
    for number in 0..endpoints {
        let id = WorkloadEndpointId {
            node: "host".into(),
            orchestrator: "cni".into(),
            workload: format!("default/{number:08x}-0000-4000-8000-000000000000").into(),
            endpoint: "eth0".into(),
        };
        let endpoint = LocalEndpoint {
            interface: format!("cali{number:08x}").parse().unwrap(),
            active: true,
            mac: Some("ca:fe:1d:52:bb:e1".parse().unwrap()),
            addresses: vec![address(number)],
            nat: Vec::new(),
            spoof: Vec::new(),
            class: classes[number % classes.len()].clone(),
        };
        state.endpoints.insert(id, Arc::new(endpoint));
    }
    state
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().unwrap());
    let mut next = |default| arguments.next().unwrap_or(default);
    let (endpoints, sets, members) = (next(200), next(10), next(100_000));
    let state = Arc::new(state(endpoints, sets, members));
    let draft = Draft {
        node: "host".into(),
        boot: "boot".to_owned(),
        written: SystemTime::now(),
        state,
        settings: StoreSettings::default(),
    };
    let begin = Instant::now();
    let bytes = write(&draft, std::io::sink()).unwrap();
    println!("text of {bytes} bytes made in {:?}", begin.elapsed());
    let path = std::env::current_dir().unwrap().join("stored_budget.json");
    let begin = Instant::now();
    replace(&path, &draft).unwrap();
    println!("made, written and synced in {:?}", begin.elapsed());
    let begin = Instant::now();
    let stored = read(&path).unwrap().unwrap();
    println!("read in {:?}", begin.elapsed());
    assert!(stored.state.has_content_of(&draft.state));
    std::fs::remove_file(&path).unwrap();
}
