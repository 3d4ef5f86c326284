//! Follows a store: waits until it is ready, lists it, watches it, and starts over when it must.
//!
//! One task owns everything. It never stops reading the watch because its reader is slow: what
//! happens meanwhile is coalesced into the next batch, so the memory it needs is bounded by what
//! differs, and the reader always gets the newest state. It ends when the receiver is dropped or
//! the task is aborted.

pub(in crate::backend) mod feed;
mod omission;

use std::sync::Arc;

use tokio::sync::{mpsc, watch as cell};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::feed::{Feed, Wait};
use self::omission::Doubt;
use super::backoff::Backoff;
use super::client::Etcd3;
use super::config::BACKOFF_CAP;
use super::error::EtcdError;
use super::history::{self, Change, History, Position};
use super::list::{self, Stamp, end_of};
use super::watch::{Heard, Message, Span, Watch};
use crate::backend::{Entry, Event, Layout, SyncEvent, Syncer};

/// Batches on their way to the reader. Few: a reader that is behind should get one large batch.
const QUEUE: usize = 4;

/// Numbers for `status` and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// The member that serves the watch; `None` while there is no watch.
    pub endpoint: Option<Arc<str>>,
    /// The last revision applied.
    pub revision: i64,
    /// Complete listings so far.
    pub listings: u64,
    /// Watches of the whole store opened so far.
    pub watches: u64,
}

/// A store in etcd v3, to be followed.
#[derive(Debug)]
pub struct Etcd3Source {
    client: Etcd3,
    layout: Layout,
    status: cell::Sender<SourceStatus>,
}

/// Why a run of the watch ended.
enum End {
    /// Something failed; it is tried again.
    Failed(EtcdError),
    /// What is known cannot be continued: everything is listed again.
    Relist(&'static str),
}

impl From<EtcdError> for End {
    fn from(error: EtcdError) -> Self {
        Self::Failed(error)
    }
}

impl Etcd3Source {
    /// A source that has not started. The client may be shared with writers.
    pub fn new(client: Etcd3, layout: Layout) -> Self {
        Self { client, layout, status: cell::Sender::default() }
    }

    /// Numbers that change while the source runs.
    pub fn status(&self) -> cell::Receiver<SourceStatus> {
        self.status.subscribe()
    }

    /// Runs the source as a task of its own.
    pub fn start(self) -> (mpsc::Receiver<SyncEvent>, JoinHandle<()>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        (rx, tokio::spawn(self.run(tx)))
    }

    /// Follows the store until the receiver is dropped. Never fails: what goes wrong becomes one
    /// [`SyncEvent::Waiting`] and is tried again for ever.
    pub async fn run(self, tx: mpsc::Sender<SyncEvent>) {
        let span = Span {
            from: self.layout.prefixes.first().copied().unwrap_or_default().to_owned(),
            end: self.layout.prefixes.last().map(|prefix| end_of(prefix)).unwrap_or_default(),
        };
        let mut follower = Follower {
            syncer: Syncer::new(self.layout),
            feed: Feed::new(tx.clone()),
            client: self.client,
            layout: self.layout,
            status: self.status,
            span,
            position: None,
            doubt: Doubt::default(),
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
    client: Etcd3,
    layout: Layout,
    status: cell::Sender<SourceStatus>,
    span: Span,
    syncer: Syncer,
    feed: Feed,
    /// Where to take up the watch; `None` when everything must be listed.
    position: Option<Position>,
    doubt: Doubt,
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
            match end {
                End::Relist(reason) => {
                    if self.position.take().is_some() {
                        tracing::info!(reason, "listing the store again");
                    }
                }
                End::Failed(error) if error.is_compacted() || error.is_future() => {
                    tracing::debug!(reason = error.chain(), "the listing starts over");
                    self.position = None;
                }
                End::Failed(error) if error.is_too_large() => {
                    // A message of the watch; pages of a listing can be made small enough.
                    tracing::info!(reason = error.chain(), "listing the store again");
                    self.position = None;
                }
                End::Failed(error) => {
                    // A leader that changes breaks the stream, and the first try mends it: that is
                    // not worth a word.
                    let wait = if error.is_refused() { Wait::Refused } else { Wait::Unreachable };
                    let first = self.backoff.is_fresh() && self.position.is_some();
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

    /// One run: from wherever we are to a watch that goes on until something ends it.
    async fn once(&mut self) -> Result<std::convert::Infallible, End> {
        match &self.position {
            Some(position) => {
                let ready_key = self.layout.ready_key;
                let checks = futures::future::try_join(
                    self.client.get(ready_key),
                    position.check(&self.client, ready_key),
                );
                let (now, history) = self.feed.during(&mut self.syncer, checks).await?;
                if let History::Other(reason) = history {
                    return Err(End::Relist(reason));
                }
                if !self.layout.is_ready(now.as_ref().map(|now| now.value.as_slice())) {
                    return Err(End::Relist("the store is no longer ready"));
                }
            }
            None => {
                self.until_ready().await?;
                self.list().await?;
            }
        }
        self.watch().await
    }

    /// Returns when the ready key says so. Nothing else is read before.
    async fn until_ready(&mut self) -> Result<(), End> {
        let key = self.layout.ready_key;
        let (ready, stamp) = self.read_ready().await?;
        if ready {
            return Ok(());
        }
        self.feed.wait(Wait::NotReady, || format!("{key} does not say that the store is ready"));
        let mut end = key.as_bytes().to_vec();
        end.push(0);
        let span = Span { from: key.to_owned(), end };
        let work = async {
            let (mut watch, mut heard) =
                Watch::open(&self.client, &span, stamp.revision + 1).await?;
            self.backoff.reset();
            loop {
                match heard {
                    Heard::Compacted => return Ok::<_, EtcdError>(()),
                    Heard::Message(message) if message.has_events() => return Ok(()),
                    Heard::Message(_) => {}
                }
                heard = match watch.next().await {
                    Ok(heard) => heard,
                    Err(error) => {
                        watch.failed(&self.client, &error).await;
                        return Err(error);
                    }
                };
            }
        };
        self.feed.during(&mut self.syncer, work).await?;
        // Whatever it says now, it is read again.
        Err(End::Relist("the ready key changed"))
    }

    async fn read_ready(&mut self) -> Result<(bool, Stamp), EtcdError> {
        let key = self.layout.ready_key;
        let read = self
            .client
            .call("read", key, |session| async move { session.kv().get(key, None).await });
        let answer = self.feed.during(&mut self.syncer, read).await?;
        let value = answer.kvs().first().map(|kv| kv.value());
        Ok((self.layout.is_ready(value), Stamp::of(answer.header(), "read", key)?))
    }

    /// Lists everything at one revision.
    async fn list(&mut self) -> Result<(), End> {
        let mut ready = None;
        let mut newest: Option<(String, i64)> = None;
        self.syncer.begin_listing();
        let (syncer, layout) = (&mut self.syncer, self.layout);
        let stamp = list::snapshot(&self.client, layout.prefixes, |kv| {
            let Ok(key) = std::str::from_utf8(kv.key()) else { return };
            if key == layout.ready_key && layout.is_ready(Some(kv.value())) {
                ready = Some(kv.mod_revision());
            }
            if newest.as_ref().is_none_or(|(_, revision)| *revision < kv.mod_revision()) {
                newest = Some((key.to_owned(), kv.mod_revision()));
            }
            syncer.list(Entry {
                key,
                value: kv.value(),
                mod_revision: kv.mod_revision(),
                create_revision: kv.create_revision(),
            });
        })
        .await?;
        let Some(ready) = ready else {
            return Err(End::Relist("the store stopped being ready during the listing"));
        };
        self.syncer.finish_listing(stamp.revision);
        let newest = newest.map(|(key, revision)| Change::put(&key, revision));
        self.position = Some(Position { stamp, ready, newest });
        self.doubt.settle();
        self.feed.resume();
        self.status.send_modify(|status| {
            status.listings += 1;
            status.revision = stamp.revision;
        });
        tracing::debug!(revision = stamp.revision, keys = self.syncer.len(), "store listed");
        Ok(())
    }

    /// Applies what happens after the position, until something ends it.
    async fn watch(&mut self) -> Result<std::convert::Infallible, End> {
        let Some(from) = self.position.as_ref().map(|position| position.stamp) else {
            return Err(End::Relist("nothing was listed"));
        };
        let open = Watch::open(&self.client, &self.span, from.revision + 1);
        let (mut watch, first) = self.feed.during(&mut self.syncer, open).await?;
        let opened = Instant::now();
        let ended = self.listen(&mut watch, first, opened, from).await;
        // Whatever ended it: this was a server that works. One that takes every watch and drops it
        // at once is none, and the pauses go on growing.
        if opened.elapsed() >= BACKOFF_CAP {
            self.backoff.reset();
        }
        ended
    }

    /// Applies what an open watch tells, until something ends it.
    async fn listen(
        &mut self,
        watch: &mut Watch,
        first: Heard,
        opened: Instant,
        from: Stamp,
    ) -> Result<std::convert::Infallible, End> {
        self.doubt.opened(opened, from.revision);
        if self.feed.resume() {
            self.syncer.announce();
            tracing::debug!(revision = from.revision, "the store is back");
        }
        self.status.send_modify(|status| {
            status.endpoint = Some(watch.endpoint());
            status.watches += 1;
        });
        let mut heard = Some(first);
        loop {
            match &heard {
                Some(Heard::Compacted) => return Err(End::Relist("the watch was compacted")),
                Some(Heard::Message(message)) => self.apply(message)?,
                None => self.nothing_left_out().await?,
            }
            let due = self.doubt.due();
            let next = async {
                tokio::select! {
                    // First, or messages that never stop would put it off for ever.
                    biased;
                    () = tokio::time::sleep_until(due.unwrap_or(opened)), if due.is_some() => None,
                    heard = watch.next() => Some(heard),
                }
            };
            heard = match self.feed.during(&mut self.syncer, next).await {
                Some(Ok(heard)) => Some(heard),
                Some(Err(error)) => {
                    watch.failed(&self.client, &error).await;
                    return Err(error.into());
                }
                None => None,
            };
        }
    }

    /// Asks the store whether it still remembers what is in doubt.
    async fn nothing_left_out(&mut self) -> Result<(), End> {
        let Some(revision) = self.doubt.revision() else { return Ok(()) };
        let read = history::read_at(&self.client, self.layout.ready_key, revision);
        match self.feed.during(&mut self.syncer, read).await {
            Ok(_) => {
                self.doubt.settle();
                Ok(())
            }
            Err(error) if error.is_compacted() => {
                Err(End::Relist("what the watch was about to tell has been compacted"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn apply(&mut self, message: &Message) -> Result<(), End> {
        let Some(position) = &mut self.position else {
            return Err(End::Relist("nothing was listed"));
        };
        if message.stamp.cluster_id != position.stamp.cluster_id {
            return Err(End::Relist("another cluster answers"));
        }
        if message.stamp.revision < position.stamp.revision {
            return Err(End::Relist("the store went back to an older revision"));
        }
        // The ready key first: of what happened together with its loss, nothing may be applied.
        let mut ready = Some(position.ready);
        for event in message.events() {
            match event {
                Event::Put(entry) => {
                    if entry.key == self.layout.ready_key {
                        let is_ready = self.layout.is_ready(Some(entry.value));
                        ready = is_ready.then_some(entry.mod_revision);
                    }
                }
                Event::Delete { key, .. } => {
                    if key == self.layout.ready_key {
                        ready = None;
                    }
                }
            }
        }
        let Some(ready) = ready else {
            return Err(End::Relist("the store is no longer ready"));
        };
        position.ready = ready;
        position.follow(message.events());
        position.stamp.revision = position.stamp.revision.max(message.revision());
        let revision = position.stamp.revision;
        if message.has_events() {
            self.doubt.came(Instant::now(), revision);
            let layout = self.layout;
            let ours = message.events().filter(|event| layout.contains(event.key()));
            self.syncer.apply(revision, ours);
        }
        self.status.send_modify(|status| status.revision = revision);
        if self.syncer.needs_listing() {
            return Err(End::Relist("two keys describe one object"));
        }
        Ok(())
    }
}
