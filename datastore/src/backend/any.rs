//! The source over the store that a host was told to use, whichever it is.

use tokio::sync::{mpsc, watch};

use super::SyncEvent;
use super::directory::DirectorySource;
use super::etcd2::Etcd2Source;
use super::etcd3::{Etcd3Source, SourceStatus};
use crate::store::AnyStore;

/// Follows etcd by one of its APIs, or a directory of this host.
#[derive(Debug)]
pub enum AnySource {
    /// etcd's v3 API.
    Etcd3(Etcd3Source),
    /// etcd's v2 API.
    Etcd2(Etcd2Source),
    /// Files of this host.
    Directory(DirectorySource),
}

impl AnySource {
    /// A source over a store that others may write to meanwhile, in the layout that such a store
    /// has.
    pub fn over(store: &AnyStore) -> Self {
        match store {
            AnyStore::Etcd3(client) => {
                Self::Etcd3(Etcd3Source::new(client.clone(), store.layout()))
            }
            AnyStore::Etcd2(client) => {
                Self::Etcd2(Etcd2Source::new(client.clone(), store.layout()))
            }
            AnyStore::Directory(directory) => {
                Self::Directory(DirectorySource::new(directory.clone()))
            }
        }
    }

    /// Numbers that change while the source runs.
    pub fn status(&self) -> watch::Receiver<SourceStatus> {
        match self {
            Self::Etcd3(source) => source.status(),
            Self::Etcd2(source) => source.status(),
            Self::Directory(source) => source.status(),
        }
    }

    /// Follows the store until the receiver is dropped. Never fails: what goes wrong becomes one
    /// [`SyncEvent::Waiting`] and is tried again for ever.
    pub async fn run(self, events: mpsc::Sender<SyncEvent>) {
        match self {
            Self::Etcd3(source) => source.run(events).await,
            Self::Etcd2(source) => source.run(events).await,
            Self::Directory(source) => source.run(events).await,
        }
    }
}
