//! A store for one host: resource files in the schema of `calicoctl`'s manifests.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::SyncEvent;
use super::etcd3::SourceStatus;
use crate::store::{Store, StoreError, Stored};

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// The administrator's files: read, never written. `/etc/calico/resources`.
    pub admin: PathBuf,
    /// What agent and plugin write. `/var/lib/calico/resources`.
    pub state: PathBuf,
}

/// A handle to the store. Clones share nothing but the files.
#[derive(Clone, Debug)]
pub struct Directory {
    config: DirectoryConfig,
}

impl Directory {
    /// A handle; nothing is opened or made yet.
    pub fn new(config: DirectoryConfig) -> Self {
        Self { config }
    }
}

/// Follows the files.
#[derive(Debug)]
pub struct DirectorySource {
    directory: Directory,
    status: watch::Sender<SourceStatus>,
}

impl DirectorySource {
    /// A source over the same files.
    pub fn new(directory: Directory) -> Self {
        Self { directory, status: watch::Sender::default() }
    }

    /// How far the source is.
    pub fn status(&self) -> watch::Receiver<SourceStatus> {
        self.status.subscribe()
    }

    /// Follows the files until nobody listens.
    pub async fn run(self, events: mpsc::Sender<SyncEvent>) {
        let _ = (self.directory.config, events);
        todo!()
    }
}

impl Store for Directory {
    async fn get(&self, _key: &str) -> Result<Option<Stored>, StoreError> {
        todo!()
    }

    async fn list(&self, _prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
        todo!()
    }

    async fn create(&self, _key: &str, _value: &[u8]) -> Result<bool, StoreError> {
        todo!()
    }

    async fn replace(&self, _key: &str, _value: &[u8], _rev: i64) -> Result<bool, StoreError> {
        todo!()
    }

    async fn put(&self, _k: &str, _v: &[u8], _ttl: Option<Duration>) -> Result<(), StoreError> {
        todo!()
    }

    async fn delete(&self, _key: &str) -> Result<(), StoreError> {
        todo!()
    }

    async fn delete_if(&self, _key: &str, _revision: i64) -> Result<bool, StoreError> {
        todo!()
    }
}
