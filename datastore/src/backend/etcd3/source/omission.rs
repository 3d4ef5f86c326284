//! Whether the store may have left out events of a watch.
//!
//! etcd before 3.4.31 and 3.5.13 loses events in silence (etcd issue 17529): a watch that is
//! behind what was compacted is to be told so, but if its queue of 128 messages is full at that
//! moment, it is taken for up to date and goes on with what happens next. And before 3.4.36 and
//! 3.5.18 a deletion at the very revision of a compaction is gone for a watch that begins there
//! (etcd issue 19179). Neither leaves a trace on the stream.
//!
//! Both need a compaction beyond what had been told. So after everything that can hide one (a
//! watch that was opened, a run of messages as long as that queue) the store is asked once whether
//! it still remembers the revision from before. If it does, nothing can have been left out.

use std::time::Duration;

use tokio::time::Instant;

/// A run of messages that is longer may be a queue that was full. Fewer than it holds, as the first
/// of them may have been seen before.
const QUEUE: u32 = 100;

/// What comes so soon after the message before is of the same run: longer than a connection may be
/// silent, so a slow one makes no two runs of one queue.
const PAUSE: Duration = Duration::from_secs(10);

/// When the store is asked. One question for all that was doubted until then; etcd looks after
/// watches that are behind every 100 ms.
const DELAY: Duration = Duration::from_secs(2);

/// What is doubted of a watch.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// When the last message came, and how many there are in its run.
    run: Option<(Instant, u32)>,
    asked: Option<Question>,
}

#[derive(Debug)]
struct Question {
    revision: i64,
    at: Instant,
}

impl Doubt {
    /// A watch was opened that takes up after a revision.
    pub(super) fn opened(&mut self, now: Instant, revision: i64) {
        self.run = None;
        self.doubt(now, revision);
    }

    /// Events up to a revision came.
    pub(super) fn came(&mut self, now: Instant, revision: i64) {
        let before = self.run.filter(|(last, _)| now.duration_since(*last) <= PAUSE);
        let length = before.map_or(0, |(_, length)| length).saturating_add(1);
        self.run = Some((now, length));
        if length > QUEUE {
            self.doubt(now, revision);
        }
    }

    /// When to ask.
    pub(super) fn due(&self) -> Option<Instant> {
        self.asked.as_ref().map(|question| question.at)
    }

    /// The revision that the store must remember. It stays doubted until [`Doubt::settle`].
    pub(super) fn revision(&self) -> Option<i64> {
        self.asked.as_ref().map(|question| question.revision)
    }

    /// The store remembers it, or everything was listed since.
    pub(super) fn settle(&mut self) {
        self.asked = None;
    }

    fn doubt(&mut self, now: Instant, revision: i64) {
        match &mut self.asked {
            Some(question) => question.revision = question.revision.min(revision),
            None => self.asked = Some(Question { revision, at: now + DELAY }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(doubt: &mut Doubt, begin: Instant, every: Duration, revisions: std::ops::Range<i64>) {
        for (i, revision) in revisions.enumerate() {
            doubt.came(begin + every * u32::try_from(i).unwrap(), revision);
        }
    }

    #[test]
    fn an_opened_watch_is_doubted_once() {
        let (mut doubt, now) = (Doubt::default(), Instant::now());
        doubt.opened(now, 7);
        assert_eq!((doubt.revision(), doubt.due()), (Some(7), Some(now + DELAY)));
        doubt.settle();
        assert_eq!((doubt.revision(), doubt.due()), (None, None));
    }

    #[test]
    fn a_run_is_doubted_from_its_first_message_that_can_be_the_last_of_a_full_queue() {
        let (mut doubt, now) = (Doubt::default(), Instant::now());
        let quick = Duration::from_millis(1);
        run(&mut doubt, now, quick, 0..100);
        assert_eq!(doubt.revision(), None);
        run(&mut doubt, now + quick * 100, quick, 100..150);
        assert_eq!(doubt.revision(), Some(100));
        // Asked soon, though messages go on.
        assert_eq!(doubt.due(), Some(now + quick * 100 + DELAY));
        doubt.settle();
        run(&mut doubt, now + quick * 150, quick, 150..151);
        assert_eq!(doubt.revision(), Some(150));
    }

    #[test]
    fn messages_that_come_one_by_one_are_none() {
        let (mut doubt, now) = (Doubt::default(), Instant::now());
        run(&mut doubt, now, PAUSE + DELAY, 0..1_000);
        assert_eq!(doubt.revision(), None);
        // A queue that is read slowly.
        run(&mut doubt, now + PAUSE * 2_000, PAUSE, 0..101);
        assert_eq!(doubt.revision(), Some(100));
    }

    #[test]
    fn the_older_revision_is_asked_for() {
        let (mut doubt, now) = (Doubt::default(), Instant::now());
        doubt.opened(now, 9);
        doubt.opened(now + DELAY / 2, 12);
        assert_eq!((doubt.revision(), doubt.due()), (Some(9), Some(now + DELAY)));
        doubt.opened(now, 4);
        assert_eq!(doubt.revision(), Some(4));
    }
}
