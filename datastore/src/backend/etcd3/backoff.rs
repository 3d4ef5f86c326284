//! Pauses between tries: doubling, capped, and different on every host.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::config::{BACKOFF_CAP, BACKOFF_FIRST};

/// The pauses of one task.
#[derive(Debug, Default)]
pub(in crate::backend) struct Backoff {
    failures: u32,
    /// Seeded by the system, so that hosts that lost etcd at one moment do not return at one.
    random: RandomState,
}

impl Backoff {
    /// The pause after one more failure: half of it fixed, half by chance.
    pub(in crate::backend) fn next(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let full = BACKOFF_FIRST.saturating_mul(factor).min(BACKOFF_CAP);
        self.failures = self.failures.saturating_add(1).min(31);
        let part = self.random.hash_one(self.failures) % 1_000;
        full / 2 + full / 2 * u32::try_from(part).unwrap_or(0) / 1_000
    }

    /// Nothing has failed since it worked last.
    pub(in crate::backend) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// It works again.
    pub(in crate::backend) fn reset(&mut self) {
        self.failures = 0;
        self.random = RandomState::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_start_anew() {
        let mut backoff = Backoff::default();
        let mut ceiling = BACKOFF_FIRST;
        for _ in 0..100 {
            let pause = backoff.next();
            assert!(pause >= ceiling / 2 && pause <= ceiling, "{pause:?} of {ceiling:?}");
            ceiling = (ceiling * 2).min(BACKOFF_CAP);
        }
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_FIRST);
    }

    #[test]
    fn two_hosts_do_not_return_at_one_moment() {
        let pauses: std::collections::BTreeSet<_> =
            (0..20).map(|_| Backoff::default().next()).collect();
        assert!(pauses.len() > 5, "{pauses:?}");
    }
}
