//! The tables of one family: what they should hold, what the kernel is known to hold, and the calls
//! that make the one the other.
//!
//! After the first reading nothing is read on the way of a change: what is known of the kernel is
//! brought up to date from what it accepted. Whoever has reason to think that somebody else was at
//! work calls [`FamilyTables::forget`]: then the next apply reads, compares with what is known, says
//! what is different ([`Outcome::drift`]) and puts it right. What we changed ourselves is in what is
//! known, so it is never reported.
//!
//! A rule of ours whose text cannot be explained ([`super::spelling`]) is written again like any that
//! somebody changed. When it is then read back with the same text it was the tool's way to print it,
//! and is learned; nothing is reported.

mod copies;
mod isolate;
mod moved;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::model::Family;
use tracing::debug;

use self::read::Look;
use super::chain::Chain;
use super::driver::{Driver, IptablesError};
use super::plan::{DesiredTable, Jump, Plan, Scope, plan};
use super::save::{ActualTable, Table};
use super::spelling::Spellings;
use crate::drift::Drift;
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
    /// What others had changed, and is as it should be now.
    pub drift: Vec<Drift>,
    /// Packets did not come to our rules before this, and nothing was known of that: what the first
    /// reading found had no way into chains of ours that are not empty.
    pub was_open: bool,
    /// Packets may have gone by our translation before this, and nothing was known of that: what the
    /// first reading found in `nat` was not all that should be there.
    pub was_untranslated: bool,
    /// External addresses that led elsewhere before this, and of which nothing was known.
    pub moved: BTreeSet<IpAddr>,
}

/// What is known of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// Nothing. What the next reading finds is taken as it is.
    Nothing,
    /// What it held; somebody may have changed it since.
    Doubted,
    /// What it holds.
    Sure,
}

#[derive(Debug, Default)]
struct TableState {
    desired: DesiredTable,
    actual: ActualTable,
    /// Chains that may differ. Only their plan is made, unless `all`.
    dirty: BTreeSet<String>,
    all: bool,
    /// What the chains should say that name copies of sets for a while.
    held: BTreeMap<String, Arc<Chain>>,
    /// What the chains say that are closed because the kernel refused that, and what it said.
    refused: BTreeMap<String, (Arc<Chain>, String)>,
    /// The search for refused chains goes on in the next run.
    unfinished: bool,
    /// Chains that should go but cannot, and why.
    stuck: Vec<(String, String)>,
}

/// The tables of one family.
#[derive(Debug)]
pub struct FamilyTables {
    family: Family,
    tables: BTreeMap<Table, TableState>,
    knowledge: Knowledge,
    spellings: Spellings,
    /// What was found changed and is not yet put right, by subject.
    drift: BTreeMap<String, Drift>,
    /// How long one apply looks for what the kernel refuses in a table.
    patience: Duration,
    /// Chains of ours that should not be there stay for now.
    keep: bool,
    /// What the first reading found let packets pass by our chains.
    open_before: bool,
    /// What the first reading found let packets go by our translation.
    untranslated_before: bool,
    /// External addresses that led elsewhere when the first reading found them.
    moved_before: BTreeSet<IpAddr>,
    counters: Counters,
}

/// What a chain of a table says instead, by its name, that the kernel refuses.
pub type Closed<'a> = &'a (dyn Fn(Table, &str) -> Vec<String> + Sync);

/// Long enough for hundreds of refused chains, and short against any watchdog.
const PATIENCE: Duration = Duration::from_secs(5);

impl FamilyTables {
    /// Tables that should hold nothing of ours, and of which nothing is known.
    pub fn new(family: Family, counters: Counters) -> Self {
        let tables = Table::ALL.map(|table| (table, TableState::default())).into();
        Self {
            family,
            tables,
            knowledge: Knowledge::Nothing,
            spellings: Spellings::default(),
            drift: BTreeMap::new(),
            patience: PATIENCE,
            keep: false,
            open_before: false,
            untranslated_before: false,
            moved_before: BTreeSet::new(),
            counters,
        }
    }

    /// The same with another patience, for tests: how long one apply looks for what the kernel
    /// refuses in a table.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Forgets what should be, to be told anew.
    pub fn clear(&mut self) {
        for state in self.tables.values_mut() {
            state.desired = DesiredTable::default();
            state.refused.clear();
            state.unfinished = false;
            state.held.clear();
            state.all = true;
        }
    }

    /// The chain `name` should be there and hold `lines`.
    pub fn put(&mut self, table: Table, name: String, lines: Vec<String>) {
        let state = self.tables.entry(table).or_default();
        if let Some(held) = state.held.get_mut(&name) {
            // It still names a copy; this is what it will say.
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
        self.replace_but(|_| false, table, chains, jumps);
    }

    /// The table should hold exactly these chains and jumps, beside those of its chains for which
    /// `others` says yes: they are told by themselves.
    pub fn replace_but(
        &mut self,
        others: impl Fn(&str) -> bool,
        table: Table,
        chains: Vec<(String, Vec<String>)>,
        jumps: Vec<Jump>,
    ) {
        let keep: BTreeSet<&String> = chains.iter().map(|(name, _)| name).collect();
        let state = self.tables.entry(table).or_default();
        let known = state.desired.chains.keys();
        let gone: Vec<String> =
            known.filter(|name| !keep.contains(name) && !others(name)).cloned().collect();
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

    /// Do not trust what is known, somebody else may have been at work: the next apply reads the
    /// kernel first, says what is not as it was left, and tries refused chains again.
    pub fn forget(&mut self) {
        if self.knowledge == Knowledge::Sure {
            self.knowledge = Knowledge::Doubted;
        }
    }

    /// As if new: these are other tables now. The next apply takes what it reads as what was there
    /// before us.
    pub fn start_over(&mut self) {
        self.knowledge = Knowledge::Nothing;
        self.spellings = Spellings::default();
        self.drift.clear();
    }

    /// With `true` chains of ours that should not be there stay.
    pub fn keep_unknown(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Every chain as it should be, for tests and for people.
    pub fn desired(&self, table: Table) -> impl Iterator<Item = (&str, &[String])> {
        let chains = self.tables.get(&table).map(|state| &state.desired.chains);
        chains.into_iter().flatten().map(|(name, chain)| (name.as_str(), chain.lines.as_slice()))
    }

    /// The jumps from the kernel's chains into them.
    pub fn desired_jumps(&self, table: Table) -> &[Jump] {
        self.tables.get(&table).map_or(&[], |state| &state.desired.jumps)
    }

    /// Reads the kernel if needed and writes what differs. `closed`: what a chain says instead that the
    /// kernel refuses.
    pub async fn apply(&mut self, driver: &Driver, closed: Closed<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut look = Look::default();
        if self.knowledge != Knowledge::Sure {
            match self.look(driver, BTreeMap::new()).await {
                Ok(found) => look = found,
                Err(error) => {
                    outcome.failed.push((Table::Filter, error));
                    return outcome;
                }
            }
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
                    debug!(family = %self.family, error = %chain(&error), "transaction refused");
                    match self.look_again(driver, plans).await {
                        Ok(found) => look.follow(found),
                        Err(error) => outcome.failed.push((Table::Filter, error)),
                    }
                    for table in Table::ALL {
                        // What says nothing about the rules would only be waited for again.
                        if outcome.failed.iter().any(|(_, error)| !error.blames_the_rules()) {
                            break;
                        }
                        self.isolate(table, driver, closed, &mut outcome).await;
                    }
                }
            }
        }
        if outcome.wrote && outcome.failed.is_empty() {
            self.settle(driver, &mut look).await;
        }
        self.note(look);
        if outcome.failed.is_empty() {
            for state in self.tables.values_mut() {
                state.dirty.clear();
                state.all = false;
                state.unfinished = false;
            }
            outcome.drift = std::mem::take(&mut self.drift).into_values().collect();
            outcome.was_open = std::mem::take(&mut self.open_before);
            outcome.was_untranslated = std::mem::take(&mut self.untranslated_before);
            outcome.moved = std::mem::take(&mut self.moved_before);
        } else if outcome.failed.iter().all(|(_, error)| error.leaves_all_as_it_was()) {
            self.forget();
        } else {
            self.knowledge = Knowledge::Nothing;
        }
        for state in self.tables.values() {
            let refused = state.refused.iter();
            outcome.refused.extend(refused.map(|(name, (_, said))| (name.clone(), said.clone())));
            let there = |(name, _): &&(String, String)| {
                state.actual.chains.contains_key(name) && !state.desired.chains.contains_key(name)
            };
            outcome.stuck.extend(state.stuck.iter().filter(there).cloned());
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

    fn plans(&self) -> Vec<(Table, Plan)> {
        self.tables
            .iter()
            .filter(|(_, state)| state.all || !state.dirty.is_empty())
            .filter_map(|(table, state)| {
                let only = (!state.all).then_some(&state.dirty);
                let scope = Scope { only, delete: !self.keep, ..Scope::EVERYTHING };
                Some((*table, plan(*table, &state.desired, &state.actual, scope)?))
            })
            .collect()
    }

    /// The tables that hold rules of ours, as far as is known.
    pub fn filled(&self) -> BTreeSet<Table> {
        if self.knowledge == Knowledge::Nothing {
            return BTreeSet::new();
        }
        let filled = self.tables.iter().filter(|(_, state)| state.actual.holds_rules());
        filled.map(|(table, _)| *table).collect()
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
