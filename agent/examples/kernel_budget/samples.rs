//! How often something is measured.

use std::time::{Duration, Instant};

/// So many times at most; fewer where it takes long.
#[derive(Clone, Copy, Debug)]
pub struct Samples {
    most: usize,
    /// At least so many, whatever it takes.
    least: usize,
    /// Beyond `least` no turn begins after that time.
    limit: Duration,
}

impl Samples {
    /// A single one.
    pub const ONE: Self = Self { most: 1, least: 1, limit: Duration::ZERO };

    /// Of the whole policy of a host.
    pub const fn of_everything(long: bool) -> Self {
        if long {
            Self { most: 7, least: 7, limit: Duration::ZERO }
        } else {
            Self { most: 3, least: 1, limit: Duration::from_secs(4) }
        }
    }

    /// Of a single change.
    pub const fn of_change(long: bool) -> Self {
        if long {
            Self { most: 100, least: 30, limit: Duration::from_secs(10) }
        } else {
            Self { most: 20, least: 3, limit: Duration::from_millis(400) }
        }
    }

    /// One that is always taken is not counted.
    pub const fn but_one(self) -> Self {
        Self { most: self.most - 1, least: self.least - 1, ..self }
    }

    /// The numbers of the turns, as long as they are due.
    pub fn turns(self) -> impl Iterator<Item = usize> {
        let begin = Instant::now();
        (0..self.most).take_while(move |&turn| turn < self.least || begin.elapsed() < self.limit)
    }
}
