//! Reads and writes for everybody, each bounded in time.
//!
//! No call is repeated by itself: a write that was not answered may have happened. Whoever writes
//! conditionally reads again after [`EtcdError::is_unavailable`]; a plain `put` or `delete` may
//! simply be repeated.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, Error, KeyValue, PutOptions, Txn, TxnOp, TxnResponse,
};

use super::config::{CALL_TIMEOUT, Etcd3Config};
use super::error::EtcdError;
use super::list;
use super::session::{Session, Sessions};

/// A handle to an etcd cluster. Clones share one connection.
#[derive(Clone)]
pub struct Etcd3 {
    sessions: Arc<Sessions>,
}

/// A value and the revision that wrote it: what a conditional write compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// The revision that wrote it.
    pub mod_revision: i64,
}

impl Etcd3 {
    /// A handle that connects when it is first used.
    ///
    /// # Errors
    /// A configuration that cannot work: no endpoint, `https` without an authority, half a client
    /// certificate.
    pub fn new(config: Etcd3Config) -> Result<Self, EtcdError> {
        Ok(Self { sessions: Arc::new(Sessions::new(config)?) })
    }

    /// A key's value, or `None` when there is no such key.
    pub async fn get(&self, key: &str) -> Result<Option<Versioned>, EtcdError> {
        let answer = self
            .call("read", key, |session| async move { session.kv().get(key, None).await })
            .await?;
        Ok(answer.kvs().first().map(versioned))
    }

    /// Every key below a prefix, in order.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, EtcdError> {
        let mut keys = Vec::new();
        list::keys(self, prefix, |key| keys.push(key.to_owned())).await?;
        Ok(keys)
    }

    /// Every key below a prefix with its value, in order, as of one revision.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>, EtcdError> {
        let mut found = Vec::new();
        let visit = |kv: &KeyValue| {
            found.push((String::from_utf8_lossy(kv.key()).into_owned(), versioned(kv)));
        };
        list::snapshot(self, &[prefix], visit).await?;
        Ok(found)
    }

    /// Creates or overwrites a key. A lease that it had no longer applies.
    pub async fn put(&self, key: &str, value: &[u8]) -> Result<(), EtcdError> {
        self.call("write", key, |session| async move { session.kv().put(key, value, None).await })
            .await?;
        Ok(())
    }

    /// Creates or overwrites a key that vanishes after `ttl` (whole seconds, at least one) unless
    /// it is written again.
    ///
    /// Each write has a lease of its own, as Felix does it: nothing has to be kept alive or
    /// remembered over a restart, and a writer that hangs cannot keep a stale report alive. The
    /// lease of the write before expires by itself.
    pub async fn put_with_ttl(
        &self,
        key: &str,
        value: &[u8],
        ttl: Duration,
    ) -> Result<(), EtcdError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        self.call("write with a lease", key, |session| async move {
            let lease = session.client.lease_client().grant(seconds, None).await?.id();
            let put = PutOptions::new().with_lease(lease);
            let written = session.kv().put(key, value, Some(put)).await;
            if written.is_err() {
                // Not worth an error of its own: it expires.
                let _ = session.client.lease_client().revoke(lease).await;
            }
            written
        })
        .await?;
        Ok(())
    }

    /// Creates a key. False when it exists already; it is then left as it is.
    pub async fn create(&self, key: &str, value: &[u8]) -> Result<bool, EtcdError> {
        let absent = Compare::version(key, CompareOp::Equal, 0);
        self.when("create", key, [absent], TxnOp::put(key, value, None)).await
    }

    /// Creates a key. False when it exists already, or when some key that begins with one of
    /// `prefixes` was created after the revision `newest`; nothing is written then. etcd takes 128
    /// conditions by default.
    pub async fn create_beside(
        &self,
        key: &str,
        value: &[u8],
        prefixes: &[String],
        newest: i64,
    ) -> Result<bool, EtcdError> {
        let absent = Compare::version(key, CompareOp::Equal, 0);
        let after = newest.saturating_add(1);
        let none = prefixes.iter().map(|prefix| {
            Compare::create_revision(prefix.as_str(), CompareOp::Less, after).with_prefix()
        });
        let conditions: Vec<Compare> = std::iter::once(absent).chain(none).collect();
        self.when("create", key, conditions, TxnOp::put(key, value, None)).await
    }

    /// Overwrites a key that was last written at `mod_revision`. False when it was written or
    /// deleted since.
    pub async fn replace(
        &self,
        key: &str,
        value: &[u8],
        mod_revision: i64,
    ) -> Result<bool, EtcdError> {
        let same = Compare::mod_revision(key, CompareOp::Equal, mod_revision);
        self.when("replace", key, [same], TxnOp::put(key, value, None)).await
    }

    /// Deletes a key. False when there was none.
    pub async fn delete(&self, key: &str) -> Result<bool, EtcdError> {
        let answer = self
            .call("delete", key, |session| async move {
                session.kv().delete(key, None::<DeleteOptions>).await
            })
            .await?;
        Ok(answer.deleted() > 0)
    }

    /// Deletes a key that was last written at `mod_revision`. False when it was written or deleted
    /// since.
    pub async fn delete_if(&self, key: &str, mod_revision: i64) -> Result<bool, EtcdError> {
        let same = Compare::mod_revision(key, CompareOp::Equal, mod_revision);
        self.when("delete", key, [same], TxnOp::delete(key, None)).await
    }

    async fn when(
        &self,
        op: &'static str,
        key: &str,
        conditions: impl Into<Vec<Compare>>,
        then: TxnOp,
    ) -> Result<bool, EtcdError> {
        let txn = Txn::new().when(conditions).and_then([then]);
        let answer: TxnResponse =
            self.call(op, key, |session| async move { session.kv().txn(txn).await }).await?;
        Ok(answer.succeeded())
    }

    /// One call on the current session, bounded in time. A session that does not serve is given
    /// up, so that the next call finds another member.
    pub(super) async fn call<T, F, Fut>(
        &self,
        op: &'static str,
        key: &str,
        work: F,
    ) -> Result<T, EtcdError>
    where
        F: FnOnce(Session) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let deadline = tokio::time::Instant::now() + CALL_TIMEOUT;
        let late = || EtcdError::Timeout { op, key: key.to_owned(), after: CALL_TIMEOUT };
        let session = match tokio::time::timeout_at(deadline, self.sessions.get()).await {
            Ok(session) => session?,
            Err(_) => return Err(late()),
        };
        let result = match tokio::time::timeout_at(deadline, work(session.clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(source)) => EtcdError::Call { op, key: key.to_owned(), source },
            Err(_) => late(),
        };
        if result.is_unavailable() {
            self.sessions.discard(&session).await;
        }
        Err(result)
    }

    /// Gives up a session whose watch failed.
    pub(super) async fn discard(&self, session: &Session) {
        self.sessions.discard(session).await;
    }
}

impl std::fmt::Debug for Etcd3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd3").finish_non_exhaustive()
    }
}

fn versioned(kv: &KeyValue) -> Versioned {
    Versioned { value: kv.value().to_vec(), mod_revision: kv.mod_revision() }
}
