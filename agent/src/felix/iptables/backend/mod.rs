//! Policy in tables of iptables and in address sets: what is known of both, and the order in which
//! they change.
//!
//! The order of a run, and why:
//!
//! 1. *Sets that are new, and members that are new.* A rule cannot name a set that is not there, and
//!    a rule that allows must find its members when it comes into force. A new endpoint is in its
//!    class set before the class has a rule: until then its packets meet the DROP at the end of the
//!    dispatch.
//! 2. *The tables*, each in one transaction.
//! 3. *Members and sets that go.* An endpoint that changes its class is in both sets for a moment:
//!    the old or the new class decides, never none.
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

mod clean;
mod copies;
mod judge;
mod looks;
mod prepare;
mod sets;

use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::model::Family;
use tokio::time::Instant;

pub(in crate::felix) use self::clean::clean;
use self::copies::Copies;
use super::driver::Driver;
use super::probe::Dataplane;
use super::render::Renderer;
use super::tables::FamilyTables;
use crate::exec::Exec;
use crate::felix::counters::Counters;
use crate::felix::ipset::{Command, Phases, Refused, Sets};
use crate::felix::reconciler::{Job, Run};
use crate::felix::watch::Changes;

/// After how many tries a set that cannot be destroyed is worth telling.
const DESTROY_PATIENCE: u32 = 10;

/// The backend.
#[derive(Debug)]
pub(in crate::felix) struct Iptables {
    exec: Exec,
    counters: Counters,
    /// The watch learns how sets grow, and which tables hold our rules.
    changes: Changes,
    dataplane: Dataplane,
    sets: Sets,
    families: Vec<OneFamily>,
    /// The sets are as the last scene wants them.
    sets_known: bool,
    /// What the kernel refused to do with sets.
    refused: Vec<Refused>,
    /// Sets that do not hold all that they should, and what the kernel said.
    incomplete: BTreeMap<String, String>,
    /// Policies are closed because of `incomplete`.
    shut: bool,
    /// Sets to destroy, and how often that was refused.
    doomed: BTreeMap<String, u32>,
    check_tables: Option<Instant>,
    check_sets: Option<Instant>,
}

#[derive(Debug)]
struct OneFamily {
    family: Family,
    tables: FamilyTables,
    renderer: Renderer,
}

/// What a run did to tables.
#[derive(Debug, Default)]
struct Written {
    /// Something was written.
    tables: bool,
    /// A policy is closed because the kernel refuses it. It is tried again at the refresh, not
    /// after every write of the others.
    refused: bool,
}

impl Iptables {
    /// Nothing is known of the kernel, and nothing asked before the first run.
    pub(in crate::felix) fn new(
        exec: Exec,
        counters: Counters,
        changes: Changes,
        dataplane: Dataplane,
    ) -> Self {
        Self {
            sets: Sets::new(counters.clone()),
            exec,
            counters,
            changes,
            dataplane,
            families: Vec::new(),
            sets_known: false,
            refused: Vec::new(),
            incomplete: BTreeMap::new(),
            shut: false,
            doomed: BTreeMap::new(),
            check_tables: None,
            check_sets: None,
        }
    }

    /// Which iptables it uses.
    pub(in crate::felix) fn dataplane(&self) -> &Dataplane {
        &self.dataplane
    }

    /// Goes on with another iptables. The sets are the same for both.
    pub(in crate::felix) fn move_to(&mut self, dataplane: Dataplane) {
        if self.dataplane.flavour != dataplane.flavour {
            // What was known is of the other tables.
            self.families.iter_mut().for_each(|family| family.tables.start_over());
        }
        self.dataplane = dataplane;
    }

    /// Makes tables and sets so. True when policy is in force.
    pub(in crate::felix) async fn run(&mut self, job: &Job<'_>, run: &mut Run) -> bool {
        let state = job.scene.state;
        let driver = Driver::new(self.exec.clone(), self.dataplane.clone(), self.counters.clone());
        let check_sets =
            job.all || self.check_sets.is_some_and(|at| at <= job.now) || !job.told.sets.is_empty();
        for one in &mut self.families {
            one.tables.keep_unknown(state.origin.is_stored());
        }
        let mut written = Written::default();

        let phases = self.render(job);
        // A set that is to be destroyed and is wanted again: what it holds is not known.
        // What a state from disk left alone is no change of somebody else.
        let were_right = self.sets_known && !job.from_disk;
        self.sets_known &= !check_sets && !phases.before.iter().any(|command| {
            matches!(command, Command::Create(set, _) if self.doomed.contains_key(set))
        });
        let read_sets = !self.sets_known;
        let phases = if read_sets {
            self.read_sets(job, were_right.then_some(&phases), run).await
        } else {
            Some(phases)
        };
        let mut ready = phases.is_some();
        let mut phases = phases.unwrap_or_default();
        self.sets_known = ready;

        let doubtful =
            self.families.iter_mut().filter(|one| job.doubtful.tables.contains(&one.family));
        doubtful.for_each(|one| one.tables.forget());
        let mut copies = Copies::default();
        if ready {
            copies = self.plan_copies(&mut phases, job, &driver, run).await;
        }
        let Phases { before, after } = phases;
        // Without the sets no rule can be written that names them: the old rules stay, and no policy
        // is blamed.
        ready = ready && self.write_sets(&before, run).await;
        self.sets_known &= ready;
        self.name_copies(&copies, job);
        let mut in_force = BTreeSet::new();
        if ready {
            let outcomes =
                self.write_tables(&driver, |family| !copies.unread.contains(&family)).await;
            in_force = self.judge_tables(outcomes, &job.scene, &mut written, run);
        }
        self.follow_copies(&mut copies, &in_force, run).await;
        self.shrink_sets(after, &in_force, run).await;
        self.settle_copies(copies, job, &in_force, &driver, &mut written, run).await;
        for (set, said) in &self.incomplete {
            run.problem(format!("address set {set}"), said.clone());
        }
        self.plan_looks(job, read_sets, &written);
        let filled = self.families.iter().map(|one| (one.family, one.tables.filled()));
        self.changes.fill(filled.collect());
        self.families.iter().all(|one| in_force.contains(&one.family))
    }
}
