//! Finds the loop that hangs.
//!
//! The watchdog is not a timer that pings: systemd is told that we live only when every loop has
//! answered a question that was put after the last time. A loop that waits for etcd or has nothing
//! to do answers from its `select!`; one that hangs does not, is named in the log and in `status`,
//! and systemd restarts the agent.
//!
//! It has a thread of its own: were it a task, loops that block their threads could silence it as
//! well, and nobody would say which they are.
//!
//! # What counts as hanging
//! A run made of steps that are each bounded in time ([`crate::exec`]) does not hang while steps
//! end, also when each ends because its time is over: a program that is stuck is a problem to be
//! named and tried again, and another start of the agent would only find it stuck again.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::telemetry::event;

/// How long a loop may be silent where systemd does not say (`WatchdogSec=` of our unit).
pub const LIMIT: Duration = Duration::from_secs(60);

/// How often a loop that was silent too long is looked at again.
const LOOK: Duration = Duration::from_millis(250);

/// The ends of steps of a run, counted.
pub type Steps = watch::Receiver<u64>;

/// One loop's side of the watchdog. Dropped without [`retire`](Self::retire), as by a panic, it
/// counts as a loop that does not answer.
#[derive(Debug)]
pub struct Heartbeat {
    asked: watch::Receiver<u64>,
    member: Arc<Member>,
    answers: Arc<Answers>,
    steps: Option<Steps>,
}

impl Heartbeat {
    /// One that nobody asks, for what runs without a daemon.
    pub fn unasked() -> Self {
        Watchdog::new().register("unasked")
    }

    /// Waits for the next question and answers it. Put it into the loop's `select!`; it is
    /// cancel-safe, since a question stays until it is answered.
    pub async fn beat(&mut self) {
        if self.asked.changed().await.is_err() {
            // Nobody asks any more.
            std::future::pending::<()>().await;
        }
        self.member.answered.store(*self.asked.borrow_and_update(), Ordering::Release);
        self.answers.notify();
    }

    /// The steps that [`during`](Self::during) looks at.
    #[must_use]
    pub fn with_steps(mut self, steps: Steps) -> Self {
        self.steps = Some(steps);
        self
    }

    /// Does some work. A question that comes meanwhile is answered if a step has ended since the
    /// last answer, or as soon as one ends: without steps, not before the work is done.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Some(steps) = &mut self.steps {
            steps.mark_unchanged();
        }
        loop {
            tokio::select! {
                // The work is pinned outside and polled to its end; the other arm is dropped only
                // when it is done.
                biased;
                done = &mut work => return done,
                () = self.beat_after_step() => {}
            }
        }
    }

    async fn beat_after_step(&mut self) {
        let ended = match &mut self.steps {
            Some(steps) => steps.changed().await.is_ok(),
            None => false,
        };
        if !ended {
            std::future::pending::<()>().await;
        }
        self.beat().await;
    }

    /// The loop ends as it should and need not answer any more.
    pub fn retire(self) {
        self.member.answered.store(u64::MAX, Ordering::Release);
        self.answers.notify();
    }
}

#[derive(Debug)]
struct Member {
    name: &'static str,
    answered: AtomicU64,
}

/// Wakes the watchdog's thread.
#[derive(Debug, Default)]
struct Answers {
    given: Mutex<bool>,
    news: Condvar,
}

impl Answers {
    fn notify(&self) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.news.notify_one();
    }

    /// Waits for an answer since the last call, at most `limit`.
    fn wait(&self, limit: Duration) {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.news.wait_timeout_while(given, limit, |given| !*given);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// A loop that gives no sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The loop.
    pub name: &'static str,
    /// When it was asked what it has not answered.
    pub since: Instant,
}

/// Asks every loop whether it lives.
#[derive(Debug)]
pub struct Watchdog {
    question: watch::Sender<u64>,
    members: Vec<Arc<Member>>,
    answers: Arc<Answers>,
    silent: watch::Sender<Vec<Silence>>,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}

impl Watchdog {
    /// A watchdog without loops.
    pub fn new() -> Self {
        Self {
            question: watch::Sender::new(0),
            members: vec![],
            answers: Arc::default(),
            silent: watch::Sender::default(),
        }
    }

    /// Adds a loop, by the name that a warning will show.
    pub fn register(&mut self, name: &'static str) -> Heartbeat {
        let member = Arc::new(Member { name, answered: AtomicU64::new(0) });
        self.members.push(member.clone());
        let answers = self.answers.clone();
        Heartbeat { asked: self.question.subscribe(), member, answers, steps: None }
    }

    /// The loops that were silent for half of the limit, and still are.
    pub fn silent(&self) -> watch::Receiver<Vec<Silence>> {
        self.silent.subscribe()
    }

    /// Asks until no loop is left, three times in each `limit`, and calls `alive` each time that
    /// every loop has answered. Loops that have not answered for half of `limit` are published,
    /// and named in the log once, with `consequence`. Blocks its thread.
    pub fn run(self, limit: Duration, consequence: &str, mut alive: impl FnMut()) {
        let mut question = 0;
        loop {
            question += 1;
            if self.question.send(question).is_err() {
                return;
            }
            if !self.wait_for_all(question, limit, consequence) {
                return;
            }
            alive();
            std::thread::sleep(limit / 3);
        }
    }

    /// False when no loop is left that could answer.
    fn wait_for_all(&self, question: u64, limit: Duration, consequence: &str) -> bool {
        let asked = Instant::now();
        loop {
            let silent = self.unanswered(question);
            let named: Vec<_> = self.silent.borrow().iter().map(|silence| silence.name).collect();
            if silent.is_empty() {
                if !named.is_empty() {
                    tracing::warn!(event = event::ALIVE, loops = named.join(", "), "alive again");
                    self.silent.send_replace(Vec::new());
                }
                return true;
            }
            if self.question.is_closed() {
                return false;
            }
            let patience = (limit / 2).saturating_sub(asked.elapsed());
            if patience.is_zero() && named != silent {
                if silent.iter().any(|name| !named.contains(name)) {
                    let (loops, after) = (silent.join(", "), limit / 2);
                    tracing::error!(
                        event = event::HANGS,
                        loops,
                        ?after,
                        "no sign of life{consequence}"
                    );
                }
                let silent = silent.into_iter().map(|name| Silence { name, since: asked });
                self.silent.send_replace(silent.collect());
            }
            self.answers.wait(if patience.is_zero() { LOOK } else { patience });
        }
    }

    fn unanswered(&self, question: u64) -> Vec<&'static str> {
        let silent = |m: &&Arc<Member>| m.answered.load(Ordering::Acquire) < question;
        self.members.iter().filter(silent).map(|member| member.name).collect()
    }
}

#[cfg(test)]
mod tests;
