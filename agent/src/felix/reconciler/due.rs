//! What a run reads back, and when the next one does.

use std::collections::BTreeSet;
use std::time::Duration;

use calico_datastore::model::Family;
use tokio::time::Instant;

use super::{Felix, Run};
use crate::config::Settings;
use crate::felix::watch::{Kind, Touched};

/// How soon a full set is tried again where the settings want no refresh.
const FULL_AGAIN: Duration = Duration::from_secs(60);

impl Felix {
    /// What the watch wants to be read back in this run. `all`: this run reads everything anyway.
    pub(super) fn told(&mut self, all: bool, now: Instant) -> Touched {
        self.pace.note(self.changes.take());
        if all { self.pace.take_all() } else { self.pace.take(now) }
    }

    /// The families whose tables are read. Those that somebody fights about wait their time, also
    /// when it is time for a look.
    pub(super) fn doubtful(
        &mut self,
        told: &Touched,
        all: bool,
        check: bool,
        now: Instant,
    ) -> BTreeSet<Family> {
        let mut families = told.tables.clone();
        for family in Family::ALL.into_iter().filter(|_| check) {
            if all || !self.pace.rests(Kind::Tables(family), now) {
                families.insert(family);
            } else {
                let tables = BTreeSet::from([family]);
                self.pace.note(Touched { tables, ..Touched::default() });
            }
        }
        families
    }

    /// When to look by the clock again.
    pub(super) fn plan_looks(
        &mut self,
        checked_tables: bool,
        read_sets: bool,
        settings: &Settings,
        run: &Run,
        now: Instant,
    ) {
        // Soon after a write, because another writer may have been at work
        // with what it read before, unless the kernel tells of that; else at the refresh interval.
        let interval = |after: Duration| (!after.is_zero()).then(|| now + after);
        let look_soon = !settings.iptables_post_write_check.is_zero()
            && !run.refused_chains
            && !self.changes.hears();
        if run.wrote_tables && look_soon {
            let soon = interval(settings.iptables_post_write_check);
            let planned = if checked_tables { None } else { self.check_tables };
            self.check_tables = [soon, planned].into_iter().flatten().min();
        } else if checked_tables || self.check_tables.is_none() {
            self.check_tables = interval(settings.iptables_refresh);
        }
        if read_sets || self.check_sets.is_none() {
            // A set that was full may have room again, also when no refresh is wanted.
            let full = (!self.incomplete.is_empty()).then(|| now + FULL_AGAIN);
            self.check_sets = interval(settings.ipsets_refresh).or(full);
        }
    }

    /// Notes what was found, tells of fights, and says when the next look is due. `began`: when
    /// this run did.
    pub(super) fn keep_pace(
        &mut self,
        told: &Touched,
        run: &mut Run,
        began: Instant,
    ) -> Option<Instant> {
        let now = Instant::now();
        for drift in &mut run.drift {
            let Some(by) = &told.by else { break };
            if matches!(Kind::of(drift), Kind::Tables(family) if told.tables.contains(&family)) {
                let separator = if drift.detail.is_empty() { "" } else { ", " };
                drift.detail += &format!("{separator}by {by}");
            }
        }
        self.pace.looked(told, &run.drift, now - began, now);
        run.problems.extend(self.pace.problems(now));
        self.pace.next(now)
    }
}
