//! What every command needs of a container: its lock, the records, the handle of its addresses.

use std::time::Duration;

use crate::attachment::{Attachment, Attachments, Locked};
use crate::failure;
use crate::protocol::{CniError, Code, Invocation};

/// How long an earlier command for the same container is waited for. Longer than an ADD waits for
/// its policy by default.
const LOCK_WAIT: Duration = Duration::from_secs(15);

/// The handle of a container's addresses in a network; the original's.
pub(crate) fn handle(network: &str, container_id: &str) -> String {
    format!("{network}.{container_id}")
}

/// Takes a container's lock.
pub(crate) fn lock(records: &Attachments, call: &Invocation) -> Result<Locked, CniError> {
    let container = &call.container_id;
    let msg = || format!("the container {container} cannot be locked");
    records
        .lock(container, LOCK_WAIT)
        .map_err(|error| failure::attachment(msg(), &error))?
        .ok_or_else(|| {
            let why = "another command for it is still at work";
            CniError::new(Code::TryAgainLater, msg(), why)
        })
}

/// Every record of this host that can be read.
pub(crate) fn list(records: &Attachments) -> Result<Vec<Attachment>, CniError> {
    let listing = records.list();
    let listing = listing.map_err(|error| {
        failure::attachment("the attachments of this host are not known", &error)
    })?;
    for error in &listing.unreadable {
        tracing::warn!(reason = failure::chain(error), "passed over");
    }
    Ok(listing.attachments)
}
