//! How often memory is asked for on the way of an update: as good as never for one that changes
//! nothing, and as often for one address on a full host as on a small one.
//!
//! One test: what another one does meanwhile would be counted, too.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of a test, which clippy does not take for tests"
)]

#[path = "felix/netns.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod netns;

use std::alloc::System;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use calico_agent::acl::Calculator;
use calico_agent::config::{DataplaneSetting, IptablesBackend, Settings};
use calico_agent::desired::DesiredState;
use calico_agent::exec::Exec;
use calico_agent::felix::Felix;
use calico_agent::reconcile::{Reconciler as _, Wake, World};
use calico_agent::routes::monitor::Links;
use calico_datastore::model::{
    Action, Cidr, Labels, Peer, Profile, Rule, Selector, Update, WorkloadEndpoint,
    WorkloadEndpointId,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How often memory was asked for while `work` was done, by this thread and those that it waits for.
fn asked<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let region = Region::new(MEMORY);
    let out = work();
    let change = region.change();
    (change.allocations + change.reallocations, out)
}

const HERE: &str = "here";
const NETWORK: &str = "net";

fn endpoint(number: u32, host: &str, last: u32) -> Update {
    let id = WorkloadEndpointId {
        node: host.into(),
        orchestrator: "cni".into(),
        workload: format!("default/{host}{number:05}").into(),
        endpoint: "eth0".into(),
    };
    let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + last));
    let endpoint = WorkloadEndpoint {
        interface: format!("cali{number:08x}").parse().unwrap(),
        active: true,
        mac: None,
        addresses: vec![Cidr::host(address)],
        nat: Vec::new(),
        spoof: Vec::new(),
        profiles: vec![NETWORK.into()],
        labels: [("version", "1")].into_iter().collect(),
        ports: Vec::new(),
    };
    Update::WorkloadEndpoint(id, Some(Arc::new(endpoint)))
}

/// A network as rkt has it: its members may talk to each other.
fn network() -> Update {
    let selector: Selector = format!("has({NETWORK})").parse().unwrap();
    let source = Peer { selector: Some(selector), ..Peer::default() };
    let labels: Labels = [(NETWORK, "")].into_iter().collect();
    let profile = Profile {
        ingress: vec![Rule { source, ..Rule::any(Action::Allow) }],
        egress: vec![Rule::any(Action::Allow)],
        labels,
    };
    Update::Profile(NETWORK.into(), Some(Arc::new(profile)))
}

struct Way {
    calculator: Calculator,
    settings: Arc<Settings>,
    state: Arc<DesiredState>,
    felix: Felix,
    runtime: tokio::runtime::Runtime,
}

impl Way {
    /// A host with so many endpoints, and ten times as many elsewhere, all in force.
    fn new(settings: Settings, locals: u32) -> Self {
        let settings = Arc::new(settings);
        let mut calculator = Calculator::new(HERE.into());
        calculator.apply([network()]);
        calculator.apply((0..locals).map(|n| endpoint(n, HERE, n)));
        calculator.apply((0..locals * 10).map(|n| endpoint(n, "there", 100_000 + n)));
        let state = calculator.desired(Arc::clone(&settings), 1);
        assert_eq!(state.endpoints.len(), locals as usize);
        let felix = Felix::new(Exec::default(), PathBuf::from("/proc/sys"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut way = Self { calculator, settings, state, felix, runtime };
        way.reconcile(Wake::Start);
        way
    }

    /// What comes from the store, to the desired state.
    fn calculate(&mut self, update: Update) -> bool {
        self.calculator.apply([update]);
        let state = self.calculator.desired(Arc::clone(&self.settings), 2);
        let differs = !Arc::ptr_eq(&state, &self.state);
        self.state = state;
        differs
    }

    /// From there to the kernel.
    fn reconcile(&mut self, wake: Wake) {
        let world = World { desired: Arc::clone(&self.state), links: Links::new() };
        let report = self.runtime.block_on(self.felix.reconcile(&world, wake));
        assert_eq!(report.applied, Some(world.desired.generation), "{:?}", report.problems);
    }
}

/// How often each of these asks for memory: an endpoint written again as it was; a run of the
/// reconciler that finds nothing to do; another address of a remote endpoint, calculated; brought into
/// the kernel.
fn measure(settings: Settings, locals: u32) -> [usize; 4] {
    let mut way = Way::new(settings, locals);
    let mut most = [0; 4];
    // The first times fill buffers that stay.
    for turn in 0..6 {
        let again = endpoint(3, "there", if turn == 0 { 100_003 } else { 900_000 + turn - 1 });
        let (same, differs) = asked(|| way.calculate(again));
        assert!(!differs);
        let (idle, ()) = asked(|| way.reconcile(Wake::Timer));
        let other = endpoint(3, "there", 900_000 + turn);
        let (calculated, differs) = asked(|| way.calculate(other));
        assert!(differs);
        let before = way.felix.counters().writes();
        let (written, ()) = asked(|| way.reconcile(Wake::Desired));
        assert!(way.felix.counters().writes() > before, "it came to the kernel");
        if turn > 1 {
            for (most, now) in most.iter_mut().zip([same, idle, calculated, written]) {
                *most = now.max(*most);
            }
        }
    }
    most
}

#[test]
fn what_changes_nothing_asks_for_no_memory_and_one_address_for_as_much_on_every_host() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for network namespaces");
        return;
    }
    // Nothing is read back by the clock.
    let never = Duration::from_secs(86_400);
    let settings = |dataplane, iptables_backend| Settings {
        dataplane,
        iptables_backend,
        iptables_refresh: never,
        iptables_post_write_check: never,
        ipsets_refresh: never,
        ..Settings::default()
    };
    for settings in [
        settings(DataplaneSetting::Nftables, IptablesBackend::Auto),
        settings(DataplaneSetting::Auto, IptablesBackend::Legacy),
    ] {
        let on = |locals| {
            let settings = settings.clone();
            netns::Netns::new().run(move || measure(settings, locals))
        };
        let (small, large) = (on(20), on(1000));
        let dataplane = settings.dataplane;
        println!("{dataplane:?}: 20 endpoints {small:?}, 1000 endpoints {large:?}");
        let bounds = [NOTHING, IDLE, ADDRESS, WRITTEN];
        for (most, bound) in small.iter().chain(&large).zip(bounds.into_iter().cycle()) {
            assert!(*most <= bound, "{dataplane:?}: {small:?}, {large:?}, at most {bounds:?}");
        }
    }
}

/// An update that says what is known.
const NOTHING: usize = 8;
/// A run that finds nothing to do: its report.
const IDLE: usize = 60;
/// Another address, to the desired state; maps are trees, of which one branch is made anew.
const ADDRESS: usize = 30;
/// And from there to the kernel.
const WRITTEN: usize = 150;
