//! A policy that changes together with the members of a set that it names. "Allow S" that becomes
//! "deny S" as S grows must not let the new member through in between, and nobody else may be kept
//! out. So the changed rules come into force naming a copy of the set that is filled before; then
//! the set itself is changed, the rules name it again, and the copy goes. Rules and members have
//! changed in one step for each packet.
//!
//! What is entangled follows from what the kernel holds and what it should hold, so it is the same
//! while the agent runs and for what changed while it was down.

use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::model::Family;
use tracing::debug;

use super::{Iptables, Written};
use crate::felix::ipset::{Command, Entry, Phases};
use crate::felix::iptables::driver::Driver;
use crate::felix::iptables::{names, sets};
use crate::felix::reconciler::{Job, Run};
use crate::telemetry::chain;

/// What is done with copies in a run.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Set → its copy.
    of: BTreeMap<String, String>,
    /// Members that come to the sets themselves after the rules.
    late: Vec<Command>,
    /// Families whose tables could not be read: their sets and tables must stay as they are.
    pub(super) unread: BTreeSet<Family>,
}

impl Iptables {
    /// Finds the sets that need a copy, and plans the copies.
    pub(super) async fn plan_copies(
        &mut self,
        phases: &mut Phases,
        job: &Job<'_>,
        driver: &Driver,
        run: &mut Run,
    ) -> Copies {
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
            return copies;
        }
        let mut entangled = BTreeSet::new();
        // A family that is switched off has no policies.
        for one in self.families.iter_mut().filter(|one| !one.renderer.is_off()) {
            match one.tables.entangled(&changed, driver).await {
                Ok(found) => entangled.extend(found),
                Err(error) => {
                    run.fail(&format!("{} table filter", one.family), chain(&error));
                    copies.unread.insert(one.family);
                }
            }
        }
        phases.before.retain(|command| !sets::is_of(&copies.unread, command.set()));
        if entangled.is_empty() {
            return copies;
        }
        debug!(count = entangled.len(), "policies change together with members of their sets");
        let (late, before) = std::mem::take(&mut phases.before).into_iter().partition(
            |command| matches!(command, Command::Add(set, _) if entangled.contains(set)),
        );
        (copies.late, phases.before) = (late, before);
        let mut number = 0;
        for (family, set, spec, members) in sets::some(job.scene.state, job.on, &entangled) {
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
        copies
    }

    /// The copies are made: rules may name them. One that the kernel did not fill stands for its set,
    /// which closes the policies that name it.
    pub(super) fn name_copies(&mut self, copies: &Copies, job: &Job<'_>) {
        for (set, copy) in &copies.of {
            if let Some(said) = self.incomplete.remove(copy) {
                self.incomplete.insert(set.clone(), said);
            }
        }
        self.shut_incomplete(&job.scene, copies.of.is_empty());
        for one in &mut self.families {
            one.tables.name_copies(&copies.of);
        }
    }

    /// Where the rules that name copies are in force the sets themselves follow.
    pub(super) async fn follow_copies(
        &mut self,
        copies: &mut Copies,
        in_force: &BTreeSet<Family>,
        run: &mut Run,
    ) {
        let mut late = std::mem::take(&mut copies.late);
        late.retain(|command| sets::is_of(in_force, command.set()));
        if !late.is_empty() {
            self.sets_known &= self.write_sets(&late, run).await;
        }
    }

    /// The sets are as they should be: the rules name them again, and the copies go. Where the rules
    /// that name copies did not come into force, what is in the kernel is read again by the next run,
    /// which goes on from there.
    pub(super) async fn settle_copies(
        &mut self,
        copies: Copies,
        job: &Job<'_>,
        in_force: &BTreeSet<Family>,
        driver: &Driver,
        written: &mut Written,
        run: &mut Run,
    ) {
        if copies.of.is_empty() {
            return;
        }
        self.families.iter_mut().for_each(|one| one.tables.settle_copies());
        let (done, open): (Vec<_>, Vec<_>) =
            copies.of.into_values().partition(|copy| sets::is_of(in_force, copy));
        self.sets_known &= open.is_empty();
        self.shut_incomplete(&job.scene, true);
        let outcomes = self.write_tables(driver, |family| in_force.contains(&family)).await;
        let in_force = self.judge_tables(outcomes, &job.scene, written, run);
        let commands = done.into_iter().map(Command::Destroy).collect();
        self.shrink_sets(commands, &in_force, run).await;
    }
}
