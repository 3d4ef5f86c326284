//! The store in etcd v2. Every call is bounded in time by the client. Values are text there.

use std::time::Duration;

use crate::backend::etcd2::{Etcd2, Etcd2Error, Versioned};

use super::{Refusal, Seen, Store, StoreError, Stored};

fn error(operation: &'static str, key: &str) -> impl FnOnce(Etcd2Error) -> StoreError {
    move |source| {
        let refused = source.is_refused() || source.is_invalid();
        let chain = source.chain();
        let source: Box<dyn std::error::Error + Send + Sync> =
            if refused { Box::new(Refusal(chain)) } else { chain.into() };
        StoreError { operation, key: key.to_owned(), source }
    }
}

fn stored(value: Versioned) -> Stored {
    Stored { value: value.value.into_bytes(), revision: value.index }
}

impl Store for Etcd2 {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        Ok(Etcd2::get(self, key).await.map_err(error("read", key))?.map(stored))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
        let found = Etcd2::list(self, prefix).await.map_err(error("list", prefix))?;
        Ok(found.into_iter().map(|(key, value)| (key, stored(value))).collect())
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<bool, StoreError> {
        Etcd2::create(self, key, value).await.map_err(error("write", key))
    }

    /// Refused: a write of this API depends on its own key alone.
    async fn create_beside(
        &self,
        key: &str,
        _value: &[u8],
        _seen: &Seen,
    ) -> Result<bool, StoreError> {
        let reason = "etcd's v2 API has no write that depends on other keys".to_owned();
        let source = Box::new(Refusal(reason));
        Err(StoreError { operation: "write", key: key.to_owned(), source })
    }

    async fn replace(&self, key: &str, value: &[u8], revision: i64) -> Result<bool, StoreError> {
        Etcd2::replace(self, key, value, revision).await.map_err(error("write", key))
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), StoreError> {
        // Rounded up: a report must not vanish before the next one is due.
        let whole = |ttl: Duration| ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let ttl = ttl.map(|ttl| Duration::from_secs(whole(ttl)));
        Etcd2::put(self, key, value, ttl).await.map_err(error("write", key))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        Etcd2::delete(self, key).await.map(drop).map_err(error("delete", key))
    }

    async fn delete_if(&self, key: &str, revision: i64) -> Result<bool, StoreError> {
        Etcd2::delete_if(self, key, revision).await.map_err(error("delete", key))
    }
}
