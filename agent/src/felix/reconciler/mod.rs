//! The reconciler: in which order the kernel is changed, and what is said about it.
//!
//! The order of an apply, and why:
//!
//! 1. *Sets that are new, and members that are new.* A rule cannot name a set that is not there, and
//!    a rule that allows must find its members when it comes into force. A new endpoint is in its
//!    class set before the class has a rule: until then its packets meet the DROP at the end of the
//!    dispatch.
//! 2. *The tables*, each in one transaction.
//! 3. *Members and sets that go.* An endpoint that changes its class is in both sets for a moment:
//!    the old or the new class decides, never none.
//! 4. *Connections* of addresses that left, and those that policy denies and that came to be while
//!    our rules were not in force ([`connections`]), after nothing can make new ones.
//! 5. *Sysctls.*
//!
//! Between 1 and 3 a set holds the old and the new members. That is harmless for a rule that did
//! not change: each member comes or goes in one step. A rule that changes together with the members
//! of a set it names is another matter: see `copies`.
//! A family whose tables cannot be read or written keeps its sets; the other one goes on. A state from
//! disk only gives: what it does not know stays until the datastore has answered.
//!
//! A set that the kernel does not fill (`maxelem`) closes the policies and profiles that name it: its
//! "deny" would leak, and so would its "not in". A tool that fails as a whole leaves the old rules,
//! and the classes that they know, as they are.

mod apply;
mod connections;
mod copies;
mod due;
mod from_disk;
mod judge;
mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::model::{Family, InterfaceName, WorkloadEndpointId};
use imbl::OrdMap;
use tokio::time::Instant;
use tracing::info;

use self::connections::Suspects;
use self::copies::Copies;
use super::conntrack::Conntrack;
use super::counters::Counters;
use super::endpoints::{InterfaceChanges, Interfaces};
use super::hosts::choose::Chosen;
use super::ipset::{Command, Phases, Refused, Sets};
use super::iptables::driver::Driver;
use super::iptables::probe::Dataplane;
use super::iptables::render::Renderer;
use super::iptables::tables::FamilyTables;
use super::iptables::uses::Uses;
use super::sysctl::Sysctls;
use super::watch::{Changes, Kept, Kind, Pace};
use crate::config::IptablesBackend;
use crate::desired::DesiredState;
use crate::drift::Drift;
use crate::exec::{Children, Exec};
use crate::reconcile::{EndpointState, InForce, Problem, Reconciler, Report, Wake, World};
use crate::routes::monitor::Links;
use crate::telemetry::chain;

/// How soon a set that was still in use is tried again. nf_tables lets go of the sets of a deleted
/// rule some time after the transaction.
const DESTROY_AGAIN: Duration = Duration::from_millis(500);
/// After how many tries a set that cannot be destroyed is worth telling.
const DESTROY_PATIENCE: u32 = 10;

/// The reconciler of policy.
#[derive(Debug)]
pub struct Felix {
    exec: Exec,
    counters: Counters,
    sets: Sets,
    sysctls: Sysctls,
    conntrack: Conntrack,
    /// Which iptables, and the setting that it was chosen for.
    dataplane: Option<(IptablesBackend, Dataplane)>,
    /// An iptables that an earlier run used and that is still to be cleaned.
    abandoned: Option<Dataplane>,
    families: Vec<OneFamily>,
    /// The state that the tables were rendered from.
    rendered: Option<Arc<DesiredState>>,
    links: Links,
    interfaces: Interfaces,
    /// Which host endpoint is about which interface.
    chosen: Chosen,
    /// Which policies and profiles are used where.
    uses: Uses,
    /// The servers of the datastore.
    datastore: Vec<SocketAddr>,
    /// What host endpoints cut off.
    cut_off: Vec<Problem>,
    /// Of which state and interfaces that was found.
    cut_off_of: Option<(Arc<DesiredState>, Links)>,
    /// The sets are as `rendered` wants them.
    sets_known: bool,
    /// What the kernel refused to do with sets.
    refused: Vec<Refused>,
    /// Something was refused in the last run.
    had_refused: bool,
    /// Sets that do not hold all that they should, and what the kernel said.
    incomplete: BTreeMap<String, String>,
    /// Policies are closed because of `incomplete`.
    shut: bool,
    /// Interfaces whose parameters could not be set.
    unset: BTreeSet<InterfaceName>,
    /// Forwarding could not be switched on.
    forwarding_failed: bool,
    /// Sets to destroy, and how often that was refused.
    doomed: BTreeMap<String, u32>,
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
    check_tables: Option<Instant>,
    check_sets: Option<Instant>,
    /// What the watch saw, and what it has to know.
    changes: Changes,
    pace: Pace,
    /// The parameters that were set, and whose change is somebody else's.
    kept: Kept,
}

#[derive(Debug)]
struct OneFamily {
    family: Family,
    tables: FamilyTables,
    renderer: Renderer,
}

/// What one run found out.
#[derive(Debug, Default)]
struct Run {
    problems: Vec<Problem>,
    /// Something is not in force.
    failed: Option<String>,
    /// The sets are not what was known of them.
    sets_surprise: bool,
    wrote_tables: bool,
    /// What others had changed.
    drift: Vec<Drift>,
    /// A policy is closed because the kernel refuses it. It is tried again at the refresh, not
    /// after every write of the others.
    refused_chains: bool,
}

impl Run {
    fn problem(&mut self, subject: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { subject: subject.into(), message: message.into() });
    }

    fn fail(&mut self, subject: &str, message: String) {
        self.failed.get_or_insert_with(|| format!("{subject}: {message}"));
        self.problem(subject, message);
    }
}

impl Felix {
    /// A reconciler for the network namespace of this process. `proc_sys` is `/proc/sys`.
    ///
    /// Nothing is asked or touched before the first run. Call [`super::probe`] before, to end with
    /// an error that says what is missing on this host.
    pub fn new(exec: Exec, proc_sys: PathBuf) -> Self {
        let counters = Counters::default();
        Self {
            sets: Sets::new(counters.clone()),
            sysctls: Sysctls::new(proc_sys, counters.clone()),
            conntrack: Conntrack::new(counters.clone()),
            exec,
            counters,
            dataplane: None,
            abandoned: None,
            families: Vec::new(),
            rendered: None,
            links: Links::new(),
            interfaces: Interfaces::default(),
            chosen: Chosen::default(),
            uses: Uses::default(),
            datastore: Vec::new(),
            cut_off: Vec::new(),
            cut_off_of: None,
            sets_known: false,
            refused: Vec::new(),
            had_refused: false,
            incomplete: BTreeMap::new(),
            shut: false,
            unset: BTreeSet::new(),
            forwarding_failed: false,
            doomed: BTreeMap::new(),
            leaving: BTreeSet::new(),
            moved: BTreeSet::new(),
            unasked: BTreeSet::new(),
            untranslated: BTreeSet::new(),
            suspects: Suspects::default(),
            conntrack_works: None,
            endpoints: OrdMap::new(),
            in_force: InForce::new(),
            failure: None,
            check_tables: None,
            check_sets: None,
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

    /// The families that are switched on.
    fn family_list(&self) -> Vec<Family> {
        let on = self.families.iter().filter(|one| !one.renderer.is_off());
        on.map(|one| one.family).collect()
    }

    fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = self.counters.facts();
        if let Some((_, dataplane)) = &self.dataplane {
            facts.insert("dataplane".to_owned(), dataplane.to_string());
        }
        let externals = self.interfaces.externals();
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

/// What [`Felix::render`] found.
struct Rendered {
    changes: InterfaceChanges,
    phases: Phases,
    /// Policy may deny what it allowed.
    may_deny: bool,
}

impl Reconciler for Felix {
    const NAME: &'static str = "felix";

    async fn reconcile(&mut self, world: &World, wake: Wake) -> Report {
        let state = &world.desired;
        let settings = Arc::clone(&state.settings);
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);

        let dataplane = match self.choose(&settings).await {
            Ok(dataplane) => dataplane,
            Err(error) => return self.helpless(world, "dataplane", chain(&error)),
        };
        // The watch looks at nothing while this run writes.
        let mut turn = self.changes.turn().await;
        self.changes.set_flavour(dataplane.flavour, &mut turn);
        let from_disk = self.comes_from_disk_no_more(state);
        let again = matches!(wake, Wake::Start | Wake::Retry) || from_disk;
        let check_tables = again || due(self.check_tables);
        let told = self.told(again, now);
        let doubtful = self.doubtful(&told, again, check_tables, now);
        let check_sets = again || due(self.check_sets) || !told.sets.is_empty();
        let settings_differ =
            self.rendered.as_ref().is_none_or(|rendered| rendered.settings != settings);
        if settings_differ && self.set_up(&settings, &dataplane).is_none() {
            let message =
                format!("IptablesMarkMask {:#x} has less than 4 bits", settings.mark_mask);
            return self.helpless(world, "settings", message);
        }
        let driver = Driver::new(self.exec.clone(), dataplane, self.counters.clone());
        let mut run = Run::default();
        for one in &mut self.families {
            one.tables.keep_unknown(state.origin.is_stored());
        }
        let writes = self.counters.writes();
        let restores = (self.counters.iptables_restores.get(), self.counters.ipset_restores.get());

        let Rendered { changes, phases, may_deny } = self.render(state, &world.links);
        // A set that is to be destroyed and is wanted again: what it holds is not known.
        // What a state from disk left alone is no change of somebody else.
        let were_right = self.sets_known && !from_disk;
        self.sets_known &= !check_sets && !phases.before.iter().any(|command| {
            matches!(command, Command::Create(set, _) if self.doomed.contains_key(set))
        });
        let read_sets = !self.sets_known;
        let phases = if read_sets {
            self.read_sets(state, were_right.then_some(&phases), &mut run).await
        } else {
            Some(phases)
        };
        let mut ready = phases.is_some();
        let mut phases = phases.unwrap_or_default();
        self.sets_known = ready;

        let doubtful = self.families.iter_mut().filter(|one| doubtful.contains(&one.family));
        doubtful.for_each(|one| one.tables.forget());
        let mut copies = Copies::default();
        if ready {
            copies = self.plan_copies(&mut phases, state, &driver, &mut run).await;
        }
        let Phases { before, after } = phases;
        // Without the sets no rule can be written that names them: the old rules stay, and no policy
        // is blamed.
        ready = ready && self.write_sets(&before, &mut run).await;
        self.sets_known &= ready;
        self.name_copies(&copies, state);
        let mut in_force = BTreeSet::new();
        if ready {
            let outcomes =
                self.write_tables(&driver, |family| !copies.unread.contains(&family)).await;
            in_force = self.judge_tables(outcomes, &mut run);
        }
        self.follow_copies(&mut copies, &in_force, &mut run).await;
        self.shrink_sets(after, &in_force, &mut run).await;
        self.settle_copies(copies, state, &in_force, &driver, &mut run).await;
        self.tell_externals(&mut run);
        self.tell_honest(&mut run);
        for (set, said) in &self.incomplete {
            run.problem(format!("address set {set}"), said.clone());
        }

        if !from_disk {
            self.note_holes(&run.drift);
        }
        let ask_again = self.note_change(may_deny, state, now);
        let in_force = self.families.iter().all(|one| in_force.contains(&one.family));
        self.check_conntrack(again || check_tables, &mut run).await;
        self.ask_connections(state, in_force, &mut run).await;
        self.leaving.extend(changes.left.iter().copied());
        self.moved.extend(changes.moved.iter().copied());
        self.forget_connections(&mut run).await;

        let (appeared, mut touched) = self.follow_links(&world.links);
        touched.extend(changes.touched);
        let everything =
            again || settings_differ || (check_tables && !self.pace.rests(Kind::Parameters, now));
        let present = self.whose_parameters(appeared, &touched, &told, everything);
        self.set_sysctls(present, everything || told.forwarding, &mut run);
        if run.failed.is_none() && !state.origin.is_stored() {
            self.clean_abandoned(&mut run).await;
        }
        self.judge_endpoints(&touched, &run);

        self.plan_looks(check_tables, read_sets, &settings, &run, now);
        // What cannot be destroyed for long is left to the refresh.
        let hope = self.doomed.values().any(|tries| *tries < DESTROY_PATIENCE);
        let doomed = hope.then(|| now + DESTROY_AGAIN);
        let pace = self.keep_pace(&told, &mut run, now);
        turn.wrote(
            self.counters.iptables_restores.get() > restores.0,
            self.counters.ipset_restores.get() > restores.1,
        );
        let times = [self.check_tables, self.check_sets, doomed, pace, ask_again];
        let next = times.into_iter().flatten().min();

        // A try that failed as the one before is no news; a program that hangs would fill the journal.
        let in_vain = wake == Wake::Retry && !run.problems.is_empty();
        if self.counters.writes() > writes && !in_vain {
            let (generation, endpoints) = (state.generation, state.endpoints.len());
            let problems = run.problems.len();
            info!(generation, endpoints, problems, reason = ?wake, "policy applied");
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
            externals: Some(self.interfaces.share_externals()),
            in_force: self.in_force.clone(),
            problems: run.problems,
            facts: self.facts(),
            drift: run.drift,
            wake_after: next.map(|at| at.saturating_duration_since(now)),
            retry: run.failed.is_some() || run.sets_surprise,
            ..Report::default()
        }
    }
}
