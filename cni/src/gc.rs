//! GC: removes what a network has on this host for containers that the runtime no longer knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use calico_datastore::ipam::Ipam;
use calico_datastore::layout::v3::write::endpoint as layout;
use calico_datastore::layout::v3::{id_of, keys};
use calico_datastore::model::{InterfaceName, Name, ResourceId, WorkloadEndpointId};
use calico_datastore::store::{AnyStore, Store};

use crate::attachment::{Attachment, Attachments, Stage};
use crate::calico_ipam::release_unknown;
use crate::container::{handle, list};
use crate::directories::Directories;
use crate::protocol::{CniError, Invocation};
use crate::status::is_unknown_command;
use crate::teardown::{Remains, container_of, teardown};
use crate::{datastore, delegate, failure};

/// Which interfaces the runtime still has: (container, interface).
type Valid<'a> = BTreeSet<(&'a str, &'a str)>;

/// Removes them. Everything is tried.
///
/// # Errors
/// The first thing that failed.
pub(crate) async fn gc(call: &Invocation) -> Result<(), CniError> {
    let dirs = Directories::of(&call.conf);
    let node = Name::from(dirs.node_name(&call.conf)?);
    let records = Attachments::in_state_dir(&dirs.state);
    let store = datastore::open_ready(&call.conf).await?;
    let all = list(&records)?;
    let valid = call.conf.valid_attachments.iter().flatten();
    let valid: Valid<'_> = valid.map(|(container, ifname)| (&**container, &**ifname)).collect();

    let mut first = None;
    let mut note = |result: Result<(), CniError>| {
        if let Err(error) = result {
            first.get_or_insert(error);
        }
    };
    match unwanted(&store, call, &node, &all, &valid).await {
        Ok(unwanted) => {
            for (place, thing) in unwanted {
                note(remove(&store, &records, &place, &thing).await);
            }
        }
        Err(error) => note(Err(error)),
    }
    if call.conf.ipam.is_delegated() {
        match delegate::pass_on(call).await {
            Err(error) if is_unknown_command(&error) => {}
            result => note(result),
        }
    } else {
        let ipam = Ipam::new(store.clone(), node.clone());
        // What could not be removed just now still has its record.
        let valid = |container: &str| valid.iter().any(|(one, _)| *one == container);
        note(release_unknown(&call.conf.name, &records, &ipam, node.as_str(), &valid).await);
    }
    match records.sweep() {
        Ok(swept) => tracing::debug!(swept, "locks of killed processes"),
        Err(error) => {
            let msg = "what killed processes left cannot be removed";
            first.get_or_insert(failure::attachment(msg, &error));
        }
    }
    first.map_or(Ok(()), Err)
}

/// A container and its interface.
type Place = (String, String);

/// By place.
type Unwanted<'a> = BTreeMap<Place, Thing<'a>>;

/// What was found of an attachment that nobody has any more.
enum Thing<'a> {
    Record(&'a Attachment),
    /// Without a record: its id, the host side as the datastore names it, and its handle.
    Endpoint(WorkloadEndpointId, Option<InterfaceName>, String),
}

impl<'a> Thing<'a> {
    fn record(&self) -> Option<&'a Attachment> {
        match self {
            Self::Record(record) => Some(record),
            Self::Endpoint(..) => None,
        }
    }

    /// `all`: the records of this host. They say what is others', so they are to be those of now.
    fn remains(&self, all: &[Attachment]) -> Remains {
        match self {
            Self::Record(record) => Remains::of_record(record, all),
            Self::Endpoint(id, interface, handle) => {
                Remains::of_endpoint(id.clone(), interface.clone(), handle.clone(), all)
            }
        }
    }
}

/// What the network has on this host, in records and in the datastore, for nobody.
async fn unwanted<'a>(
    store: &AnyStore,
    call: &Invocation,
    node: &Name,
    all: &'a [Attachment],
    valid: &Valid<'_>,
) -> Result<Unwanted<'a>, CniError> {
    let network = &call.conf.name;
    let mut unwanted = Unwanted::new();
    for record in all.iter().filter(|a| a.network == *network && !a.stage.is_at_work()) {
        let place = (record.container_id.clone(), record.ifname.clone());
        if !valid.contains(&(&*place.0, &*place.1)) {
            unwanted.insert(place, Thing::Record(record));
        }
    }
    let prefix = keys::workload_endpoints_of(node, layout::ORCHESTRATOR, layout::NAMESPACE);
    let stored = store.list(&prefix).await;
    let stored =
        stored.map_err(|error| failure::store("the endpoints cannot be listed", &error))?;
    for (key, stored) in stored {
        let Some(ResourceId::WorkloadEndpoint(id)) = id_of(&key) else { continue };
        let held = layout::holdings(&stored.value);
        let place = (container_of(&id).to_owned(), id.endpoint.as_str().to_owned());
        let of_network = held.profiles.first().is_some_and(|profile| *profile == **network);
        let recorded = all.iter().any(|a| a.container_id == place.0 && a.ifname == place.1);
        let ours = id.node == *node && id.orchestrator == *layout::ORCHESTRATOR;
        if ours && of_network && !recorded && !valid.contains(&(&*place.0, &*place.1)) {
            let handle = handle(network, &place.0);
            unwanted.insert(place, Thing::Endpoint(id, held.interface, handle));
        }
    }
    Ok(unwanted)
}

async fn remove(
    store: &AnyStore,
    records: &Attachments,
    (container, ifname): &Place,
    thing: &Thing<'_>,
) -> Result<(), CniError> {
    let msg = format!("{ifname} of the container {container} cannot be removed");
    let locked = records.lock(container, Duration::ZERO);
    // Somebody is at work on it: then it is not forgotten.
    let Some(locked) = locked.map_err(|error| failure::attachment(msg.clone(), &error))? else {
        return Ok(());
    };
    let removed = remove_locked(store, records, (container, ifname), thing, &msg).await;
    records.unlock(locked, container);
    removed
}

async fn remove_locked(
    store: &AnyStore,
    records: &Attachments,
    (container, ifname): (&str, &str),
    thing: &Thing<'_>,
    msg: &str,
) -> Result<(), CniError> {
    // Under the lock nobody changes it any more; before, somebody may have.
    let now = records.load(container, ifname);
    let now = now.map_err(|error| failure::attachment(msg, &error))?;
    if now.as_ref() != thing.record() {
        return Ok(());
    }
    // Another container may have got the name of its interface since it was listed.
    let remains = thing.remains(&list(records)?);
    let removed = teardown(store, &remains).await;
    let failed = failure::teardown(msg, &removed);
    tracing::info!(endpoint = %remains.endpoint, failed = failed.is_some(), "collected");
    let kept = match (thing.record(), &failed) {
        (None, _) => Ok(()),
        (Some(record), None) => records.remove(&record.container_id, &record.ifname),
        (Some(record), Some(_)) => {
            records.store(&Attachment { stage: Stage::Deleting, ..record.clone() })
        }
    };
    kept.map_err(|error| failure::attachment(msg, &error))?;
    failed.map_or(Ok(()), Err)
}
