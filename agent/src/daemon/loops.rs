//! The small loops of the daemon: each ties one part to another, and has nothing of its own.

use std::sync::Arc;
use std::time::Duration;

use calico_datastore::backend::{AnySource, SyncEvent};
use tokio::sync::{mpsc, watch};

use super::DaemonError;
use crate::config::Settings;
use crate::status::overview::Overview;
use crate::status::systemd::{Heartbeat, Notifier, Watchdog};
use crate::status::watchdog;
use crate::telemetry::Logs;
use crate::telemetry::level::Switch;

/// Follows the datastore. The watchdog is answered by the same task: when the source spins or
/// blocks, nobody answers. (Its waits are all bounded in time by the source itself.)
pub(super) async fn follow(
    source: AnySource,
    events: mpsc::Sender<SyncEvent>,
    mut heartbeat: Heartbeat,
) {
    let mut source = std::pin::pin!(source.run(events));
    loop {
        tokio::select! {
            // The source is pinned outside and never dropped half-way.
            () = &mut source => return,
            () = heartbeat.beat() => {}
        }
    }
}

/// Says in `systemctl status` which loops hang. Where the task that puts reports together is one of
/// them, nobody else would.
pub(super) async fn follow_silence(overview: Arc<Overview>, notifier: Notifier) {
    let mut silent = overview.silent.clone();
    while silent.changed().await.is_ok() {
        notifier.status(&overview.summary());
    }
}

/// Sets the level that the settings say, or the one that somebody asked for, until its time is over.
pub(super) async fn follow_log_level(
    logs: Logs,
    mut settings: watch::Receiver<Arc<Settings>>,
    switch: Switch,
) {
    let mut asked = switch.subscribe();
    loop {
        let level = settings.borrow_and_update().log_level.clone();
        let now = asked.borrow_and_update().clone();
        let level = now.level.unwrap_or(&level);
        logs.set_level(level);
        let over = async {
            match now.until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = settings.changed() => if changed.is_err() { return },
            // The switch is ours, too: it does not go before we do.
            _ = asked.changed() => {}
            () = over => switch.reset(),
        }
    }
}

/// Starts the watchdog's thread, whether or not systemd waits for a sign of life (`watched`): a
/// loop that hangs is named in any case.
pub(super) fn watch_over(
    watchdog: Watchdog,
    watched: Option<Duration>,
    notifier: Notifier,
) -> Result<(), DaemonError> {
    let (limit, consequence) = match watched {
        Some(limit) => (limit, "; systemd will restart the agent"),
        None => (watchdog::LIMIT, ""),
    };
    let thread = std::thread::Builder::new().name("watchdog".to_owned());
    let run = move || watchdog.run(limit, consequence, || notifier.alive());
    thread.spawn(run).map(drop).map_err(DaemonError::Watchdog)
}
