//! The watch: one long poll after the other.

use std::sync::Arc;

use hyper::Method;

use super::config::{IDLE_POLL, ROOT};
use super::connection::{Ask, Connection, Stamp};
use super::error::Etcd2Error;
use super::members::Members;
use super::wire::Event;
use crate::backend::etcd3::CALL_TIMEOUT;

/// What a poll brought.
#[derive(Debug)]
pub(super) enum Polled {
    /// The next event.
    Event(Box<Event>),
    /// Nothing happened. What the store said of itself.
    Idle(Stamp),
}

/// Everything that happens from an index on, in order.
pub(super) struct Poller {
    members: Arc<Members>,
    connection: Connection,
    /// An answer was begun and not read to its end, which takes its connection with it.
    spent: bool,
    cluster: String,
    /// What is asked for next.
    next: i64,
}

impl Poller {
    /// A watch of everything after an index. Nothing is asked before [`Self::next`].
    pub(super) async fn open(members: &Arc<Members>, after: &Stamp) -> Result<Self, Etcd2Error> {
        let connection = members.connect().await?;
        let members = Arc::clone(members);
        let (cluster, next) = (after.cluster.clone(), after.index + 1);
        Ok(Self { members, connection, spent: false, cluster, next })
    }

    /// The member that serves it.
    pub(super) fn endpoint(&self) -> Arc<str> {
        Arc::clone(&self.connection.endpoint.url)
    }

    /// The next event, or the news that there was none for a while. Cancel-safe: what was not
    /// returned is asked for again.
    pub(super) async fn next(&mut self) -> Result<Polled, Etcd2Error> {
        let polled = self.poll().await;
        if let Err(error) = &polled
            && error.is_unavailable()
        {
            self.members.pass_over(&self.connection.endpoint);
        }
        polled
    }

    async fn poll(&mut self) -> Result<Polled, Etcd2Error> {
        if self.spent || !self.connection.is_open() {
            self.connection = self.members.another(&self.connection.endpoint).await?;
        }
        let ask = Ask {
            op: "watch",
            key: ROOT,
            method: Method::GET,
            query: format!("wait=true&recursive=true&waitIndex={}", self.next),
            body: None,
        };
        self.spent = true;
        // The head comes at once, whether there is an event or not.
        let late =
            |_| Etcd2Error::Timeout { op: "watch", key: ROOT.to_owned(), after: CALL_TIMEOUT };
        let begun = tokio::time::timeout(CALL_TIMEOUT, self.connection.begin(&ask));
        let begun = begun.await.map_err(late)??;
        let stamp = begun.stamp.clone();
        match begun.finish(&ask, IDLE_POLL).await {
            Ok((event, _)) => {
                self.spent = false;
                self.check(stamp.as_ref())?;
                self.next = event.node.modified_index + 1;
                Ok(Polled::Event(Box::new(event)))
            }
            Err(Etcd2Error::Timeout { .. }) => {
                let Some(stamp) = stamp else {
                    return Err(self.other("the answer has no X-Etcd-Index"));
                };
                self.check(Some(&stamp))?;
                // An index of the future is waited for in silence, for ever.
                if stamp.index + 1 < self.next {
                    return Err(self.other("the store went back to an older index"));
                }
                // When the poll began nothing of ours had happened up to here, and nothing since:
                // so the history of others, which etcd forgets, is not asked for again.
                self.next = self.next.max(stamp.index + 1);
                Ok(Polled::Idle(stamp))
            }
            Err(error) => Err(error),
        }
    }

    fn check(&self, stamp: Option<&Stamp>) -> Result<(), Etcd2Error> {
        match stamp {
            Some(stamp) if !self.cluster.is_empty() && stamp.cluster != self.cluster => {
                Err(self.other("another cluster answers"))
            }
            _ => Ok(()),
        }
    }

    fn other(&self, what: &str) -> Etcd2Error {
        Etcd2Error::Answer { op: "watch", key: ROOT.to_owned(), what: what.to_owned() }
    }
}
