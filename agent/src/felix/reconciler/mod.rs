//! The reconciler: in which order the kernel is changed, and what is said about it.
//!
//! What the kernel's objects are is a [`Backend`]'s; here is what is the same for each of them, and the
//! order of it all:
//!
//! 1. *The backend*: rules, and the sets that they name.
//! 2. *Connections* of addresses that left, and those that policy denies and that came to be while
//!    our rules were not in force ([`connections`]), after nothing can make new ones.
//! 3. *Parameters* of interfaces.
//! 4. What a dataplane of an earlier run left goes, once all that is complete.
//!
//! A state from disk only gives: what it does not know stays until the datastore has answered.

mod backend;
mod connections;
mod due;
mod from_disk;
mod judge;
mod parameters;
mod prepare;
mod run;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use calico_datastore::model::{Family, InterfaceName, WorkloadEndpointId};
use imbl::OrdMap;
use tokio::time::Instant;
use tracing::info;

use self::backend::Backend;
pub(in crate::felix) use self::backend::Job;
use self::connections::Suspects;
pub(in crate::felix) use self::run::Run;
use super::conntrack::Conntrack;
use super::counters::Counters;
use super::pick::Abandoned;
use super::scene::Stage;
use super::sysctl::Sysctls;
use super::watch::{Changes, Kept, Kind, Pace};
use crate::config::Wanted;
use crate::desired::DesiredState;
use crate::exec::{Children, Exec};
use crate::reconcile::{EndpointState, InForce, Problem, Reconciler, Report, Wake, World};
use crate::routes::monitor::Links;
use crate::telemetry::{chain, event};

/// The reconciler of policy.
#[derive(Debug)]
pub struct Felix {
    exec: Exec,
    counters: Counters,
    sysctls: Sysctls,
    conntrack: Conntrack,
    /// What carries policy into the kernel, and the setting that it was chosen for. A run takes it out
    /// and puts it back.
    backend: Option<(Wanted, Backend)>,
    /// What an earlier run left elsewhere and that is still to go.
    abandoned: VecDeque<Abandoned>,
    /// How often that did not go.
    clinging: u32,
    /// The families of the kernel.
    known: Vec<Family>,
    /// Those that are switched on.
    on: Vec<Family>,
    /// What should be, as far as it was told to the backend.
    stage: Stage,
    links: Links,
    /// The servers of the datastore.
    datastore: Vec<SocketAddr>,
    /// What host endpoints cut off.
    cut_off: Vec<Problem>,
    /// Of which state and interfaces that was found.
    cut_off_of: Option<(Arc<DesiredState>, Links)>,
    /// Something was refused in the last run.
    had_refused: bool,
    /// Interfaces whose parameters could not be set.
    unset: BTreeSet<InterfaceName>,
    /// Forwarding could not be switched on.
    forwarding_failed: bool,
    /// Addresses whose connections have to be forgotten.
    leaving: BTreeSet<IpAddr>,
    /// External addresses whose connections have to be forgotten.
    moved: BTreeSet<IpAddr>,
    /// Families with connections that policy was not asked about.
    unasked: BTreeSet<Family>,
    /// Families with connections that may have gone by the chains of external addresses.
    untranslated: BTreeSet<Family>,
    /// Policy changed in a way that may deny connections.
    suspects: Suspects,
    /// The kernel tells about connections; `None` = not looked yet.
    conntrack_works: Option<bool>,
    endpoints: OrdMap<WorkloadEndpointId, EndpointState>,
    /// What those were that are up.
    in_force: InForce,
    /// What failed the endpoints as a whole in the last run.
    failure: Option<String>,
    /// What the watch saw, and what it has to know.
    changes: Changes,
    pace: Pace,
    /// The parameters that were set, and whose change is somebody else's.
    kept: Kept,
}

impl Felix {
    /// A reconciler for the network namespace of this process. `proc_sys` is `/proc/sys`.
    ///
    /// Nothing is asked or touched before the first run. Call [`super::probe`] before, to end with
    /// an error that says what is missing on this host.
    pub fn new(exec: Exec, proc_sys: PathBuf) -> Self {
        let counters = Counters::default();
        Self {
            sysctls: Sysctls::new(proc_sys, counters.clone()),
            conntrack: Conntrack::new(counters.clone()),
            exec,
            counters,
            backend: None,
            abandoned: VecDeque::new(),
            clinging: 0,
            known: Vec::new(),
            on: Vec::new(),
            stage: Stage::default(),
            links: Links::new(),
            datastore: Vec::new(),
            cut_off: Vec::new(),
            cut_off_of: None,
            had_refused: false,
            unset: BTreeSet::new(),
            forwarding_failed: false,
            leaving: BTreeSet::new(),
            moved: BTreeSet::new(),
            unasked: BTreeSet::new(),
            untranslated: BTreeSet::new(),
            suspects: Suspects::default(),
            conntrack_works: None,
            endpoints: OrdMap::new(),
            in_force: InForce::new(),
            failure: None,
            changes: Changes::default(),
            pace: Pace::default(),
            kept: Kept::default(),
        }
    }

    /// Says when a host endpoint cuts off these servers.
    pub fn with_datastore(self, datastore: Vec<SocketAddr>) -> Self {
        Self { datastore, ..self }
    }

    /// What was sent to the kernel so far. The numbers go on growing.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// The channel for what others touch: [`super::watch::Watch`] fills it.
    pub fn changes(&self) -> Changes {
        self.changes.clone()
    }

    /// The programs that it started.
    pub(super) fn children(&self) -> Children {
        self.exec.children()
    }

    /// The parameters as it sees them.
    pub(super) fn sysctls(&self) -> Sysctls {
        self.sysctls.clone()
    }

    fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = self.counters.facts();
        if let Some((_, backend)) = &self.backend {
            facts.insert("dataplane".to_owned(), backend.to_string());
        }
        let externals = self.stage.interfaces().externals();
        if !externals.is_empty() {
            let mut said = format!("{} in force", externals.given.len());
            if externals.off > 0 {
                said.push_str(&format!(", {} not: FloatingIPs is Disabled", externals.off));
            }
            facts.insert("external addresses".to_owned(), said);
        }
        facts
    }
}

impl Reconciler for Felix {
    const NAME: &'static str = "felix";

    async fn reconcile(&mut self, world: &World, wake: Wake) -> Report {
        let state = &world.desired;
        let settings = Arc::clone(&state.settings);
        let now = Instant::now();
        let mut backend = match self.choose(&settings).await {
            Ok(backend) => backend,
            Err(error) => return self.helpless(world, "dataplane", chain(&error)),
        };
        // The watch looks at nothing while this run writes.
        let mut turn = self.changes.turn().await;
        self.changes.set_rules(backend.rules(), &mut turn);
        let from_disk = self.comes_from_disk_no_more(state);
        let again = matches!(wake, Wake::Start | Wake::Retry) || from_disk;
        let check = again || backend.is_due(now);
        let told = self.told(again, now);
        let doubtful = self.doubtful(&told, again, check, now);
        let settings_differ = self.stage.state().is_none_or(|before| before.settings != settings);
        let mut run = Run::default();
        let writes = self.counters.writes();
        if let Some(before) = self.stage.state().filter(|_| !from_disk) {
            backend.look_back(&self.stage.scene(before), &doubtful, &mut run).await;
        }
        if settings_differ && let Err(message) = self.set_up(&settings, &mut backend) {
            self.backend = Some((settings.wanted_dataplane(), backend));
            return self.helpless(world, "settings", message);
        }
        let restores = (self.counters.iptables_restores.get(), self.counters.ipset_restores.get());

        let update = self.stage.update(state, &world.links);
        let job = Job {
            scene: self.stage.scene(state),
            links: &world.links,
            changed: update.changed(),
            known: &self.known,
            on: &self.on,
            all: again,
            check,
            told: &told,
            doubtful: &doubtful,
            from_disk,
            now,
        };
        let in_force = backend.run(&job, &mut run).await;
        self.tell_externals(&mut run);
        self.tell_honest(&mut run);

        let may_deny = update.may_deny();
        let mut changes = update.interfaces;
        if settings_differ {
            changes.touched.extend(self.endpoints.keys().cloned());
        }
        if !from_disk {
            self.note_holes(&run.drift);
        }
        self.unasked.append(&mut run.unasked);
        self.untranslated.append(&mut run.untranslated);
        let ask_again = self.note_change(may_deny, state, now);
        self.check_conntrack(check, &mut run).await;
        self.ask_connections(state, in_force, &mut run).await;
        self.leaving.append(&mut run.left);
        self.leaving.append(&mut changes.left);
        self.moved.append(&mut run.moved);
        self.moved.append(&mut changes.moved);
        self.forget_connections(&mut run).await;

        let (appeared, mut touched) = self.follow_links(&world.links);
        touched.extend(changes.touched);
        let everything =
            again || settings_differ || (check && !self.pace.rests(Kind::Parameters, now));
        let present = self.whose_parameters(appeared, &touched, &told, everything);
        self.set_sysctls(present, everything || told.forwarding, &mut run);
        if run.failed.is_none() && !state.origin.is_stored() {
            self.clean_abandoned(&mut run).await;
        }
        self.judge_endpoints(&touched, &backend, &run);

        let look = backend.next_look(now);
        let pace = self.keep_pace(&told, &mut run, now);
        let fought = self.pace.fought(Kind::Groups, now).map(str::to_owned);
        let yields = fought.is_some_and(|subject| backend.groups_are_fought_about(&subject));
        self.backend = Some((settings.wanted_dataplane(), backend));
        turn.wrote(
            self.counters.iptables_restores.get() > restores.0,
            self.counters.ipset_restores.get() > restores.1,
        );
        let at_once = yields.then_some(now);
        let next = [look, pace, ask_again, at_once].into_iter().flatten().min();

        // A try that failed as the one before is no news; a program that hangs would fill the journal.
        let in_vain = wake == Wake::Retry && !run.problems.is_empty();
        if self.counters.writes() > writes && !in_vain {
            let (generation, endpoints) = (state.generation, state.endpoints.len());
            let problems = run.problems.len();
            info!(
                event = event::APPLIED,
                generation,
                endpoints,
                problems,
                reason = ?wake,
                "policy applied"
            );
        }
        let hosts = self.judge_hosts(state, &mut run);
        run.problems.sort();
        run.problems.dedup();
        if from_disk {
            // What the policy from disk let be goes now: that is nobody's doing.
            run.drift.clear();
        }
        Report {
            applied: run.failed.is_none().then_some(state.generation),
            given: Some(state.generation),
            endpoints: self.endpoints.clone(),
            hosts,
            externals: Some(self.stage.interfaces().share_externals()),
            in_force: self.in_force.clone(),
            problems: run.problems,
            facts: self.facts(),
            drift: run.drift,
            wake_after: next.map(|at| at.saturating_duration_since(now)),
            retry: run.failed.is_some() || run.surprise,
            ..Report::default()
        }
    }
}
