//! What a run reads back, and when the next one does.

use std::collections::BTreeSet;

use calico_datastore::model::Family;
use tokio::time::Instant;

use super::{Felix, Run};
use crate::felix::watch::{Kind, Touched};

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
