//! Follows a store: waits until it is ready, reads it whole, polls for what happens next, and starts
//! over when it must.
//!
//! One task owns everything. It never stops polling because its reader is slow: what happens
//! meanwhile is coalesced into the next batch. It ends when the receiver is dropped or the task is
//! aborted.

use std::convert::Infallible;
use std::pin::pin;

use tokio::sync::{mpsc, watch as cell};
use tokio::time::Instant;

use super::client::Etcd2;
use super::config::{READY_POLL, ROOT};
use super::connection::Stamp;
use super::error::Etcd2Error;
use super::poll::{Polled, Poller};
use super::tree::{Op, Outcome, Tree};
use super::wire;
use crate::backend::etcd3::backoff::Backoff;
use crate::backend::etcd3::source::feed::{Feed, Wait};
use crate::backend::etcd3::{BACKOFF_CAP, SourceStatus};
use crate::backend::{Entry, Event, Layout, SyncEvent, Syncer};

/// A store in etcd v2, to be followed.
#[derive(Debug)]
pub struct Etcd2Source {
    client: Etcd2,
    layout: Layout,
    status: cell::Sender<SourceStatus>,
}

/// Why a run ended.
enum End {
    /// Something failed; it is tried again.
    Failed(Etcd2Error),
    /// What is known cannot be continued: everything is read again.
    Relist(&'static str),
}

impl From<Etcd2Error> for End {
    fn from(error: Etcd2Error) -> Self {
        Self::Failed(error)
    }
}

impl Etcd2Source {
    /// A source that has not started. The client may be shared with writers.
    pub fn new(client: Etcd2, layout: Layout) -> Self {
        Self { client, layout, status: cell::Sender::default() }
    }

    /// Numbers that change while the source runs.
    pub fn status(&self) -> cell::Receiver<SourceStatus> {
        self.status.subscribe()
    }

    /// Follows the store until the receiver is dropped. Never fails: what goes wrong becomes one
    /// [`SyncEvent::Waiting`] and is tried again for ever.
    pub async fn run(self, tx: mpsc::Sender<SyncEvent>) {
        let mut follower = Follower {
            syncer: Syncer::new(self.layout),
            feed: Feed::new(tx.clone()),
            tree: Tree::new(self.layout),
            client: self.client,
            layout: self.layout,
            status: self.status,
            listed: false,
            backoff: Backoff::default(),
        };
        tokio::select! {
            // Both sides may be dropped half-way: nothing outlives this function.
            () = tx.closed() => tracing::debug!("nobody reads the store any more"),
            () = follower.follow() => {}
        }
    }
}

/// The task's state.
struct Follower {
    client: Etcd2,
    layout: Layout,
    status: cell::Sender<SourceStatus>,
    syncer: Syncer,
    tree: Tree,
    feed: Feed,
    /// The store was read whole, and has been followed since.
    listed: bool,
    backoff: Backoff,
}

impl Follower {
    async fn follow(&mut self) {
        loop {
            let end = match self.once().await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            self.status.send_modify(|status| status.endpoint = None);
            let listed = std::mem::take(&mut self.listed);
            match end {
                End::Relist(reason) => tracing::info!(reason, "listing the store again"),
                End::Failed(error) if error.is_cleared() => {
                    tracing::info!(reason = error.chain(), "listing the store again");
                }
                End::Failed(error) => {
                    // A member that goes breaks the connection, and the next try finds another: that
                    // is not worth a word.
                    let wait = if error.is_refused() { Wait::Refused } else { Wait::Unreachable };
                    let first = self.backoff.is_fresh() && listed;
                    if !first || !error.is_unavailable() {
                        self.feed.wait(wait, || format!("etcd: {}", error.chain()));
                    } else {
                        tracing::debug!(reason = error.chain(), "the watch broke");
                    }
                }
            }
            let pause = tokio::time::sleep(self.backoff.next());
            self.feed.during(&mut self.syncer, pause).await;
        }
    }

    /// One run: from nothing to a watch that goes on until something ends it.
    async fn once(&mut self) -> Result<Infallible, End> {
        let ready = self.until_ready().await?;
        let open = Poller::open(&self.client.members, &ready);
        let mut poller = self.feed.during(&mut self.syncer, open).await?;
        self.list(&mut poller, &ready).await?;
        let began = Instant::now();
        let ended = self.watch(&mut poller).await;
        // Whatever ended it: this was a server that works.
        if began.elapsed() >= BACKOFF_CAP {
            self.backoff.reset();
        }
        ended
    }

    /// Returns when the ready key says so, with the index at which it was read.
    async fn until_ready(&mut self) -> Result<Stamp, End> {
        let key = self.layout.ready_key;
        loop {
            let read = self.client.read(key);
            let (value, stamp) = self.feed.during(&mut self.syncer, read).await?;
            let value = value.as_ref().map(|value| value.value.as_bytes());
            if self.layout.is_ready(value) {
                return Ok(stamp);
            }
            // It answers, whatever it says.
            self.backoff.reset();
            self.feed
                .wait(Wait::NotReady, || format!("{key} does not say that the store is ready"));
            let pause = tokio::time::sleep(READY_POLL);
            self.feed.during(&mut self.syncer, pause).await;
        }
    }

    /// Reads everything as of one index, while what happens meanwhile is polled and kept.
    async fn list(&mut self, poller: &mut Poller, ready: &Stamp) -> Result<(), End> {
        let mut meanwhile = Vec::new();
        let snapshot = async {
            let mut snapshot = pin!(self.client.tree(ROOT));
            loop {
                tokio::select! {
                    biased;
                    // Polled on after each turn of the other; only when it is done is it gone.
                    done = &mut snapshot => return done,
                    // Cancel-safe, as it says.
                    polled = poller.next() => if let Polled::Event(event) = polled? {
                        meanwhile.push(*event);
                    },
                }
            }
        };
        let Some((root, stamp)) = self.feed.during(&mut self.syncer, snapshot).await? else {
            return Err(End::Relist("the store was deleted during the listing"));
        };
        if stamp.cluster != ready.cluster && !ready.cluster.is_empty() {
            return Err(End::Relist("another cluster answers"));
        }
        // Of a member that is behind, though it was asked through the log.
        if stamp.index < ready.index {
            return Err(End::Relist("the store went back to an older index"));
        }
        let is_ready = |node: &wire::Node| {
            let value = node.value.as_deref().map(str::as_bytes);
            node.key == self.layout.ready_key && self.layout.is_ready(value)
        };
        if !root.keys().any(is_ready) {
            return Err(End::Relist("the store stopped being ready during the listing"));
        }
        self.syncer.begin_listing();
        self.tree.clear();
        for node in root.keys() {
            self.tree.insert(&node.key);
            if self.layout.contains(&node.key) {
                self.syncer.list(entry(node));
            }
        }
        self.syncer.finish_listing(stamp.index);
        self.listed = true;
        self.feed.resume();
        self.status.send_modify(|status| {
            status.listings += 1;
            status.revision = stamp.index;
        });
        tracing::debug!(index = stamp.index, keys = self.syncer.len(), "store listed");
        for event in meanwhile.iter().filter(|event| event.node.modified_index > stamp.index) {
            self.apply(event)?;
        }
        Ok(())
    }

    /// Applies what happens, until something ends it.
    async fn watch(&mut self, poller: &mut Poller) -> Result<Infallible, End> {
        self.status.send_modify(|status| {
            status.endpoint = Some(poller.endpoint());
            status.watches += 1;
        });
        let listed = self.status.borrow().revision;
        loop {
            match self.feed.during(&mut self.syncer, poller.next()).await? {
                // What the snapshot has already.
                Polled::Event(event) if event.node.modified_index <= listed => {}
                Polled::Event(event) => self.apply(&event)?,
                Polled::Idle(index) => {
                    self.status.send_modify(|status| {
                        status.revision = status.revision.max(index);
                    });
                }
            }
        }
    }

    fn apply(&mut self, event: &wire::Event) -> Result<(), End> {
        let ops = match self.tree.apply(event) {
            Outcome::Ops(ops) => ops,
            Outcome::NotReady => return Err(End::Relist("the store is no longer ready")),
            Outcome::Resync(reason) => return Err(End::Relist(reason)),
        };
        let revision = event.node.modified_index;
        let layout = self.layout;
        let entry = entry(&event.node);
        let events = ops.iter().filter_map(|op| match op {
            Op::Set(key) => layout.contains(key).then_some(Event::Put(entry)),
            Op::Delete(key) => layout.contains(key).then_some(Event::Delete { key, revision }),
        });
        self.syncer.apply(revision, events);
        self.status.send_modify(|status| status.revision = revision);
        if self.syncer.needs_listing() {
            return Err(End::Relist("two keys describe one object"));
        }
        Ok(())
    }
}

fn entry(node: &wire::Node) -> Entry<'_> {
    Entry {
        key: &node.key,
        value: node.value.as_deref().unwrap_or_default().as_bytes(),
        mod_revision: node.modified_index,
        create_revision: node.created_index,
    }
}
