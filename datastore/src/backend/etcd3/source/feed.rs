//! What the reader is told, and that it is told in time.

use std::future::Future;
use std::pin::pin;

use tokio::sync::mpsc::Sender;

use crate::backend::{SyncEvent, Syncer};

/// Why nothing can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) enum Wait {
    /// No member answers.
    Unreachable,
    /// The store does not let us in.
    Refused,
    /// The store says that it is not ready, or does not say that it is.
    NotReady,
}

/// The way to the reader.
pub(in crate::backend) struct Feed {
    tx: Sender<SyncEvent>,
    /// The trouble of the moment, said once.
    trouble: Option<Wait>,
    /// Its reason, until the reader has room for it.
    reason: Option<String>,
}

impl Feed {
    pub(in crate::backend) fn new(tx: Sender<SyncEvent>) -> Self {
        Self { tx, trouble: None, reason: None }
    }

    /// Says why nothing can be read, unless that was said already.
    pub(in crate::backend) fn wait(&mut self, wait: Wait, reason: impl FnOnce() -> String) {
        if self.trouble == Some(wait) {
            return;
        }
        let reason = reason();
        tracing::debug!(reason, "waiting for the store");
        self.trouble = Some(wait);
        self.reason = Some(reason);
    }

    /// The store can be read again. True when the reader may have been told that it cannot.
    pub(in crate::backend) fn resume(&mut self) -> bool {
        self.reason = None;
        self.trouble.take().is_some()
    }

    /// Does some work, and hands over whatever is due in the meantime.
    ///
    /// The work is polled to its end; only the wait for room in the queue is dropped and begun
    /// again, which loses nothing because a batch is taken from the syncer after there is room.
    pub(in crate::backend) async fn during<T>(
        &mut self,
        syncer: &mut Syncer,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        loop {
            let due = syncer.is_due() || self.reason.is_some();
            tokio::select! {
                biased;
                room = self.tx.reserve(), if due => {
                    // Without a reader there is nothing to do but to be dropped.
                    let Ok(room) = room else { return work.await };
                    // Changes first: they happened before the store went away.
                    match (syncer.take(), self.reason.take()) {
                        (Some(batch), reason) => {
                            self.reason = reason;
                            room.send(SyncEvent::Changes(batch));
                        }
                        (None, Some(reason)) => room.send(SyncEvent::Waiting { reason }),
                        (None, None) => {}
                    }
                }
                done = &mut work => return done,
            }
        }
    }
}
