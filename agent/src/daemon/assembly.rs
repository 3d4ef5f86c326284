//! The parts, each made with what it follows and given a task. What a part tells is a receiver that
//! the overview gets.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::backend::AnySource;
use calico_datastore::backend::etcd3::SourceStatus;
use calico_datastore::model::Name;
use calico_datastore::store::AnyStore;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::loops::follow;
use super::registration::registration_task;
use super::tasks::Tasks;
use crate::beside;
use crate::calculation::{self, Layers, Outputs};
use crate::collector::{self, CollectorState};
use crate::config::{CollectorConfig, Settings};
use crate::denied;
use crate::desired::DesiredState;
use crate::exec::Exec;
use crate::felix::Felix;
use crate::felix::watch::{Changes, Watch};
use crate::node::mtu;
use crate::node::registration::Identity;
use crate::paths::Paths;
use crate::reconcile::{Inputs, Problem, Reconciler as _};
use crate::routes::Routes;
use crate::routes::bird::Bird;
use crate::routes::monitor::{Links, Monitor};
use crate::status::overview::{Part, Registration, SyncState};
use crate::status::systemd::Watchdog;
use crate::status::watchdog::Steps;
use crate::stored::{StoreSettings, StoredPolicy, keeper};

/// Where processes are told.
const PROC: &str = "/proc";

/// Room for batches on their way to the calculation. Little: one that is behind should get one
/// large batch.
const EVENTS: usize = 4;

/// The longest that a program may take for which somebody waits who asks for the status.
pub(super) const ASKED_LIMIT: Duration = Duration::from_secs(3);

/// What of a part is wrong.
type Problems = watch::Receiver<Vec<Problem>>;

/// Asks for the policy in force to be put on disk; the answer comes when it is.
pub(super) type Flush = mpsc::Sender<oneshot::Sender<()>>;

/// The tasks, and what all of them follow.
pub(super) struct Assembly {
    pub(super) tasks: Tasks,
    pub(super) watchdog: Watchdog,
    /// The desired state.
    pub(super) desired: watch::Receiver<Option<Arc<DesiredState>>>,
    /// The settings.
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    /// What the reading of the datastore has come to.
    pub(super) sync: watch::Receiver<SyncState>,
    store_settings: watch::Receiver<StoreSettings>,
    links: watch::Receiver<Links>,
}

/// What the calculation begins with.
pub(super) struct Beginning {
    /// This host.
    pub(super) node: Name,
    /// What this host says about settings, now and after each reload.
    pub(super) layers: watch::Receiver<Arc<Layers>>,
    /// What follows from that now.
    pub(super) settings: Settings,
    /// The policy from the disk.
    pub(super) stored: Option<StoredPolicy>,
}

impl Assembly {
    /// Follows the datastore, and calculates.
    pub(super) fn around(
        source: AnySource,
        beginning: Beginning,
        links: watch::Receiver<Links>,
        mut watchdog: Watchdog,
    ) -> Self {
        let Beginning { node, layers, settings: first, stored } = beginning;
        let (desired_tx, desired) = watch::channel(None);
        let (sync_tx, sync) = watch::channel(SyncState::default());
        let (settings_tx, settings) = watch::channel(Arc::new(first));
        let (store_settings_tx, store_settings) = watch::channel(StoreSettings::default());
        let (events_tx, events) = mpsc::channel(EVENTS);
        let outputs = Outputs {
            desired: desired_tx,
            sync: sync_tx,
            settings: settings_tx,
            store_settings: store_settings_tx,
        };
        let mut tasks = Tasks::default();
        tasks.spawn("datastore", follow(source, events_tx, watchdog.register("datastore")));
        let heartbeat = watchdog.register("calculation");
        let calculation = calculation::run(node, layers, events, stored, outputs, heartbeat);
        tasks.spawn("calculation", calculation);
        Self { tasks, watchdog, desired, settings, sync, store_settings, links }
    }

    /// Writes the MTU of pods where the plugin reads it.
    pub(super) fn mtu(&mut self, path: PathBuf, default_routes: Arc<Notify>) -> Problems {
        let (problems_tx, problems) = watch::channel(Vec::new());
        let inputs = mtu::task::Inputs {
            desired: self.desired.clone(),
            links: self.links.clone(),
            default_routes,
            heartbeat: self.watchdog.register("mtu"),
        };
        self.tasks.spawn("mtu", mtu::task::run(path, inputs, problems_tx));
        problems
    }

    /// Reads which packets were denied, into a book.
    pub(super) fn denied_packets(&mut self, book: denied::Book) -> Problems {
        let (problems_tx, problems) = watch::channel(Vec::new());
        let inputs = denied::Inputs {
            desired: self.desired.clone(),
            settings: self.settings.clone(),
            links: self.links.clone(),
            heartbeat: self.watchdog.register("denied packets"),
        };
        self.tasks.spawn("denied packets", denied::run(inputs, book, problems_tx));
        problems
    }

    /// Looks for rules of others that drop what policy accepts.
    pub(super) fn rules_of_others(&mut self, changes: Changes) -> Problems {
        let (problems_tx, problems) = watch::channel(Vec::new());
        let inputs = beside::watch::Inputs {
            desired: self.desired.clone(),
            links: self.links.clone(),
            changes,
            exec: Exec::new(ASKED_LIMIT),
            heartbeat: self.watchdog.register("rules of others"),
        };
        self.tasks.spawn("rules of others", beside::watch::run(inputs, problems_tx));
        problems
    }

    /// What brings the desired state into the kernel and BIRD, with the steps of the programs that each
    /// starts: while they go on it does not hang.
    pub(super) fn dataplane(
        &mut self,
        (felix, mut watch, steps): (Felix, Watch, Steps),
        monitor: Monitor,
        (bird, bird_steps): (Bird, Steps),
    ) -> Vec<Part> {
        let heartbeat = self.watchdog.register("watch");
        let touched = felix.changes().notify();
        self.tasks.spawn("watch", async move { watch.run(heartbeat).await });
        let inputs =
            |kernel| Inputs { desired: self.desired.clone(), links: self.links.clone(), kernel };
        // Only routes care for what others do to routes.
        let (of_felix, of_routes) = (inputs(touched), inputs(monitor.routes));
        let of_bird = inputs(Arc::default());
        let Self { tasks, watchdog, .. } = self;
        let heartbeat = watchdog.register(Felix::NAME).with_steps(steps);
        let felix = tasks.reconciler(felix, of_felix, heartbeat, true);
        let heartbeat = watchdog.register(Routes::NAME);
        let routes = tasks.reconciler(Routes::new(monitor.changes), of_routes, heartbeat, true);
        let heartbeat = watchdog.register(Bird::NAME).with_steps(bird_steps);
        let bird = tasks.reconciler(bird, of_bird, heartbeat, false);
        vec![felix, routes, bird]
    }

    /// Makes this host known in the store.
    pub(super) fn registration(
        &mut self,
        client: AnyStore,
        identity: Identity,
        paths: Paths,
        read: watch::Receiver<SourceStatus>,
    ) -> watch::Receiver<Registration> {
        let (result_tx, result) = watch::channel(Registration::default());
        let task = registration_task(client, identity, paths, read, result_tx);
        self.tasks.spawn("registration", task);
        result
    }

    /// Keeps on disk what is in force. `kept`: what is wrong with what was there.
    pub(super) fn policy_on_disk(
        &mut self,
        place: keeper::Place,
        kept: Vec<Problem>,
        parts: &[Part],
    ) -> (Problems, Flush) {
        let (problems_tx, problems) = watch::channel(kept);
        let (flush, flush_rx) = mpsc::channel(1);
        let required = parts.iter().filter(|part| part.required);
        let inputs = keeper::Inputs {
            desired: self.desired.clone(),
            settings: self.store_settings.clone(),
            sync: self.sync.clone(),
            reports: required.map(|part| part.report.clone()).collect(),
            flush: flush_rx,
            heartbeat: self.watchdog.register("policy on disk"),
        };
        self.tasks.spawn("policy on disk", keeper::run(place, inputs, problems_tx));
        (problems, flush)
    }

    /// Releases what pods have left behind.
    pub(super) fn collector(
        &mut self,
        client: AnyStore,
        (node, boot): (Name, String),
        state_dir: PathBuf,
        mut config: CollectorConfig,
    ) -> watch::Receiver<CollectorState> {
        if let AnyStore::Etcd2(_) = client {
            // What is left behind there, another plugin wrote: its addresses are not ours to release.
            config.interval = Duration::ZERO;
        }
        let (state_tx, state) = watch::channel(CollectorState::default());
        let place =
            collector::run::Place { node, boot, state_dir, proc: PathBuf::from(PROC), config };
        let inputs = collector::run::Inputs {
            desired: self.desired.clone(),
            sync: self.sync.clone(),
            links: self.links.clone(),
        };
        let heartbeat = self.watchdog.register("collector");
        let task = collector::run::run(client, place, inputs, state_tx, heartbeat);
        self.tasks.spawn("collector", task);
        state
    }
}
