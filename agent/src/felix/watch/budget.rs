//! How often something may be looked at, by what a look costs.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// However cheap a look is.
pub(super) const OFTEN: Duration = Duration::from_millis(900);
/// However dear it is.
const SELDOM: Duration = Duration::from_secs(30);

/// One part in so many of a core goes into looking when there is a reason to.
const REASON: u32 = 100;

/// When the next look is due.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    due: Option<Instant>,
    /// When there is a reason.
    soon: Option<Instant>,
}

impl Budget {
    /// True when it is time to look again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// True when it is time to look again and there is a reason to.
    pub(super) fn is_worth_it(&self, now: Instant) -> bool {
        self.soon.is_none_or(|due| due <= now)
    }

    /// When that is. `None` before the first look.
    pub(super) fn soon(&self) -> Option<Instant> {
        self.soon
    }

    /// A look at `now` cost so much. One part in `share` of a core goes into such looks.
    pub(super) fn spent(&mut self, cost: Duration, share: u32, now: Instant) {
        self.due = Some(now + (cost * share).clamp(OFTEN, SELDOM));
        self.soon = Some(now + cost * REASON);
    }
}

/// What the calling thread has worked so far. Not the time of day: on a busy host a look takes
/// longer but costs the same.
pub(super) fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_costs_more_is_looked_at_less_often() {
        let now = Instant::now();
        for (cost, after) in [(1, OFTEN), (1_000, Duration::from_secs(2)), (90_000, SELDOM)] {
            let mut budget = Budget::default();
            assert!(budget.is_due(now));
            budget.spent(Duration::from_micros(cost), 2000, now);
            assert!(!budget.is_due(now + after - Duration::from_millis(1)));
            assert!(budget.is_due(now + after));
            let soon = Duration::from_micros(cost * 100);
            let before = soon.checked_sub(Duration::from_micros(1)).unwrap();
            assert!(!budget.is_worth_it(now + before) && budget.is_worth_it(now + soon));
        }
    }
}
