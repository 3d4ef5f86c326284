//! What the parts stand on: looked for and opened before any of them runs, in an order that matters.

use std::path::{Path, PathBuf};
use std::time::Duration;

use calico_datastore::location::Location;
use calico_datastore::model::Name;
use calico_datastore::store::AnyStore;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::{DaemonError, store};
use crate::api::server;
use crate::calculation::Layers;
use crate::config::{Local, Settings};
use crate::exec::Exec;
use crate::felix::hosts::lifelines;
use crate::felix::watch::Watch;
use crate::felix::{self, Felix};
use crate::lock;
use crate::node::{name, register};
use crate::paths::Paths;
use crate::reconcile::Problem;
use crate::routes::monitor::Monitor;
use crate::status::files::EndpointFiles;
use crate::status::systemd::{Notifier, Watchdog};
use crate::status::watchdog;
use crate::stored::StoredPolicy;
use crate::stored::start::{self, Found};
use crate::telemetry::chain;

/// Where the kernel's settings are.
const PROC_SYS: &str = "/proc/sys";

/// The longest that a program may take: a third of the watchdog's limit where that is less.
const EXEC_LIMIT: Duration = Duration::from_secs(30);

/// Others see as long as it is there that an agent runs.
pub(super) struct Locks {
    _agent: lock::Lock,
    _programs: Option<lock::Programs>,
}

/// What is there before the first part runs.
pub(super) struct Ground {
    /// This host.
    pub(super) node: Name,
    /// No agent has run here before.
    pub(super) newcomer: bool,
    /// This boot; empty when the kernel does not say.
    pub(super) boot: String,
    /// The policy of an earlier run, where the kernel has nothing of it any more.
    pub(super) stored: Option<StoredPolicy>,
    /// Why that cannot be used.
    pub(super) kept: Vec<Problem>,
    /// The settings that this host alone makes.
    pub(super) settings: Settings,
    /// The directory of endpoint files, emptied.
    pub(super) files: Option<EndpointFiles>,
    /// Where the datastore is.
    pub(super) location: Location,
    /// The datastore.
    pub(super) client: AnyStore,
    /// The socket that `calico-agent status` asks.
    pub(super) listener: UnixListener,
    /// Starts programs for the dataplane; the clone that felix has counts the same steps.
    pub(super) exec: Exec,
    /// Starts BIRD's.
    pub(super) bird_exec: Exec,
    /// What programs the kernel's firewall.
    pub(super) felix: Felix,
    /// Listens for what others do to it.
    pub(super) watch: Watch,
    /// Follows interfaces and routes.
    pub(super) monitor: Monitor,
    /// Its task, which runs already.
    pub(super) monitor_task: JoinHandle<()>,
    /// Asks the loops for a sign of life.
    pub(super) watchdog: Watchdog,
    /// How long systemd waits for one; `None`: it does not.
    pub(super) watched: Option<Duration>,
    /// Kept until the end.
    pub(super) locks: Locks,
}

impl Ground {
    /// Finds and opens it. Nothing in the kernel is changed.
    pub(super) async fn prepare(
        paths: &Paths,
        local: &Local,
        layers: &Layers,
    ) -> Result<Self, DaemonError> {
        for dir in [&paths.run_dir, &paths.state_dir] {
            std::fs::create_dir_all(dir)
                .map_err(|source| DaemonError::Directory { path: dir.clone(), source })?;
        }
        let locks = Locks {
            // Before anything is touched that another agent may be using.
            _agent: lock::take(&paths.lock()).map_err(DaemonError::Lock)?,
            // Before anything is read that they may still be writing.
            _programs: lock::outlive(&paths.programs_lock()).await.map_err(DaemonError::Lock)?,
        };
        let settings = layers.resolve(None, None, None).settings;
        let files = empty_files(settings.endpoint_status_prefix.as_deref());
        let named = name::determine(&local.node, &paths.nodename());
        let (node, _) = named.map_err(DaemonError::Name)?;
        // Before anything of this run is kept.
        let newcomer = register::is_newcomer(paths);
        let boot = start::boot_id(Path::new(start::BOOT_ID));
        let (found, kept) = start::find(paths, &node, &boot).await;
        let stored = match found {
            Found::Publish(stored) => Some(stored),
            Found::Nothing | Found::InKernel => None,
        };
        // A program must be given up before systemd gives up on us.
        let watched = Notifier::watchdog_limit();
        let exec = || Exec::new(EXEC_LIMIT.min(watched.unwrap_or(watchdog::LIMIT) / 3));
        let (bird_exec, exec) = (exec(), exec());
        let wanted = settings.wanted_dataplane();
        felix::pick::pick(&exec, wanted, true).await.map_err(DaemonError::Dataplane)?;
        let location = local.datastore.clone().below(&paths.state_dir);
        let servers = lifelines::servers(location.servers());
        let felix = Felix::new(exec.clone(), PathBuf::from(PROC_SYS)).with_datastore(servers);
        let watch = Watch::open(&felix);
        let mut watchdog = Watchdog::new();
        let prefixes = settings.interface_prefixes.clone();
        let monitored = Monitor::start(prefixes, watchdog.register("monitor")).await;
        let (monitor, monitor_task) = monitored.map_err(DaemonError::Monitor)?;
        let client = store::open(&location)?;
        let listener = server::listen(&paths.api_socket()).map_err(DaemonError::Server)?;
        Ok(Self {
            node,
            newcomer,
            boot,
            stored,
            kept,
            settings,
            files,
            location,
            client,
            listener,
            exec,
            bird_exec,
            felix,
            watch,
            monitor,
            monitor_task,
            watchdog,
            watched,
            locks,
        })
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
