//! The composition root: makes the parts, connects them, and waits for the end.
//!
//! Ending the daemon leaves the kernel and BIRD as they are: pods keep their network and their
//! protection while the agent is restarted or updated.

mod assembly;
mod error;
mod ground;
mod loops;
mod registration;
mod store;
mod tasks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_datastore::backend::AnySource;
use calico_datastore::store::AnyStore;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use self::assembly::{ASKED_LIMIT, Assembly, Beginning, Flush};
pub use self::error::DaemonError;
use self::ground::{Ground, Locks};
use self::loops::{follow_log_level, follow_silence, watch_over};
use self::tasks::Tasks;
use crate::api::server;
use crate::calculation::Layers;
use crate::config::{Flags, Local, set_locally};
use crate::denied::Book;
use crate::exec::Exec;
use crate::felix::tally::Tally;
use crate::node::registration::Identity;
use crate::paths::Paths;
use crate::reconcile::HostStates;
use crate::reload::Reloader;
use crate::routes::bird::{Bird, peers};
use crate::signals::{Signal, Signals};
use crate::status::overview::Overview;
use crate::status::systemd::Notifier;
use crate::status::{aggregate, report};
use crate::stored::keeper;
use crate::telemetry::Logs;
use crate::telemetry::event;
use crate::telemetry::level::Switch;

/// What the daemon is told.
#[derive(Debug)]
pub struct Options {
    /// The three directories.
    pub paths: Paths,
    /// What was given on the command line, for a reload of `agent.toml`.
    pub flags: Flags,
    /// What only this host can say.
    pub local: Local,
    /// The layers of the settings that this host holds.
    pub layers: Layers,
    /// Whose level follows the settings.
    pub logs: Logs,
}

/// How long the end waits for the policy to be on disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Runs until a signal asks for the end.
///
/// # Errors
/// When a part that nothing works without cannot be made, or ends by itself.
pub async fn run(options: Options) -> Result<(), DaemonError> {
    let mut signals = Signals::listen().map_err(DaemonError::Signals)?;
    let notifier = Notifier::default();
    let mut running = {
        // Looking for a dataplane may take its time; signals are heard all the same.
        let mut start = std::pin::pin!(start(options, notifier.clone()));
        let mut reload = false;
        let running = loop {
            tokio::select! {
                // `next` is cancel-safe; dropping the start half-way leaves nothing behind.
                started = &mut start => break started?,
                signal = signals.next() => match signal {
                    Signal::Terminate => {
                        tracing::info!("ending before the start was done");
                        return Ok(());
                    }
                    Signal::Reload => reload = true,
                }
            }
        };
        if reload {
            // What is wrong with the file is in the journal.
            let _ = running.reloader.reload();
        }
        running
    };
    loop {
        tokio::select! {
            // Both arms are cancel-safe: a signal stays queued, a finished task stays finished.
            signal = signals.next() => match signal {
                Signal::Terminate => {
                    tracing::info!(event = event::STOPPING, "ending; the kernel stays as it is");
                    notifier.stopping();
                    flush(&running.flush).await;
                    running.tasks.end().await;
                    return Ok(());
                }
                Signal::Reload => drop(running.reloader.reload()),
            },
            ended = running.tasks.ended() => return Err(DaemonError::TaskEnded(ended)),
        }
    }
}

/// A daemon whose parts run.
struct Running {
    tasks: Tasks,
    reloader: Arc<Reloader>,
    flush: Flush,
    _locks: Locks,
}

/// Makes all parts and connects them.
async fn start(options: Options, notifier: Notifier) -> Result<Running, DaemonError> {
    let Options { paths, flags, local, layers, logs } = options;
    let ground = Ground::prepare(&paths, &local, &layers).await?;
    let Ground { node, boot, client, monitor, monitor_task, felix, .. } = ground;
    store::announce(&ground.location);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(event = event::STARTED, %node, version, "calico-agent starts");

    let (layers_tx, layers_rx) = watch::channel(Arc::new(layers));
    let source = AnySource::over(&client);
    let read = source.status();
    let beginning = Beginning {
        node: node.clone(),
        layers: layers_rx,
        settings: ground.settings,
        stored: ground.stored,
    };
    let links = monitor.links.clone();
    let mut assembly = Assembly::around(source, beginning, links, ground.watchdog);
    assembly.tasks.spawn("monitor", async move {
        let _ = monitor_task.await;
    });
    let mtu = assembly.mtu(paths.mtu(), monitor.changes.default_routes());
    let book = Book::default();
    let denied = assembly.denied_packets(book.clone());
    let beside = assembly.rules_of_others(felix.changes());
    let tally = Tally::new(felix.changes());
    let bird_steps = ground.bird_exec.steps();
    let bird = Bird::new(paths.bird_config(), paths.bird_socket(), ground.bird_exec);
    let felix = (felix, ground.watch, ground.exec.steps());
    let parts = assembly.dataplane(felix, monitor, (bird, bird_steps));
    // Files of this host belong to no cluster that somebody could have wiped.
    let alone = matches!(client, AnyStore::Directory(_));
    let identity = {
        let layers = layers_tx.borrow();
        let overridden = set_locally(&layers.env, &layers.file, "DefaultEndpointToHostAction");
        let mut identity = Identity::new(node.clone(), &local.node, overridden);
        identity.may_initialise = ground.newcomer || alone;
        identity
    };
    let registration = assembly.registration(client.clone(), identity, paths.clone(), read);
    let place = keeper::Place {
        file: paths.stored_policy(),
        marker: paths.policy_marker(),
        node: node.clone(),
        boot: boot.clone(),
    };
    let (kept, flush) = assembly.policy_on_disk(place, ground.kept, &parts);
    let (state_dir, config) = (paths.state_dir.clone(), local.collector.clone());
    let whose = (node.clone(), boot);
    let collector = assembly.collector(client.clone(), whose, state_dir, config);

    let (ready_tx, ready) = watch::channel(false);
    let (problems_tx, problems) = watch::channel(Vec::new());
    let overview = Arc::new(Overview {
        node: node.to_string(),
        location: ground.location.describe(),
        started: Instant::now(),
        sync: assembly.sync.clone(),
        registration,
        desired: assembly.desired.clone(),
        parts,
        ready,
        files: problems,
        silent: assembly.watchdog.silent(),
        kept,
        mtu,
        denied,
        beside,
        book,
        collector,
        bird_socket: paths.bird_socket(),
        programs: Some(Exec::new(ASKED_LIMIT)),
        tally: Some(tally),
    });
    let (states_tx, states) = watch::channel(None);
    let (hosts_tx, hosts) = watch::channel(HostStates::new());
    let outputs = aggregate::Outputs {
        states: states_tx,
        hosts: hosts_tx,
        ready: ready_tx,
        problems: problems_tx,
    };
    let Assembly { mut tasks, mut watchdog, settings, .. } = assembly;
    let heartbeat = watchdog.register("aggregate");
    let (told, say) = (Arc::clone(&overview), notifier.clone());
    tasks.spawn("aggregate", aggregate::run(told, ground.files, outputs, say, heartbeat));
    tasks.spawn("BGP sessions", peers::follow(paths.bird_socket()));
    let switch = Switch::new(logs.is_pinned());
    tasks.spawn("log level", follow_log_level(logs, settings.clone(), switch.clone()));
    // On a host by itself nobody reads them; `status` and the endpoint files tell the same.
    if !alone {
        let reports = client.reports();
        let heartbeat = watchdog.register("report");
        let reporting = report::Inputs { reports, settings, states, hosts, heartbeat };
        tasks.spawn("report", report::run(client, node, overview.started.into(), reporting));
    }
    let reloader = Arc::new(Reloader { paths, flags, local, layers: layers_tx });
    tasks.spawn("socket", {
        let (overview, reloader) = (Arc::clone(&overview), Arc::clone(&reloader));
        async move {
            if let Err(error) = server::serve(ground.listener, overview, switch, reloader).await {
                tracing::error!(%error, "the socket broke");
            }
        }
    });
    tasks.spawn("status line", follow_silence(overview, notifier.clone()));
    watch_over(watchdog, ground.watched, notifier)?;
    Ok(Running { tasks, reloader, flush, _locks: ground.locks })
}

/// Has what is in force put on disk. A disk that hangs is not waited for.
async fn flush(keeper: &Flush) {
    let (done, written) = oneshot::channel();
    if keeper.try_send(done).is_ok() && timeout(FLUSH_LIMIT, written).await.is_err() {
        tracing::warn!(limit = ?FLUSH_LIMIT, "the policy in force is not on disk yet; not waited for");
    }
}
