//! Whether the store that answers is the one that was read before.
//!
//! A cluster's id is made of its members' addresses and its token: wiped and started again, or
//! restored from a backup, it is the same. The revision proves as little once others have
//! written. So the store is asked for two keys *as they were* at the last revision applied.

use std::sync::Arc;

use etcd_client::GetOptions;

use super::client::Etcd3;
use super::error::EtcdError;
use super::list::Stamp;

/// How far the store has been read, and how to recognise it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The last revision applied.
    pub(super) stamp: Stamp,
    /// The revision that wrote the ready key.
    pub(super) ready: i64,
    /// The newest key known to be there at that revision, and the revision that wrote it.
    pub(super) newest: Option<(Arc<str>, i64)>,
}

/// What became of the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum History {
    /// It goes on where it was left.
    Same,
    /// It is another one, or has forgotten the revision; why.
    Other(&'static str),
}

impl Position {
    /// Compares the store with what was known of it.
    pub(super) async fn check(
        &self,
        client: &Etcd3,
        ready_key: &str,
    ) -> Result<History, EtcdError> {
        let ready = self.written_at(client, ready_key);
        let newest = async {
            match &self.newest {
                Some((key, _)) => self.written_at(client, key).await,
                None => Ok(Then { cluster_id: self.stamp.cluster_id, mod_revision: None }),
            }
        };
        let (ready, newest) = match futures::try_join!(ready, newest) {
            Ok(both) => both,
            Err(error) if error.is_compacted() => {
                return Ok(History::Other("the revision read last has been compacted"));
            }
            Err(error) if error.is_future() => {
                return Ok(History::Other("the store went back to an older revision"));
            }
            Err(error) => return Err(error),
        };
        let ours = self.stamp.cluster_id;
        if ready.cluster_id != ours || newest.cluster_id != ours {
            return Ok(History::Other("another cluster answers"));
        }
        let known = self.newest.as_ref().map(|(_, revision)| *revision);
        if ready.mod_revision != Some(self.ready) || newest.mod_revision != known {
            return Ok(History::Other("the store's history is another one"));
        }
        Ok(History::Same)
    }

    async fn written_at(&self, client: &Etcd3, key: &str) -> Result<Then, EtcdError> {
        read_at(client, key, self.stamp.revision).await
    }
}

/// A key as it was.
pub(super) struct Then {
    cluster_id: u64,
    mod_revision: Option<i64>,
}

/// Reads what a key was at a revision. Fails for one that is older than what was compacted.
pub(super) async fn read_at(client: &Etcd3, key: &str, revision: i64) -> Result<Then, EtcdError> {
    let options = GetOptions::new().with_revision(revision).with_keys_only();
    let answer = client
        .call("read", key, |session| async move { session.kv().get(key, Some(options)).await })
        .await?;
    Ok(Then {
        cluster_id: Stamp::of(answer.header(), "read", key)?.cluster_id,
        mod_revision: answer.kvs().first().map(|kv| kv.mod_revision()),
    })
}
