//! Reads and writes for everybody, each bounded in time.
//!
//! No call is repeated by itself: a write that was not answered may have happened.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tokio::sync::Mutex;

use super::connection::{Ask, Connection, Stamp, encode_form};
use super::error::Etcd2Error;
use super::members::Members;
use super::wire::{Event, Node};
use crate::backend::etcd3::{CALL_TIMEOUT, Etcd3Config};

/// A handle to an etcd cluster through its v2 API. Clones share one connection.
#[derive(Clone)]
pub struct Etcd2 {
    pub(super) members: Arc<Members>,
    /// A connection that nobody uses just now.
    idle: Arc<Mutex<Option<Connection>>>,
}

/// A value and the index that wrote it: what a conditional write compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: String,
    /// The index that wrote it (`modifiedIndex`).
    pub index: i64,
}

impl Etcd2 {
    /// A handle that connects when it is first used.
    ///
    /// # Errors
    /// A configuration that cannot work: no endpoint, one that is no URL, `https` without an
    /// authority, half a client certificate.
    pub fn new(config: Etcd3Config) -> Result<Self, Etcd2Error> {
        Ok(Self { members: Arc::new(Members::new(config)?), idle: Arc::default() })
    }

    /// A key's value, or `None` when there is no such key.
    pub async fn get(&self, key: &str) -> Result<Option<Versioned>, Etcd2Error> {
        Ok(self.read(key).await?.0)
    }

    /// The same, and when and of which store it was.
    pub(super) async fn read(&self, key: &str) -> Result<(Option<Versioned>, Stamp), Etcd2Error> {
        let found = self.call(&ask("read", key, Method::GET, "quorum=true", None)).await;
        match found {
            Ok((event, stamp)) => {
                let stamp = stamp.ok_or_else(|| no_index("read", key))?;
                Ok((versioned(&event.node), stamp))
            }
            Err(Etcd2Error::Fault { fault, .. }) if fault.is_not_found() => {
                Ok((None, Stamp { index: fault.index, ..Stamp::default() }))
            }
            Err(error) => Err(error),
        }
    }

    /// Every key that begins with `prefix` with its value, in order, as of one index.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>, Etcd2Error> {
        let directory = prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
        let Some((node, _)) = self.tree(directory).await? else { return Ok(Vec::new()) };
        let mut found: Vec<_> = node
            .keys()
            .filter(|node| node.key.starts_with(prefix))
            .filter_map(|node| Some((node.key.clone(), versioned(node)?)))
            .collect();
        found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// A directory with everything below it, as of one index; `None` when there is none.
    pub(super) async fn tree(&self, key: &str) -> Result<Option<(Node, Stamp)>, Etcd2Error> {
        let ask = ask("list", key, Method::GET, "recursive=true&quorum=true", None);
        match self.call(&ask).await {
            Ok((event, stamp)) => {
                Ok(Some((event.node, stamp.ok_or_else(|| no_index("list", key))?)))
            }
            Err(Etcd2Error::Fault { fault, .. }) if fault.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates or overwrites a key. With `ttl` (whole seconds, at least one) it vanishes after that
    /// time unless it is written again; a time that it had no longer applies.
    pub async fn put(
        &self,
        key: &str,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<(), Etcd2Error> {
        let mut form = form(key, value)?;
        if let Some(ttl) = ttl {
            form.push_str(&format!("&ttl={}", ttl.as_secs().max(1)));
        }
        self.call(&ask("write", key, Method::PUT, "", Some(form))).await?;
        Ok(())
    }

    /// Creates a key. False when it exists already; it is then left as it is.
    pub async fn create(&self, key: &str, value: &[u8]) -> Result<bool, Etcd2Error> {
        let form = form(key, value)?;
        self.when(&ask("create", key, Method::PUT, "prevExist=false", Some(form))).await
    }

    /// Overwrites a key that was last written at `index`. False when it was written or deleted since.
    pub async fn replace(&self, key: &str, value: &[u8], index: i64) -> Result<bool, Etcd2Error> {
        let (form, query) = (form(key, value)?, format!("prevIndex={index}"));
        self.when(&ask("replace", key, Method::PUT, &query, Some(form))).await
    }

    /// Deletes a key. False when there was none.
    pub async fn delete(&self, key: &str) -> Result<bool, Etcd2Error> {
        self.when(&ask("delete", key, Method::DELETE, "", None)).await
    }

    /// Deletes a key that was last written at `index`. False when it was written or deleted since.
    pub async fn delete_if(&self, key: &str, index: i64) -> Result<bool, Etcd2Error> {
        let query = format!("prevIndex={index}");
        self.when(&ask("delete", key, Method::DELETE, &query, None)).await
    }

    /// A write that depends on something; false when that is not so.
    async fn when(&self, ask: &Ask<'_>) -> Result<bool, Etcd2Error> {
        match self.call(ask).await {
            Ok(_) => Ok(true),
            Err(Etcd2Error::Fault { fault, .. }) if fault.is_conflict() || fault.is_not_found() => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// One call. Its answer has to begin in time, and to go on; how long it takes in all depends on
    /// how much it is.
    async fn call(&self, ask: &Ask<'_>) -> Result<(Event, Option<Stamp>), Etcd2Error> {
        let late =
            |_| Etcd2Error::Timeout { op: ask.op, key: ask.key.to_owned(), after: CALL_TIMEOUT };
        let begin = async {
            let mut idle = self.idle.lock().await.take().filter(Connection::is_open);
            if let Some(connection) = &mut idle
                && !connection.is_ready().await
            {
                idle = None;
            }
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.members.connect().await?,
            };
            let begun = connection.begin(ask).await;
            Ok((connection, begun))
        };
        let (connection, begun) =
            tokio::time::timeout(CALL_TIMEOUT, begin).await.map_err(late)??;
        let answer = match begun {
            Ok(begun) => begun.finish(ask, CALL_TIMEOUT).await,
            Err(error) => Err(error),
        };
        match &answer {
            Err(error) if error.is_unavailable() => self.members.pass_over(&connection.endpoint),
            _ => *self.idle.lock().await = Some(connection),
        }
        answer
    }
}

impl std::fmt::Debug for Etcd2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd2").finish_non_exhaustive()
    }
}

fn ask<'a>(
    op: &'static str,
    key: &'a str,
    method: Method,
    query: &str,
    body: Option<String>,
) -> Ask<'a> {
    Ask { op, key, method, query: query.to_owned(), body }
}

fn form(key: &str, value: &[u8]) -> Result<String, Etcd2Error> {
    let text = std::str::from_utf8(value).map_err(|_| Etcd2Error::NotText(key.to_owned()))?;
    Ok(format!("value={}", encode_form(text)))
}

fn versioned(node: &Node) -> Option<Versioned> {
    let value = node.value.clone().filter(|_| !node.dir)?;
    Some(Versioned { value, index: node.modified_index })
}

fn no_index(op: &'static str, key: &str) -> Etcd2Error {
    Etcd2Error::Answer {
        op,
        key: key.to_owned(),
        what: "the answer has no X-Etcd-Index, so it is not etcd's".to_owned(),
    }
}
