//! What was ever stored: every version of the keys below a prefix.

use anyhow::{Context, Result};
use etcd_client::{EventType, WatchOptions};

use super::Etcd;

/// A write or a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// When: of several keys that were written at once it is the same.
    pub revision: i64,
    /// The key.
    pub key: String,
    /// What was written; `None`: it was removed.
    pub value: Option<String>,
}

impl Etcd {
    /// Every version of every key below `prefix` from a revision on until now, in order. Nothing may
    /// have been compacted since.
    ///
    /// # Errors
    /// When etcd does not answer, or has forgotten some of it.
    pub fn history(&self, prefix: &str, since: i64) -> Result<Vec<Version>> {
        // Where the story ends: below the prefix, so that it comes as the last of it, and no key of
        // anybody's.
        let end = format!("{prefix}~end-of-history");
        let last = self.put(&end, "")?;
        self.delete(&end)?;
        let told = self.with(async |mut client| {
            let options = WatchOptions::new().with_prefix().with_start_revision(since);
            let mut stream = client.watch(prefix, Some(options)).await?;
            let mut told = Vec::new();
            while let Some(answer) = stream.message().await? {
                if answer.canceled() {
                    return Ok(None);
                }
                for event in answer.events() {
                    let Some(kv) = event.kv() else { continue };
                    if kv.mod_revision() >= last {
                        return Ok(Some(told));
                    }
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let put = event.event_type() == EventType::Put;
                    let value = put.then(|| text(kv.value()));
                    told.push(Version { revision: kv.mod_revision(), key: text(kv.key()), value });
                }
            }
            Ok(None)
        })?;
        told.with_context(|| format!("etcd does not tell what was below {prefix}"))
    }
}
