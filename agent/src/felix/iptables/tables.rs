//! The tables of one family: what they should hold, what the kernel is known to hold, and the calls
//! that make the one the other.
//!
//! After the first reading nothing is read on the way of a change: what is known of the kernel is
//! brought up to date from what it accepted. After a failure everything is read again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_datastore::model::Family;
use tracing::{debug, info, warn};

use super::chain::Chain;
use super::driver::{Driver, IptablesError};
use super::names;
use super::plan::{DesiredTable, Jump, Plan, Scope, plan, plan_chains};
use super::save::{ActualTable, Table};
use crate::felix::counters::Counters;
use crate::telemetry::chain;

/// What became of an [`FamilyTables::apply`].
#[derive(Debug, Default)]
pub struct Outcome {
    /// True when something was written.
    pub wrote: bool,
    /// A table that could not be written at all, and why; nothing of it is in force.
    pub failed: Vec<(Table, IptablesError)>,
    /// Chains of policies and profiles that the kernel refuses: closed instead.
    pub refused: Vec<(String, String)>,
    /// Chains that should go but cannot.
    pub stuck: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct TableState {
    desired: DesiredTable,
    actual: ActualTable,
    /// Chains that may differ. Only their plan is made, unless `all`.
    dirty: BTreeSet<String>,
    all: bool,
    /// What the chains should say that are closed for a while.
    held: BTreeMap<String, Arc<Chain>>,
    /// What the chains say that are closed because the kernel refused that, and what it said.
    refused: BTreeMap<String, (Arc<Chain>, String)>,
}

/// The tables of one family.
#[derive(Debug)]
pub struct FamilyTables {
    family: Family,
    tables: BTreeMap<Table, TableState>,
    /// What is known of the kernel is true.
    known: bool,
    counters: Counters,
}

impl FamilyTables {
    /// Tables that should hold nothing of ours, and of which nothing is known.
    pub fn new(family: Family, counters: Counters) -> Self {
        let tables = Table::ALL.map(|table| (table, TableState::default())).into();
        Self { family, tables, known: false, counters }
    }

    /// Forgets what should be, to be told anew.
    pub fn clear(&mut self) {
        for state in self.tables.values_mut() {
            state.desired = DesiredTable::default();
            state.refused.clear();
            state.held.clear();
            state.all = true;
        }
    }

    /// The chain `name` should be there and hold `lines`.
    pub fn put(&mut self, table: Table, name: String, lines: Vec<String>) {
        let state = self.tables.entry(table).or_default();
        if let Some(held) = state.held.get_mut(&name) {
            // It stays closed; this is what it will say.
            *held = Arc::new(Chain::new(&name, lines));
            return;
        }
        // The text is compared before it is hashed: most chains of a tree did not change.
        match state.refused.get(&name) {
            Some((refused, _)) if refused.lines == lines => return,
            Some(_) => drop(state.refused.remove(&name)),
            None if state.desired.chains.get(&name).is_some_and(|c| c.lines == lines) => return,
            None => {}
        }
        let chain = Arc::new(Chain::new(&name, lines));
        state.dirty.insert(name.clone());
        state.desired.chains.insert(name, chain);
    }

    /// The chain `name` should not be there.
    pub fn remove(&mut self, table: Table, name: &str) {
        let state = self.tables.entry(table).or_default();
        state.refused.remove(name);
        state.held.remove(name);
        if state.desired.chains.remove(name).is_some() {
            state.dirty.insert(name.to_owned());
        }
    }

    /// The table should hold exactly these chains and jumps.
    pub fn replace(&mut self, table: Table, chains: Vec<(String, Vec<String>)>, jumps: Vec<Jump>) {
        let keep: BTreeSet<&String> = chains.iter().map(|(name, _)| name).collect();
        let state = self.tables.entry(table).or_default();
        let gone: Vec<String> =
            state.desired.chains.keys().filter(|name| !keep.contains(name)).cloned().collect();
        for name in gone {
            self.remove(table, &name);
        }
        for (name, lines) in chains {
            self.put(table, name, lines);
        }
        self.jumps(table, jumps);
    }

    /// The jumps into the table's chains.
    pub fn jumps(&mut self, table: Table, jumps: Vec<Jump>) {
        let state = self.tables.entry(table).or_default();
        state.all |= state.desired.jumps != jumps;
        state.desired.jumps = jumps;
    }

    /// Do not trust what is known; the next apply reads the kernel first and tries refused chains
    /// again.
    pub fn forget(&mut self) {
        self.known = false;
    }

    /// Every chain as it should be, for tests and for people.
    pub fn desired(&self, table: Table) -> impl Iterator<Item = (&str, &[String])> {
        let chains = self.tables.get(&table).map(|state| &state.desired.chains);
        chains.into_iter().flatten().map(|(name, chain)| (name.as_str(), chain.lines.as_slice()))
    }

    /// Reads the kernel if needed and writes what differs.
    pub async fn apply(&mut self, driver: &Driver, closed: &[String]) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.known
            && let Err(error) = self.read(driver).await
        {
            outcome.failed.push((Table::Filter, error));
            return outcome;
        }
        let plans = self.plans();
        if !plans.is_empty() {
            outcome.wrote = true;
            let text: String = plans.iter().map(|(_, plan)| plan.text.as_str()).collect();
            let lines: u64 = plans.iter().map(|(_, plan)| plan.lines).sum();
            debug!(family = %self.family, lines, "writing tables");
            match driver.restore(self.family, &text).await {
                Ok(()) => {
                    self.counters.iptables_lines.count(lines);
                    for (table, plan) in plans {
                        let state = self.tables.entry(table).or_default();
                        plan.done(&mut state.actual);
                    }
                }
                Err(error) if !error.blames_the_rules() => {
                    outcome.failed.push((Table::Filter, error));
                }
                Err(error) => {
                    // Somebody may have changed the tables meanwhile, or one object is bad.
                    debug!(family = %self.family, error = %chain(&error), "transaction refused");
                    if let Err(error) = self.read(driver).await {
                        outcome.failed.push((Table::Filter, error));
                        return outcome;
                    }
                    for table in Table::ALL {
                        self.isolate(table, driver, closed, &mut outcome).await;
                        // What says nothing about the rules would only be waited for again.
                        if outcome.failed.iter().any(|(_, error)| !error.blames_the_rules()) {
                            break;
                        }
                    }
                }
            }
        }
        if outcome.failed.is_empty() {
            for state in self.tables.values_mut() {
                state.dirty.clear();
                state.all = false;
            }
        } else {
            self.known = false;
        }
        for state in self.tables.values() {
            let refused = state.refused.iter();
            outcome.refused.extend(refused.map(|(name, (_, said))| (name.clone(), said.clone())));
        }
        outcome
    }

    /// Reads the kernel and says what [`FamilyTables::apply`] would write, without writing it.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub async fn preview(&mut self, driver: &Driver) -> Result<Vec<(Table, Plan)>, IptablesError> {
        self.read(driver).await?;
        Ok(self.plans())
    }

    /// Closes those of `chains` that the kernel holds, at once and until [`FamilyTables::open`].
    pub async fn close(
        &mut self,
        table: Table,
        chains: &BTreeSet<String>,
        closed: &[String],
        driver: &Driver,
    ) -> Result<(), IptablesError> {
        if !self.known {
            self.read(driver).await?;
        }
        let family = self.family;
        let Some(state) = self.tables.get_mut(&table) else { return Ok(()) };
        let fresh = |name: &&String| {
            state.actual.chains.contains_key(*name) && !state.held.contains_key(*name)
        };
        let fresh: Vec<_> = chains.iter().filter(fresh).collect();
        for name in fresh {
            let shut = Arc::new(Chain::new(name, closed.to_vec()));
            if let Some(chain) = state.desired.chains.insert(name.clone(), shut) {
                state.held.insert(name.clone(), chain);
            }
        }
        let shut = DesiredTable {
            chains: state
                .held
                .keys()
                .filter_map(|name| {
                    Some((name.clone(), Arc::clone(state.desired.chains.get(name)?)))
                })
                .collect(),
            jumps: Vec::new(),
        };
        // Only these: what else is to be written may name sets that are not there yet.
        let nothing = BTreeSet::new();
        let held = state.held.keys().cloned().collect();
        let scope = Scope { only: Some(&held), hold: &nothing, delete: false };
        let step = plan_chains(table, &shut, &state.actual, scope);
        commit(step, driver, family, &mut state.actual).await
    }

    /// What was closed for a while should be as it was told; the next apply writes it.
    pub fn open(&mut self) {
        for state in self.tables.values_mut() {
            for (name, chain) in std::mem::take(&mut state.held) {
                state.dirty.insert(name.clone());
                state.desired.chains.insert(name, chain);
            }
        }
    }

    async fn read(&mut self, driver: &Driver) -> Result<(), IptablesError> {
        let mut saved = driver.save(self.family).await?;
        for (table, state) in &mut self.tables {
            state.actual = saved.remove(table).unwrap_or_default();
            state.all = true;
            // What the kernel refused then it may take now.
            for (name, (chain, _)) in std::mem::take(&mut state.refused) {
                state.desired.chains.insert(name, chain);
            }
            state.actual.recognise(&state.desired.chains);
        }
        self.known = true;
        Ok(())
    }

    fn plans(&self) -> Vec<(Table, Plan)> {
        let nothing = BTreeSet::new();
        self.tables
            .iter()
            .filter(|(_, state)| state.all || !state.dirty.is_empty())
            .filter_map(|(table, state)| {
                let only = (!state.all).then_some(&state.dirty);
                let scope = Scope { only, hold: &nothing, delete: true };
                Some((*table, plan(*table, &state.desired, &state.actual, scope)?))
            })
            .collect()
    }

    /// Writes one table after the whole was refused, so that what is good gets in and what is bad
    /// is found.
    ///
    /// 1. Everything but the changed policies and profiles. Those that the kernel holds stay as
    ///    they are for now; those that are new are closed, so that they can be jumped to.
    /// 2. The policies and profiles, halving the group that is refused until one is left: that one
    ///    is closed.
    /// 3. What should go.
    async fn isolate(
        &mut self,
        table: Table,
        driver: &Driver,
        closed: &[String],
        outcome: &mut Outcome,
    ) {
        let family = self.family;
        let Some(state) = self.tables.get_mut(&table) else { return };
        let nothing = BTreeSet::new();
        let whole = Scope { only: None, hold: &nothing, delete: true };
        let Some(all) = plan(table, &state.desired, &state.actual, whole) else { return };
        let suspects: Vec<String> = all
            .touches()
            .filter(|name| {
                names::is_policy_or_profile(name) && state.desired.chains.contains_key(*name)
            })
            .map(str::to_owned)
            .collect();

        let mut first = state.desired.clone();
        let mut hold = BTreeSet::new();
        for name in &suspects {
            if state.actual.chains.contains_key(name) {
                hold.insert(name.clone());
            } else {
                first.chains.insert(name.clone(), Arc::new(Chain::new(name, closed.to_vec())));
            }
        }
        let scope = Scope { only: None, hold: &hold, delete: false };
        let base = plan(table, &first, &state.actual, scope);
        if let Err(error) = commit(base, driver, family, &mut state.actual).await {
            warn!(%family, table = table.name(), error = %chain(&error), "table refused");
            outcome.failed.push((table, error));
            return;
        }

        let mut groups = vec![suspects];
        while let Some(group) = groups.pop() {
            let only: BTreeSet<String> = group.iter().cloned().collect();
            let scope = Scope { only: Some(&only), hold: &nothing, delete: false };
            let step = plan(table, &state.desired, &state.actual, scope);
            let Err(error) = commit(step, driver, family, &mut state.actual).await else {
                continue;
            };
            if !error.blames_the_rules() {
                outcome.failed.push((table, error));
                return;
            }
            match group.as_slice() {
                [] => {}
                [name] => {
                    let said = chain(&error);
                    warn!(%family, chain = %name, error = %said, "chain refused, closing it");
                    let shut = Arc::new(Chain::new(name, closed.to_vec()));
                    if let Some(chain) = state.desired.chains.insert(name.clone(), shut) {
                        state.refused.insert(name.clone(), (chain, said));
                    }
                }
                many => {
                    let (low, high) = many.split_at(many.len() / 2);
                    groups.extend([low.to_vec(), high.to_vec()]);
                }
            }
        }

        let scope = Scope { only: None, hold: &nothing, delete: false };
        let shut = plan(table, &state.desired, &state.actual, scope);
        if let Err(error) = commit(shut, driver, family, &mut state.actual).await {
            outcome.failed.push((table, error));
            return;
        }
        let rest = plan(table, &state.desired, &state.actual, whole);
        if let Err(error) = commit(rest, driver, family, &mut state.actual).await {
            // Somebody else jumps into a chain of ours. It is empty of effect for everybody else.
            let said = chain(&error);
            let left =
                state.actual.chains.keys().filter(|n| !state.desired.chains.contains_key(*n));
            outcome.stuck.extend(left.map(|name| (name.clone(), said.clone())));
        }
        info!(%family, table = table.name(), "table written piece by piece");
    }

    /// True when nothing of ours is or should be there.
    pub fn is_empty(&self) -> bool {
        self.tables.values().all(|s| s.desired.chains.is_empty() && !s.actual.holds_ours())
    }
}

async fn commit(
    plan: Option<Plan>,
    driver: &Driver,
    family: Family,
    actual: &mut ActualTable,
) -> Result<(), IptablesError> {
    let Some(plan) = plan else { return Ok(()) };
    driver.restore(family, &plan.text).await?;
    plan.done(actual);
    Ok(())
}
