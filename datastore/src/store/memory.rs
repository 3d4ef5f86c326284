//! A store in memory that keeps etcd's promises: revisions grow, compare-and-swap is atomic. For
//! tests and simulations, so it can also be told to fail and to be slower than somebody else.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Refusal, Seen, Store, StoreError, Stored};

#[derive(Debug, Default)]
struct Inner {
    values: BTreeMap<String, Stored>,
    ttls: BTreeMap<String, Duration>,
    revision: i64,
    writes: Vec<String>,
    failures: u32,
    refusals: u32,
    calls: u64,
    /// The calls from the first number to before the second fail.
    outage: (u64, u64),
    /// The number of the call that is performed, but answered with an error.
    lost: u64,
    races: Vec<(String, Vec<u8>)>,
}

impl Inner {
    fn set(&mut self, key: &str, value: &[u8]) {
        self.revision += 1;
        let stored = Stored { value: value.to_vec(), revision: self.revision };
        self.values.insert(key.to_owned(), stored);
    }

    fn check(&mut self, operation: &'static str, key: &str) -> Result<(), StoreError> {
        self.calls += 1;
        if self.refusals > 0 {
            self.refusals -= 1;
            let source = Box::new(Refusal("permission denied".to_owned()));
            return Err(StoreError { operation, key: key.to_owned(), source });
        }
        let out = (self.outage.0..self.outage.1).contains(&self.calls);
        if self.failures == 0 && !out {
            return Ok(());
        }
        self.failures = self.failures.saturating_sub(1);
        Err(StoreError { operation, key: key.to_owned(), source: "not reachable".into() })
    }

    /// The answer of a call that was performed.
    fn answer<T>(&self, operation: &'static str, key: &str, answer: T) -> Result<T, StoreError> {
        if self.lost != 0 && self.lost == self.calls {
            let source = "the answer got lost".into();
            return Err(StoreError { operation, key: key.to_owned(), source });
        }
        Ok(answer)
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
#[derive(Debug, Default)]
pub struct Memory(Mutex<Inner>);

impl Memory {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A store that holds these keys and values.
    pub fn with(entries: &[(&str, &str)]) -> Self {
        let store = Self::default();
        for (key, value) in entries {
            store.inner().set(key, value.as_bytes());
        }
        store
    }

    /// The next `n` calls fail.
    pub fn fail(&self, n: u32) {
        self.inner().failures = n;
    }

    /// The next `n` calls are refused.
    pub fn refuse(&self, n: u32) {
        self.inner().refusals = n;
    }

    /// After `after` more calls the next `n` fail: a store that goes away, or a caller that is killed.
    pub fn fail_after(&self, after: u64, n: u64) {
        let mut inner = self.inner();
        let first = inner.calls.saturating_add(after).saturating_add(1);
        inner.outage = (first, first.saturating_add(n));
    }

    /// After `after` more calls the next one is performed, but answered with an error.
    pub fn lose_answer(&self, after: u64) {
        let mut inner = self.inner();
        inner.lost = inner.calls.saturating_add(after).saturating_add(1);
    }

    /// No failure is planned any more.
    pub fn heal(&self) {
        let mut inner = self.inner();
        (inner.failures, inner.outage, inner.lost) = (0, (0, 0), 0);
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.inner().calls
    }

    /// Just before the next conditional write of `key` somebody else writes `value`.
    pub fn race(&self, key: &str, value: &str) {
        self.inner().races.push((key.to_owned(), value.as_bytes().to_vec()));
    }

    /// The value of a key as text.
    pub fn text(&self, key: &str) -> Option<String> {
        let inner = self.inner();
        inner.values.get(key).map(|s| String::from_utf8_lossy(&s.value).into_owned())
    }

    /// The time that a key was given to live.
    pub fn ttl(&self, key: &str) -> Option<Duration> {
        self.inner().ttls.get(key).copied()
    }

    /// Every key, in order.
    pub fn keys(&self) -> Vec<String> {
        self.inner().values.keys().cloned().collect()
    }

    /// The keys written or deleted by the code under test since the last call.
    pub fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.inner().writes)
    }
}

impl Store for Memory {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let mut inner = self.inner();
        inner.check("read", key)?;
        inner.answer("read", key, inner.values.get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
        let mut inner = self.inner();
        inner.check("list", prefix)?;
        let all = inner.values.iter().filter(|(k, _)| k.starts_with(prefix));
        let all = all.map(|(k, v)| (k.clone(), v.clone())).collect();
        inner.answer("list", prefix, all)
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
        inner.answer("write", key, true)
    }

    async fn create_beside(
        &self,
        key: &str,
        value: &[u8],
        seen: &Seen,
    ) -> Result<bool, StoreError> {
        let mut inner = self.inner();
        inner.check("write", key)?;
        inner.race(key);
        let news = inner.values.keys().any(|there| seen.is_news(there));
        if inner.values.contains_key(key) || news {
            return Ok(false);
        }
        inner.set(key, value);
        inner.writes.push(key.to_owned());
        inner.answer("write", key, true)
    }

    async fn replace(&self, key: &str, value: &[u8], revision: i64) -> Result<bool, StoreError> {
        let mut inner = self.inner();
        inner.check("write", key)?;
        inner.race(key);
        if inner.values.get(key).map(|s| s.revision) != Some(revision) {
            return Ok(false);
        }
        inner.set(key, value);
        inner.writes.push(key.to_owned());
        inner.answer("write", key, true)
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), StoreError> {
        let mut inner = self.inner();
        inner.check("write", key)?;
        inner.set(key, value);
        inner.writes.push(key.to_owned());
        match ttl {
            Some(ttl) => inner.ttls.insert(key.to_owned(), ttl),
            None => inner.ttls.remove(key),
        };
        inner.answer("write", key, ())
    }

    async fn delete_if(&self, key: &str, revision: i64) -> Result<bool, StoreError> {
        let mut inner = self.inner();
        inner.check("delete", key)?;
        inner.race(key);
        if inner.values.get(key).map(|s| s.revision) != Some(revision) {
            return Ok(false);
        }
        inner.values.remove(key);
        inner.revision += 1;
        inner.writes.push(key.to_owned());
        inner.answer("delete", key, true)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let mut inner = self.inner();
        inner.check("delete", key)?;
        inner.values.remove(key);
        inner.writes.push(key.to_owned());
        inner.answer("delete", key, ())
    }
}
