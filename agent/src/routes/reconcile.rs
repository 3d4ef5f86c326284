//! Makes the kernel's routes and neighbours as they should be: read, plan, apply, report.
//!
//! What was read once is kept in memory, so a change of one endpoint reads nothing and writes what
//! changed. Everything is read again at the start, on the slow timer, after a failure, and when
//! events were lost; single interfaces when their link changed or somebody else wrote there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use calico_datastore::model::{Cidr, WorkloadEndpointId};
use imbl::OrdMap;
use tracing::{debug, info, warn};

use super::changes::{Changes, Interest};
use super::intent::{Intent, Stale};
use super::kernel::{Failure, Kernel, KernelError, RouteFilter};
use super::plan::{Actual, CALICO_PROTOCOL, Conflict, Op, Plan, Route, RouteKind, Scope, plan};
use crate::reconcile::{EndpointState, Problem, Reconciler, Report, Wake, World};

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
    route_troubles: BTreeMap<Cidr, String>,
    neighbour_troubles: BTreeMap<(u32, IpAddr), String>,
    states: OrdMap<WorkloadEndpointId, EndpointState>,
    failing: BTreeSet<WorkloadEndpointId>,
    writes: u64,
    reads: u64,
}

/// What to look at in one run.
struct Work {
    all: bool,
    destinations: BTreeSet<Cidr>,
    neighbours: BTreeSet<(u32, IpAddr)>,
    endpoints: BTreeSet<WorkloadEndpointId>,
}

impl Work {
    fn add(&mut self, stale: Stale) {
        self.all |= stale.everything;
        self.destinations.extend(stale.destinations);
        self.neighbours.extend(stale.neighbours);
        self.endpoints.extend(stale.endpoints);
    }

    fn add_places(&mut self, (destinations, keys): (BTreeSet<Cidr>, BTreeSet<(u32, IpAddr)>)) {
        self.destinations.extend(destinations);
        self.neighbours.extend(keys);
    }
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
        self.report(world, &outcome, now)
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
            failing: BTreeSet::new(),
            writes: 0,
            reads: 0,
        }
    }

    async fn run(&mut self, world: &World, wake: Wake, now: Duration) -> Outcome {
        let stale = self.intent.update(world);
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
        let touched = self.changes.take();
        read.extend(
            touched.interfaces.iter().filter(|index| self.intent.pods().contains_key(index)),
        );
        let refresh = self.intent.settings().route_refresh;
        let due = !refresh.is_zero() && now >= self.refreshed + refresh;
        let full = matches!(wake, Wake::Start | Wake::Retry)
            || !self.complete
            || work.all
            || touched.everything
            || due
            || read.len() > READ_ALL_ABOVE;
        self.watch();

        let outcome = match self.read(full, &read, touched.marked, &mut work, now).await {
            Ok(()) => self.settle(&mut work, now).await,
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
        work: &mut Work,
        now: Duration,
    ) -> Result<(), KernelError> {
        if full {
            return self.read_all(work, now).await;
        }
        for &device in devices {
            self.reads += 1;
            let kernel = open(&mut self.kernel, &self.changes)?;
            let routes = kernel.routes(RouteFilter::Device(device), |_| true).await?;
            let neighbours = kernel.neighbours(Some(device), |_| true).await?;
            work.add_places(self.actual.set_device(device, routes, neighbours, now));
        }
        if marked {
            let protocols =
                BTreeSet::from([CALICO_PROTOCOL, self.intent.settings().route_protocol]);
            for protocol in protocols {
                self.reads += 1;
                let kernel = open(&mut self.kernel, &self.changes)?;
                let routes = kernel.routes(RouteFilter::Protocol(protocol), |_| true).await?;
                let pods = self.intent.pods();
                let belongs = |route: &Route| {
                    route.protocol == protocol
                        && !route.device.is_some_and(|device| pods.contains_key(&device))
                };
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
        let own = intent.settings().route_protocol;
        let keep = |route: &Route| {
            route.device.is_some_and(|device| intent.pods().contains_key(&device))
                || route.protocol == CALICO_PROTOCOL
                || route.protocol == own
                || intent.is_claimed(&route.destination)
        };
        let routes = kernel.routes(RouteFilter::All, keep).await?;
        let neighbours =
            kernel.neighbours(None, |device| intent.pods().contains_key(&device)).await?;
        self.actual.set_all(routes, neighbours, now);
        self.complete = true;
        self.refreshed = now;
        work.all = true;
        Ok(())
    }

    /// Plans and applies until nothing is left that another look could settle.
    async fn settle(&mut self, work: &mut Work, now: Duration) -> Outcome {
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
            let plan = plan(&self.intent, &self.actual, &scope, &self.intent.rules(now));
            self.actual.adopt(&plan);
            self.take_notes(&scope, &plan);
            let surprised = self.apply(&plan, work, now, &mut outcome).await;
            if !surprised || outcome.retry {
                break;
            }
            if round == ROUNDS {
                outcome.retry = true;
                break;
            }
            if let Err(error) = self.read_all(work, now).await {
                self.complete = false;
                outcome = Outcome { retry: true, error: Some(chain(&error)) };
                break;
            }
        }
        outcome
    }

    /// Carries the plan out. True when the kernel holds something else than was known.
    async fn apply(
        &mut self,
        plan: &Plan,
        work: &mut Work,
        now: Duration,
        outcome: &mut Outcome,
    ) -> bool {
        if plan.ops.is_empty() {
            return false;
        }
        let kernel = match open(&mut self.kernel, &self.changes) {
            Ok(kernel) => kernel,
            Err(error) => {
                *outcome = Outcome { retry: true, error: Some(chain(&error)) };
                return false;
            }
        };
        let mut surprised = false;
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
                Err(Failure::Exists | Failure::Gone) => surprised = true,
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
            surprised |= work.all;
        }
        surprised
    }

    fn tell(&self, op: &Op, each: bool) {
        let interface = op
            .device()
            .and_then(|device| self.intent.pods().get(&device))
            .map_or("", |name| name.as_str());
        let (what, subject) = match op {
            Op::SetNeighbour(neighbour) => ("neighbour set", neighbour.address.to_string()),
            Op::DeleteNeighbour(neighbour) => ("neighbour removed", neighbour.address.to_string()),
            Op::AddRoute(route) => ("route added", route.destination.to_string()),
            Op::ReplaceRoute { new, .. } => ("route replaced", new.destination.to_string()),
            Op::DeleteRoute(route) => ("route removed", route.destination.to_string()),
        };
        if each && !matches!(op, Op::SetNeighbour(_) | Op::DeleteNeighbour(_)) {
            info!(destination = subject, interface, "{what}");
        } else {
            debug!(subject, interface, "{what}");
        }
    }

    /// Remembers what the plan could not do, and when it has to be made again.
    fn take_notes(&mut self, scope: &Scope, plan: &Plan) {
        let old = match scope {
            Scope::All => {
                self.grace_routes.clear();
                self.grace_neighbours.clear();
                self.neighbour_troubles.clear();
                std::mem::take(&mut self.route_troubles)
            }
            Scope::Only { destinations, neighbours } => {
                for key in neighbours {
                    self.grace_neighbours.remove(key);
                    self.neighbour_troubles.remove(key);
                }
                let mut old = BTreeMap::new();
                for destination in destinations {
                    self.grace_routes.remove(destination);
                    old.extend(self.route_troubles.remove_entry(destination));
                }
                old
            }
        };
        self.grace_routes.extend(&plan.grace_routes);
        self.grace_neighbours.extend(&plan.grace_neighbours);
        for conflict in &plan.conflicts {
            let message = self.describe(conflict);
            if old.get(&conflict.destination) != Some(&message) {
                warn!(destination = %conflict.destination, reason = message, "a route is in the way");
            }
            self.route_troubles.insert(conflict.destination, message);
        }
    }

    fn describe(&self, conflict: &Conflict) -> String {
        let Conflict { destination, foreign } = conflict;
        let us = match self.intent.claimants(destination).next() {
            Some(id) => format!("endpoint {id}"),
            None => "this host's block".to_owned(),
        };
        let kind = match foreign.kind {
            RouteKind::Unicast => "a route",
            RouteKind::Blackhole => "a blackhole",
            RouteKind::Other(_) => "a route that refuses",
        };
        let over = match foreign.device {
            Some(device) => format!(" over interface number {device}"),
            None => String::new(),
        };
        format!(
            "{destination} of {us} is in the main table already: {kind}{over} of protocol {}, \
             metric {}; remove one of the two",
            foreign.protocol, foreign.metric
        )
    }

    fn note_failure(&mut self, op: &Op, failure: &Failure) {
        let reason = failure.reason();
        let (place, message) = match op {
            Op::AddRoute(route) | Op::ReplaceRoute { new: route, .. } => {
                let hint = match route.source {
                    Some(source) => format!(" (is {source} an address of this host?)"),
                    None => String::new(),
                };
                let message =
                    format!("cannot add the route to {}: {reason}{hint}", route.destination);
                (Ok(route.destination), message)
            }
            Op::DeleteRoute(route) => (
                Ok(route.destination),
                format!("cannot remove the route to {}: {reason}", route.destination),
            ),
            Op::SetNeighbour(entry) => (
                Err((entry.device, entry.address)),
                format!("cannot set the neighbour {}: {reason}", entry.address),
            ),
            Op::DeleteNeighbour(entry) => (
                Err((entry.device, entry.address)),
                format!("cannot remove the neighbour {}: {reason}", entry.address),
            ),
        };
        let known = match &place {
            Ok(destination) => self.route_troubles.insert(*destination, message.clone()),
            Err(key) => self.neighbour_troubles.insert(*key, message.clone()),
        };
        if known.as_ref() != Some(&message) {
            warn!(reason = message, "the kernel could not be changed");
        }
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
        let interest = Interest {
            prefixes: settings.interface_prefixes.clone(),
            protocols: BTreeSet::from([CALICO_PROTOCOL, settings.route_protocol]),
            contested: self.route_troubles.keys().copied().collect(),
        };
        if *self.changes.interest() != interest {
            self.changes.set_interest(interest);
        }
    }

    fn refresh_states(&mut self, work: &Work, world: &World, outcome: &Outcome) {
        let mut ids = work.endpoints.clone();
        if work.all {
            ids.extend(self.intent.endpoints().cloned());
            ids.extend(self.states.keys().cloned());
        } else {
            for destination in &work.destinations {
                ids.extend(self.intent.claimants(destination).cloned());
            }
            for (device, _) in &work.neighbours {
                ids.extend(self.intent.users(*device).cloned());
            }
        }
        for id in ids {
            if !world.desired.endpoints.contains_key(&id) {
                self.states.remove(&id);
                self.failing.remove(&id);
                continue;
            }
            let state = self.state_of(&id, outcome);
            if matches!(state, EndpointState::Error(_)) {
                self.failing.insert(id.clone());
            } else {
                self.failing.remove(&id);
            }
            if self.states.get(&id) != Some(&state) {
                self.states.insert(id, state);
            }
        }
    }

    fn state_of(&self, id: &WorkloadEndpointId, outcome: &Outcome) -> EndpointState {
        let state = self.intent.state(id).unwrap_or(EndpointState::Up);
        if state != EndpointState::Up {
            return state;
        }
        let (mut destinations, keys) = self.intent.places(id);
        let trouble = destinations
            .find_map(|destination| self.route_troubles.get(&destination))
            .or_else(|| keys.iter().find_map(|key| self.neighbour_troubles.get(key)))
            .or(outcome.error.as_ref());
        trouble.map_or(EndpointState::Up, |reason| EndpointState::Error(reason.clone()))
    }

    fn report(&self, world: &World, outcome: &Outcome, now: Duration) -> Report {
        let mut problems = BTreeSet::new();
        let mut problem = |subject: String, message: &str| {
            problems.insert(Problem { subject, message: message.to_owned() });
        };
        for id in &self.failing {
            if let Some(EndpointState::Error(reason)) = self.states.get(id) {
                problem(format!("endpoint {id}"), reason);
            }
        }
        for (destination, message) in &self.route_troubles {
            if self.intent.claimants(destination).next().is_none() {
                problem(format!("route {destination}"), message);
            }
        }
        if let Some(error) = &outcome.error {
            problem("routes".to_owned(), error);
        }
        let failed = outcome.retry || outcome.error.is_some();
        Report {
            applied: (!failed).then_some(world.desired.generation),
            endpoints: self.states.clone(),
            problems: problems.into_iter().collect(),
            facts: self.facts(),
            wake_after: self.next_wake(now),
            retry: outcome.retry,
        }
    }

    fn facts(&self) -> BTreeMap<String, String> {
        let count = |kind| self.actual.count(kind).to_string();
        BTreeMap::from([
            ("routes".to_owned(), count(RouteKind::Unicast)),
            ("blackholes".to_owned(), count(RouteKind::Blackhole)),
            ("neighbours".to_owned(), self.actual.neighbour_count().to_string()),
            ("writes".to_owned(), self.writes.to_string()),
            ("reads".to_owned(), self.reads.to_string()),
        ])
    }

    fn next_wake(&self, now: Duration) -> Option<Duration> {
        let refresh = self.intent.settings().route_refresh;
        let refresh = (!refresh.is_zero()).then(|| self.refreshed + refresh);
        let dead = self.intent.has_dead().then(|| now + DEAD_RETRY);
        let grace = self.grace_routes.values().chain(self.grace_neighbours.values()).min().copied();
        [refresh, dead, grace]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_sub(self.started.elapsed()))
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

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
