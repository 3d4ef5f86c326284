//! Measures the calculation: how long it takes from stored values to a desired state, how much memory
//! it needs at most, and what one changed object costs, beside the budgets that the project has set
//! itself.
//!
//! ```text
//! cargo run --release --example calc_budget
//! ```
//!
//! * `cluster`: 250,000 remote endpoints, 10,000 policies that let one group of pods talk to
//!   another, 200 local endpoints: at most 1 s and 120 MB. (Felix: 3.39 s and 375 MB on a laptop.)
//! * `customers`: endpoints in groups of ten that see only their own group, 100 of them local; with
//!   100,000 at most 1.5 s and 100 MB. (Felix: 6.9 s and 402 MB.)
//!
//! The objects come as keys and JSON in an order that is shuffled with a fixed seed. Making them is
//! not timed; reading them is, and is shown apart. Memory is what the allocator gave out at most,
//! without the text of the objects. With the name of a file the figures go there as JSON, too.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a tool for people that stops at whatever is wrong"
)]
#![allow(unreachable_pub, dead_code, reason = "what the examples share is public in none")]

#[path = "support/rows.rs"]
mod rows;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::desired::DesiredState;
use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::Update;
use peak_alloc::PeakAlloc;

use crate::rows::{Row, Rows, Spread};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const TITLE: &str =
    "the calculation: 250,200 endpoints with 10,000 policies; customers of ten pods each";
const HOST: &str = "host--0";
const SEED: u64 = 20_260_101;
/// How often one object is changed.
const CHANGES: u32 = 1_000;

/// A world to calculate.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    remote: u32,
    local: u32,
    /// How many different `app` labels there are.
    groups: u32,
    /// Each policy belongs to one group; it lets in the group that is so many further.
    policies: u32,
    step: u32,
    budget: Option<(Duration, f32)>,
}

const fn customers(endpoints: u32, budget: Option<(Duration, f32)>) -> Scenario {
    let (local, groups) = (100, endpoints / 10);
    let remote = endpoints - local;
    Scenario { name: "customers", remote, local, groups, policies: groups, step: 0, budget }
}

const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "cluster",
        remote: 250_000,
        local: 200,
        groups: 10_000,
        policies: 10_000,
        step: 1,
        budget: Some((Duration::from_secs(1), 120.0)),
    },
    customers(1_000, None),
    customers(10_000, None),
    customers(100_000, Some((Duration::from_millis(1_500), 100.0))),
];

/// A key below the resources, and its value.
type Stored = (String, String);

fn endpoint(number: u32, node: &str, group: u32) -> Stored {
    let key = format!("workloadendpoints/default/{node}-cni-{number:08x}-eth0");
    let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
    let value = format!(
        r#"{{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{node}-cni-{number:08x}-eth0","namespace":"default","creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"projectcalico.org/namespace":"default","projectcalico.org/orchestrator":"cni","app":"app-{group}","version":"v{}"}}}},"spec":{{"orchestrator":"cni","node":"{node}","containerID":"{number:08x}","endpoint":"eth0","ipNetworks":["{address}/32"],"profiles":["net"],"interfaceName":"cali{number:08x}"}}}}"#,
        group % 7
    );
    (key, value)
}

fn policy(number: u32, from: u32, port: u32) -> Stored {
    let key = format!("networkpolicies/default/default.p{number}");
    let value = format!(
        r#"{{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{{"name":"default.p{number}","namespace":"default"}},"spec":{{"tier":"default","order":100,"selector":"app == 'app-{number}'","types":["Ingress"],"ingress":[{{"action":"Allow","protocol":"TCP","source":{{"selector":"app == 'app-{from}'"}},"destination":{{"ports":[{port}]}}}}]}}}}"#
    );
    (key, value)
}

/// A network set of 100,000 addresses with the label of an app, one address of it by `variant`.
fn network_set(group: u32, variant: u32) -> Stored {
    let address = |number: u32| match number {
        50_000 => Ipv4Addr::from_bits(0x0c00_0000 + variant),
        _ => Ipv4Addr::from_bits(0x0b00_0000 + number),
    };
    let nets: Vec<String> = (0..100_000).map(|n| format!(r#""{}/32""#, address(n))).collect();
    let value = format!(
        r#"{{"kind":"NetworkSet","apiVersion":"projectcalico.org/v3","metadata":{{"name":"large","namespace":"default","labels":{{"app":"app-{group}"}}}},"spec":{{"nets":[{}]}}}}"#,
        nets.join(",")
    );
    ("networksets/default/large".to_owned(), value)
}

impl Scenario {
    /// The endpoint of that number; the last ones are this host's.
    fn endpoint(self, number: u32) -> Stored {
        let local = number >= self.remote;
        let node = if local { HOST.to_owned() } else { format!("host--{}", 1 + number / 100) };
        endpoint(number, &node, number % self.groups)
    }

    fn policy(self, number: u32, port: u32) -> Stored {
        policy(number, (number + self.step) % self.groups, port)
    }

    fn objects(self) -> Vec<Stored> {
        let endpoints = (0..self.remote + self.local).map(|number| self.endpoint(number));
        let policies = (0..self.policies).map(|number| self.policy(number, 80));
        let mut all: Vec<Stored> = endpoints.chain(policies).collect();
        // SplitMix64 and the shuffle of Fisher and Yates.
        let mut state = SEED;
        for i in (1..all.len()).rev() {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            all.swap(i, usize::try_from((z ^ (z >> 31)) % (i as u64 + 1)).unwrap());
        }
        all
    }
}

fn decode((key, value): &Stored) -> Update {
    let key = format!("/calico/resources/v3/projectcalico.org/{key}");
    match v3::decode(&key, value.as_bytes()) {
        Decoded::Object(update) => update,
        other => panic!("{key}: {other:?}"),
    }
}

struct Running {
    calculator: Calculator,
    settings: Arc<Settings>,
    state: Arc<DesiredState>,
}

impl Running {
    /// Changes one object so many times, with everything that follows up to the difference of two
    /// desired states. `decoded`: with what it takes to decode the object.
    fn change(&mut self, changes: u32, decoded: bool, make: impl Fn(u32) -> Stored) -> Spread {
        let times: Vec<Duration> = (0..changes)
            .map(|number| {
                let stored = make(number);
                let begin = Instant::now();
                let update = decode(&stored);
                let start = if decoded { begin } else { Instant::now() };
                self.calculator.apply([update]);
                let new = self.calculator.desired(Arc::clone(&self.settings), 1);
                let diff = new.diff(&self.state);
                let took = start.elapsed();
                assert!(!diff.is_empty(), "{} changes nothing", stored.0);
                self.state = new;
                took
            })
            .collect();
        Spread::of(&times)
    }
}

fn measure(scenario: Scenario, rows: &mut Rows) {
    let objects = scenario.objects();
    let settings = Arc::new(Settings::default());
    let mut calculator = Calculator::new("host-0".into());
    let (mut decoding, mut calculating) = (Duration::ZERO, Duration::ZERO);
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage_as_mb();
    for stored in &objects {
        let start = Instant::now();
        let update = decode(stored);
        decoding += start.elapsed();
        let start = Instant::now();
        calculator.apply([update]);
        calculating += start.elapsed();
    }
    let start = Instant::now();
    let state = calculator.desired(Arc::clone(&settings), 1);
    calculating += start.elapsed();
    let peak = MEMORY.peak_usage_as_mb() - before;
    let Scenario { name, remote, local, policies, .. } = scenario;
    println!(
        "\n{name}: {remote} remote and {local} local endpoints, {policies} policies: {} classes, {} \
         sets, {} selectors evaluated",
        state.classes.len(),
        state.sets.len(),
        calculator.selector_evaluations(),
    );
    let row = |what: &str, ours: Spread| {
        Row::new(TITLE, format!("{what}, {name} of {}", remote + local), ours)
    };
    let mut calculated = row("calculated", Spread::of(&[calculating]));
    if let Some((time, memory)) = scenario.budget {
        let kept = calculating <= time && peak <= memory;
        calculated = calculated.within(&format!("≤ {time:?}, {memory} MB"), kept);
    }
    rows.add(calculated);
    rows.add(row("decoded", Spread::of(&[decoding])));
    rows.add(row("memory at most", Spread::one(peak.into())).in_unit("MB"));
    assert_eq!(state.endpoints.len(), scenario.local as usize);
    let mut running = Running { calculator, settings, state };
    // Of a group that a set here holds: all that this host's endpoints let in.
    let of_here = move |number: u32| (scenario.remote + number % scenario.local) % scenario.groups;
    let first = remote + local;
    let more = running.change(CHANGES, true, |number| {
        let group = (of_here(number) + scenario.step) % scenario.groups;
        endpoint(first + number, "host--1", group)
    });
    rows.add(row("one remote endpoint more", more));
    let policy =
        running.change(CHANGES, true, |number| scenario.policy(of_here(number), 81 + number));
    rows.add(row("one policy changed", policy));
    let app = (of_here(0) + scenario.step) % scenario.groups;
    running.change(1, false, |_| network_set(app, 0));
    let one = running.change(100, false, |number| network_set(app, 1 + number));
    rows.add(row("one of 100,000 CIDRs of a set", one));
}

fn main() {
    let mut rows = Rows::default();
    SCENARIOS.into_iter().for_each(|scenario| measure(scenario, &mut rows));
    rows.write(std::env::args_os().nth(1).map(Into::into));
}
