//! The few things the agent itself writes to the datastore: registration and status keys.
//!
//! A narrow view of a key-value store, so that the logic above it can be driven by a store in
//! memory. It knows no key and no value; reading the world is not its business
//! (`calico_datastore::backend` does that).

mod etcd;

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

/// The store did not answer, or refused. Trying again later may help.
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

    async fn replace(&self, key: &str, value: &[u8], revision: i64) -> Result<bool, StoreError> {
        S::replace(self, key, value, revision).await
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), StoreError> {
        S::put(self, key, value, ttl).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        S::delete(self, key).await
    }
}

#[cfg(test)]
pub(crate) mod memory {
    //! A store in memory that keeps etcd's promises: revisions grow, compare-and-swap is atomic.

    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::{Store, StoreError, Stored};

    #[derive(Default)]
    struct Inner {
        values: BTreeMap<String, Stored>,
        ttls: BTreeMap<String, Duration>,
        revision: i64,
        writes: Vec<String>,
        failures: u32,
        races: Vec<(String, Vec<u8>)>,
    }

    impl Inner {
        fn set(&mut self, key: &str, value: &[u8]) {
            self.revision += 1;
            let stored = Stored { value: value.to_vec(), revision: self.revision };
            self.values.insert(key.to_owned(), stored);
        }

        fn check(&mut self, operation: &'static str, key: &str) -> Result<(), StoreError> {
            if self.failures == 0 {
                return Ok(());
            }
            self.failures -= 1;
            Err(StoreError { operation, key: key.to_owned(), source: "not reachable".into() })
        }

        /// Another client is faster, once per entry.
        fn race(&mut self, key: &str) {
            if let Some(at) = self.races.iter().position(|(k, _)| k == key) {
                let (key, value) = self.races.remove(at);
                self.set(&key, &value);
            }
        }
    }

    /// The store.
    #[derive(Default)]
    pub(crate) struct Memory(Mutex<Inner>);

    impl Memory {
        fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
            self.0.lock().unwrap()
        }

        pub(crate) fn with(entries: &[(&str, &str)]) -> Self {
            let store = Self::default();
            for (key, value) in entries {
                store.inner().set(key, value.as_bytes());
            }
            store
        }

        /// The next `n` calls fail.
        pub(crate) fn fail(&self, n: u32) {
            self.inner().failures = n;
        }

        /// Just before the next conditional write of `key` somebody else writes `value`.
        pub(crate) fn race(&self, key: &str, value: &str) {
            self.inner().races.push((key.to_owned(), value.as_bytes().to_vec()));
        }

        pub(crate) fn text(&self, key: &str) -> Option<String> {
            let inner = self.inner();
            inner.values.get(key).map(|s| String::from_utf8(s.value.clone()).unwrap())
        }

        pub(crate) fn ttl(&self, key: &str) -> Option<Duration> {
            self.inner().ttls.get(key).copied()
        }

        pub(crate) fn keys(&self) -> Vec<String> {
            self.inner().values.keys().cloned().collect()
        }

        /// The keys written or deleted by the code under test since the last call.
        pub(crate) fn take_writes(&self) -> Vec<String> {
            std::mem::take(&mut self.inner().writes)
        }
    }

    impl Store for Memory {
        async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
            let mut inner = self.inner();
            inner.check("read", key)?;
            Ok(inner.values.get(key).cloned())
        }

        async fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
            let mut inner = self.inner();
            inner.check("list", prefix)?;
            let all = inner.values.iter().filter(|(k, _)| k.starts_with(prefix));
            Ok(all.map(|(k, v)| (k.clone(), v.clone())).collect())
        }

        async fn create(&self, key: &str, value: &[u8]) -> Result<bool, StoreError> {
            let mut inner = self.inner();
            inner.check("write", key)?;
            inner.race(key);
            if inner.values.contains_key(key) {
                return Ok(false);
            }
            inner.set(key, value);
            inner.writes.push(key.to_owned());
            Ok(true)
        }

        async fn replace(
            &self,
            key: &str,
            value: &[u8],
            revision: i64,
        ) -> Result<bool, StoreError> {
            let mut inner = self.inner();
            inner.check("write", key)?;
            inner.race(key);
            if inner.values.get(key).map(|s| s.revision) != Some(revision) {
                return Ok(false);
            }
            inner.set(key, value);
            inner.writes.push(key.to_owned());
            Ok(true)
        }

        async fn put(
            &self,
            key: &str,
            value: &[u8],
            ttl: Option<Duration>,
        ) -> Result<(), StoreError> {
            let mut inner = self.inner();
            inner.check("write", key)?;
            inner.set(key, value);
            inner.writes.push(key.to_owned());
            match ttl {
                Some(ttl) => inner.ttls.insert(key.to_owned(), ttl),
                None => inner.ttls.remove(key),
            };
            Ok(())
        }

        async fn delete(&self, key: &str) -> Result<(), StoreError> {
            let mut inner = self.inner();
            inner.check("delete", key)?;
            inner.values.remove(key);
            inner.writes.push(key.to_owned());
            Ok(())
        }
    }
}
