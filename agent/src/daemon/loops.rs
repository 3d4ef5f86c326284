//! The small loops of the daemon: each ties one part to another, and has nothing of its own.

use std::sync::Arc;
use std::time::Duration;

use calico_datastore::backend::etcd3::SourceStatus;
use calico_datastore::backend::{AnySource, SyncEvent};
use calico_datastore::store::AnyStore;
use tokio::sync::{mpsc, watch};

use super::DaemonError;
use crate::config::Settings;
use crate::node::registration::Identity;
use crate::node::{addresses, register};
use crate::paths::Paths;
use crate::status::overview::{Overview, Registration};
use crate::status::systemd::{Heartbeat, Notifier, Watchdog};
use crate::status::watchdog;
use crate::telemetry::level::Switch;
use crate::telemetry::{Logs, chain};

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

/// Registers this host, and again whenever the whole store was read again.
pub(super) async fn registration_task(
    client: AnyStore,
    mut identity: Identity,
    paths: Paths,
    mut read: watch::Receiver<SourceStatus>,
    result: watch::Sender<Registration>,
) {
    let interfaces = match addresses::host_addresses().await {
        Ok(interfaces) => interfaces,
        Err(error) => {
            // Only needed to complete an address given without its prefix length.
            tracing::warn!(error = chain(&error), "no interface addresses");
            Vec::new()
        }
    };
    if let AnyStore::Etcd2(_) = client {
        // What a Node is there is many keys, which calico/node has written; only reports are ours.
        let text = "left as it is: in the v1 layout calicoctl registers hosts".to_owned();
        result.send_replace(Registration { text, done: true, problems: Vec::new() });
        // Nothing is left to do until the source ends, and the agent with it.
        while read.changed().await.is_ok() {}
        return;
    }
    loop {
        // The first listing is that of the store in which we register for the first time.
        let known = read.borrow_and_update().listings.max(1);
        let registered = register::register_until_done(
            &client,
            &identity,
            &interfaces,
            &paths.nodename(),
            |problem| {
                let text = problem.message.clone();
                result.send_replace(Registration { text, done: false, problems: vec![problem] });
            },
        )
        .await;
        let addresses = registered.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        let text = match &addresses[..] {
            [] => "registered without an address".to_owned(),
            _ => format!("registered with {}", addresses.join(" and ")),
        };
        result.send_replace(Registration { text, done: true, problems: registered.problems });
        // Listed again: the store may have been wiped or restored, and not know us any more.
        // Whether it is ready is not for us to say then: its content may be on its way.
        identity.may_initialise = matches!(client, AnyStore::Directory(_));
        if read.wait_for(|status| status.listings > known).await.is_err() {
            return;
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
