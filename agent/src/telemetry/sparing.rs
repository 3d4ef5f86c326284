//! Lines of which there may be thousands at once: the first ones are said, then that there are more.
//!
//! Whoever fills the store with nonsense must not fill the journal too: it would drop what else is
//! said there (journald's own limit is 10,000 lines in 30 s).

use std::time::Duration;

use tokio::time::Instant;

/// How many lines may come at once.
const BURST: u32 = 20;
/// After this time one more may be said.
const REFILL: Duration = Duration::from_secs(3);

/// What to do with the next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// Say it.
    This,
    /// Say instead that there are more, and where to find them.
    More,
    /// Say nothing: that there are more has been said.
    Nothing,
}

/// Counts lines of one kind.
#[derive(Debug)]
pub struct Sparing {
    left: u32,
    /// Up to when what was spent has been given back.
    since: Instant,
    more: bool,
}

impl Sparing {
    /// Nothing was said yet.
    pub fn new(now: Instant) -> Self {
        Self { left: BURST, since: now, more: false }
    }

    /// Asks for one line.
    pub fn ask(&mut self, now: Instant) -> Say {
        let passed = now.saturating_duration_since(self.since);
        let back = u32::try_from(passed.as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        if self.left.saturating_add(back) >= BURST {
            (self.left, self.since) = (BURST, now);
        } else {
            self.left += back;
            self.since += REFILL * back;
        }
        if self.left > 0 {
            self.left -= 1;
            self.more = false;
            return Say::This;
        }
        if std::mem::replace(&mut self.more, true) { Say::Nothing } else { Say::More }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_twenty_lines_and_one_that_says_so() {
        let start = Instant::now();
        let mut sparing = Sparing::new(start);
        let said: Vec<_> = (0..10_000).map(|_| sparing.ask(start)).collect();
        let count = |what| said.iter().filter(|said| **said == what).count();
        assert_eq!((count(Say::This), count(Say::More)), (20, 1));
        assert_eq!(said[20], Say::More);
    }

    #[test]
    fn after_a_while_one_more_is_said_and_after_a_minute_all() {
        let start = Instant::now();
        let mut sparing = Sparing::new(start);
        while sparing.ask(start) != Say::Nothing {}
        let later = start + REFILL * 3 / 2;
        assert_eq!(sparing.ask(later), Say::This);
        assert_eq!(sparing.ask(later), Say::More);
        // What was left of the time counts.
        assert_eq!(sparing.ask(start + REFILL * 2), Say::This);
        let much_later = start + Duration::from_secs(100);
        assert!((0..BURST).all(|_| sparing.ask(much_later) == Say::This));
        assert_eq!(sparing.ask(much_later), Say::More);
    }
}
