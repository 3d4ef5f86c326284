//! What a run reads back, and when the next one does.

use tokio::time::Instant;

use super::{Felix, Run};
use crate::felix::watch::{Kind, Touched};

impl Felix {
    /// What the watch wants to be read back in this run. `all`: this run reads everything anyway.
    pub(super) fn told(&mut self, all: bool, now: Instant) -> Touched {
        self.pace.note(self.changes.take(), now);
        if all { self.pace.take_all() } else { self.pace.take(now) }
    }

    /// What is read: what was touched, and when it is time for a look all rules. What somebody fights
    /// about waits its time then, too.
    pub(super) fn doubtful(
        &mut self,
        told: &Touched,
        all: bool,
        check: bool,
        now: Instant,
    ) -> Touched {
        let mut doubtful = told.clone();
        if !check {
            return doubtful;
        }
        let rules = |kind: &Kind| matches!(kind, Kind::Tables(_) | Kind::Table);
        for kind in Kind::ALL.into_iter().filter(rules) {
            let mut place = Touched::default();
            match kind {
                Kind::Tables(family) => drop(place.tables.insert(family)),
                _ => place.table = true,
            }
            if all || !self.pace.rests(kind, now) {
                doubtful.merge(place);
            } else {
                self.pace.note(place, now);
            }
        }
        doubtful
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
            let by_them = match Kind::of(drift) {
                Kind::Tables(family) => told.tables.contains(&family),
                Kind::Table => told.table,
                Kind::Groups | Kind::Sets | Kind::Parameters => false,
            };
            if by_them {
                let separator = if drift.detail.is_empty() { "" } else { ", " };
                drift.detail += &format!("{separator}by {by}");
            }
        }
        self.pace.looked(told, &run.drift, now - began, now);
        run.problems.extend(self.pace.problems(now));
        self.pace.next(now)
    }
}
