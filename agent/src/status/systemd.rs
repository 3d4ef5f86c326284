//! Speaks with systemd: ready, what it is doing, and the watchdog.
//!
//! The watchdog is not a timer of its own: systemd is told that we live only when every loop has
//! answered a question that was put after the last time. A loop that waits for etcd or has nothing
//! to do answers from its `select!`; one that hangs does not, and systemd restarts the agent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{Notify, watch};

/// The line to systemd. Does nothing when systemd did not start us.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    last: Arc<Mutex<String>>,
}

impl Notifier {
    /// `READY=1`: only after the first complete apply.
    pub fn ready(&self) {
        send(NotifyState::Ready);
    }

    /// `STATUS=`: what it is doing, for `systemctl status`. Sent when it differs from the last.
    pub fn status(&self, text: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != text {
            text.clone_into(&mut last);
            send(NotifyState::Status(text));
        }
    }

    /// `STOPPING=1`: the end has begun.
    pub fn stopping(&self) {
        send(NotifyState::Stopping);
    }

    /// `WATCHDOG=1`: everything lives.
    pub fn alive(&self) {
        send(NotifyState::Watchdog);
    }

    /// The time within which systemd wants to hear from us (`WatchdogSec=`), when it does.
    pub fn watchdog_limit() -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }
}

fn send(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(reason = %error, "systemd cannot be told");
    }
}

/// One loop's side of the watchdog. Dropped without [`retire`](Self::retire), as by a panic, it
/// counts as a loop that does not answer.
#[derive(Debug)]
pub struct Heartbeat {
    asked: watch::Receiver<u64>,
    member: Arc<Member>,
    answers: Arc<Notify>,
}

impl Heartbeat {
    /// Waits for the next question and answers it. Put it into the loop's `select!`; it is
    /// cancel-safe, since a question stays until it is answered.
    pub async fn beat(&mut self) {
        if self.asked.changed().await.is_err() {
            // Nobody asks any more.
            std::future::pending::<()>().await;
        }
        self.member.answered.store(*self.asked.borrow_and_update(), Ordering::Release);
        self.answers.notify_one();
    }

    /// The loop ends as it should and need not answer any more.
    pub fn retire(self) {
        self.member.answered.store(u64::MAX, Ordering::Release);
        self.answers.notify_one();
    }
}

#[derive(Debug)]
struct Member {
    name: &'static str,
    answered: AtomicU64,
}

/// Asks every loop whether it lives.
#[derive(Debug)]
pub struct Watchdog {
    question: watch::Sender<u64>,
    members: Vec<Arc<Member>>,
    answers: Arc<Notify>,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}

impl Watchdog {
    /// A watchdog without loops.
    pub fn new() -> Self {
        Self { question: watch::Sender::new(0), members: vec![], answers: Arc::default() }
    }

    /// Adds a loop, by the name that a warning will show.
    pub fn register(&mut self, name: &'static str) -> Heartbeat {
        let member = Arc::new(Member { name, answered: AtomicU64::new(0) });
        self.members.push(member.clone());
        Heartbeat { asked: self.question.subscribe(), member, answers: self.answers.clone() }
    }

    /// Asks for ever, three times in each `limit`, and calls `alive` each time that every loop has
    /// answered. Loops that have not answered for half of `limit` are named in the log once.
    pub async fn run(self, limit: Duration, mut alive: impl FnMut()) {
        let mut question = 0;
        loop {
            question += 1;
            self.question.send_replace(question);
            if tokio::time::timeout(limit / 2, self.all_answered(question)).await.is_err() {
                let silent = self.silent(question).join(", ");
                tracing::error!(loops = %silent, ?limit, "no sign of life; systemd will restart");
                self.all_answered(question).await;
                tracing::info!(loops = %silent, "alive again");
            }
            alive();
            tokio::time::sleep(limit / 3).await;
        }
    }

    fn silent(&self, question: u64) -> Vec<&'static str> {
        let silent = |m: &&Arc<Member>| m.answered.load(Ordering::Acquire) < question;
        self.members.iter().filter(silent).map(|member| member.name).collect()
    }

    async fn all_answered(&self, question: u64) {
        // An answer between the look and the wait is not lost: `Notify` keeps one permit.
        while !self.silent(question).is_empty() {
            self.answers.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Starts the watchdog; the counter says how often systemd heard of us.
    fn start(watchdog: Watchdog) -> Arc<AtomicUsize> {
        let pings = Arc::new(AtomicUsize::new(0));
        let counter = pings.clone();
        tokio::spawn(watchdog.run(LIMIT, move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        pings
    }

    fn answer_for_ever(mut heartbeat: Heartbeat) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                heartbeat.beat().await;
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn loops_that_only_wait_are_alive() {
        let mut watchdog = Watchdog::new();
        for name in ["datastore", "felix", "routes"] {
            answer_for_ever(watchdog.register(name));
        }
        let pings = start(watchdog);
        tokio::time::sleep(LIMIT * 10).await;
        assert!(pings.load(Ordering::Relaxed) >= 30, "{pings:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_loop_that_hangs_silences_all() {
        let mut watchdog = Watchdog::new();
        answer_for_ever(watchdog.register("datastore"));
        let mut slow = watchdog.register("felix");
        let pings = start(watchdog);
        tokio::time::sleep(LIMIT * 10).await;
        assert_eq!(pings.load(Ordering::Relaxed), 0);
        // It was only slow: one answer, one ping, and silence again.
        slow.beat().await;
        tokio::time::sleep(LIMIT * 10).await;
        assert_eq!(pings.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_died_is_noticed_and_one_that_retired_is_not() {
        let mut watchdog = Watchdog::new();
        let dying = answer_for_ever(watchdog.register("felix"));
        watchdog.register("starter").retire();
        let pings = start(watchdog);
        tokio::time::sleep(LIMIT * 2).await;
        let before = pings.load(Ordering::Relaxed);
        assert!(before > 0);
        dying.abort();
        tokio::time::sleep(LIMIT * 10).await;
        assert!(pings.load(Ordering::Relaxed) <= before + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_that_is_cut_off_is_not_lost() {
        let mut watchdog = Watchdog::new();
        let mut heartbeat = watchdog.register("felix");
        let pings = start(watchdog);
        tokio::spawn(async move {
            loop {
                // Something else in the select is always faster.
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(Duration::from_millis(10)) => {}
                    () = heartbeat.beat() => {}
                }
            }
        });
        tokio::time::sleep(LIMIT * 3).await;
        assert!(pings.load(Ordering::Relaxed) >= 8, "{pings:?}");
    }
}
