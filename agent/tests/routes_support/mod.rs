//! What the tests of routes and BIRD share: network namespaces that clean up after themselves.
//!
//! A namespace here has no name: it lives as long as something holds it, so nothing is left behind
//! by a test that fails.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use calico_agent::config::Settings;
use calico_agent::desired::{AclClass, BgpState, DesiredState, LocalEndpoint};
use calico_agent::exec::Exec;
use calico_agent::reconcile::World;
use calico_agent::routes::monitor::{Link, Links};
use calico_datastore::model::{Cidr, WorkloadEndpointId};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{geteuid, gettid};

/// True when the test cannot run here; says so.
pub(crate) fn skipped() -> bool {
    let skip = !geteuid().is_root();
    if skip {
        println!("skipped: needs root");
    }
    skip
}

/// Runs a test in a thread of its own, in a network namespace of its own with `lo` up.
pub(crate) fn in_namespace<F, Fut>(test: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    if skipped() {
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            ip("link set lo up").await;
            tokio::time::timeout(Duration::from_secs(120), test()).await.expect("test hangs");
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Another network namespace, for the thread that made it to step into.
pub(crate) struct Namespace(File);

impl Namespace {
    /// The namespace that the thread is in.
    pub(crate) fn current() -> Self {
        Self(File::open(format!("/proc/self/task/{}/ns/net", gettid())).unwrap())
    }

    /// A new one; the thread stays where it is.
    pub(crate) fn new() -> Self {
        let home = Self::current();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let new = Self::current();
        home.enter();
        new
    }

    /// Steps into it: what is opened or started from now on belongs to it.
    pub(crate) fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// A path of this process under which `ip link set … netns` finds it.
    pub(crate) fn path(&self) -> String {
        use std::os::fd::AsRawFd as _;
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs `ip` with those words; it must succeed.
pub(crate) async fn ip(words: &str) -> String {
    let args: Vec<&str> = words.split_whitespace().collect();
    let output = Exec::default().run("ip", &args, b"").await;
    let output = output.unwrap_or_else(|error| panic!("ip {words}: {error}"));
    String::from_utf8(output.stdout).unwrap()
}

/// The routes of the main table, both families, as `ip` prints them.
pub(crate) async fn routes() -> String {
    format!("{}{}", ip("-4 route show").await, ip("-6 route show").await)
}

/// Makes a pod's interface pair: `name` here, `p` + name its other end, both up.
pub(crate) async fn pod(name: &str) {
    ip(&format!("link add {name} type veth peer name p{name}")).await;
    ip(&format!("link set p{name} up")).await;
    ip(&format!("link set {name} up")).await;
}

/// The interfaces of the namespace as the monitor would publish them.
pub(crate) async fn links() -> Links {
    let text = ip("-o link show").await;
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let index = words.next().unwrap().trim_end_matches(':').parse().unwrap();
            let name = words.next().unwrap().trim_end_matches(':');
            let name = name.split('@').next().unwrap();
            let flags = words.next().unwrap();
            let up = flags.contains("LOWER_UP") && flags.contains(",UP");
            (name.parse().unwrap(), Link { index, up, mac: None, mtu: 1500, ..Link::default() })
        })
        .collect()
}

/// The id of a test's endpoint.
pub(crate) fn id(name: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: "host".into(),
        orchestrator: "cni".into(),
        workload: name.into(),
        endpoint: "eth0".into(),
    }
}

/// A world under construction.
#[derive(Clone, Default)]
pub(crate) struct Builder {
    pub(crate) state: DesiredState,
    pub(crate) settings: Settings,
    pub(crate) bgp: BgpState,
    pub(crate) links: Links,
}

impl Builder {
    /// Adds or replaces an endpoint.
    pub(crate) fn endpoint(
        &mut self,
        name: &str,
        interface: &str,
        addresses: &[&str],
        mac: Option<&str>,
    ) {
        let endpoint = LocalEndpoint {
            interface: interface.parse().unwrap(),
            active: true,
            mac: mac.map(|mac| mac.parse().unwrap()),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            nat: Vec::new(),
            spoof: Vec::new(),
            class: AclClass::default().id(),
        };
        self.state.endpoints.insert(id(name), Arc::new(endpoint));
    }

    /// Removes an endpoint.
    pub(crate) fn remove(&mut self, name: &str) {
        self.state.endpoints.remove(&id(name));
    }

    /// Sets this host's blocks.
    pub(crate) fn blocks(&mut self, blocks: &[&str]) {
        self.state.blocks = blocks.iter().map(|block| block.parse::<Cidr>().unwrap()).collect();
    }

    /// The world as it is now, one generation later than the one before.
    pub(crate) fn world(&mut self) -> World {
        self.state.generation += 1;
        self.state.bgp = Arc::new(self.bgp.clone());
        self.state.settings = Arc::new(self.settings.clone());
        World { desired: Arc::new(self.state.clone()), links: self.links.clone() }
    }
}

/// A number among a report's facts.
pub(crate) fn fact(facts: &BTreeMap<String, String>, name: &str) -> u64 {
    facts[name].parse().unwrap()
}

/// Waits until `check` says yes, at most 20 seconds.
pub(crate) async fn eventually<Fut: Future<Output = bool>>(
    what: &str,
    mut check: impl FnMut() -> Fut,
) {
    for _ in 0..400 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never happened: {what}");
}
