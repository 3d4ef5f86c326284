//! Follows the files: looks at them, hands out what changed, and waits for the next change.
//!
//! One task owns everything; what touches the disk runs where it may wait for it. inotify says
//! when to look. Should it fail to (too many watches, a network file system, a link whose target
//! changed), a look now and then finds the change all the same.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch as cell};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::view::View;
use super::watch::Watch;
use super::{Directory, admin};
use crate::backend::etcd3::SourceStatus;
use crate::backend::{Batch, SyncEvent};

/// How often the files are looked at when nothing is heard.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// The same where a directory is not there, or cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Follows the files.
#[derive(Debug)]
pub struct DirectorySource {
    directory: Directory,
    status: cell::Sender<SourceStatus>,
}

impl DirectorySource {
    /// A source over the same files.
    pub fn new(directory: Directory) -> Self {
        Self { directory, status: cell::Sender::default() }
    }

    /// How far the source is.
    pub fn status(&self) -> cell::Receiver<SourceStatus> {
        self.status.subscribe()
    }

    /// Follows the files until nobody listens. Never fails: what goes wrong becomes one
    /// [`SyncEvent::Waiting`] and is tried again for ever.
    pub async fn run(self, events: mpsc::Sender<SyncEvent>) {
        tokio::select! {
            // Both sides may be dropped half-way: nothing outlives this function but a look at
            // files, which changes nothing.
            () = events.closed() => tracing::debug!("nobody reads the files any more"),
            () = self.follow(&events) => {}
        }
    }

    async fn follow(self, events: &mpsc::Sender<SyncEvent>) {
        let config = self.directory.config().clone();
        let mut watch = Watch::open(&config.admin)
            .inspect_err(|error| {
                tracing::warn!(%error, "no inotify: files are looked at every second");
            })
            .ok();
        let mut view = Some(View::new(config));
        let mut said: Option<String> = None;
        loop {
            let Some((looked, outcome, directories)) = look(view.take(), watch.as_ref()).await
            else {
                return;
            };
            let unsettled = looked.is_unsettled();
            let (revision, listings) = (looked.revision(), looked.listings());
            view = Some(looked);
            let event = match outcome {
                Ok(batch) => {
                    said = None;
                    batch.map(SyncEvent::Changes)
                }
                // Said once.
                Err(reason) if said.as_ref() == Some(&reason) => None,
                Err(reason) => {
                    tracing::debug!(reason, "waiting for the files");
                    said = Some(reason.clone());
                    Some(SyncEvent::Waiting { reason })
                }
            };
            self.status.send_if_modified(|status| {
                let now = SourceStatus {
                    endpoint: said.is_none().then(|| Arc::from("files of this host")),
                    revision,
                    listings,
                    watches: listings,
                };
                let differs = *status != now;
                *status = now;
                differs
            });
            if let Some(event) = event
                && events.send(event).await.is_err()
            {
                return;
            }
            // What happened in a directory before it was watched was not heard.
            let news = watch.as_mut().is_some_and(|watch| watch.follow(&directories));
            let covered = watch.as_ref().is_some_and(|watch| watch.covers(&directories));
            let interval = match covered && said.is_none() {
                _ if unsettled => admin::QUIET,
                _ if news => Duration::ZERO,
                true => LOOK_INTERVAL,
                false => POLL_INTERVAL,
            };
            match &mut watch {
                Some(watch) => watch.changed(Instant::now() + interval).await,
                None => tokio::time::sleep(interval).await,
            }
        }
    }
}

type Looked = (View, Result<Option<Batch>, String>, BTreeSet<PathBuf>);

/// One look at the files. `None`: the runtime ends.
async fn look(view: Option<View>, watch: Option<&Watch>) -> Option<Looked> {
    let mut view = view?;
    let busy: BTreeSet<String> = watch.map(Watch::busy).unwrap_or_default();
    spawn_blocking(move || {
        let mut directories = BTreeSet::new();
        let outcome = view.look(&|name| busy.contains(name), &mut directories);
        (view, outcome, directories)
    })
    .await
    .ok()
}
