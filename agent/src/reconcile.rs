//! The generic loop around a reconciler.
//!
//! A reconciler compares what is with what should be and changes the difference. The loop decides
//! *when*: at once after a change of the desired state or of the links, on a slow timer, and again
//! after a failure with back-off. It always hands over the newest state, so a slow reconciler
//! skips states instead of queueing them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_datastore::model::{Cidr, HostEndpointId, InterfaceName, Mac, Name, WorkloadEndpointId};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use crate::desired::{DesiredState, Externals, LocalEndpoint};
use crate::drift::{Drift, Repairs};
use crate::routes::monitor::Links;
use crate::status::systemd::Heartbeat;
use crate::telemetry::event;

/// Why a reconciler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// For the first time: compare everything, remove leftovers.
    Start,
    /// The desired state changed.
    Desired,
    /// Interfaces came, went, or changed.
    Links,
    /// Something else in the kernel changed under us: routes, neighbours, tables, sets, parameters.
    Kernel,
    /// The time it asked for has come.
    Timer,
    /// The last run failed.
    Retry,
}

/// What a reconciler looks at: both are immutable snapshots.
#[derive(Clone, Debug)]
pub struct World {
    /// What should be.
    pub desired: Arc<DesiredState>,
    /// The interfaces that are.
    pub links: Links,
}

/// What became of one endpoint in one part of the dataplane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "reason")]
pub enum EndpointState {
    /// Programmed.
    Up,
    /// Not programmed for a reason that is no error: interface missing or down, endpoint inactive.
    Down(String),
    /// Could not be programmed.
    Error(String),
}

/// What an endpoint was when a part of the dataplane programmed it: enough to tell a pod from
/// another one that has its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programmed {
    /// The host side of its veth pair.
    pub interface: InterfaceName,
    /// That interface's index: a pod that is made again gets another one.
    pub device: u32,
    /// Its Ethernet address, when it has one.
    pub mac: Option<Mac>,
    /// The addresses it may use, sorted.
    pub addresses: Vec<Cidr>,
    /// Its profiles in the order they are asked.
    pub profiles: Vec<Name>,
}

impl Programmed {
    /// `endpoint` of the state `desired`, on the interface with that index.
    pub fn new(endpoint: &LocalEndpoint, desired: &DesiredState, device: u32) -> Self {
        let class = desired.classes.get(&endpoint.class);
        Self {
            interface: endpoint.interface.clone(),
            device,
            mac: endpoint.mac,
            addresses: endpoint.addresses.clone(),
            profiles: class.map(|class| class.ingress.profiles.clone()).unwrap_or_default(),
        }
    }

    /// Writes down what is in force of an endpoint now; what stays the same is left as it is, so
    /// that a diff costs what changed.
    pub fn note(all: &mut InForce, id: &WorkloadEndpointId, now: Option<Self>) {
        match now {
            Some(now) if all.get(id).is_some_and(|was| **was == now) => {}
            Some(now) => drop(all.insert(id.clone(), Arc::new(now))),
            None => drop(all.remove(id)),
        }
    }
}

/// What became of one host endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    /// The interfaces that it is about and that are there.
    pub interfaces: Vec<InterfaceName>,
    /// Whether it is in force.
    pub state: EndpointState,
}

/// The host endpoints of this host.
pub type HostStates = BTreeMap<HostEndpointId, HostState>;

/// What is in force of each endpoint that is up.
pub type InForce = OrdMap<WorkloadEndpointId, Arc<Programmed>>;

/// Something that keeps the host from being as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about: an endpoint, a policy, a program.
    pub subject: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// What a reconciler says after a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The generation of the desired state that is completely in force, when one is.
    pub applied: Option<u64>,
    /// The generation of the desired state that this run was given to put in force, also when some
    /// of it was refused: everything else of it is in force then. `None` when nothing was tried.
    pub given: Option<u64>,
    /// The endpoints it cares for. Empty when it cares for none (BIRD).
    pub endpoints: OrdMap<WorkloadEndpointId, EndpointState>,
    /// The host endpoints, of the part that cares for them.
    pub hosts: HostStates,
    /// Where external addresses lead, of the part that leads them.
    pub externals: Option<Arc<Externals>>,
    /// What those that are up were when they were programmed: of the desired state of this run or
    /// of an earlier one that says the same of them, never of a newer one.
    pub in_force: InForce,
    /// What is wrong, sorted.
    pub problems: Vec<Problem>,
    /// What people should know: the dataplane in use and why, counters. Shown by `status`.
    pub facts: BTreeMap<String, String>,
    /// What this run found changed by others, and put right. Not what a first look finds.
    pub drift: Vec<Drift>,
    /// What was put right since the start. Filled by the loop from `drift`.
    pub repairs: Repairs,
    /// The run was about a state from disk. Filled by the loop.
    pub stored: bool,
    /// Run again after this time, even when nothing changes (refresh, a grace that ends).
    pub wake_after: Option<Duration>,
    /// True: what failed may work if tried again soon; the loop backs off.
    pub retry: bool,
}

/// Something that makes a part of the world equal to its part of the desired state.
pub trait Reconciler: Send {
    /// Its name in logs, `status` and the watchdog.
    const NAME: &'static str;

    /// Makes it so. Never fails as a whole: what could not be done is in the report.
    fn reconcile(&mut self, world: &World, wake: Wake) -> impl Future<Output = Report> + Send;
}

/// What wakes the loop.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The desired state; `None` until the first complete snapshot. Until then nothing runs.
    pub desired: watch::Receiver<Option<Arc<DesiredState>>>,
    /// The interfaces.
    pub links: watch::Receiver<Links>,
    /// Something else in the kernel changed.
    pub kernel: Arc<Notify>,
}

/// The first wait after a failure; doubled with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Runs a reconciler until its inputs end. Every report goes to `reports`.
///
/// A heartbeat is answered whenever the loop waits; while a run is under way only when a step of it
/// has ended: a run that hangs is what the watchdog looks for.
pub async fn run<R: Reconciler>(
    mut reconciler: R,
    mut inputs: Inputs,
    reports: watch::Sender<Option<Report>>,
    mut heartbeat: Heartbeat,
) {
    let mut wake = Wake::Start;
    let mut retry = Retry::default();
    let mut repairs = Repairs::default();
    // Nothing is touched before the first complete snapshot.
    loop {
        tokio::select! {
            // Cancel-safe: `wait_for` looks at the newest value each time.
            first = inputs.desired.wait_for(Option::is_some) => match first {
                Ok(_) => break,
                Err(_) => return,
            },
            // Cancel-safe: an unanswered token stays in the channel.
            () = heartbeat.beat() => {}
        }
    }
    loop {
        let Some(desired) = inputs.desired.borrow_and_update().clone() else { return };
        let world = World { desired, links: inputs.links.borrow_and_update().clone() };
        tracing::debug!(
            reconciler = R::NAME,
            generation = world.desired.generation,
            reason = ?wake,
            "reconciling"
        );
        // Whatever is said of this run has the state that it is about.
        let said = tracing::error_span!("run", generation = world.desired.generation);
        let work = reconciler.reconcile(&world, wake).instrument(said.clone());
        let mut report = heartbeat.during(work).await;
        said.in_scope(|| repairs.note(R::NAME, &report.drift, SystemTime::now()));
        report.repairs = repairs.clone();
        report.stored = world.desired.origin.is_stored();
        retry.after_run(report.retry, Instant::now());
        let timer = next_wake(retry.due, report.wake_after.map(|time| Instant::now() + time));
        said.in_scope(|| log_problems(R::NAME, reports.borrow().as_ref(), &report));
        reports.send_replace(Some(report));

        let timer = async {
            match timer {
                Some((at, wake)) => {
                    sleep_until(at).await;
                    wake
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(timer);
        wake = loop {
            tokio::select! {
                // Every arm is cancel-safe: `changed` and `notified` lose nothing when dropped
                // before they are ready, the timer is pinned outside, an unanswered token stays in
                // its channel.
                changed = inputs.desired.changed() => match changed {
                    Ok(()) => break Wake::Desired,
                    Err(_) => return,
                },
                changed = inputs.links.changed() => match changed {
                    Ok(()) => break Wake::Links,
                    Err(_) => return,
                },
                () = inputs.kernel.notified() => break Wake::Kernel,
                wake = &mut timer => break wake,
                () = heartbeat.beat() => {}
            }
        };
    }
}

/// When what failed is tried again.
#[derive(Debug, Default)]
struct Retry {
    failures: u32,
    due: Option<Instant>,
}

impl Retry {
    /// A run has ended; `failed`: it wants to be tried again. A run between two tries, because
    /// something changed or a timer went off, neither puts off the next try nor counts as one:
    /// a host where something changes all the time would never get to it.
    fn after_run(&mut self, failed: bool, now: Instant) {
        if !failed {
            *self = Self::default();
        } else if self.due.is_none_or(|due| due <= now) {
            self.failures = self.failures.saturating_add(1);
            self.due = Some(now + back_off(self.failures));
        }
    }
}

/// What comes first.
fn next_wake(retry: Option<Instant>, timer: Option<Instant>) -> Option<(Instant, Wake)> {
    let retry = retry.map(|at| (at, Wake::Retry));
    let timer = timer.map(|at| (at, Wake::Timer));
    [retry, timer].into_iter().flatten().min_by_key(|(at, _)| *at)
}

fn back_off(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_MAX)
}

/// Says what is newly wrong and what is right again; a standing problem is said once.
fn log_problems(reconciler: &'static str, before: Option<&Report>, now: &Report) {
    let before = before.map_or(&[][..], |report| &report.problems);
    for problem in now.problems.iter().filter(|problem| !before.contains(problem)) {
        let subject = problem.subject.as_str();
        tracing::warn!(event = event::PROBLEM, reconciler, subject, "{}", problem.message);
    }
    for problem in before.iter().filter(|problem| !now.problems.contains(problem)) {
        let subject = problem.subject.as_str();
        tracing::info!(
            event = event::PROBLEM_OVER,
            reconciler,
            subject,
            "over: {}",
            problem.message
        );
    }
}

#[cfg(test)]
mod tests;
