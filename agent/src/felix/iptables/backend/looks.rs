//! When it looks at the kernel again.

use std::time::Duration;

use tokio::time::Instant;

use super::{DESTROY_PATIENCE, Iptables, Written};
use crate::felix::reconciler::Job;

/// How soon a full set is tried again where the settings want no refresh.
const FULL_AGAIN: Duration = Duration::from_secs(60);
/// How soon a set that was still in use is tried again. nf_tables lets go of the sets of a deleted
/// rule some time after the transaction.
const DESTROY_AGAIN: Duration = Duration::from_millis(500);

impl Iptables {
    /// True when it is time to read the tables, whether anybody touched them or not.
    pub(in crate::felix) fn is_due(&self, now: Instant) -> bool {
        self.check_tables.is_some_and(|at| at <= now)
    }

    /// When to look by the clock again.
    pub(super) fn plan_looks(&mut self, job: &Job<'_>, read_sets: bool, written: &Written) {
        let settings = &job.scene.state.settings;
        // Soon after a write, because another writer may have been at work
        // with what it read before, unless the kernel tells of that; else at the refresh interval.
        let interval = |after: Duration| (!after.is_zero()).then(|| job.now + after);
        let look_soon = !settings.iptables_post_write_check.is_zero()
            && !written.refused
            && !self.changes.hears();
        if written.tables && look_soon {
            let soon = interval(settings.iptables_post_write_check);
            let planned = if job.check { None } else { self.check_tables };
            self.check_tables = [soon, planned].into_iter().flatten().min();
        } else if job.check || self.check_tables.is_none() {
            self.check_tables = interval(settings.iptables_refresh);
        }
        if read_sets || self.check_sets.is_none() {
            // A set that was full may have room again, also when no refresh is wanted.
            let full = (!self.incomplete.is_empty()).then(|| job.now + FULL_AGAIN);
            self.check_sets = interval(settings.ipsets_refresh).or(full);
        }
    }

    /// When it wants to run again although nothing changes. `began`: when this run did.
    pub(in crate::felix) fn next_look(&self, began: Instant) -> Option<Instant> {
        // What cannot be destroyed for long is left to the refresh.
        let hope = self.doomed.values().any(|tries| *tries < DESTROY_PATIENCE);
        let doomed = hope.then(|| began + DESTROY_AGAIN);
        [self.check_tables, self.check_sets, doomed].into_iter().flatten().min()
    }
}
