//! The task between the datastore and the dataplane: feeds the pure calculation and publishes
//! what it says.
//!
//! Before the first complete snapshot it publishes nothing, or the last good policy when the host was
//! booted since that was written; what the datastore says then takes its place.
//!
//! It acts at once when idle. While it is busy, batches pile up in its queue and are taken in one
//! go, so that a burst costs one new state and not one per batch.

mod last_good;
mod news;
mod refused;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use calico_datastore::backend::{Batch, SyncEvent};
use calico_datastore::model::{FelixConfiguration, Name, Update};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::last_good::LastGood;
use self::news::{Notices, notice_news};
use self::refused::Refused;
use crate::acl::{Calculator, Generation};
use crate::config::{Env, FileConfig, Resolution, Settings, Sources, announce, resolve};
use crate::desired::DesiredState;
use crate::reconcile::Problem;
use crate::status::overview::SyncState;
use crate::status::systemd::Heartbeat;
use crate::stored::{StoreSettings, StoredPolicy, describe};
use crate::telemetry::event;
use crate::telemetry::sparing::Sparing;

/// How many waiting batches are taken in one go, so that a flood cannot keep the dataplane waiting
/// for ever.
const MOST_AT_ONCE: usize = 256;

/// The layers of the configuration that this host itself holds. A new value (after a reload) is
/// resolved at once.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The process's environment.
    pub env: Env,
    /// `agent.toml`.
    pub file: FileConfig,
    /// What holds where nobody says anything.
    pub defaults: Settings,
    /// Why the file is not what is on disk: that was read again and is not valid.
    pub refused: Option<String>,
}

impl Layers {
    /// The settings that follow from these layers and the two FelixConfigurations of the store.
    pub fn resolve(
        &self,
        node: Option<&FelixConfiguration>,
        global: Option<&FelixConfiguration>,
        last: Option<&Resolution>,
    ) -> Resolution {
        let sources = Sources { env: &self.env, file: &self.file, node, global };
        resolve(&sources, &self.defaults, last)
    }

    /// What is wrong with the file that is on disk.
    pub fn problem(&self) -> Option<Problem> {
        let said = self.refused.as_ref()?.replace('\n', "; ");
        Some(Problem {
            subject: "agent.toml".to_owned(),
            message: format!(
                "{said}; what was read before counts, and the agent would not start with it"
            ),
        })
    }

    /// The state that is kept, with the settings that follow from it and from these layers.
    pub fn state_of(&self, stored: &StoredPolicy) -> DesiredState {
        let StoreSettings { node, cluster } = &stored.settings;
        let settings = self.resolve(node.as_deref(), cluster.as_deref(), None).settings;
        let settings = Arc::new(settings);
        DesiredState { origin: stored.origin(), settings, ..DesiredState::clone(&stored.state) }
    }
}

/// Where the results go.
#[derive(Debug)]
pub struct Outputs {
    /// The desired state; `None` before the first complete snapshot when there is none on disk.
    pub desired: watch::Sender<Option<Arc<DesiredState>>>,
    /// What the reading of the datastore has come to.
    pub sync: watch::Sender<SyncState>,
    /// The settings, as far as they are known: before the first snapshot those of this host alone.
    pub settings: watch::Sender<Arc<Settings>>,
    /// What the datastore says about settings.
    pub store_settings: watch::Sender<StoreSettings>,
}

/// Feeds the calculation until the queue ends. `stored` is in force until the first complete
/// snapshot.
pub async fn run(
    node: Name,
    mut layers: watch::Receiver<Arc<Layers>>,
    mut events: mpsc::Receiver<SyncEvent>,
    stored: Option<StoredPolicy>,
    outputs: Outputs,
    mut heartbeat: Heartbeat,
) {
    let mut calculation = Calculation::new(node, layers.borrow_and_update().clone(), stored);
    if calculation.stored.is_some() {
        calculation.publish(&outputs);
    }
    loop {
        tokio::select! {
            // Cancel-safe: `recv` and `changed` lose nothing when dropped before they are ready,
            // an unanswered token stays in its channel.
            event = events.recv() => {
                let Some(event) = event else { return };
                calculation.take(event);
                for _ in 1..MOST_AT_ONCE {
                    match events.try_recv() {
                        Ok(event) => calculation.take(event),
                        Err(_) => break,
                    }
                }
            }
            changed = layers.changed() => {
                if changed.is_err() {
                    return;
                }
                calculation.set_layers(layers.borrow_and_update().clone());
            }
            () = heartbeat.beat() => continue,
        }
        calculation.publish(&outputs);
    }
}

/// What follows from one complete snapshot, for those who only look: nothing is published.
pub fn once(node: Name, layers: Layers, batch: Batch) -> (Arc<DesiredState>, SyncState) {
    let mut calculation = Calculation::new(node, Arc::new(layers), None);
    calculation.apply(batch);
    calculation.resolve();
    let settings = Arc::clone(&calculation.settings);
    let desired = calculation.calculator.desired(settings, calculation.sync.revision);
    calculation.sync.policy_order = calculation.policy_order();
    calculation.sync.kept = calculation.last_good.kept();
    (desired, calculation.sync)
}

struct Calculation {
    node_configuration: Name,
    calculator: Calculator,
    last_good: LastGood,
    layers: Arc<Layers>,
    felix: BTreeMap<Name, Arc<FelixConfiguration>>,
    settings: Arc<Settings>,
    resolution: Option<Resolution>,
    settings_stale: bool,
    sync: SyncState,
    refused: Refused,
    /// How many notices were said, of which there may be thousands.
    said: Sparing,
    /// In force until the first complete snapshot.
    stored: Option<StoredPolicy>,
}

impl Calculation {
    fn new(node: Name, layers: Arc<Layers>, stored: Option<StoredPolicy>) -> Self {
        let now = Instant::now();
        // The settings of then are those of the datastore only; this host's are those of now.
        let StoreSettings { node: of_node, cluster } =
            stored.as_ref().map(|stored| stored.settings.clone()).unwrap_or_default();
        let names = [FelixConfiguration::name_of(&node), FelixConfiguration::CLUSTER.into()];
        let felix = names.into_iter().zip([of_node, cluster]);
        Self {
            node_configuration: FelixConfiguration::name_of(&node),
            calculator: Calculator::new(node),
            last_good: LastGood::default(),
            layers,
            felix: felix.filter_map(|(name, value)| Some((name, value?))).collect(),
            settings: Arc::default(),
            resolution: None,
            settings_stale: true,
            sync: SyncState::default(),
            refused: Refused::new(now),
            said: Sparing::new(now),
            stored,
        }
    }

    fn set_layers(&mut self, layers: Arc<Layers>) {
        self.layers = layers;
        self.settings_stale = true;
    }

    fn take(&mut self, event: SyncEvent) {
        match event {
            SyncEvent::Waiting { reason } => {
                if self.sync.waiting.as_ref() != Some(&reason) {
                    tracing::warn!(
                        event = event::WAITING,
                        reason,
                        "waiting for the datastore; the kernel stays as it is"
                    );
                }
                self.sync.waiting = Some(reason);
            }
            SyncEvent::Changes(batch) => self.apply(batch),
        }
    }

    fn apply(&mut self, batch: Batch) {
        if !self.sync.complete {
            tracing::info!(
                revision = batch.revision,
                objects = batch.updates.len(),
                "read the datastore"
            );
            // Every object that there is comes with the first batch.
            self.felix.clear();
            self.settings_stale = true;
            self.stored = None;
        } else if self.sync.waiting.is_some() {
            tracing::info!(
                event = event::IN_SYNC,
                revision = batch.revision,
                "in sync with the datastore again"
            );
        }
        self.sync.complete = true;
        self.sync.waiting = None;
        self.sync.revision = batch.revision;
        for (kind, count) in batch.unsupported {
            if count == 0 {
                self.sync.unsupported.remove(&kind);
            } else {
                self.sync.unsupported.insert(kind, count);
            }
        }
        let mut updates = Vec::with_capacity(batch.updates.len());
        for update in batch.updates {
            match update {
                Update::FelixConfiguration(name, value) => {
                    match value {
                        Some(value) => self.felix.insert(name, value),
                        None => self.felix.remove(&name),
                    };
                    self.settings_stale = true;
                }
                update => updates.push(update),
            }
        }
        let updates = self.last_good.take(updates, &batch.rejections, &batch.accepted);
        let (refused, accepted) = (batch.rejections, batch.accepted);
        self.refused.note(refused, accepted, &mut self.sync, &self.last_good);
        self.calculator.apply(updates);
    }

    fn publish(&mut self, outputs: &Outputs) {
        if self.settings_stale {
            self.resolve();
            outputs.settings.send_if_modified(|current| {
                let changed = **current != *self.settings;
                if changed {
                    *current = Arc::clone(&self.settings);
                }
                changed
            });
            let settings = self.store_settings();
            outputs.store_settings.send_if_modified(|current| {
                let changed = *current != settings;
                if changed {
                    *current = settings;
                }
                changed
            });
            self.publish_stored(outputs);
        }
        if self.sync.complete {
            let desired = self.calculator.desired(Arc::clone(&self.settings), self.sync.revision);
            self.refused.tell(Some(desired.generation));
            let order = self.policy_order();
            if self.sync.policy_order != order {
                tracing::info!("policies are {order}");
                self.sync.policy_order = order;
            }
            outputs.desired.send_if_modified(|current| {
                let changed = current.as_ref().is_none_or(|old| !Arc::ptr_eq(old, &desired));
                if changed {
                    tracing::debug!(
                        generation = desired.generation,
                        revision = desired.revision,
                        "calculated"
                    );
                    let before = current.as_ref().map(|old| &old.notices);
                    for news in notice_news(before.unwrap_or(&Notices::new()), &desired.notices) {
                        news.log(&mut self.said, desired.generation);
                    }
                    *current = Some(desired);
                }
                changed
            });
        }
        self.sync.kept = self.last_good.kept();
        outputs.sync.send_if_modified(|current| {
            let changed = *current != self.sync;
            if changed {
                current.clone_from(&self.sync);
            }
            changed
        });
    }

    /// Publishes the last good policy, with the settings as they are now.
    fn publish_stored(&mut self, outputs: &Outputs) {
        let Some(stored) = &self.stored else { return };
        let state = Arc::new(self.layers.state_of(stored));
        outputs.desired.send_if_modified(|current| {
            let changed = current.as_ref().is_none_or(|old| old.settings != state.settings);
            if current.is_none()
                && let Some(what) = describe(state.origin, SystemTime::now())
            {
                let (endpoints, revision) = (state.endpoints.len(), state.revision);
                tracing::warn!(
                    event = event::FROM_DISK,
                    endpoints,
                    revision,
                    "{what}, waiting for the datastore"
                );
            }
            if changed {
                *current = Some(state);
            }
            changed
        });
    }

    /// Whose names and order of policies hold, and who says so.
    fn policy_order(&self) -> String {
        let generation = self.calculator.generation();
        match (self.settings.calico_version, self.calculator.stored_version()) {
            (Some(version), _) => {
                format!("in the order of Calico {generation} (CalicoVersion is set to {version})")
            }
            (None, Some(version)) if generation != Generation::Unversioned => {
                format!("in the order of Calico {generation} (ClusterInformation says {version})")
            }
            (None, _) => "in an order that fits all versions of Calico that agree with what is \
                          stored (ClusterInformation says none)"
                .to_owned(),
        }
    }

    fn store_settings(&self) -> StoreSettings {
        StoreSettings {
            node: self.felix.get(&self.node_configuration).cloned(),
            cluster: self.felix.get(FelixConfiguration::CLUSTER).cloned(),
        }
    }

    fn resolve(&mut self) {
        self.settings_stale = false;
        let last = self.resolution.take();
        let resolution = self.layers.resolve(
            self.felix.get(&self.node_configuration).map(Arc::as_ref),
            self.felix.get(FelixConfiguration::CLUSTER).map(Arc::as_ref),
            last.as_ref(),
        );
        announce(&resolution, last.as_ref());
        self.sync.settings.clone_from(&resolution.problems);
        self.sync.settings.extend(self.layers.problem());
        if *self.settings != resolution.settings {
            self.settings = Arc::new(resolution.settings.clone());
        }
        let updates = self.last_good.set_mode(self.settings.invalid_policy);
        if !updates.is_empty() {
            let (mode, count) = (self.settings.invalid_policy, updates.len());
            tracing::warn!(count, "refused policies and what they are made of now count as {mode}");
        }
        self.calculator.apply(updates);
        self.resolution = Some(resolution);
    }
}

#[cfg(test)]
mod tests;
