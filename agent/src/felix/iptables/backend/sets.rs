//! The steps that change address sets. Their order is in [`super`].

use std::collections::BTreeSet;

use calico_datastore::model::Family;

use super::{DESTROY_PATIENCE, Iptables, OneFamily};
use crate::felix::ipset::{Command, Entry, Phases, Refused, compare};
use crate::felix::iptables::driver::Driver;
use crate::felix::iptables::save::Table;
use crate::felix::iptables::tables::Outcome;
use crate::felix::iptables::{names, sets};
use crate::felix::reconciler::{Job, Run};
use crate::felix::watch::Grown;
use crate::telemetry::chain;

impl Iptables {
    /// Reads the sets and plans everything. Addresses of endpoints that went away while nobody
    /// watched are noted. `pending`: what this run was going to change, where the sets are known to
    /// have been as they should be before; whatever else differs somebody else did.
    pub(super) async fn read_sets(
        &mut self,
        job: &Job<'_>,
        pending: Option<&Phases>,
        run: &mut Run,
    ) -> Option<Phases> {
        let (state, families) = (job.scene.state, job.on);
        let actual = match self.sets.read().await {
            Ok(actual) => actual,
            Err(error) => {
                run.fail("address sets", chain(&error));
                return None;
            }
        };
        let known = job.known;
        let desired = sets::all(state, job.scene.interfaces, families);
        let mut phases = sets::full_plan(&desired, known, &actual);
        // What a state from disk does not know may have come since.
        if let Some(pending) = pending.filter(|_| !state.origin.is_stored()) {
            let unsure = |name: &str| {
                !sets::is_of(known, name)
                    || self.doomed.contains_key(name)
                    || self.incomplete.contains_key(name)
                    || self.refused.iter().any(|refused| refused.command.set() == name)
            };
            run.drift.extend(compare(&desired, &actual, pending, unsure));
        }
        if state.origin.is_stored() {
            // It may be old: what it does not know may have come since.
            phases.after.clear();
        }
        for command in &phases.after {
            if let Command::Delete(set, Entry::NetIface(net, _)) = command
                && net.is_host()
                && families.iter().any(|family| *set == names::local_endpoints(*family))
            {
                run.left.insert(net.address());
            }
        }
        self.refused.clear();
        self.incomplete.clear();
        let goes = |set: &String| phases.after.contains(&Command::Destroy(set.clone()));
        self.doomed.retain(|set, _| goes(set));
        Some(phases)
    }

    /// False when the tool failed as a whole; what the kernel refused is noted.
    pub(super) async fn write_sets(&mut self, commands: &[Command], run: &mut Run) -> bool {
        let written = self.sets.write(commands).await;
        self.changes.grew(growth(commands, written.as_deref().ok()));
        match written {
            Ok(refused) => {
                for one in refused {
                    self.note_refused(one, commands, run);
                }
                true
            }
            Err(error) => {
                self.sets_known = false;
                run.fail("address sets", chain(&error));
                false
            }
        }
    }

    fn note_refused(&mut self, one: Refused, commands: &[Command], run: &mut Run) {
        if !one.is_full() {
            // What was known of the sets is not so: they are read again.
            self.sets_known = false;
            run.surprise = true;
        }
        if matches!(one.command, Command::Add(..) | Command::Create(..) | Command::Swap(..)) {
            // What is meant for a set may be on its way through another one.
            let target = commands.iter().find_map(|command| match command {
                Command::Swap(from, to) if from == one.command.set() => Some(to.clone()),
                _ => None,
            });
            let set = target.unwrap_or_else(|| one.command.set().to_owned());
            self.incomplete.entry(set).or_insert_with(|| {
                format!("{one}; policies that name this set let nothing through")
            });
        }
        if !self.refused.contains(&one) {
            self.refused.push(one);
        }
    }

    /// Writes the tables of all those families at once.
    pub(super) async fn write_tables(
        &mut self,
        driver: &Driver,
        which: impl Fn(Family) -> bool,
    ) -> Vec<(Family, Outcome)> {
        let families = self.families.iter_mut().filter(|one| which(one.family));
        let runs = families.map(|one| async {
            let OneFamily { family, tables, renderer } = one;
            let closed = |table: Table, chain: &str| renderer.closed(table, chain);
            (*family, tables.apply(driver, &closed).await)
        });
        futures::future::join_all(runs).await
    }

    /// Step 3: what goes from the sets.
    pub(super) async fn shrink_sets(
        &mut self,
        after: Vec<Command>,
        in_force: &BTreeSet<Family>,
        run: &mut Run,
    ) {
        let (mut destroy, mut delete): (Vec<_>, Vec<_>) =
            after.into_iter().partition(|command| matches!(command, Command::Destroy(_)));
        // A family that the kernel no longer knows holds nothing back.
        let mut families = self.families.iter().map(|one| one.family);
        let held_back: BTreeSet<_> = families.by_ref().filter(|f| !in_force.contains(f)).collect();
        let stays = |set: &str| sets::is_of(&held_back, set);
        for command in &destroy {
            self.incomplete.remove(command.set());
            self.refused.retain(|refused| refused.command.set() != command.set());
        }
        if !held_back.is_empty() {
            // The old rules are still there. Taking a member from a set that they deny would open
            // them, and an endpoint taken from the class that they know would be in none. One that
            // leaves altogether is another matter.
            let locals = Family::ALL.map(names::local_endpoints);
            let leaves: BTreeSet<Entry> = delete
                .iter()
                .filter_map(|command| match command {
                    Command::Delete(set, entry) if locals.contains(set) => Some(entry.clone()),
                    _ => None,
                })
                .collect();
            delete.retain(|command| {
                !stays(command.set())
                    || matches!(command, Command::Delete(_, entry) if leaves.contains(entry))
            });
            destroy.retain(|command| !stays(command.set()));
            self.sets_known = false;
        }
        for command in destroy {
            self.doomed.entry(command.set().to_owned()).or_insert(0);
        }
        self.write_sets(&delete, run).await;
        let commands: Vec<_> =
            self.doomed.keys().filter(|set| !stays(set)).cloned().map(Command::Destroy).collect();
        if commands.is_empty() {
            return;
        }
        let written = self.sets.write(&commands).await;
        self.changes.grew(growth(&commands, written.as_deref().ok()));
        match written {
            Ok(refused) => {
                let refused: BTreeSet<&str> = refused.iter().map(|r| r.command.set()).collect();
                self.doomed.retain(|set, tries| {
                    let waits = stays(set);
                    *tries += u32::from(!waits);
                    waits || refused.contains(set.as_str())
                });
            }
            Err(error) => {
                self.sets_known = false;
                run.fail("address sets", chain(&error));
            }
        }
        for (set, _) in self.doomed.iter().filter(|(_, tries)| **tries >= DESTROY_PATIENCE) {
            run.problem(
                format!("address set {set}"),
                "cannot be destroyed; does a rule of somebody else use it?",
            );
        }
    }
}

/// What these commands made of the sets; `refused`: unless the tool failed as a whole, what was not
/// carried out.
fn growth(commands: &[Command], refused: Option<&[Refused]>) -> Grown {
    let mut grown = Grown::new();
    for command in commands {
        let by = match command {
            Command::Add(..) => Some(1),
            Command::Count(..) => Some(0),
            Command::Delete(..) => Some(-1),
            Command::Create(..) | Command::Destroy(_) | Command::Swap(..) => None,
        };
        if let Command::Swap(_, to) = command {
            grown.insert(to.clone(), None);
        }
        match grown.get_mut(command.set()) {
            Some(sum) => *sum = sum.zip(by).map(|(sum, by)| sum + by),
            None => drop(grown.insert(command.set().to_owned(), by)),
        }
    }
    match refused {
        Some(refused) => {
            grown.extend(refused.iter().map(|one| (one.command.set().to_owned(), None)));
        }
        None => grown.values_mut().for_each(|by| *by = None),
    }
    grown
}
