//! Counting: which numbers of a stream were sent, which arrived, and how often.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Stream;

/// How many missing packets are told one by one.
const TOLD: usize = 10;

/// What a sender and the receivers write down.
#[derive(Debug, Default)]
pub(super) struct Count {
    stopped: AtomicBool,
    arrived: AtomicU64,
    sent: AtomicU64,
    numbers: Mutex<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    /// For each number that was sent: milliseconds since the start.
    when: Vec<u32>,
    /// How often each number arrived, at most 255.
    seen: Vec<u8>,
    failed: Vec<String>,
    failures: u64,
    late: u64,
}

impl Count {
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// The number of the next packet.
    pub(super) fn next(&self) -> u64 {
        self.sent()
    }

    /// The next packet is on its way.
    pub(super) fn note_sent(&self, at: Duration) {
        self.lock().when.push(u32::try_from(at.as_millis()).unwrap_or(u32::MAX));
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// It could not even be sent.
    pub(super) fn note_failed(&self, at: Duration, why: &str) {
        let mut numbers = self.lock();
        numbers.failures += 1;
        if numbers.failed.len() < TOLD {
            numbers.failed.push(format!("at {:.3} s: {why}", at.as_secs_f64()));
        }
    }

    /// It arrived at the second try of its sender's kernel.
    pub(super) fn note_late(&self) {
        self.lock().late += 1;
    }

    /// A packet arrived.
    pub(super) fn note_arrived(&self, number: u64) {
        let Ok(number) = usize::try_from(number) else { return };
        let mut numbers = self.lock();
        if numbers.seen.len() <= number {
            numbers.seen.resize(number + 1, 0);
        }
        let seen = &mut numbers.seen[number];
        *seen = seen.saturating_add(1);
        if *seen == 1 {
            self.arrived.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn tally(&self, stream: &Stream) -> Tally {
        let numbers = self.lock();
        let seen = |number: usize| numbers.seen.get(number).copied().unwrap_or(0);
        let sent = numbers.when.len();
        let missing: Vec<usize> = (0..sent).filter(|number| seen(*number) == 0).collect();
        let strangers = numbers.seen.iter().skip(sent).filter(|seen| **seen > 0).count();
        let doubled = numbers.seen.iter().map(|seen| u64::from(seen.saturating_sub(1))).sum();
        let told = missing.iter().take(TOLD);
        Tally {
            stream: stream.clone(),
            sent: sent as u64,
            arrived: (sent - missing.len() + strangers) as u64,
            lost: missing.len() as u64,
            doubled,
            failed: numbers.failures,
            late: numbers.late,
            slipped: 0,
            lost_at: told.map(|n| Duration::from_millis(numbers.when[*n].into())).collect(),
            failures: numbers.failed.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a stream.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Which.
    pub stream: Stream,
    /// Packets, or connections, that were sent.
    pub sent: u64,
    /// Of these, those that arrived.
    pub arrived: u64,
    /// Of these, those that did not.
    pub lost: u64,
    /// Arrivals more than one.
    pub doubled: u64,
    /// What could not be sent: no route, a broken connection.
    pub failed: u64,
    /// Connections whose first packet was lost: they took a second.
    pub late: u64,
    /// Packets of a denied flow that reached the pod, whether or not a socket took them.
    pub slipped: u64,
    /// When the first of the lost ones were sent, since the start.
    pub lost_at: Vec<Duration>,
    /// Why the first of the failed ones failed.
    pub failures: Vec<String>,
}

impl Tally {
    /// How many packets did not do what they should.
    pub fn wrong(&self) -> u64 {
        let verdict = if self.stream.flow.allowed { self.lost + self.late } else { self.arrived };
        verdict + self.doubled + self.failed + self.slipped
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, sent, arrived, .. } = self;
        write!(f, "{stream}: {sent} sent, {arrived} arrived, {} wrong", self.wrong())?;
        for (count, what) in [
            (self.doubled, "doubled"),
            (self.failed, "failed"),
            (self.late, "late"),
            (self.slipped, "slipped through"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        if stream.flow.allowed && self.lost > 0 {
            let at = self.lost_at.iter().map(|at| format!("{:.3}", at.as_secs_f64()));
            write!(f, ", lost at s {}", at.collect::<Vec<_>>().join(" "))?;
        }
        self.failures.iter().try_for_each(|failure| write!(f, "\n    {failure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Flow, Sockets};
    use crate::matrix::Family;
    use crate::probe::Service;

    fn tally(allowed: bool, arrived: &[u64]) -> Tally {
        let count = Count::default();
        for second in 0..3 {
            count.note_sent(Duration::from_secs(second));
        }
        arrived.iter().for_each(|number| count.note_arrived(*number));
        count.tally(&Stream {
            flow: Flow {
                from: "a".into(),
                to: "b".into(),
                family: Family::V4,
                service: Service::Udp(1),
                spoofed: None,
                allowed,
            },
            sockets: Sockets::One,
        })
    }

    #[test]
    fn exactly_once_is_right_and_all_else_is_wrong() {
        assert_eq!(tally(true, &[2, 0, 1]).wrong(), 0);
        let lost = tally(true, &[0, 2]);
        assert_eq!((lost.wrong(), lost.lost_at), (1, vec![Duration::from_secs(1)]));
        assert_eq!(tally(true, &[0, 1, 2, 2]).wrong(), 1);
    }

    #[test]
    fn never_is_right_for_what_is_denied() {
        assert_eq!(tally(false, &[]).wrong(), 0);
        assert_eq!(tally(false, &[1]).wrong(), 1);
        assert_eq!(Tally { slipped: 2, ..tally(false, &[]) }.wrong(), 2);
    }
}
