//! The watch: one long poll after the other.

use std::sync::Arc;

use hyper::Method;

use super::config::{AHEAD, FIRST_SILENCE, IDLE_POLL, ROOT};
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
    /// Nothing came. Up to this index nothing of ours has happened.
    Idle(i64),
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
    /// A poll of just that brought nothing, and the store was at this index then, far ahead.
    silent: Option<i64>,
}

impl Poller {
    /// A watch of everything after an index. Nothing is asked before [`Self::next`].
    pub(super) async fn open(members: &Arc<Members>, after: &Stamp) -> Result<Self, Etcd2Error> {
        let connection = members.connect().await?;
        let members = Arc::clone(members);
        let (cluster, next) = (after.cluster.clone(), after.index + 1);
        Ok(Self { members, connection, spent: false, cluster, next, silent: None })
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
        let mut begun = begun.await.map_err(late)??;
        let stamp = begun.stamp.clone();
        let ahead =
            stamp.as_ref().is_some_and(|stamp| stamp.index.saturating_sub(self.next) >= AHEAD);
        let patience = if ahead && self.silent.is_none() { FIRST_SILENCE } else { IDLE_POLL };
        if begun.speaks(&ask, patience).await? {
            // There is an event, so from here on silence is a failure.
            let (event, _) = begun.finish(&ask, IDLE_POLL).await?;
            self.spent = false;
            self.check(stamp.as_ref())?;
            self.next = event.node.modified_index + 1;
            self.silent = None;
            return Ok(Polled::Event(Box::new(event)));
        }
        let Some(stamp) = stamp else {
            return Err(self.other("the answer has no X-Etcd-Index"));
        };
        self.check(Some(&stamp))?;
        // An index of the future is waited for in silence, for ever.
        if stamp.index + 1 < self.next {
            return Err(self.other("the store went back to an older index"));
        }
        // What etcd is about to forget must not be asked for for ever, so nothing of ours has to be in
        // it. But silence proves little: etcd sends the head by itself, whatever it is about to tell,
        // and an event may be late on the way. So a few indexes are asked for again, which costs
        // nothing, and many are passed over when a second poll on another connection is silent too.
        if ahead {
            match self.silent.take() {
                None => self.silent = Some(stamp.index),
                Some(first) => self.next = first.min(stamp.index).saturating_add(1),
            }
        }
        Ok(Polled::Idle(self.next - 1))
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
