//! DEL: disconnects a container, whatever is left of it.
//!
//! It is sent once. So every step is tried, also when another failed; what could not be done stays
//! in the record for the agent's collector. And a configuration that ADD would refuse is no reason to
//! leave anything: the record knows what was made. Where there is no record, such an ADD has made
//! nothing; what another plugin made under a name that cannot be read is the collector's to find.

use calico_datastore::layout::v3::write::endpoint as layout;
use calico_datastore::model::Name;

use crate::attachment::{Attachment, Attachments, Stage, boot_id};
use crate::container::{handle, list, lock};
use crate::directories::Directories;
use crate::journal::{self, Priority};
use crate::protocol::{CniError, Invocation};
use crate::teardown::{Remains, Removed, remove_interface, take_back, teardown};
use crate::{datastore, delegation, failure};

/// Disconnects. Nothing being left is a success.
///
/// # Errors
/// The first thing that failed, after everything was tried.
pub(crate) async fn del(call: &Invocation) -> Result<(), CniError> {
    let dirs = Directories::of(&call.conf);
    let records = Attachments::in_state_dir(&dirs.state);
    let locked = lock(&records, call)?;
    let deleted = locked_del(call, &dirs, &records).await;
    records.unlock(locked, &call.container_id);
    deleted
}

async fn locked_del(
    call: &Invocation,
    dirs: &Directories,
    records: &Attachments,
) -> Result<(), CniError> {
    let all = list(records)?;
    let own = |a: &&Attachment| a.container_id == call.container_id && a.ifname == call.ifname;
    let recorded = all.iter().find(own);
    let record = match recorded {
        Some(record) => record.clone(),
        None => match dirs.node_name(&call.conf) {
            Ok(node) => unrecorded(call, node),
            // No ADD did anything either.
            Err(error) => {
                tracing::warn!(%error, "there is no record, and nothing that could be looked for");
                return Ok(());
            }
        },
    };
    let remains = remains(call, &record, &all);
    let failed = match datastore::open_ready(&call.conf).await {
        Ok(store) => {
            let removed = teardown(&store, &remains).await;
            tell(&record, &removed);
            failure::teardown(&msg(&record), &removed)
        }
        Err(error) => {
            let mut details = format!("{}: {}", error.msg, error.details);
            let interface = remove_interface(&remains).await.err();
            for also in interface.into_iter().chain(take_back(&remains).await.err()) {
                details = format!("{details}; and {}", failure::chain(&also));
            }
            Some(CniError { details, msg: msg(&record), ..error })
        }
    };
    finish(records, record, failed.is_some())?;
    failed.map_or(Ok(()), Err)
}

fn msg(record: &Attachment) -> String {
    format!("not all of {} of the container {} is gone", record.ifname, record.container_id)
}

fn tell(record: &Attachment, removed: &Removed) {
    let Attachment { container_id, ifname, .. } = record;
    let Removed { endpoint, interface, addresses, .. } = removed;
    tracing::debug!(container_id, ifname, endpoint, interface, ?addresses, "disconnected");
    if *endpoint || *interface || !addresses.is_empty() {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let message = format!(
            "disconnected {ifname} of {container_id}; free again: {}",
            addresses.join(", ")
        );
        journal::say(Priority::Info, &message, container_id, ifname);
    }
}

/// An attachment that nothing was written down about: made by another plugin, or on another disk.
fn unrecorded(call: &Invocation, node: String) -> Attachment {
    Attachment {
        container_id: call.container_id.clone(),
        ifname: call.ifname.clone(),
        network: call.conf.name.clone(),
        netns: call.netns.clone(),
        host_name: None,
        handle: handle(&call.conf.name, &call.container_id),
        addresses: vec![],
        node,
        boot: boot_id(),
        stage: Stage::Deleting,
        delegated: call.conf.ipam.is_delegated().then(|| delegation::of_call(call)),
    }
}

/// What is to be taken back. The runtime knows better than the record where the namespace is now.
fn remains(call: &Invocation, record: &Attachment, all: &[Attachment]) -> Remains {
    let remains = Remains::of_record(record, all);
    let netns = call.netns.clone().or_else(|| remains.netns.clone());
    let id = layout::id(&Name::from(&*record.node), &record.container_id, &record.ifname);
    Remains { netns, endpoint: id, ..remains }
}

/// Keeps or removes the record.
fn finish(records: &Attachments, record: Attachment, failed: bool) -> Result<(), CniError> {
    let done = if failed {
        records.store(&Attachment { stage: Stage::Deleting, ..record })
    } else {
        records.remove(&record.container_id, &record.ifname)
    };
    done.map_err(|error| failure::attachment("the record of the attachment stays wrong", &error))
}
