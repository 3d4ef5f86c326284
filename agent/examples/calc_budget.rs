//! Measures the calculation against its budget: 250,000 remote endpoints, 10,000 policies, 200
//! local endpoints in at most 1 s and 120 MB.
//!
//! ```text
//! cargo run --release --example calc_budget [remote endpoints] [groups] [policies]
//! ```
//!
//! `groups` is how many sets of labels the endpoints share; as many as there are endpoints is the
//! worst case. The input is made on the way and not kept, and its making is timed apart.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool for people that stops at whatever is wrong"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_datastore::model::{
    Action, Cidr, Labels, Name, NetworkSet, NetworkSetId, Order, Peer, Policy, PolicyId,
    PolicyKind, Rule, Selector, Update, WorkloadEndpoint, WorkloadEndpointId,
};

const HOST: &str = "host-0";
const LOCAL: u32 = 200;

fn endpoint(number: u32, node: &str, group: u32) -> Update {
    let id = WorkloadEndpointId {
        node: node.into(),
        orchestrator: "cni".into(),
        workload: format!("default/{number:08x}-0000-4000-8000-000000000000").into(),
        endpoint: "eth0".into(),
    };
    let labels: Labels = [
        ("projectcalico.org/namespace", "default".to_owned()),
        ("projectcalico.org/orchestrator", "cni".to_owned()),
        ("app", format!("app-{group}")),
        ("version", format!("v{}", group % 7)),
    ]
    .into_iter()
    .collect();
    let endpoint = WorkloadEndpoint {
        interface: format!("cali{number:08x}").parse().unwrap(),
        active: true,
        mac: None,
        addresses: vec![Cidr::host(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)))],
        nat: Vec::new(),
        spoof: Vec::new(),
        profiles: Vec::new(),
        labels,
        ports: Vec::new(),
    };
    Update::WorkloadEndpoint(id, Some(Arc::new(endpoint)))
}

/// A network set of 100,000 addresses that counts as one of the pods of app 1, with one of its
/// addresses by `variant`.
fn network_set(variant: u32) -> Update {
    let host = |number| Cidr::host(IpAddr::V4(Ipv4Addr::from_bits(number)));
    let mut nets: Vec<Cidr> = (0..100_000).map(|number| host(0x0b00_0000 + number)).collect();
    nets[50_000] = host(0x0c00_0000 + variant);
    let labels = [("projectcalico.org/namespace", "default"), ("app", "app-1")];
    let set = NetworkSet { nets, labels: labels.into_iter().collect(), profiles: Vec::new() };
    let id = NetworkSetId { namespace: Some("default".into()), name: "large".into() };
    Update::NetworkSet(id, Some(Arc::new(set)))
}

/// Lets the pods of one app talk to those of another.
fn policy(number: u32) -> Update {
    let selector = |group: u32| -> Selector {
        format!("projectcalico.org/namespace == 'default' && app == 'app-{group}'").parse().unwrap()
    };
    let source = Peer { selector: Some(selector(number + 1)), ..Peer::default() };
    let policy = Policy {
        tier: Some(Name::from("default")),
        tier_label: None,
        order: Order::LAST,
        selector: selector(number),
        ingress: vec![Rule { source, ..Rule::any(Action::Allow) }],
        egress: Vec::new(),
        governs_ingress: true,
        governs_egress: false,
        kind: PolicyKind::Normal,
        apply_on_forward: false,
        needed_everywhere: false,
    };
    let id = PolicyId { namespace: Some("default".into()), name: format!("p{number}").into() };
    Update::Policy(id, Some(Arc::new(policy)))
}

/// Resident memory in kB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u32>().unwrap());
    let remote = numbers.next().unwrap_or(250_000);
    let groups = numbers.next().unwrap_or(10_000);
    let policies = numbers.next().unwrap_or(10_000);
    let settings = Arc::new(Settings::default());
    let mut calculator = Calculator::new(HOST.into());
    let before = resident();
    let mut busy = Duration::ZERO;
    let mut apply = |calculator: &mut Calculator, update: Update| {
        let start = Instant::now();
        calculator.apply([update]);
        busy += start.elapsed();
    };
    for number in 0..remote {
        let node = format!("host-{}", 1 + number / 100);
        apply(&mut calculator, endpoint(number, &node, number % groups));
    }
    for number in 0..LOCAL {
        apply(&mut calculator, endpoint(remote + number, HOST, number % groups));
    }
    for number in 0..policies {
        apply(&mut calculator, policy(number));
    }
    let start = Instant::now();
    let state = calculator.desired(Arc::clone(&settings), 1);
    busy += start.elapsed();
    let memory = resident() - before;
    println!(
        "{remote} remote endpoints in {groups} groups, {policies} policies: {:.0} ms, {} MB, \
         {} classes, {} sets, {} selectors evaluated",
        busy.as_secs_f64() * 1e3,
        memory / 1024,
        state.classes.len(),
        state.sets.len(),
        calculator.selector_evaluations(),
    );
    // One more endpoint of a group that a set here holds, with everything that follows.
    let mut last = state;
    let mut times: Vec<Duration> = (0..1_000)
        .map(|number| {
            let update = endpoint(remote + LOCAL + number, "host-1", 1 + number % 100);
            let start = Instant::now();
            calculator.apply([update]);
            let new = calculator.desired(Arc::clone(&settings), 1);
            let diff = new.diff(&last);
            assert!(!diff.is_empty());
            last = new;
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("one remote endpoint more, with diff: p50 {:?}, p99 {:?}", times[500], times[990]);
    // One CIDR of a large network set that a set here holds.
    calculator.apply([network_set(0)]);
    last = calculator.desired(Arc::clone(&settings), 1);
    let mut times: Vec<Duration> = (1..=100)
        .map(|variant| {
            let update = network_set(variant);
            let start = Instant::now();
            calculator.apply([update]);
            let new = calculator.desired(Arc::clone(&settings), 1);
            assert_eq!(new.diff(&last).sets_changed.len(), 1);
            last = new;
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("one of 100,000 CIDRs, with diff: p50 {:?}, p99 {:?}", times[50], times[98]);
}
