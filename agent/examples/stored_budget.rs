//! Measures how long the policy on disk of a full host takes to write and to read.
//!
//! ```text
//! cargo run --release --example stored_budget [FILE]
//! ```
//!
//! The policy is written to the current directory's file system, and synced, as the agent does. With the name of a file
//! the figures go there as JSON, too.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool for people that stops at whatever is wrong"
)]
#![allow(unreachable_pub, dead_code, reason = "what the examples share is public in none")]

#[path = "support/rows.rs"]
mod rows;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use calico_agent::desired::{
    AclClass, ActiveRule, ActiveRules, AddressSet, DesiredState, DirectionAcl, LocalEndpoint,
    Member, SetId, SetKind, SideMatch, TierAcl,
};
use calico_agent::stored::StoreSettings;
use calico_agent::stored::file::{read, replace};
use calico_agent::stored::format::{Draft, write};
use calico_datastore::model::{Action, Cidr, Name, PolicyId, TierAction, WorkloadEndpointId};

use crate::rows::{Row, Rows, Spread};

const TITLE: &str = "the policy on disk";
const ENDPOINTS: usize = 200;
const SETS: usize = 10;
const MEMBERS: usize = 100_000;
const TIMES: usize = 3;

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
    let state = Arc::new(state(ENDPOINTS, SETS, MEMBERS));
    let draft = Draft {
        node: "host".into(),
        boot: "boot".to_owned(),
        written: SystemTime::now(),
        state,
        settings: StoreSettings::default(),
    };
    let path = std::env::current_dir().unwrap().join("stored_budget.json");
    let (mut made, mut written, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..TIMES {
        let begin = Instant::now();
        bytes = write(&draft, std::io::sink()).unwrap();
        made.push(begin.elapsed());
        let begin = Instant::now();
        replace(&path, &draft).unwrap();
        written.push(begin.elapsed());
        let begin = Instant::now();
        let stored = read(&path).unwrap().unwrap();
        reads.push(begin.elapsed());
        assert!(stored.state.has_content_of(&draft.state));
    }
    std::fs::remove_file(&path).unwrap();
    let mut rows = Rows::default();
    let of = format!("{ENDPOINTS} endpoints, {SETS} sets of {MEMBERS}");
    let mut add = |what: &str, times: &[Duration]| {
        rows.add(Row::new(TITLE, format!("{what}, {of}"), Spread::of(times)));
    };
    add("its text made", &made);
    add("made, written and synced", &written);
    add("read", &reads);
    let size = Spread::one(bytes as f64 / 1e6);
    rows.add(Row::new(TITLE, format!("its size, {of}"), size).in_unit("MB"));
    rows.write(std::env::args_os().nth(1).map(Into::into));
}
