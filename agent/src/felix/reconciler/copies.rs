//! A policy that changes together with the members of a set that it names. "Allow S" that becomes
//! "deny S" as S grows must not let the new member through in between, and nobody else may be kept
//! out. So the changed rules come into force naming a copy of the set that is filled before; then
//! the set itself is changed, the rules name it again, and the copy goes. Rules and members have
//! changed in one step for each packet.
//!
//! What is entangled follows from what the kernel holds and what it should hold, so it is the same
//! while the agent runs and for what changed while it was down.

use std::collections::{BTreeMap, BTreeSet};

use tracing::debug;

use super::{Felix, Run};
use crate::desired::DesiredState;
use crate::felix::ipset::{Command, Entry, Phases};
use crate::felix::iptables::driver::Driver;
use crate::felix::iptables::names;
use crate::felix::sets;
use crate::telemetry::chain;

/// What is done with copies in a run.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Set → its copy.
    of: BTreeMap<String, String>,
    /// Members that come to the sets themselves after the rules.
    late: Vec<Command>,
}

impl Felix {
    /// Finds the sets that need a copy, and plans the copies. `None`: the kernel cannot be read, and
    /// the sets must stay as they are.
    pub(super) async fn plan_copies(
        &mut self,
        phases: &mut Phases,
        state: &DesiredState,
        driver: &Driver,
        run: &mut Run,
    ) -> Option<Copies> {
        let mut copies = Copies::default();
        let made: BTreeSet<&str> = phases
            .before
            .iter()
            .filter(|command| matches!(command, Command::Create(..)))
            .map(Command::set)
            .collect();
        let changed: BTreeSet<String> = phases
            .before
            .iter()
            .chain(&phases.after)
            .filter(|command| {
                matches!(
                    command,
                    Command::Add(_, Entry::Net(_) | Entry::Port(..))
                        | Command::Delete(_, Entry::Net(_) | Entry::Port(..))
                ) && !made.contains(command.set())
            })
            .map(|command| command.set().to_owned())
            .collect();
        if changed.is_empty() {
            return Some(copies);
        }
        let mut entangled = BTreeSet::new();
        for one in &mut self.families {
            match one.tables.entangled(&changed, driver).await {
                Ok(found) => entangled.extend(found),
                Err(error) => {
                    run.fail(&format!("{} tables", one.family), chain(&error));
                    return None;
                }
            }
        }
        if entangled.is_empty() {
            return Some(copies);
        }
        debug!(count = entangled.len(), "policies change together with members of their sets");
        let (late, before) = std::mem::take(&mut phases.before).into_iter().partition(
            |command| matches!(command, Command::Add(set, _) if entangled.contains(set)),
        );
        (copies.late, phases.before) = (late, before);
        let mut number = 0;
        for (family, set, spec, members) in sets::some(state, &self.family_list(), &entangled) {
            let taken = |name: &String| {
                self.doomed.contains_key(name)
                    || phases.before.iter().chain(&phases.after).any(|one| one.set() == name)
            };
            let mut copy = names::temporary(family, number);
            while taken(&copy) {
                number += 1;
                copy = names::temporary(family, number);
            }
            phases.before.push(Command::Create(copy.clone(), spec));
            phases.before.extend(members.into_iter().map(|m| Command::Add(copy.clone(), m)));
            copies.of.insert(set, copy);
        }
        Some(copies)
    }

    /// The copies are made: rules may name them. One that the kernel did not fill stands for its set,
    /// which closes the policies that name it.
    pub(super) fn name_copies(&mut self, copies: &Copies, state: &DesiredState) {
        for (set, copy) in &copies.of {
            if let Some(said) = self.incomplete.remove(copy) {
                self.incomplete.insert(set.clone(), said);
            }
        }
        self.shut_incomplete(state, copies.of.is_empty());
        for one in &mut self.families {
            one.tables.name_copies(&copies.of);
        }
    }

    /// The rules that name copies are in force: the sets themselves follow.
    pub(super) async fn follow_copies(&mut self, copies: &mut Copies, run: &mut Run) {
        let late = std::mem::take(&mut copies.late);
        if late.is_empty() {
            return;
        }
        self.sets_known &= self.write_sets(&late, run).await;
    }

    /// The sets are as they should be: the rules name them again, and the copies go. Without a driver
    /// the rules that name copies did not come into force: what is in the kernel is read again by
    /// the next run, which goes on from there.
    pub(super) async fn settle_copies(
        &mut self,
        copies: Copies,
        state: &DesiredState,
        driver: Option<&Driver>,
        run: &mut Run,
    ) {
        if copies.of.is_empty() {
            return;
        }
        self.families.iter_mut().for_each(|one| one.tables.settle_copies());
        let Some(driver) = driver else {
            self.sets_known = false;
            return;
        };
        self.shut_incomplete(state, true);
        let outcomes = self.write_tables(driver).await;
        let in_force = self.judge_tables(outcomes, run);
        let copies = copies.of.into_values().map(Command::Destroy).collect();
        self.shrink_sets(copies, in_force, run).await;
    }
}
