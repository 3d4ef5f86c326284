//! The task: looks, has it judged, collects, tells. Dull, it decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use calico_cni::attachment::{Attachment, AttachmentError, Attachments, Listing};
use calico_cni::teardown::container_of;
use calico_datastore::layout::v3;
use calico_datastore::model::{InterfaceName, Name, ResourceId, WorkloadEndpointId};
use calico_datastore::store::Store;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use super::collect::{Collector, Outcome, blocking};
use super::inhabitants::{self, Namespace};
use super::plan::{self, Endpoint, Ledger, Look, Record, Subject, Thing, Verdict, Why};
use super::rkt::{Pods, RktError};
use super::{CollectorState, Suspected};
use crate::config::CollectorConfig;
use crate::desired::{DesiredState, LocalEndpoint, Origin};
use crate::reconcile::Problem;
use crate::routes::monitor::Links;
use crate::status::overview::SyncState;
use crate::status::systemd::Heartbeat;
use crate::telemetry::{chain, event};

/// The addresses of this host's pods are asked for in every tenth look: that reads every block of
/// the cluster.
const ADDRESSES_EVERY: u32 = 10;

/// Where the task looks.
#[derive(Clone, Debug)]
pub struct Place {
    /// This host.
    pub node: Name,
    /// This boot; empty when the kernel does not say.
    pub boot: String,
    /// The agent's state directory, where the plugin keeps its records.
    pub state_dir: PathBuf,
    /// Where processes are told: `/proc`.
    pub proc: PathBuf,
    /// What `agent.toml` says.
    pub config: CollectorConfig,
}

/// What the task follows.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The desired state: its endpoints.
    pub desired: watch::Receiver<Option<Arc<DesiredState>>>,
    /// What the reading of the datastore has come to.
    pub sync: watch::Receiver<SyncState>,
    /// The interfaces.
    pub links: watch::Receiver<Links>,
}

impl Inputs {
    /// The state of the datastore, if that is known and may be counted on.
    fn state(&self) -> Option<Arc<DesiredState>> {
        let in_sync = self.sync.borrow().is_in_sync();
        let desired = self.desired.borrow().clone();
        desired.filter(|state| in_sync && state.origin == Origin::Datastore)
    }
}

/// Looks and collects until an input ends. Cancel-safe: what was begun is found by the next look.
pub async fn run<S: Store + Clone>(
    store: S,
    place: Place,
    mut inputs: Inputs,
    states: watch::Sender<CollectorState>,
    mut heartbeat: Heartbeat,
) {
    let interval = place.config.interval;
    let mut task = Task::new(store, place, states);
    let mut due = None;
    loop {
        if inputs.state().is_none() || interval.is_zero() {
            task.pause();
            due = None;
        } else {
            due.get_or_insert_with(Instant::now);
        }
        let look = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Each arm only waits and is cancel-safe.
            changed = inputs.sync.changed() => if changed.is_err() { return } else { continue },
            changed = inputs.desired.changed() => if changed.is_err() { return } else { continue },
            () = heartbeat.beat() => continue,
            () = look => {}
        }
        let generation = inputs.desired.borrow().as_ref().map(|state| state.generation);
        let said = tracing::error_span!("look", generation);
        let mut work = std::pin::pin!(task.look(&inputs).instrument(said));
        loop {
            // The work is pinned outside and polled to its end. It waits for the store, which bounds
            // each call in time, and for the disk, where a hang holds up this task and nothing
            // else.
            tokio::select! {
                () = &mut work => break,
                () = heartbeat.beat() => {}
            }
        }
        due = Some(Instant::now() + interval);
    }
}

struct Task<S> {
    collector: Collector<S>,
    place: Place,
    ledger: Ledger,
    looks: u32,
    states: watch::Sender<CollectorState>,
}

impl<S: Store + Clone> Task<S> {
    fn new(store: S, place: Place, states: watch::Sender<CollectorState>) -> Self {
        let attachments = Arc::new(Attachments::in_state_dir(&place.state_dir));
        let collector = Collector { store, node: place.node.clone(), attachments };
        Self { collector, place, ledger: Ledger::default(), looks: 0, states }
    }

    /// What was suspected proves nothing any more: the store may be another one afterwards.
    fn pause(&mut self) {
        self.ledger = Ledger::default();
        self.looks = 0;
        self.states.send_if_modified(|state| {
            let collected = state.collected;
            let now = CollectorState { collected, ..CollectorState::default() };
            let changed = *state != now;
            *state = now;
            changed
        });
    }

    /// One look, and what follows from it.
    async fn look(&mut self, inputs: &Inputs) {
        let mut problems = Vec::new();
        let Some((state, look)) = self.gather(inputs, &mut problems).await else {
            self.publish(None, problems, 0);
            return;
        };
        let now = Instant::now().into_std();
        let judgement = plan::judge(&look, &self.ledger, now, self.place.config.grace);
        self.tell(&judgement.ledger);
        self.ledger = judgement.ledger;
        let mut collected = 0;
        for (thing, verdict) in &judgement.verdicts {
            let Verdict::Collect { why, since } = verdict else {
                tracing::trace!(subject = %thing.subject(), ?verdict, "looked at");
                continue;
            };
            // What was true for the look may not be for its end.
            if inputs.state().is_none() {
                break;
            }
            let subject = thing.subject();
            match self.collector.collect(thing, others(&state, thing)).await {
                Ok(Outcome::Collected { interface, addresses }) => {
                    announce(
                        &subject,
                        thing,
                        *why,
                        now.saturating_duration_since(*since),
                        interface,
                        &addresses,
                    );
                    self.ledger.forget(&subject);
                    collected += 1;
                }
                Ok(Outcome::Left(reason)) => {
                    tracing::debug!(%subject, reason, "not collected");
                    self.ledger.forget(&subject);
                }
                Err(error) => problems.push(problem(&subject.of_problem(), &error)),
            }
        }
        self.publish(look.pods.as_ref().map(|pods| pods.uuids.len()), problems, collected);
    }

    /// Everything that is to be judged; `None` when that makes no sense now. rkt's pods are read
    /// last: a pod is there before anything else of it.
    async fn gather(
        &mut self,
        inputs: &Inputs,
        problems: &mut Vec<Problem>,
    ) -> Option<(Arc<DesiredState>, Look)> {
        let state = inputs.state()?;
        let asked = self.looks.is_multiple_of(ADDRESSES_EVERY);
        let allocations = if asked {
            let listed = self.collector.allocations().await;
            listed.map_err(|error| problems.push(problem("addresses", &error))).ok()
        } else {
            None
        };
        // A listing that failed is tried again by the next look.
        if !asked || allocations.is_some() {
            self.looks = self.looks.wrapping_add(1);
        }
        let attachments = Arc::clone(&self.collector.attachments);
        let listed = blocking(move || {
            let listing = attachments.list()?;
            Ok((records(&listing), listing.unreadable))
        });
        let (records, unreadable) = match listed.await {
            Ok(listed) => listed,
            Err(error) => {
                // What has a record must not be taken for something that has none.
                problems.push(problem("records", &error));
                return None;
            }
        };
        problems.extend(unreadable.iter().map(|error| problem("records", error)));
        let attachments = Arc::clone(&self.collector.attachments);
        match blocking(move || attachments.sweep()).await {
            Ok(0) => {}
            Ok(swept) => tracing::debug!(swept, "locks of killed processes are removed"),
            Err(error) => problems.push(problem("records", &error)),
        }
        let refused = inputs.sync.borrow().rejected.clone();
        let refused = refused.keys().filter_map(|key| container_of_key(key));
        let mut look = Look {
            node: self.place.node.clone(),
            boot: self.place.boot.clone(),
            records,
            unclear: unreadable.iter().filter_map(container_of_file).chain(refused).collect(),
            endpoints: endpoints(&state),
            allocations,
            pods: self.pods(problems).await,
            interfaces: inputs.links.borrow().keys().cloned().collect(),
            namespaces: BTreeMap::new(),
            inhabited: None,
        };
        if plan::accuses(&look) {
            self.ask_processes(&mut look, problems).await;
        }
        Some((state, look))
    }

    /// Who lives where.
    async fn ask_processes(&self, look: &mut Look, problems: &mut Vec<Problem>) {
        let proc = self.place.proc.clone();
        let netns = look.records.iter().filter_map(|record| record.attachment.netns.clone());
        let netns: Vec<_> = netns.collect();
        let asked = tokio::task::spawn_blocking(move || {
            let number = |path: PathBuf| Some((Namespace::at(&path)?, path));
            let there = netns.into_iter().filter_map(number).map(|(number, path)| (path, number));
            (there.collect(), inhabitants::find(&proc))
        });
        // A thread that is lost has told nothing.
        let Ok((namespaces, found)) = asked.await else { return };
        look.namespaces = namespaces;
        look.inhabited = found.map_err(|error| problems.push(problem("processes", &error))).ok();
    }

    async fn pods(&self, problems: &mut Vec<Problem>) -> Option<Pods> {
        let dir = self.place.config.rkt_data_dir.clone();
        match tokio::task::spawn_blocking(move || Pods::read(&dir)).await.ok()? {
            Ok(pods) => Some(pods),
            Err(error @ RktError::Absent { .. }) => {
                tracing::debug!(reason = chain(&error), "rkt's pods are not known");
                None
            }
            Err(error) => {
                problems.push(problem("rkt", &error));
                None
            }
        }
    }

    /// Says what is newly suspected.
    fn tell(&self, ledger: &Ledger) {
        let known: BTreeSet<&Subject> = self.ledger.suspicions().map(|(s, _)| s).collect();
        for (subject, suspicion) in ledger.suspicions().filter(|(s, _)| !known.contains(s)) {
            let grace = self.place.config.grace;
            tracing::debug!(%subject, reason = %suspicion.why, ?grace, "looks left behind");
        }
    }

    /// Shows what there is to know, and says once what is wrong.
    fn publish(&self, pods: Option<usize>, problems: Vec<Problem>, collected: u64) {
        let before = self.states.borrow().problems.clone();
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            let subject = problem.subject.as_str();
            tracing::warn!(event = event::PROBLEM, subject, "{}", problem.message);
        }
        let suspected = self.ledger.suspicions().map(|(subject, suspicion)| Suspected {
            subject: subject.to_string(),
            why: suspicion.why.to_string(),
            since: suspicion.since,
        });
        let suspected = suspected.collect();
        self.states.send_modify(|state| {
            let collected = state.collected + collected;
            *state = CollectorState { looks: true, pods, suspected, collected, problems };
        });
    }
}

/// The line in the journal that each collection has.
fn announce(
    subject: &Subject,
    thing: &Thing,
    why: Why,
    gone: Duration,
    interface: bool,
    addresses: &[IpAddr],
) {
    let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let interface = match thing {
        Thing::Record(record) if interface => record.host_name.as_deref().unwrap_or("removed"),
        _ => "gone before",
    };
    let gone = format!("{} s", gone.as_secs());
    tracing::info!(
        event = event::COLLECTED,
        endpoint = %subject,
        addresses,
        interface,
        reason = %why,
        since = gone,
        "collected what was left behind"
    );
}

fn problem(subject: &str, error: &dyn std::error::Error) -> Problem {
    Problem { subject: format!("collector: {subject}"), message: chain(error) }
}

fn records(listing: &Listing) -> Vec<Record> {
    let record = |attachment: &Attachment| Record {
        at_work: attachment.stage.is_at_work(),
        attachment: attachment.clone(),
    };
    listing.attachments.iter().map(record).collect()
}

/// The container whose record cannot be read: the first part of the file's name.
fn container_of_file(error: &AttachmentError) -> Option<String> {
    let (AttachmentError::File { path, .. } | AttachmentError::NoRecord { path, .. }) = error;
    let (container, _) = path.file_name()?.to_str()?.split_once('_')?;
    Some(container.to_owned())
}

/// The container of an endpoint that was refused: what cannot be read may be somebody's.
fn container_of_key(key: &str) -> Option<String> {
    match v3::id_of(key)? {
        ResourceId::WorkloadEndpoint(id) => Some(container_of(&id).to_owned()),
        _ => None,
    }
}

fn endpoints(state: &DesiredState) -> Vec<Endpoint> {
    let endpoint = |(id, endpoint): (&WorkloadEndpointId, &Arc<LocalEndpoint>)| Endpoint {
        id: id.clone(),
        interface: endpoint.interface.clone(),
        mac: endpoint.mac,
        addresses: endpoint.addresses.iter().map(|cidr| cidr.address()).collect(),
    };
    state.endpoints.iter().map(endpoint).collect()
}

/// The interfaces of all endpoints but this thing's own.
fn others(state: &DesiredState, thing: &Thing) -> BTreeSet<InterfaceName> {
    let own = |id: &WorkloadEndpointId| match thing {
        Thing::Record(record) => {
            container_of(id) == record.container_id && id.endpoint.as_str() == record.ifname
        }
        Thing::Endpoint(endpoint) => *id == endpoint.id,
        Thing::Addresses { .. } => false,
    };
    let others = state.endpoints.iter().filter(|(id, _)| !own(id));
    others.map(|(_, endpoint)| endpoint.interface.clone()).collect()
}

#[cfg(test)]
mod tests;
