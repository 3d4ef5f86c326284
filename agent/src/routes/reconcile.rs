//! Makes the kernel's routes and neighbours as they should be: read, plan, apply, report.
//!
//! What was read once is kept in memory, so a change of one endpoint reads nothing and writes what
//! changed. Everything is read again at the start, on the slow timer, after a failure, and when
//! events were lost; single interfaces when their link changed or somebody else wrote there.

mod drift;
mod notes;
mod report;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use calico_datastore::model::{Cidr, WorkloadEndpointId};
use imbl::OrdMap;
use tracing::{debug, info};

use self::drift::{Before, Fight};
use self::notes::Trouble;
use self::work::{Work, touch};
use super::changes::{Changes, Interest, Place};
use super::intent::Intent;
use super::kernel::{Failure, Kernel, KernelError, RouteFilter};
use super::plan::{Actual, CALICO_PROTOCOL, Plan, Route, Scope, plan};
use crate::drift::Drift;
use crate::reconcile::{EndpointState, InForce, Reconciler, Report, Wake, World};
use crate::telemetry::chain;

/// Above this many interfaces one reading of everything is cheaper than one for each.
const READ_ALL_ABOVE: usize = 16;
/// Rounds of read, plan, apply in one run: a second one settles what a stale reading got wrong.
const ROUNDS: usize = 3;
/// When an interface dies under a write the monitor says so; this is for the case that it was
/// back before anybody looked.
const DEAD_RETRY: Duration = Duration::from_secs(1);
/// Up to this many changes in one run are told one by one.
const TELL_EACH: usize = 8;

/// The reconciler of routes and neighbours.
#[derive(Debug)]
pub struct Routes {
    changes: Changes,
    kernel: Option<Kernel>,
    intent: Intent,
    actual: Actual,
    /// `actual` can be relied on.
    complete: bool,
    started: Instant,
    refreshed: Duration,
    grace_routes: BTreeMap<Cidr, Duration>,
    grace_neighbours: BTreeMap<(u32, IpAddr), Duration>,
    /// What is wrong at a place.
    route_troubles: BTreeMap<Cidr, Trouble>,
    neighbour_troubles: BTreeMap<(u32, IpAddr), Trouble>,
    states: OrdMap<WorkloadEndpointId, EndpointState>,
    /// What those were that are up.
    in_force: InForce,
    failing: BTreeSet<WorkloadEndpointId>,
    writes: u64,
    reads: u64,
    /// When everything was read for the first time.
    first_look: Duration,
    /// What this run found changed by others.
    drift: Vec<Drift>,
    /// Places that others changed lately.
    fights: BTreeMap<Place, Fight>,
}

/// What is to be done after operations were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing.
    Done,
    /// Plan again: less is wanted than before.
    Plan,
    /// Read and plan again: the kernel holds something else than was known.
    Read,
}

/// What became of a run.
#[derive(Default)]
struct Outcome {
    retry: bool,
    error: Option<String>,
}

impl Reconciler for Routes {
    const NAME: &'static str = "routes";

    async fn reconcile(&mut self, world: &World, wake: Wake) -> Report {
        let now = self.started.elapsed();
        let outcome = self.run(world, wake, now).await;
        Report { drift: std::mem::take(&mut self.drift), ..self.report(world, &outcome, now) }
    }
}

impl Routes {
    /// A reconciler that has looked at nothing yet. `changes` comes from
    /// [`super::monitor::Monitor`]; a fresh one does when there is no monitor.
    pub fn new(changes: Changes) -> Self {
        Self {
            changes,
            kernel: None,
            intent: Intent::default(),
            actual: Actual::default(),
            complete: false,
            started: Instant::now(),
            refreshed: Duration::ZERO,
            grace_routes: BTreeMap::new(),
            grace_neighbours: BTreeMap::new(),
            route_troubles: BTreeMap::new(),
            neighbour_troubles: BTreeMap::new(),
            states: OrdMap::new(),
            in_force: InForce::new(),
            failing: BTreeSet::new(),
            writes: 0,
            reads: 0,
            first_look: Duration::MAX,
            drift: Vec::new(),
            fights: BTreeMap::new(),
        }
    }

    async fn run(&mut self, world: &World, wake: Wake, now: Duration) -> Outcome {
        let from_disk = self.intent.origin().is_stored();
        let stale = self.intent.update(world);
        if from_disk && !self.intent.origin().is_stored() {
            // What was left alone is judged now, and its grace begins now: as at a first look.
            self.actual = Actual::default();
            self.complete = false;
        }
        let mut work = Work {
            all: stale.everything,
            destinations: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            endpoints: BTreeSet::new(),
        };
        let mut read = stale.read.clone();
        for device in &stale.gone {
            work.add_places(self.actual.forget_device(*device));
        }
        work.add(stale);
        if wake == Wake::Timer || wake == Wake::Retry {
            let revived = self.intent.revive();
            read.extend(&revived.read);
            work.add(revived);
        }
        self.add_graced(&mut work, now);
        let mut touched = self.changes.take();
        self.end_truces(now).into_iter().for_each(|place| touch(&mut touched, place));
        for &device in &touched.flapped {
            let stale = self.intent.revive_one(device);
            work.add(stale);
        }
        self.expand(&mut touched);
        read.extend(touched.interfaces.iter().filter(|index| self.intent.is_watched(**index)));
        let mut before = Before::new(touched.flapped.clone());
        let refresh = self.intent.settings().route_refresh;
        let due = !refresh.is_zero() && now >= self.refreshed + refresh;
        let full = matches!(wake, Wake::Start | Wake::Retry)
            || !self.complete
            || work.all
            || touched.everything
            || due
            || read.len() > READ_ALL_ABOVE;
        self.watch();

        let known = self.complete;
        let reading = self.read(full, &read, touched.marked, (&mut work, &mut before), now);
        let outcome = match reading.await {
            Ok(()) => {
                let before = if known { before } else { Before::default() };
                let drifted = self.find_drifted(before, now);
                self.settle(&mut work, drifted, now).await
            }
            Err(error) => {
                self.complete = false;
                self.kernel = None;
                let message = chain(&error);
                if work.all || full {
                    work.endpoints.extend(self.intent.endpoints().cloned());
                }
                Outcome { retry: true, error: Some(message) }
            }
        };
        self.watch();
        self.refresh_states(&work, world, &outcome);
        outcome
    }

    /// Reads what is not known well enough.
    async fn read(
        &mut self,
        full: bool,
        devices: &BTreeSet<u32>,
        marked: bool,
        (work, before): (&mut Work, &mut Before),
        now: Duration,
    ) -> Result<(), KernelError> {
        if full {
            let known = self.actual.clone();
            self.read_all(work, now).await?;
            for actual in [&known, &self.actual] {
                let destinations = actual.destinations().collect();
                before.remember(&known, destinations, actual.neighbour_keys().collect());
            }
            return Ok(());
        }
        for &device in devices {
            self.reads += 1;
            let kernel = open(&mut self.kernel, &self.changes)?;
            let routes = kernel.routes(RouteFilter::Device(device), |_| true).await?;
            let neighbours = kernel.neighbours(Some(device), |_| true).await?;
            let (mut places, mut keys) = self.actual.places_on(device);
            places.extend(routes.iter().map(|route| route.destination));
            keys.extend(neighbours.iter().map(|entry| (entry.device, entry.address)));
            before.remember(&self.actual, places, keys);
            work.add_places(self.actual.set_device(device, routes, neighbours, now));
        }
        if marked {
            let protocols =
                BTreeSet::from([CALICO_PROTOCOL, self.intent.settings().route_protocol]);
            for protocol in protocols {
                self.reads += 1;
                let kernel = open(&mut self.kernel, &self.changes)?;
                let intent = &self.intent;
                let filter = RouteFilter::Protocol(protocol);
                let routes = kernel.routes(filter, |route| intent.concerns(route)).await?;
                let pods = intent.pods();
                let belongs = |route: &Route| {
                    route.protocol == protocol
                        && !route.device.is_some_and(|device| pods.contains_key(&device))
                };
                let known = self.actual.routes().filter(|route| belongs(route));
                let places = known.chain(&routes).map(|route| route.destination).collect();
                before.remember(&self.actual, places, BTreeSet::new());
                let changed = self.actual.set_matching(belongs, routes, now);
                work.destinations.extend(changed);
            }
        }
        Ok(())
    }

    /// Reads everything that concerns us.
    async fn read_all(&mut self, work: &mut Work, now: Duration) -> Result<(), KernelError> {
        self.reads += 1;
        let kernel = open(&mut self.kernel, &self.changes)?;
        let intent = &self.intent;
        let routes = kernel.routes(RouteFilter::All, |route| intent.concerns(route)).await?;
        let neighbours = kernel.neighbours(None, |device| intent.is_watched(device)).await?;
        self.actual.set_all(routes, neighbours, now);
        self.complete = true;
        self.first_look = self.first_look.min(now);
        self.refreshed = now;
        work.all = true;
        Ok(())
    }

    /// Plans and applies until nothing is left that another look could settle.
    async fn settle(
        &mut self,
        work: &mut Work,
        drifted: BTreeSet<Place>,
        now: Duration,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for round in 1..=ROUNDS {
            let scope = if work.all {
                Scope::All
            } else {
                Scope::Only {
                    destinations: work.destinations.clone(),
                    neighbours: work.neighbours.clone(),
                }
            };
            let mut plan = plan(&self.intent, &self.actual, &scope, &self.intent.rules(now));
            self.actual.adopt(&plan);
            self.withhold(&mut plan, now);
            let first = round == 1;
            let found = if first { self.describe_drift(&drifted, &plan) } else { Vec::new() };
            self.take_notes(&scope, &plan);
            let next = self.apply(&plan, work, now, &mut outcome).await;
            self.note_drift(found, now);
            if next == Next::Done || outcome.retry {
                break;
            }
            if round == ROUNDS {
                outcome.retry = true;
                break;
            }
            if next == Next::Read
                && let Err(error) = self.read_all(work, now).await
            {
                self.complete = false;
                outcome = Outcome { retry: true, error: Some(chain(&error)) };
                break;
            }
        }
        outcome
    }

    /// Carries the plan out.
    async fn apply(
        &mut self,
        plan: &Plan,
        work: &mut Work,
        now: Duration,
        outcome: &mut Outcome,
    ) -> Next {
        if plan.ops.is_empty() {
            return Next::Done;
        }
        let kernel = match open(&mut self.kernel, &self.changes) {
            Ok(kernel) => kernel,
            Err(error) => {
                *outcome = Outcome { retry: true, error: Some(chain(&error)) };
                return Next::Done;
            }
        };
        let mut next = Next::Done;
        let mut dead = BTreeSet::new();
        let results = kernel.apply(&plan.ops).await;
        self.writes += results.len() as u64;
        let each = results.len() <= TELL_EACH;
        let mut done = 0;
        for (op, result) in results {
            match result {
                Ok(()) => {
                    self.actual.apply(&op, now);
                    done += 1;
                    self.tell(&op, each);
                }
                Err(Failure::Exists | Failure::Gone) => next = Next::Read,
                Err(Failure::Device) => dead.extend(op.device()),
                Err(failure) => {
                    outcome.retry |= matches!(failure, Failure::Retry(_));
                    self.note_failure(&op, &failure);
                }
            }
        }
        if !each {
            info!(changes = done, "routes and neighbours programmed");
        }
        for device in dead {
            debug!(device, "an interface went away while its routes were written");
            work.add_places(self.actual.forget_device(device));
            work.add(self.intent.bury(device));
            if next == Next::Done {
                next = Next::Plan;
            }
        }
        next
    }

    /// Adds the places whose grace has ended.
    fn add_graced(&self, work: &mut Work, now: Duration) {
        let due = |end: &Duration| now >= *end;
        work.destinations.extend(
            self.grace_routes
                .iter()
                .filter(|(_, end)| due(end))
                .map(|(destination, _)| *destination),
        );
        work.neighbours
            .extend(self.grace_neighbours.iter().filter(|(_, end)| due(end)).map(|(key, _)| *key));
    }

    /// Tells the monitor what to look for.
    fn watch(&self) {
        let settings = self.intent.settings();
        let (claimed, blocks, fixed) = self.intent.watched();
        let left_alone = self.fights.iter().filter(|(_, fight)| fight.until.is_some());
        let interest = Interest {
            prefixes: settings.interface_prefixes.clone(),
            protocols: BTreeSet::from([CALICO_PROTOCOL, settings.route_protocol]),
            contested: self.route_troubles.keys().copied().collect(),
            claimed,
            blocks,
            fixed,
            ignored: left_alone.map(|(place, _)| *place).collect(),
        };
        if *self.changes.interest() != interest {
            self.changes.set_interest(interest);
        }
    }
}

/// The connection, opened when there is none or it has died.
fn open<'a>(kernel: &'a mut Option<Kernel>, changes: &Changes) -> Result<&'a Kernel, KernelError> {
    if kernel.as_ref().is_some_and(|kernel| !kernel.is_alive()) {
        *kernel = None;
    }
    match kernel {
        Some(kernel) => Ok(kernel),
        None => Ok(kernel.insert(Kernel::open(changes)?)),
    }
}
