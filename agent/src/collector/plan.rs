//! Decides what is to be collected: a function from values to values. It reads nothing and knows no
//! clock but the one it is given.
//!
//! Nothing is collected on one look. What says that something is left behind must say so in every
//! look for a grace period, about the same thing: one that was rewritten meanwhile is another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use calico_cni::attachment::{Attachment, Stage};
use calico_datastore::ipam::Allocation;
use calico_datastore::model::{InterfaceName, Mac, Name, WorkloadEndpointId};

use super::inhabitants::{Inhabited, Namespace};
use super::rkt::{self, Place, Pods};

/// Who makes endpoints for rkt: the plugin as `cni`, the first one for rkt as `rkt`.
const ORCHESTRATORS: [&str; 2] = ["cni", "rkt"];

/// The namespace of endpoints that no Kubernetes knows.
const NAMESPACE: &str = "default";

/// The network under whose name Kubernetes' pods have their addresses.
const KUBERNETES: &str = "k8s-pod-network";

/// The attribute that names the node of an address's pod.
const NODE: &str = "node";

/// What the plugin remembers, and whether its process is at work right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The record.
    pub attachment: Attachment,
    /// The ADD that wrote it goes on.
    pub at_work: bool,
}

/// An endpoint of the datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name.
    pub id: WorkloadEndpointId,
    /// The host side of its interface.
    pub interface: InterfaceName,
    /// The Ethernet address of the other side.
    pub mac: Option<Mac>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Everything that one look saw.
#[derive(Clone, Debug)]
pub struct Look {
    /// This host's name in the datastore.
    pub node: Name,
    /// This boot.
    pub boot: String,
    /// The plugin's records on this host.
    pub records: Vec<Record>,
    /// Containers with a record or an endpoint that cannot be read.
    pub unclear: BTreeSet<String>,
    /// The endpoints of this host.
    pub endpoints: Vec<Endpoint>,
    /// The addresses of this host's pods; `None`: not asked for this time.
    pub allocations: Option<Vec<Allocation>>,
    /// rkt's pods; `None`: nothing is known about them.
    pub pods: Option<Pods>,
    /// The interfaces of this host.
    pub interfaces: BTreeSet<InterfaceName>,
    /// The namespaces of the records that are there.
    pub namespaces: BTreeMap<PathBuf, Namespace>,
    /// The namespaces that a process lives in; `None`: not known.
    pub inhabited: Option<Vec<Inhabited>>,
}

/// Something that can be collected, as it was seen: equal only when nothing was done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    /// An attachment with a record.
    Record(Box<Attachment>),
    /// An endpoint without one.
    Endpoint(Endpoint),
    /// Addresses of a handle, without either.
    Addresses {
        /// The handle.
        handle: String,
        /// What it has.
        allocations: Vec<Allocation>,
    },
}

/// What a thing is called; in the order in which `status` shows them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A record: container and interface inside.
    Record(String, String),
    /// An endpoint.
    Endpoint(WorkloadEndpointId),
    /// A handle.
    Handle(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // As the endpoint is called that it has or would have.
            Self::Record(container, ifname) => write!(f, "cni/{NAMESPACE}/{container}/{ifname}"),
            Self::Endpoint(id) => f.write_str(&id.on_host()),
            Self::Handle(handle) => write!(f, "addresses of {handle}"),
        }
    }
}

impl Subject {
    /// What a problem with it is about.
    pub fn of_problem(&self) -> String {
        match self {
            Self::Record(..) | Self::Endpoint(_) => format!("endpoint {self}"),
            Self::Handle(_) => self.to_string(),
        }
    }
}

impl Thing {
    /// What it is called.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Record(a) => Subject::Record(a.container_id.clone(), a.ifname.clone()),
            Self::Endpoint(endpoint) => Subject::Endpoint(endpoint.id.clone()),
            Self::Addresses { handle, .. } => Subject::Handle(handle.clone()),
        }
    }
}

/// What says that something is left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// rkt has no such pod; in this directory.
    PodGone(Place),
    /// Its ADD was killed: the runtime saw it fail, and nobody will send a DEL.
    AddKilled,
    /// Its ADD failed and could not take everything back.
    AddFailed,
    /// Its DEL failed half-way.
    DelFailed,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodGone(_) => "rkt has no such pod any more",
            Self::AddKilled => "its ADD was killed",
            Self::AddFailed => "its ADD failed and left something",
            Self::DelFailed => "its DEL failed half-way",
        })
    }
}

/// Why something stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It has a record or an endpoint that cannot be read.
    Unreadable,
    /// Its ADD is at work.
    AtWork,
    /// rkt has the pod: it runs, or was stopped and not removed.
    PodThere,
    /// What rkt has is not known.
    PodsUnknown,
    /// Nothing says that it is rkt's.
    NotOfRkt,
    /// It is another host's.
    OtherHost,
    /// A process lives in its namespace, or where its addresses are (or that cannot be told).
    InUse,
    /// Its interface is there, and no record says who made it.
    InterfaceThere,
}

/// What is to become of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep(Keep),
    /// It looks left behind, and has since then.
    Suspect {
        /// Why.
        why: Why,
        /// The first look that said so.
        since: Instant,
    },
    /// It has looked so for the whole grace period: it goes.
    Collect {
        /// Why.
        why: Why,
        /// The first look that said so.
        since: Instant,
    },
}

/// A suspicion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// As it was then; while it is as it was, this counts.
    pub thing: Thing,
    /// What says so.
    pub why: Why,
    /// Since when.
    pub since: Instant,
}

/// What earlier looks said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<Subject, Suspicion>);

impl Ledger {
    /// The suspicions.
    pub fn suspicions(&self) -> impl Iterator<Item = (&Subject, &Suspicion)> {
        self.0.iter()
    }

    /// It was collected.
    pub fn forget(&mut self, subject: &Subject) {
        self.0.remove(subject);
    }
}

/// What a look came to.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Everything that was considered.
    pub verdicts: Vec<(Thing, Verdict)>,
    /// What to remember for the next look.
    pub ledger: Ledger,
}

/// True when something looks left behind, so that it is worth while to ask who lives where.
pub fn accuses(look: &Look) -> bool {
    things(look).iter().any(|thing| evidence(thing, look).is_ok())
}

/// Judges everything that a look saw.
pub fn judge(look: &Look, before: &Ledger, now: Instant, grace: Duration) -> Judgement {
    let mut ledger = Ledger::default();
    let mut verdicts = Vec::new();
    for thing in things(look) {
        let found = evidence(&thing, look).and_then(|why| unused(&thing, look).map(|()| why));
        let verdict = match found {
            Err(keep) => Verdict::Keep(keep),
            Ok(why) => {
                let subject = thing.subject();
                let same = |s: &&Suspicion| s.thing == thing && s.why == why;
                let since = before.0.get(&subject).filter(same).map_or(now, |s| s.since);
                ledger.0.insert(subject, Suspicion { thing: thing.clone(), why, since });
                if since < now && now.saturating_duration_since(since) >= grace {
                    Verdict::Collect { why, since }
                } else {
                    Verdict::Suspect { why, since }
                }
            }
        };
        verdicts.push((thing, verdict));
    }
    if look.allocations.is_none() {
        // Not looked at is not acquitted, unless what accused them does so no more.
        let handles = before.0.iter().filter(|(subject, suspicion)| {
            matches!(subject, Subject::Handle(_))
                && evidence(&suspicion.thing, look) == Ok(suspicion.why)
        });
        ledger.0.extend(handles.map(|(subject, s)| (subject.clone(), s.clone())));
    }
    Judgement { verdicts, ledger }
}

/// Everything that might be collected, each once: a record stands for its endpoint and its
/// addresses, an endpoint for its addresses.
fn things(look: &Look) -> Vec<Thing> {
    let records = look.records.iter().map(|record| &record.attachment);
    let mut things: Vec<Thing> =
        records.clone().map(|record| Thing::Record(Box::new(record.clone()))).collect();
    let recorded: BTreeSet<(&str, &str)> =
        records.map(|record| (&*record.container_id, &*record.ifname)).collect();
    let mut containers: BTreeSet<&str> = recorded.iter().map(|(container, _)| *container).collect();
    for endpoint in &look.endpoints {
        let container = container_of(&endpoint.id);
        containers.insert(container);
        if !recorded.contains(&(container, endpoint.id.endpoint.as_str())) {
            things.push(Thing::Endpoint(endpoint.clone()));
        }
    }
    let mut handles: BTreeMap<&str, Vec<Allocation>> = BTreeMap::new();
    for allocation in look.allocations.iter().flatten() {
        let Some(handle) = &allocation.handle else { continue };
        if pod_of_handle(handle).is_some_and(|pod| !containers.contains(pod)) {
            handles.entry(handle).or_default().push(allocation.clone());
        }
    }
    things.extend(handles.into_iter().map(|(handle, mut allocations)| {
        allocations.sort_by_key(|allocation| allocation.address);
        Thing::Addresses { handle: handle.to_owned(), allocations }
    }));
    things
}

/// What accuses a thing, or why it stays.
fn evidence(thing: &Thing, look: &Look) -> Result<Why, Keep> {
    match thing {
        Thing::Record(record) => of_record(record, look),
        Thing::Endpoint(Endpoint { id, .. }) => {
            let pod = container_of(id);
            let namespace = id.workload.as_str().strip_suffix(pod);
            if id.node != look.node {
                Err(Keep::OtherHost)
            } else if ORCHESTRATORS.contains(&id.orchestrator.as_str())
                && namespace.and_then(|text| text.strip_suffix('/')) == Some(NAMESPACE)
            {
                pod_gone(pod, look)
            } else {
                Err(Keep::NotOfRkt)
            }
        }
        Thing::Addresses { handle, allocations } => {
            let node = |allocation: &Allocation| {
                allocation.attributes.get(NODE).is_some_and(|node| *node == *look.node.as_str())
            };
            if !allocations.iter().all(node) {
                return Err(Keep::OtherHost);
            }
            pod_gone(pod_of_handle(handle).ok_or(Keep::NotOfRkt)?, look)
        }
    }
}

fn of_record(record: &Attachment, look: &Look) -> Result<Why, Keep> {
    if record.node != look.node.as_str() {
        return Err(Keep::OtherHost);
    }
    match record.stage {
        // No process of an earlier boot lives, whatever its number.
        Stage::Adding { .. } if record.boot == look.boot && at_work(record, look) => {
            Err(Keep::AtWork)
        }
        Stage::Adding { .. } => Ok(Why::AddKilled),
        Stage::Failed => Ok(Why::AddFailed),
        Stage::Deleting => Ok(Why::DelFailed),
        Stage::Added => {
            // Others call their containers by UUIDs as well; rkt cannot say that those are gone.
            if !record.netns.as_deref().is_some_and(rkt::is_namespace_of_rkt) {
                return Err(Keep::NotOfRkt);
            }
            pod_gone(&record.container_id, look)
        }
    }
}

fn at_work(record: &Attachment, look: &Look) -> bool {
    look.records.iter().any(|one| one.at_work && one.attachment == *record)
}

fn pod_gone(pod: &str, look: &Look) -> Result<Why, Keep> {
    if !rkt::is_uuid(pod) {
        return Err(Keep::NotOfRkt);
    }
    if look.unclear.contains(pod) {
        return Err(Keep::Unreadable);
    }
    let pods = look.pods.as_ref().ok_or(Keep::PodsUnknown)?;
    if pods.uuids.contains(pod) { Err(Keep::PodThere) } else { Ok(Why::PodGone(pods.place)) }
}

/// Whatever accuses it: nobody's network is taken away while somebody uses it. rkt may have been
/// told to keep its pods in another directory than we were.
fn unused(thing: &Thing, look: &Look) -> Result<(), Keep> {
    let there = |name: &InterfaceName| look.interfaces.contains(name);
    match thing {
        Thing::Record(record) => {
            let name = record.host_name.as_ref().and_then(|name| name.parse().ok());
            let exists = name.as_ref().is_some_and(there);
            if exists && lived_in(record, look) { Err(Keep::InUse) } else { Ok(()) }
        }
        Thing::Endpoint(endpoint) if there(&endpoint.interface) => Err(Keep::InterfaceThere),
        Thing::Endpoint(endpoint) => unused_addresses(endpoint.addresses.iter().copied(), look),
        Thing::Addresses { allocations, .. } => {
            unused_addresses(allocations.iter().map(|allocation| allocation.address), look)
        }
    }
}

/// Another plugin may have made the interface with addresses of ours: it writes neither a record nor
/// an endpoint, and its runtime may call its containers by UUIDs as rkt does.
fn unused_addresses(addresses: impl Iterator<Item = IpAddr>, look: &Look) -> Result<(), Keep> {
    let inhabited = look.inhabited.as_ref().ok_or(Keep::InUse)?;
    let lives = |address| inhabited.iter().any(|one| one.addresses.contains(&address));
    if addresses.into_iter().any(lives) { Err(Keep::InUse) } else { Ok(()) }
}

/// A namespace is known by its number where both are told, else by its addresses.
fn lived_in(record: &Attachment, look: &Look) -> bool {
    let Some(inhabited) = &look.inhabited else { return true };
    let own = record.netns.as_ref().and_then(|path| look.namespaces.get(path));
    inhabited.iter().any(|one| match (own, &one.namespace) {
        (Some(own), Some(theirs)) => own == theirs,
        _ => record.addresses.iter().any(|address| one.addresses.contains(address)),
    })
}

/// The container of an endpoint: its workload without the namespace.
fn container_of(id: &WorkloadEndpointId) -> &str {
    calico_cni::teardown::container_of(id)
}

/// The pod of rkt that a handle is of: `<network>.<UUID>`.
pub fn pod_of_handle(handle: &str) -> Option<&str> {
    let (network, pod) = handle.rsplit_once('.')?;
    (!network.is_empty() && network != KUBERNETES && rkt::is_uuid(pod)).then_some(pod)
}

#[cfg(test)]
mod tests;
