//! One complete snapshot of the datastore and what follows from it. Nothing is written, and the
//! connection ends with the answer.

use std::sync::Arc;
use std::time::Duration;

use calico_datastore::backend::{AnySource, Batch, SyncEvent};
use calico_datastore::location::{Location, OpenError};
use calico_datastore::model::Name;
use tokio::sync::mpsc;

use crate::calculation::{self, Layers};
use crate::desired::DesiredState;
use crate::status::overview::SyncState;

/// What was read.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What should be.
    pub desired: Arc<DesiredState>,
    /// What was refused on the way there.
    pub sync: SyncState,
}

/// There is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// etcd's configuration cannot work.
    #[error("cannot use the datastore configuration")]
    Configuration(#[source] OpenError),
    /// It could not be read in time.
    #[error("no complete snapshot of the datastore within {} s: {reason}", limit.as_secs())]
    Waiting {
        /// How long it was waited for.
        limit: Duration,
        /// What the agent would be waiting for.
        reason: String,
    },
}

/// Reads one snapshot as the agent does, for the host `node`.
///
/// # Errors
/// When the datastore cannot be read within `limit`, or says that it is not ready.
pub async fn read(
    location: &Location,
    node: Name,
    layers: Layers,
    limit: Duration,
) -> Result<Snapshot, SnapshotError> {
    let batch = read_batch(location, limit).await?;
    let (desired, sync) = calculation::once(node, layers, batch);
    Ok(Snapshot { desired, sync })
}

/// Every object of the datastore, as the agent gets them at first.
///
/// # Errors
/// When the datastore cannot be read within `limit`, or says that it is not ready.
pub async fn read_batch(location: &Location, limit: Duration) -> Result<Batch, SnapshotError> {
    let store = location.open().map_err(SnapshotError::Configuration)?;
    let (sender, mut events) = mpsc::channel(1);
    let task = tokio::spawn(AnySource::over(&store).run(sender));
    let mut reason = "it does not answer".to_owned();
    let first = async {
        while let Some(event) = events.recv().await {
            match event {
                SyncEvent::Changes(batch) => return Some(batch),
                SyncEvent::Waiting { reason: why } => reason = why,
            }
        }
        None
    };
    let batch = tokio::time::timeout(limit, first).await.ok().flatten();
    task.abort();
    batch.ok_or(SnapshotError::Waiting { limit, reason })
}
