//! What we write to a datastore, and read to write it: registration, status keys, endpoints,
//! address allocation.
//!
//! A narrow view of a key-value store with compare-and-swap, so that the logic above it can be driven
//! by any store, one in memory too. It knows no key and no value; following the world is not its
//! business ([`backend`](crate::backend) does that).

mod any;
mod etcd;
mod etcd2;
pub mod memory;

pub use any::AnyStore;

use std::collections::BTreeSet;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The bytes.
    pub value: Vec<u8>,
    /// The revision of its last change (etcd's `mod_revision`).
    pub revision: i64,
}

/// What a [`list`](Store::list) found, as a condition for a write: nothing else has come since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What matters: the keys that begin with one of these. They begin with what was listed.
    pub prefixes: Vec<String>,
    /// The keys that were found.
    pub keys: BTreeSet<String>,
    /// The newest of their revisions; 0 when nothing was found.
    pub newest: i64,
}

impl Seen {
    /// What was found under `prefix`.
    pub fn of(prefix: &str, listed: &[(String, Stored)]) -> Self {
        Self {
            prefixes: vec![prefix.to_owned()],
            keys: listed.iter().map(|(key, _)| key.clone()).collect(),
            newest: listed.iter().map(|(_, stored)| stored.revision).max().unwrap_or(0),
        }
    }

    /// The same, but less of it matters.
    #[must_use]
    pub fn within(self, prefixes: Vec<String>) -> Self {
        Self { prefixes, ..self }
    }

    /// Whether a key matters and was not found.
    pub fn is_news(&self, key: &str) -> bool {
        let matters = self.prefixes.iter().any(|prefix| key.starts_with(prefix));
        matters && !self.keys.contains(key)
    }
}

/// The store did not answer, or refused. Trying again later may help, unless it
/// [refused](Self::is_refused).
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {key}")]
pub struct StoreError {
    /// `read`, `write`, `delete`, `list`.
    pub operation: &'static str,
    /// The key or prefix.
    pub key: String,
    /// Why.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// Why a store refused, in its words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl StoreError {
    /// The store answered that it does not do this: who asks may not, or what is asked for cannot
    /// be. Nothing was changed, and asking again is of no use before somebody has changed something.
    /// Any other failed write may have happened, or may happen yet.
    pub fn is_refused(&self) -> bool {
        self.source.is::<Refusal>() || self.owner().is_some()
    }
}

/// A key-value store with compare-and-swap. Every call is bounded in time by its implementation.
pub trait Store: Send + Sync {
    /// The value of `key`, when there is one.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// Every key that begins with `prefix`, with its value.
    fn list(
        &self,
        prefix: &str,
    ) -> impl Future<Output = Result<Vec<(String, Stored)>, StoreError>> + Send;

    /// Writes `key` unless it exists. False: it exists, nothing was written.
    fn create(
        &self,
        key: &str,
        value: &[u8],
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Writes `key` unless it exists, or there is a key that is news to `seen`. False: one or the
    /// other, nothing was written. Which are there is asked in the same step.
    ///
    /// A key that was deleted and made anew may count as one that was not seen.
    fn create_beside(
        &self,
        key: &str,
        value: &[u8],
        seen: &Seen,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Writes `key` if its revision is still `revision`. False: it is not, nothing was written.
    fn replace(
        &self,
        key: &str,
        value: &[u8],
        revision: i64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Writes `key` whatever it was; with `ttl` it vanishes after that time (an etcd lease of its
    /// own; whole seconds, rounded up).
    fn put(
        &self,
        key: &str,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes `key`. A key that is already gone is a success.
    fn delete(&self, key: &str) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes `key` if its revision is still `revision`. False: it is not, nothing was removed.
    fn delete_if(
        &self,
        key: &str,
        revision: i64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

impl<S: Store> Store for Arc<S> {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        S::get(self, key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
        S::list(self, prefix).await
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<bool, StoreError> {
        S::create(self, key, value).await
    }

    async fn create_beside(
        &self,
        key: &str,
        value: &[u8],
        seen: &Seen,
    ) -> Result<bool, StoreError> {
        S::create_beside(self, key, value, seen).await
    }

    async fn replace(&self, key: &str, value: &[u8], revision: i64) -> Result<bool, StoreError> {
        S::replace(self, key, value, revision).await
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), StoreError> {
        S::put(self, key, value, ttl).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        S::delete(self, key).await
    }

    async fn delete_if(&self, key: &str, revision: i64) -> Result<bool, StoreError> {
        S::delete_if(self, key, revision).await
    }
}
