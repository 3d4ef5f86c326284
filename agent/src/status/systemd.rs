//! Speaks with systemd: ready, what it is doing, and that we live.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

pub use super::watchdog::{Heartbeat, Watchdog};

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
