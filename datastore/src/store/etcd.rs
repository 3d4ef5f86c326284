//! The store in etcd v3. Every call is bounded in time by the client.

use std::time::Duration;

use crate::backend::etcd3::{Etcd3, EtcdError, Versioned};

use super::{Refusal, Seen, Store, StoreError, Stored};

fn error(operation: &'static str, key: &str) -> impl FnOnce(EtcdError) -> StoreError {
    // etcd's own chain: a gRPC status prints itself as a debugger would.
    move |source| {
        let refused = source.is_refused() || source.is_invalid();
        let chain = source.chain();
        let source: Box<dyn std::error::Error + Send + Sync> =
            if refused { Box::new(Refusal(chain)) } else { chain.into() };
        StoreError { operation, key: key.to_owned(), source }
    }
}

fn stored(value: Versioned) -> Stored {
    Stored { value: value.value, revision: value.mod_revision }
}

impl Store for Etcd3 {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        Ok(Etcd3::get(self, key).await.map_err(error("read", key))?.map(stored))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
        let found = Etcd3::list(self, prefix).await.map_err(error("list", prefix))?;
        Ok(found.into_iter().map(|(key, value)| (key, stored(value))).collect())
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<bool, StoreError> {
        Etcd3::create(self, key, value).await.map_err(error("write", key))
    }

    async fn create_beside(
        &self,
        key: &str,
        value: &[u8],
        seen: &Seen,
    ) -> Result<bool, StoreError> {
        // Whatever is newer than all that was seen was not there then.
        let created = Etcd3::create_beside(self, key, value, &seen.prefixes, seen.newest).await;
        created.map_err(error("write", key))
    }

    async fn replace(&self, key: &str, value: &[u8], revision: i64) -> Result<bool, StoreError> {
        Etcd3::replace(self, key, value, revision).await.map_err(error("write", key))
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), StoreError> {
        match ttl {
            // Rounded up: a report must not vanish before the next one is due.
            Some(ttl) => {
                let whole = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
                self.put_with_ttl(key, value, Duration::from_secs(whole)).await
            }
            None => Etcd3::put(self, key, value).await,
        }
        .map_err(error("write", key))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        Etcd3::delete(self, key).await.map(drop).map_err(error("delete", key))
    }

    async fn delete_if(&self, key: &str, revision: i64) -> Result<bool, StoreError> {
        Etcd3::delete_if(self, key, revision).await.map_err(error("delete", key))
    }
}
