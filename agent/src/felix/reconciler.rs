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
//! 4. *Connections* of addresses that left, after nothing can make new ones.
//! 5. *Sysctls.*
//!
//! Between 1 and 3 a set holds the old and the new members. That is harmless for a rule that did
//! not change: each member comes or goes in one step. A rule that changes together with the members
//! of a set it names is another matter: "allow S" that becomes "deny S" as S grows would let the new
//! member through until step 2. Such chains are closed first and opened in step 2 (see
//! [`Felix::close_first`]): established connections are not asked, new ones wait for some
//! milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::model::{Family, InterfaceName, WorkloadEndpointId};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::time::Instant;
use tracing::{debug, info};

use super::conntrack::Conntrack;
use super::counters::Counters;
use super::endpoints::{InterfaceChanges, Interfaces};
use super::ipset::{Command, Entry, Phases, Refused, Sets};
use super::iptables::driver::Driver;
use super::iptables::names;
use super::iptables::probe::{Dataplane, ProbeError, probe};
use super::iptables::render::Renderer;
use super::iptables::save::Table;
use super::iptables::tables::{FamilyTables, Outcome, chain_of};
use super::ruleset::Direction;
use super::sets;
use super::sysctl::Sysctls;
use crate::config::{IptablesBackend, Settings};
use crate::desired::{ActiveRules, Change, DesiredDiff, DesiredState, SetId};
use crate::exec::Exec;
use crate::reconcile::{EndpointState, Problem, Reconciler, Report, Wake, World};
use crate::routes::monitor::Links;

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
    /// The sets are as `rendered` wants them.
    sets_known: bool,
    /// What the kernel refused to do with sets.
    refused: Vec<Refused>,
    /// Sets to destroy, and how often that was refused.
    doomed: BTreeMap<String, u32>,
    /// Addresses whose connections have to be forgotten.
    leaving: BTreeSet<IpAddr>,
    endpoints: OrdMap<WorkloadEndpointId, EndpointState>,
    /// What failed the endpoints as a whole in the last run.
    failure: Option<String>,
    check_tables: Option<Instant>,
    check_sets: Option<Instant>,
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
    wrote_tables: bool,
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
            sets: Sets::new(exec.clone(), counters.clone()),
            sysctls: Sysctls::new(proc_sys, counters.clone()),
            conntrack: Conntrack::new(exec.clone(), counters.clone()),
            exec,
            counters,
            dataplane: None,
            abandoned: None,
            families: Vec::new(),
            rendered: None,
            links: Links::new(),
            interfaces: Interfaces::default(),
            sets_known: false,
            refused: Vec::new(),
            doomed: BTreeMap::new(),
            leaving: BTreeSet::new(),
            endpoints: OrdMap::new(),
            failure: None,
            check_tables: None,
            check_sets: None,
        }
    }

    /// What was sent to the kernel so far. The numbers go on growing.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Finds the iptables to use, unless that is known.
    async fn choose(&mut self, settings: &Settings) -> Result<Dataplane, ProbeError> {
        let wanted = settings.iptables_backend;
        if let Some((asked, dataplane)) = &self.dataplane
            && *asked == wanted
        {
            return Ok(dataplane.clone());
        }
        let probed = probe(&self.exec, wanted).await?;
        info!(dataplane = %probed.chosen, "dataplane chosen");
        if let Some((_, old)) = self.dataplane.take()
            && old.flavour != probed.chosen.flavour
        {
            // What was known is of the other tables.
            self.families.iter_mut().for_each(|family| family.tables.forget());
        }
        self.abandoned = probed.abandoned;
        self.dataplane = Some((wanted, probed.chosen.clone()));
        Ok(probed.chosen)
    }

    /// The tables and renderers for these settings. `None` when the mark mask is too small.
    fn set_up(&mut self, settings: &Settings, dataplane: &Dataplane) -> Option<()> {
        let mut old = std::mem::take(&mut self.families);
        for family in Family::ALL {
            let wanted = family == Family::V4 || settings.ipv6;
            if !wanted || !self.sysctls.has(family) {
                continue;
            }
            let renderer = Renderer::new(settings, family, dataplane.random_fully)?;
            let tables = match old.iter().position(|one| one.family == family) {
                Some(at) => old.swap_remove(at).tables,
                None => FamilyTables::new(family, self.counters.clone()),
            };
            self.families.push(OneFamily { family, tables, renderer });
        }
        Some(())
    }

    fn family_list(&self) -> Vec<Family> {
        self.families.iter().map(|one| one.family).collect()
    }

    /// Brings what should be up to date with `state`; returns what that means for sets.
    fn render(&mut self, state: &Arc<DesiredState>) -> Rendered {
        let old = self.rendered.replace(Arc::clone(state));
        let diff = old.as_ref().map(|old| state.diff(old));
        let (Some(old), Some(diff)) = (old, diff.filter(|diff| !diff.settings)) else {
            let before: BTreeSet<_> = self.endpoints.keys().cloned().collect();
            let mut changes = self.interfaces.rebuild(state);
            changes.touched.extend(before);
            for one in &mut self.families {
                one.renderer.all(state, self.interfaces.macs(), &mut one.tables);
            }
            self.sets_known = false;
            return Rendered { changes, phases: Phases::default(), close: BTreeSet::new() };
        };
        let changes = self.interfaces.update(&diff.endpoints, state);
        let macs = changes.macs.then(|| self.interfaces.macs());
        let close = Self::close_first(&diff);
        for one in &mut self.families {
            one.renderer.changed(state, &diff, macs, &mut one.tables);
        }
        let phases = sets::changed(&old, state, &diff, &changes, &self.family_list());
        Rendered { changes, phases, close }
    }

    /// The chains whose rules change together with the members of a set that they name, before or
    /// after.
    fn close_first(diff: &DesiredDiff) -> BTreeSet<String> {
        let sets: BTreeSet<&SetId> = diff.sets_changed.iter().map(|(id, _)| id).collect();
        if sets.is_empty() {
            return BTreeSet::new();
        }
        let names_one = |rules: &ActiveRules| {
            rules.ingress.iter().chain(&rules.egress).any(|rule| {
                [&rule.source, &rule.destination].into_iter().any(|side| {
                    let lists = [&side.sets, &side.not_sets, &side.named_ports];
                    lists
                        .into_iter()
                        .chain([&side.not_named_ports])
                        .flatten()
                        .any(|id| sets.contains(id))
                })
            })
        };
        let concerned = |change: &Change<Arc<ActiveRules>>| matches!(change, Change::Updated { old, new } if names_one(old) || names_one(new));
        let policies = diff.policies.iter().filter(|(_, change)| concerned(change));
        let profiles = diff.profiles.iter().filter(|(_, change)| concerned(change));
        policies
            .flat_map(|(id, _)| Direction::ALL.map(|d| names::policy(id, d)))
            .chain(profiles.flat_map(|(name, _)| Direction::ALL.map(|d| names::profile(name, d))))
            .collect()
    }

    /// Reads the sets and plans everything. Addresses of endpoints that went away while nobody
    /// watched are noted.
    async fn read_sets(&mut self, state: &DesiredState, run: &mut Run) -> Option<Phases> {
        let actual = match self.sets.read().await {
            Ok(actual) => actual,
            Err(error) => {
                run.fail("address sets", chain_of(&error));
                return None;
            }
        };
        let families = self.family_list();
        let mut phases =
            super::ipset::full(&sets::all(state, &self.interfaces, &families), &actual);
        // Sets of a family that is switched off stay as its tables do.
        let ours = |name: &str| {
            families.iter().any(|family| name.starts_with(&format!("cali{}", family.number())))
        };
        phases.after.retain(|command| ours(command.set()));
        for command in &phases.after {
            if let Command::Delete(set, Entry::NetIface(net, _)) = command
                && net.is_host()
                && families.iter().any(|family| *set == names::local_endpoints(*family))
            {
                self.leaving.insert(net.address());
            }
        }
        self.refused.clear();
        let goes = |set: &String| phases.after.contains(&Command::Destroy(set.clone()));
        self.doomed.retain(|set, _| goes(set));
        Some(phases)
    }

    async fn write_sets(&mut self, commands: &[Command], run: &mut Run) {
        match self.sets.write(commands).await {
            Ok(refused) => {
                for one in refused {
                    if !self.refused.contains(&one) {
                        self.refused.push(one);
                    }
                }
            }
            Err(error) => {
                self.sets_known = false;
                run.fail("address sets", chain_of(&error));
            }
        }
    }

    /// Writes the tables of all families at once.
    async fn write_tables(&mut self, driver: &Driver) -> Vec<(Family, Outcome)> {
        let runs = self.families.iter_mut().map(|one| async {
            let closed = one.renderer.closed();
            (one.family, one.tables.apply(driver, &closed).await)
        });
        futures::future::join_all(runs).await
    }

    /// Closes `chains` until their new rules come.
    async fn close(&mut self, chains: &BTreeSet<String>, driver: &Driver) {
        debug!(count = chains.len(), "closing policies whose sets change with them");
        for one in &mut self.families {
            one.tables.close_now(Table::Filter, chains, &one.renderer.closed(), driver).await;
        }
    }

    fn judge_tables(&mut self, outcomes: Vec<(Family, Outcome)>, run: &mut Run) -> bool {
        let mut filter_in_force = true;
        for (family, outcome) in outcomes {
            run.wrote_tables |= outcome.wrote;
            for (table, error) in outcome.failed {
                filter_in_force &= table != Table::Filter;
                run.fail(&format!("{family} table {}", table.name()), chain_of(&error));
            }
            run.refused_chains |= !outcome.refused.is_empty();
            for (chain, said) in outcome.refused {
                let subject = self.subject_of(&chain).unwrap_or(chain);
                run.problem(
                    subject,
                    format!("the kernel refuses its {family} rules; it drops everything: {said}"),
                );
            }
            for (chain, said) in outcome.stuck {
                run.problem(
                    format!("chain {chain}"),
                    format!("cannot be deleted; does a rule of somebody else use it? {said}"),
                );
            }
        }
        filter_in_force
    }

    /// The policy or profile that a chain was made of.
    fn subject_of(&self, chain: &str) -> Option<String> {
        let state = self.rendered.as_ref()?;
        let policies = state
            .policies
            .keys()
            .flat_map(|id| Direction::ALL.map(|d| (names::policy(id, d), format!("policy {id}"))));
        let profiles = state.profiles.keys().flat_map(|name| {
            Direction::ALL.map(|d| (names::profile(name, d), format!("profile {name}")))
        });
        policies.chain(profiles).find(|(name, _)| name == chain).map(|(_, subject)| subject)
    }

    /// Step 3: what goes from the sets.
    async fn shrink_sets(&mut self, after: Vec<Command>, filter_in_force: bool, run: &mut Run) {
        let (destroy, mut delete): (Vec<_>, Vec<_>) =
            after.into_iter().partition(|command| matches!(command, Command::Destroy(_)));
        if !filter_in_force {
            // The old rules are still there. Taking a member from a set that they deny would open
            // them; an endpoint that leaves is another matter.
            delete.retain(|command| matches!(command, Command::Delete(_, Entry::NetIface(..))));
            self.sets_known = false;
        } else {
            for command in destroy {
                self.doomed.entry(command.set().to_owned()).or_insert(0);
            }
        }
        self.write_sets(&delete, run).await;
        if self.doomed.is_empty() || !filter_in_force {
            return;
        }
        let commands: Vec<_> = self.doomed.keys().cloned().map(Command::Destroy).collect();
        match self.sets.write(&commands).await {
            Ok(refused) => {
                let refused: BTreeSet<&str> = refused.iter().map(|r| r.command.set()).collect();
                self.doomed.retain(|set, tries| {
                    *tries += 1;
                    refused.contains(set.as_str())
                });
            }
            Err(error) => {
                self.sets_known = false;
                run.fail("address sets", chain_of(&error));
            }
        }
        for (set, _) in self.doomed.iter().filter(|(_, tries)| **tries >= DESTROY_PATIENCE) {
            run.problem(
                format!("address set {set}"),
                "cannot be destroyed; does a rule of somebody else use it?",
            );
        }
    }

    /// Cleans the iptables that an earlier run used, once the one in use is complete.
    async fn clean_abandoned(&mut self, run: &mut Run) {
        let Some(dataplane) = self.abandoned.clone() else { return };
        let driver = Driver::new(self.exec.clone(), dataplane.clone(), self.counters.clone());
        for one in &self.families {
            let mut nothing = FamilyTables::new(one.family, self.counters.clone());
            let outcome = nothing.apply(&driver, &[]).await;
            if let Some((table, error)) = outcome.failed.into_iter().next() {
                run.problem(
                    format!("{} table {}", dataplane.flavour, table.name()),
                    format!("cannot remove our rules of an earlier run: {}", chain_of(&error)),
                );
                return;
            }
        }
        info!(flavour = %dataplane.flavour, "rules of an earlier run removed");
        self.abandoned = None;
    }

    /// Step 5. Interfaces that are new, or all of them.
    fn set_sysctls(&self, interfaces: &BTreeSet<InterfaceName>, all: bool, run: &mut Run) {
        let families = self.family_list();
        let settings = self.rendered.as_ref().map(|state| &state.settings);
        let mut errors = Vec::new();
        if all && settings.is_some_and(|settings| settings.ip_forwarding) {
            errors.extend(self.sysctls.forwarding(&families));
        }
        for name in interfaces {
            errors.extend(self.sysctls.interface(name, &families));
        }
        for error in errors {
            // The interface went away meanwhile: that is told by the links.
            if error.source.kind() != std::io::ErrorKind::NotFound {
                run.problem(error.path.display().to_string(), chain_of(&error));
            }
        }
    }

    /// Brings the endpoints' states up to date.
    fn judge_endpoints(&mut self, touched: &BTreeSet<WorkloadEndpointId>, run: &Run) {
        let Some(state) = self.rendered.clone() else { return };
        let all = run.failed != self.failure;
        self.failure.clone_from(&run.failed);
        let ids: Vec<WorkloadEndpointId> = if all {
            self.endpoints.keys().chain(state.endpoints.keys()).cloned().collect()
        } else {
            touched.iter().cloned().collect()
        };
        for id in ids {
            match self.judge(&id, &state) {
                Some(judged) => self.endpoints.insert(id, judged),
                None => self.endpoints.remove(&id),
            };
        }
    }

    fn judge(&self, id: &WorkloadEndpointId, state: &DesiredState) -> Option<EndpointState> {
        let endpoint = state.endpoints.get(id)?;
        if let Some(failure) = &self.failure {
            return Some(EndpointState::Error(failure.clone()));
        }
        if !endpoint.active {
            return Some(EndpointState::Down("administratively down".to_owned()));
        }
        let interface = &endpoint.interface;
        match self.interfaces.owner(interface) {
            Some(owner) if owner == id => {}
            Some(owner) => {
                let said = format!("interface {interface} belongs to {owner}");
                return Some(EndpointState::Error(said));
            }
            None => return Some(EndpointState::Error("its class is not programmed".to_owned())),
        }
        // Its own members, or the set that they belong to.
        let sets = Family::ALL.map(|family| names::class_set(family, &endpoint.class));
        let concerns = |command: &Command| match command {
            Command::Add(_, Entry::NetIface(_, at)) => at == interface,
            Command::Create(set, _) => sets.contains(set),
            _ => false,
        };
        if let Some(refused) = self.refused.iter().find(|refused| concerns(&refused.command)) {
            return Some(EndpointState::Error(refused.to_string()));
        }
        Some(match self.links.get(interface) {
            None => EndpointState::Down(format!("interface {interface} is missing")),
            Some(link) if !link.up => EndpointState::Down(format!("interface {interface} is down")),
            Some(_) => EndpointState::Up,
        })
    }

    /// Notes which interfaces are new, another, or gone.
    fn follow_links(
        &mut self,
        links: &Links,
    ) -> (BTreeSet<InterfaceName>, BTreeSet<WorkloadEndpointId>) {
        let (mut appeared, mut touched) = (BTreeSet::new(), BTreeSet::new());
        for item in self.links.diff(links) {
            let name = match item {
                DiffItem::Add(name, _) => {
                    appeared.insert(name.clone());
                    name
                }
                DiffItem::Update { old: (_, old), new: (name, new) } => {
                    if old.index != new.index || (new.up && !old.up) {
                        appeared.insert(name.clone());
                    }
                    name
                }
                DiffItem::Remove(name, _) => name,
            };
            touched.extend(self.interfaces.claimants(name).cloned());
        }
        self.links = links.clone();
        (appeared, touched)
    }

    /// What nothing can be done about now.
    fn helpless(&mut self, world: &World, subject: &str, message: String) -> Report {
        self.rendered = None;
        let state = |_| EndpointState::Error(message.clone());
        let ids = world.desired.endpoints.keys().cloned();
        self.endpoints = ids.map(|id| (id.clone(), state(id))).collect();
        self.failure = Some(message.clone());
        Report {
            endpoints: self.endpoints.clone(),
            problems: vec![Problem { subject: subject.to_owned(), message }],
            facts: self.counters.facts(),
            retry: true,
            ..Report::default()
        }
    }

    fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = self.counters.facts();
        if let Some((_, dataplane)) = &self.dataplane {
            facts.insert("dataplane".to_owned(), dataplane.to_string());
        }
        facts
    }
}

/// What [`Felix::render`] found.
struct Rendered {
    changes: InterfaceChanges,
    phases: Phases,
    close: BTreeSet<String>,
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
            Err(error) => return self.helpless(world, "dataplane", chain_of(&error)),
        };
        let again = matches!(wake, Wake::Start | Wake::Retry);
        let check_tables = again || due(self.check_tables);
        let check_sets = again || due(self.check_sets);
        let settings_differ =
            self.rendered.as_ref().is_none_or(|rendered| rendered.settings != settings);
        if settings_differ && self.set_up(&settings, &dataplane).is_none() {
            let message =
                format!("IptablesMarkMask {:#x} has less than 4 bits", settings.mark_mask);
            return self.helpless(world, "settings", message);
        }
        let driver = Driver::new(self.exec.clone(), dataplane, self.counters.clone());
        let mut run = Run::default();
        let writes = self.counters.writes();

        let Rendered { changes, phases, close } = self.render(state);
        // A set that is to be destroyed and is wanted again: what it holds is not known.
        self.sets_known &= !check_sets && !phases.before.iter().any(|command| {
            matches!(command, Command::Create(set, _) if self.doomed.contains_key(set))
        });
        let read_sets = !self.sets_known;
        let phases = if read_sets { self.read_sets(state, &mut run).await } else { Some(phases) };
        // Without the sets no rule can be written that names them.
        let ready = phases.is_some();
        let Phases { before, after } = phases.unwrap_or_default();
        self.sets_known = ready;

        if !close.is_empty() && !check_tables {
            self.close(&close, &driver).await;
        }
        self.write_sets(&before, &mut run).await;
        let mut filter_in_force = false;
        if ready {
            if check_tables {
                self.families.iter_mut().for_each(|one| one.tables.forget());
            }
            let outcomes = self.write_tables(&driver).await;
            filter_in_force = self.judge_tables(outcomes, &mut run);
        }
        self.shrink_sets(after, filter_in_force, &mut run).await;
        for refused in &self.refused {
            run.problem(format!("address set {}", refused.command.set()), refused.to_string());
        }

        self.leaving.extend(changes.left.iter().copied());
        if let Err(error) = self.conntrack.forget(&self.leaving).await {
            let message = format!(
                "connections of addresses that left are not cut: {} (package conntrack)",
                chain_of(&error)
            );
            run.problem("conntrack", message);
        } else {
            self.leaving.clear();
        }

        let (mut appeared, mut touched) = self.follow_links(&world.links);
        touched.extend(changes.touched);
        let everything = check_tables || settings_differ;
        let wanted: BTreeSet<InterfaceName> = if everything {
            appeared.extend(self.interfaces.names().cloned());
            appeared
        } else {
            let owned = touched.iter().filter_map(|id| state.endpoints.get(id));
            appeared.extend(owned.map(|endpoint| endpoint.interface.clone()));
            appeared
        };
        let present = wanted
            .into_iter()
            .filter(|name| self.links.contains_key(name) && self.interfaces.owner(name).is_some())
            .collect();
        self.set_sysctls(&present, everything, &mut run);
        if run.failed.is_none() {
            self.clean_abandoned(&mut run).await;
        }
        self.judge_endpoints(&touched, &run);

        // When to look again: soon after a write, because another writer may have been at work
        // with what it read before; else at the refresh interval.
        let interval = |after: Duration| (!after.is_zero()).then(|| now + after);
        let look_soon = !settings.iptables_post_write_check.is_zero() && !run.refused_chains;
        if run.wrote_tables && look_soon {
            let soon = interval(settings.iptables_post_write_check);
            let planned = if check_tables { None } else { self.check_tables };
            self.check_tables = [soon, planned].into_iter().flatten().min();
        } else if check_tables || self.check_tables.is_none() {
            self.check_tables = interval(settings.iptables_refresh);
        }
        if read_sets {
            self.check_sets = interval(settings.ipsets_refresh);
        }
        // What cannot be destroyed for long is left to the refresh.
        let hope = self.doomed.values().any(|tries| *tries < DESTROY_PATIENCE);
        let doomed = hope.then(|| now + DESTROY_AGAIN);
        let next = [self.check_tables, self.check_sets, doomed].into_iter().flatten().min();

        if self.counters.writes() > writes {
            let (generation, endpoints) = (state.generation, state.endpoints.len());
            let problems = run.problems.len();
            info!(generation, endpoints, problems, reason = ?wake, "policy applied");
        }
        run.problems.sort();
        run.problems.dedup();
        Report {
            applied: run.failed.is_none().then_some(state.generation),
            endpoints: self.endpoints.clone(),
            problems: run.problems,
            facts: self.facts(),
            wake_after: next.map(|at| at.saturating_duration_since(now)),
            retry: run.failed.is_some(),
        }
    }
}
