//! The composition root: makes the parts, connects them, and waits for the end.
//!
//! Ending the daemon leaves the kernel and BIRD as they are: pods keep their network and their
//! protection while the agent is restarted or updated.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use calico_datastore::backend::etcd3::{Etcd3, Etcd3Config, Etcd3Source, EtcdError};
use calico_datastore::layout::v3;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};

use crate::api::server::{self, ServerError};
use crate::calculation::{self, Layers, Outputs};
use crate::config::{DatastoreConfig, FileConfig, Local, Secret, Settings, set_locally};
use crate::exec::Exec;
use crate::felix::{self, Felix};
use crate::node::addresses::AddressError;
use crate::node::name::NameError;
use crate::node::registration::Identity;
use crate::node::{addresses, name, register};
use crate::paths::Paths;
use crate::reconcile::{self, Inputs, Problem, Reconciler};
use crate::routes::Routes;
use crate::routes::bird::Bird;
use crate::routes::monitor::{Monitor, MonitorError};
use crate::signals::{Signal, Signals};
use crate::status::overview::{Overview, Part, SyncState};
use crate::status::systemd::{Notifier, Watchdog};
use crate::status::{aggregate, report};
use crate::telemetry::Logs;

/// Where the kernel's settings are.
const PROC_SYS: &str = "/proc/sys";

/// What the daemon is told.
#[derive(Debug)]
pub struct Options {
    /// The three directories.
    pub paths: Paths,
    /// What only this host can say.
    pub local: Local,
    /// The layers of the settings that this host holds.
    pub layers: Layers,
    /// Whose level follows the settings.
    pub logs: Logs,
}

/// Why the daemon cannot run, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A directory cannot be made.
    #[error("cannot make the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// This host has no usable name.
    #[error("cannot tell this host's name")]
    Name(#[source] NameError),
    /// The kernel does not tell this host's addresses.
    #[error("cannot read this host's addresses")]
    Addresses(#[source] AddressError),
    /// The kernel does not tell its links and routes.
    #[error("cannot follow the kernel's interfaces")]
    Monitor(#[source] MonitorError),
    /// No dataplane can be programmed.
    #[error("this host cannot enforce policy")]
    Dataplane(#[source] felix::ProbeError),
    /// etcd's configuration cannot work.
    #[error("cannot use the datastore configuration")]
    Datastore(#[source] EtcdError),
    /// The socket cannot be opened.
    #[error("cannot answer questions")]
    Server(#[source] ServerError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
    /// A task ended although nobody stopped it.
    #[error("the {0} task ended unexpectedly")]
    TaskEnded(&'static str),
}

/// Runs until a signal asks for the end.
///
/// # Errors
/// When a part that nothing works without cannot be made, or ends by itself.
pub async fn run(options: Options) -> Result<(), DaemonError> {
    let Options { paths, local, layers, logs } = options;
    let mut signals = Signals::listen().map_err(DaemonError::Signals)?;
    for dir in [&paths.run_dir, &paths.state_dir] {
        std::fs::create_dir_all(dir)
            .map_err(|source| DaemonError::Directory { path: dir.clone(), source })?;
    }
    let (node, _) = name::determine(&local.node, &paths.nodename()).map_err(DaemonError::Name)?;
    let exec = Exec::default();
    let first = layers.resolve(None, None, None).settings;
    felix::probe(&exec, first.iptables_backend).await.map_err(DaemonError::Dataplane)?;
    let felix = Felix::new(exec.clone(), PathBuf::from(PROC_SYS));
    let (monitor, monitor_task) =
        Monitor::start(first.interface_prefixes.clone()).await.map_err(DaemonError::Monitor)?;
    let client = Etcd3::new(etcd_config(&local.datastore)).map_err(DaemonError::Datastore)?;
    let listener = server::listen(&paths.api_socket()).map_err(DaemonError::Server)?;
    tracing::info!(%node, version = env!("CARGO_PKG_VERSION"), "calico-agent starts");

    let notifier = Notifier::default();
    let mut watchdog = Watchdog::new();
    let mut tasks = Tasks::default();
    tasks.spawn("monitor", async move {
        let _ = monitor_task.await;
    });

    let (layers_tx, layers_rx) = watch::channel(Arc::new(layers));
    let (desired_tx, desired) = watch::channel(None);
    let (sync_tx, sync) = watch::channel(SyncState::default());
    let source = Etcd3Source::new(client.clone(), v3::LAYOUT);
    let (events, source_task) = source.start();
    tasks.spawn("datastore", async move {
        let _ = source_task.await;
    });
    tasks.spawn(
        "calculation",
        calculation::run(
            node.clone(),
            layers_rx,
            events,
            Outputs { desired: desired_tx, sync: sync_tx },
            watchdog.register("calculation"),
        ),
    );

    let inputs = Inputs {
        desired: desired.clone(),
        links: monitor.links.clone(),
        kernel: Arc::clone(&monitor.routes),
    };
    let bird = Bird::new(paths.bird_config(), paths.bird_socket(), exec);
    let parts = vec![
        // Only routes care for what others do to routes.
        tasks.reconciler(
            felix,
            Inputs { kernel: Arc::default(), ..inputs.clone() },
            &mut watchdog,
            true,
        ),
        tasks.reconciler(Routes::new(monitor.changes), inputs.clone(), &mut watchdog, true),
        tasks.reconciler(bird, Inputs { kernel: Arc::default(), ..inputs }, &mut watchdog, false),
    ];

    let (registration_tx, registration) = watch::channel(Ok("not registered yet".to_owned()));
    let overridden = {
        let layers = layers_tx.borrow();
        set_locally(&layers.env, &layers.file, "DefaultEndpointToHostAction")
    };
    let identity = Identity::new(node.clone(), &local.node, overridden);
    tasks.start_once(registration_task(client.clone(), identity, paths.clone(), registration_tx));

    let (files_tx, files) = watch::channel(Vec::new());
    let overview = Arc::new(Overview {
        node: node.to_string(),
        started: Instant::now(),
        sync,
        registration,
        desired,
        parts,
        files,
        bird_socket: paths.bird_socket(),
    });
    let (states_tx, states) = watch::channel(None);
    let (settings_tx, settings) = watch::channel(Arc::new(first));
    tasks.spawn(
        "aggregate",
        aggregate::run(
            Arc::clone(&overview),
            aggregate::Outputs { states: states_tx, settings: settings_tx, problems: files_tx },
            notifier.clone(),
            watchdog.register("aggregate"),
        ),
    );
    tasks.spawn("log level", follow_log_level(logs, settings.clone()));
    let reporting = report::Inputs { settings, states, heartbeat: watchdog.register("report") };
    tasks.spawn("report", report::run(client, node, overview.started.into(), reporting));
    tasks.spawn("socket", {
        let overview = Arc::clone(&overview);
        async move {
            if let Err(error) = server::serve(listener, overview).await {
                tracing::error!(%error, "the socket broke");
            }
        }
    });

    if let Some(limit) = Notifier::watchdog_limit() {
        let notifier = notifier.clone();
        tasks.spawn("watchdog", watchdog.run(limit, move || notifier.alive()));
    }

    loop {
        tokio::select! {
            // Both arms are cancel-safe: a signal stays queued, a finished task stays finished.
            signal = signals.next() => match signal {
                Signal::Terminate => {
                    tracing::info!("ending; the kernel stays as it is");
                    notifier.stopping();
                    tasks.end().await;
                    return Ok(());
                }
                Signal::Reload => reload(&paths, &layers_tx),
            },
            ended = tasks.ended() => return Err(DaemonError::TaskEnded(ended)),
        }
    }
}

/// The daemon's tasks by name. Dropping it aborts them all.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    names: Vec<(Id, &'static str)>,
    once: JoinSet<()>,
}

impl Tasks {
    /// A task that runs as long as the daemon.
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(task).id();
        self.names.push((id, name));
    }

    /// A task that may end.
    fn start_once(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.once.spawn(task);
    }

    fn reconciler<R: Reconciler + 'static>(
        &mut self,
        reconciler: R,
        inputs: Inputs,
        watchdog: &mut Watchdog,
        required: bool,
    ) -> Part {
        let (reports, report) = watch::channel(None);
        let heartbeat = watchdog.register(R::NAME);
        self.spawn(R::NAME, reconcile::run(reconciler, inputs, reports, heartbeat));
        Part { name: R::NAME, report, required }
    }

    /// The name of the next task that ends.
    async fn ended(&mut self) -> &'static str {
        let id = match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => {
                tracing::error!(%error, "a task failed");
                error.id()
            }
            None => return "last",
        };
        self.names.iter().find(|(known, _)| *known == id).map_or("unknown", |(_, name)| name)
    }

    async fn end(&mut self) {
        self.set.shutdown().await;
        self.once.shutdown().await;
    }
}

async fn follow_log_level(logs: Logs, mut settings: watch::Receiver<Arc<Settings>>) {
    loop {
        let level = settings.borrow_and_update().log_level.clone();
        logs.set_level(&level);
        if settings.changed().await.is_err() {
            return;
        }
    }
}

fn reload(paths: &Paths, layers: &watch::Sender<Arc<Layers>>) {
    match FileConfig::load(&paths.agent_toml()) {
        Ok(file) => {
            tracing::info!("read agent.toml again");
            layers.send_modify(|layers| {
                *layers = Arc::new(Layers { file, ..Layers::clone(layers) });
            });
        }
        Err(error) => {
            tracing::error!(
                error = crate::telemetry::chain(&error),
                "agent.toml is not valid; what was read before stays in force"
            );
        }
    }
}

async fn registration_task(
    client: Etcd3,
    identity: Identity,
    paths: Paths,
    result: watch::Sender<Result<String, Problem>>,
) {
    let interfaces = match addresses::host_addresses().await {
        Ok(interfaces) => interfaces,
        Err(error) => {
            // Only needed to complete an address given without its prefix length.
            tracing::warn!(error = crate::telemetry::chain(&error), "no interface addresses");
            Vec::new()
        }
    };
    let registered = register::register_until_done(
        &client,
        &identity,
        &interfaces,
        &paths.nodename(),
        |problem| {
            let _ = result.send_replace(Err(problem));
        },
    )
    .await;
    let _ = result.send_replace(match registered.problems.into_iter().next() {
        Some(problem) => Err(problem),
        None => {
            let addresses = registered.addresses.iter().map(ToString::to_string);
            Ok(format!("registered with {}", addresses.collect::<Vec<_>>().join(" and ")))
        }
    });
}

fn etcd_config(config: &DatastoreConfig) -> Etcd3Config {
    Etcd3Config {
        endpoints: config.endpoints.clone(),
        ca_cert: config.ca.clone(),
        cert: config.cert.clone(),
        key: config.key.clone(),
        username: config.username.clone(),
        password: config.password.as_ref().map(|secret| Secret::reveal(secret).to_owned()),
    }
}
