//! The composition root: makes the parts, connects them, and waits for the end.
//!
//! Ending the daemon leaves the kernel and BIRD as they are: pods keep their network and their
//! protection while the agent is restarted or updated.

mod error;
mod loops;
mod store;
mod tasks;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_datastore::backend::AnySource;
use calico_datastore::store::AnyStore;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

pub use self::error::DaemonError;
use self::loops::{follow, follow_log_level, follow_silence, registration_task, watch_over};
use self::tasks::Tasks;
use crate::api::server;
use crate::beside;
use crate::calculation::{self, Layers, Outputs};
use crate::collector::{self, CollectorState};
use crate::config::{Flags, Local, set_locally};
use crate::denied;
use crate::exec::Exec;
use crate::felix::hosts::lifelines;
use crate::felix::tally::Tally;
use crate::felix::watch::Watch;
use crate::felix::{self, Felix};
use crate::lock;
use crate::node::registration::Identity;
use crate::node::{mtu, name, register};
use crate::paths::Paths;
use crate::reconcile::{HostStates, Inputs, Reconciler as _};
use crate::reload::Reloader;
use crate::routes::Routes;
use crate::routes::bird::{Bird, peers};
use crate::routes::monitor::Monitor;
use crate::signals::{Signal, Signals};
use crate::status::files::EndpointFiles;
use crate::status::overview::{Overview, Registration, SyncState};
use crate::status::systemd::{Notifier, Watchdog};
use crate::status::{aggregate, report, watchdog};
use crate::stored::start::{self, Found};
use crate::stored::{StoreSettings, keeper};
use crate::telemetry::level::Switch;
use crate::telemetry::{Logs, chain, event};

/// Where the kernel's settings are.
const PROC_SYS: &str = "/proc/sys";

/// Where processes are told.
const PROC: &str = "/proc";

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

/// Room for batches on their way to the calculation. Little: one that is behind should get one
/// large batch.
const EVENTS: usize = 4;

/// How long the end waits for the policy to be on disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The longest that a program may take: a third of the watchdog's limit where that is less.
const EXEC_LIMIT: Duration = Duration::from_secs(30);
/// The longest that a program may take for which somebody waits who asks for the status.
const ASKED_LIMIT: Duration = Duration::from_secs(3);

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
    flush: mpsc::Sender<oneshot::Sender<()>>,
    _lock: lock::Lock,
    _programs: Option<lock::Programs>,
}

/// Makes all parts and connects them.
async fn start(options: Options, notifier: Notifier) -> Result<Running, DaemonError> {
    let Options { paths, flags, local, layers, logs } = options;
    for dir in [&paths.run_dir, &paths.state_dir] {
        std::fs::create_dir_all(dir)
            .map_err(|source| DaemonError::Directory { path: dir.clone(), source })?;
    }
    // Before anything is touched that another agent may be using.
    let lock = lock::take(&paths.lock()).map_err(DaemonError::Lock)?;
    // Before anything is read that they may still be writing.
    let programs = lock::outlive(&paths.programs_lock()).await.map_err(DaemonError::Lock)?;
    let first = layers.resolve(None, None, None).settings;
    let files = empty_files(first.endpoint_status_prefix.as_deref());
    let (node, _) = name::determine(&local.node, &paths.nodename()).map_err(DaemonError::Name)?;
    // Before anything of this run is kept.
    let newcomer = register::is_newcomer(&paths);
    let boot = start::boot_id(Path::new(start::BOOT_ID));
    let (found, kept) = start::find(&paths, &node, &boot).await;
    // A program must be given up before systemd gives up on us.
    let watched = Notifier::watchdog_limit();
    let exec = || Exec::new(EXEC_LIMIT.min(watched.unwrap_or(watchdog::LIMIT) / 3));
    let (bird_exec, exec) = (exec(), exec());
    let wanted = first.wanted_dataplane();
    felix::pick::pick(&exec, wanted, true).await.map_err(DaemonError::Dataplane)?;
    let location = local.datastore.clone().below(&paths.state_dir);
    let servers = lifelines::servers(location.servers());
    let felix = Felix::new(exec.clone(), PathBuf::from(PROC_SYS)).with_datastore(servers);
    let stored = match found {
        Found::Publish(stored) => Some(stored),
        Found::Nothing | Found::InKernel => None,
    };
    let mut watch = Watch::open(&felix);
    let mut watchdog = Watchdog::new();
    let (monitor, monitor_task) =
        Monitor::start(first.interface_prefixes.clone(), watchdog.register("monitor"))
            .await
            .map_err(DaemonError::Monitor)?;
    let client = store::open(&location)?;
    let listener = server::listen(&paths.api_socket()).map_err(DaemonError::Server)?;
    store::announce(&location);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(event = event::STARTED, %node, version, "calico-agent starts");

    let mut tasks = Tasks::default();
    tasks.spawn("monitor", async move {
        let _ = monitor_task.await;
    });

    let (layers_tx, layers_rx) = watch::channel(Arc::new(layers));
    let (desired_tx, desired) = watch::channel(None);
    let (sync_tx, sync) = watch::channel(SyncState::default());
    let (settings_tx, settings) = watch::channel(Arc::new(first));
    let (store_settings_tx, store_settings) = watch::channel(StoreSettings::default());
    let (events_tx, events) = mpsc::channel(EVENTS);
    let source = AnySource::over(&client);
    let read = source.status();
    tasks.spawn("datastore", follow(source, events_tx, watchdog.register("datastore")));
    tasks.spawn(
        "calculation",
        calculation::run(
            node.clone(),
            layers_rx,
            events,
            stored,
            Outputs {
                desired: desired_tx,
                sync: sync_tx,
                settings: settings_tx,
                store_settings: store_settings_tx,
            },
            watchdog.register("calculation"),
        ),
    );

    let inputs = Inputs {
        desired: desired.clone(),
        links: monitor.links.clone(),
        kernel: Arc::clone(&monitor.routes),
    };
    let (mtu_tx, mtu) = watch::channel(Vec::new());
    let mtu_inputs = mtu::task::Inputs {
        desired: desired.clone(),
        links: monitor.links.clone(),
        default_routes: monitor.changes.default_routes(),
        heartbeat: watchdog.register("mtu"),
    };
    tasks.spawn("mtu", mtu::task::run(paths.mtu(), mtu_inputs, mtu_tx));
    let book = denied::Book::default();
    let (denied_tx, denied_problems) = watch::channel(Vec::new());
    let denied_inputs = denied::Inputs {
        desired: desired.clone(),
        settings: settings.clone(),
        links: monitor.links.clone(),
        heartbeat: watchdog.register("denied packets"),
    };
    tasks.spawn("denied packets", denied::run(denied_inputs, book.clone(), denied_tx));
    let (beside_tx, beside) = watch::channel(Vec::new());
    let beside_inputs = beside::watch::Inputs {
        desired: desired.clone(),
        links: monitor.links.clone(),
        changes: felix.changes(),
        exec: Exec::new(ASKED_LIMIT),
        heartbeat: watchdog.register("rules of others"),
    };
    tasks.spawn("rules of others", beside::watch::run(beside_inputs, beside_tx));
    let bird_steps = bird_exec.steps();
    let bird = Bird::new(paths.bird_config(), paths.bird_socket(), bird_exec);
    let touched = felix.changes().notify();
    let tally = Tally::new(felix.changes());
    let heartbeat = watchdog.register("watch");
    tasks.spawn("watch", async move { watch.run(heartbeat).await });
    let parts = vec![
        // Only routes care for what others do to routes.
        tasks.reconciler(
            felix,
            Inputs { kernel: touched, ..inputs.clone() },
            watchdog.register(Felix::NAME).with_steps(exec.steps()),
            true,
        ),
        tasks.reconciler(
            Routes::new(monitor.changes),
            inputs.clone(),
            watchdog.register(Routes::NAME),
            true,
        ),
        tasks.reconciler(
            bird,
            Inputs { kernel: Arc::default(), ..inputs },
            watchdog.register(Bird::NAME).with_steps(bird_steps),
            false,
        ),
    ];

    let (registration_tx, registration) = watch::channel(Registration::default());
    let overridden = {
        let layers = layers_tx.borrow();
        set_locally(&layers.env, &layers.file, "DefaultEndpointToHostAction")
    };
    let mut identity = Identity::new(node.clone(), &local.node, overridden);
    // Files of this host belong to no cluster that somebody could have wiped.
    let alone = matches!(client, AnyStore::Directory(_));
    identity.may_initialise = newcomer || alone;
    tasks.spawn(
        "registration",
        registration_task(client.clone(), identity, paths.clone(), read, registration_tx),
    );

    let (problems_tx, problems) = watch::channel(Vec::new());
    let (kept_tx, kept) = watch::channel(kept);
    let (flush, flush_rx) = mpsc::channel(1);
    let mut config = local.collector.clone();
    if let AnyStore::Etcd2(_) = client {
        // What is left behind there, another plugin wrote: its addresses are not ours to release.
        config.interval = Duration::ZERO;
    }
    let looking = collector::run::Place {
        node: node.clone(),
        boot: boot.clone(),
        state_dir: paths.state_dir.clone(),
        proc: PathBuf::from(PROC),
        config,
    };
    let place = keeper::Place {
        file: paths.stored_policy(),
        marker: paths.policy_marker(),
        node: node.clone(),
        boot,
    };
    let keeping = keeper::Inputs {
        desired: desired.clone(),
        settings: store_settings,
        sync: sync.clone(),
        reports: parts
            .iter()
            .filter(|part| part.required)
            .map(|part| part.report.clone())
            .collect(),
        flush: flush_rx,
        heartbeat: watchdog.register("policy on disk"),
    };
    tasks.spawn("policy on disk", keeper::run(place, keeping, kept_tx));
    let (collector_tx, collector) = watch::channel(CollectorState::default());
    let looked_at = collector::run::Inputs {
        desired: desired.clone(),
        sync: sync.clone(),
        links: monitor.links,
    };
    tasks.spawn(
        "collector",
        collector::run::run(
            client.clone(),
            looking,
            looked_at,
            collector_tx,
            watchdog.register("collector"),
        ),
    );
    let (ready_tx, ready) = watch::channel(false);
    let overview = Arc::new(Overview {
        node: node.to_string(),
        location: location.describe(),
        started: Instant::now(),
        sync,
        registration,
        desired,
        parts,
        ready,
        files: problems,
        silent: watchdog.silent(),
        kept,
        mtu,
        denied: denied_problems,
        beside,
        book,
        collector,
        bird_socket: paths.bird_socket(),
        programs: Some(Exec::new(ASKED_LIMIT)),
        tally: Some(tally),
    });
    let (states_tx, states) = watch::channel(None);
    let (hosts_tx, hosts) = watch::channel(HostStates::new());
    tasks.spawn(
        "aggregate",
        aggregate::run(
            Arc::clone(&overview),
            files,
            aggregate::Outputs {
                states: states_tx,
                hosts: hosts_tx,
                ready: ready_tx,
                problems: problems_tx,
            },
            notifier.clone(),
            watchdog.register("aggregate"),
        ),
    );
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
            if let Err(error) = server::serve(listener, overview, switch, reloader).await {
                tracing::error!(%error, "the socket broke");
            }
        }
    });

    tasks.spawn("status line", follow_silence(overview, notifier.clone()));
    watch_over(watchdog, watched, notifier)?;
    Ok(Running { tasks, reloader, flush, _lock: lock, _programs: programs })
}

/// Has what is in force put on disk. A disk that hangs is not waited for.
async fn flush(keeper: &mpsc::Sender<oneshot::Sender<()>>) {
    let (done, written) = oneshot::channel();
    if keeper.try_send(done).is_ok() && timeout(FLUSH_LIMIT, written).await.is_err() {
        tracing::warn!(limit = ?FLUSH_LIMIT, "the policy in force is not on disk yet; not waited for");
    }
}

/// What an earlier run said about endpoints holds no longer: they may have been deleted and made
/// again meanwhile. Done before anything is programmed, also while the datastore is away. `None`:
/// there is no such directory, or it could not be emptied; then it is tried again before the first
/// file is made.
fn empty_files(prefix: Option<&Path>) -> Option<EndpointFiles> {
    EndpointFiles::open(prefix?)
        .inspect_err(|error| {
            tracing::error!(error = chain(error), "endpoint files of an earlier run may be left");
        })
        .ok()
}
