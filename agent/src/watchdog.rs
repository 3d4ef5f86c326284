//! The watchdog: is every loop still turning?
//!
//! A ping to systemd means that every loop has answered a token since the last ping. A loop that
//! waits, for etcd or for something to do, answers from inside its `select!`; one that hangs, in a
//! stuck system call or a stuck subprocess, does not, and systemd restarts the agent.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Asks the loops for a sign of life.
#[derive(Clone, Debug)]
pub struct Watchdog {
    token: Arc<watch::Sender<u64>>,
    answers: Arc<Mutex<Vec<(&'static str, u64)>>>,
}

/// A loop's end of the watchdog.
#[derive(Debug)]
pub struct Heartbeat {
    token: watch::Receiver<u64>,
    answers: Arc<Mutex<Vec<(&'static str, u64)>>>,
    name: &'static str,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { token: Arc::new(watch::Sender::new(0)), answers: Arc::default() }
    }
}

impl Watchdog {
    /// A heartbeat for the loop `name`. The loop owes an answer from the next token on.
    pub fn register(&self, name: &'static str) -> Heartbeat {
        let token = self.token.subscribe();
        let current = *token.borrow();
        lock(&self.answers).push((name, current));
        Heartbeat { token, answers: Arc::clone(&self.answers), name }
    }

    /// The loops that have not answered the token of the last call; then asks for the next one.
    pub fn ask(&self) -> Vec<&'static str> {
        let token = *self.token.borrow();
        let silent = lock(&self.answers)
            .iter()
            .filter(|(_, answered)| *answered != token)
            .map(|(name, _)| *name)
            .collect::<Vec<_>>();
        // A silent loop still owes the old token: a new one would give it more time.
        if silent.is_empty() {
            self.token.send_replace(token.wrapping_add(1));
        }
        silent
    }
}

impl Heartbeat {
    /// Waits for the next token and answers it. Cancel-safe. Never ends when the watchdog is gone.
    pub async fn answer(&mut self) {
        if self.token.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let token = *self.token.borrow_and_update();
        let mut answers = lock(&self.answers);
        for (name, answered) in answers.iter_mut() {
            if *name == self.name {
                *answered = token;
            }
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        lock(&self.answers).retain(|(name, _)| *name != self.name);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The data is plain numbers: a panic in between cannot leave it half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiting_loop_answers_and_a_hanging_one_is_named() {
        let watchdog = Watchdog::default();
        let mut waiting = watchdog.register("waiting");
        let _hanging = watchdog.register("hanging");
        let task = tokio::spawn(async move {
            loop {
                waiting.answer().await;
            }
        });
        assert!(watchdog.ask().is_empty(), "nothing was asked yet");
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        assert_eq!(watchdog.ask(), ["hanging"]);
        assert_eq!(watchdog.ask(), ["hanging"], "still owed");
        task.abort();
    }

    #[tokio::test]
    async fn a_loop_that_ended_owes_nothing() {
        let watchdog = Watchdog::default();
        let heartbeat = watchdog.register("gone");
        watchdog.ask();
        assert_eq!(watchdog.ask(), ["gone"]);
        drop(heartbeat);
        assert!(watchdog.ask().is_empty());
    }
}
