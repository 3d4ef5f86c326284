//! One watch, and what its messages mean.

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::Instant;

use super::client::Etcd3;
use super::config::{CALL_TIMEOUT, WATCH_SILENCE};
use super::error::EtcdError;
use super::list::Stamp;
use super::session::Session;
use crate::backend::{Entry, Event};

/// A span of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The first key, for messages too.
    pub(super) from: String,
    /// The first key after it.
    pub(super) end: Vec<u8>,
}

/// A running watch. It ends when it is dropped.
pub(super) struct Watch {
    stream: WatchStream,
    session: Session,
    key: String,
    /// When the last message came.
    heard: Instant,
}

/// What the store said.
pub(super) enum Heard {
    /// Changes, or none with the news that everything up to the revision was told.
    Message(Message),
    /// The revision that the watch needs next is gone from the history.
    Compacted,
}

/// A message of a watch: all events of one or several whole revisions.
pub(super) struct Message {
    response: WatchResponse,
    /// The store's revision when it was sent.
    pub(super) stamp: Stamp,
}

impl Watch {
    /// Watches a span from a revision on. It has been confirmed when this returns.
    pub(super) async fn open(
        client: &Etcd3,
        span: &Span,
        revision: i64,
    ) -> Result<(Self, Heard), EtcdError> {
        let options = WatchOptions::new()
            .with_range(span.end.clone())
            .with_start_revision(revision)
            .with_progress_notify();
        let key = span.from.as_str();
        let (stream, session) = client
            .call("watch", key, |session| async move {
                Ok((session.watch().watch(key, Some(options)).await?, session))
            })
            .await?;
        let mut watch = Self { stream, session, key: key.to_owned(), heard: Instant::now() };
        let first = match tokio::time::timeout(CALL_TIMEOUT, watch.next()).await {
            Ok(first) => first,
            Err(_) => {
                Err(EtcdError::Timeout { op: "watch", key: watch.key.clone(), after: CALL_TIMEOUT })
            }
        };
        match first {
            Ok(heard) => Ok((watch, heard)),
            Err(error) => {
                watch.failed(client, &error).await;
                Err(error)
            }
        }
    }

    /// The next message. Cancel-safe: a message is taken off the stream as a whole or not at all.
    pub(super) async fn next(&mut self) -> Result<Heard, EtcdError> {
        // Counted from the last message, however often this is cancelled and called again.
        let silent = tokio::time::timeout_at(self.heard + WATCH_SILENCE, self.stream.message());
        let Ok(message) = silent.await else {
            return Err(self.ended("no sign of life, though etcd reports progress every 10 min"));
        };
        self.heard = Instant::now();
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => return Err(self.ended("the server closed the stream")),
            Err(source) => {
                return Err(EtcdError::Call { op: "watch", key: self.key.clone(), source });
            }
        };
        // Compaction is a message like any other, and the stream stays open and silent after it.
        if response.compact_revision() != 0 {
            return Ok(Heard::Compacted);
        }
        if response.canceled() {
            return Err(self.ended(response.cancel_reason()));
        }
        let stamp = Stamp::of(response.header(), "watch", &self.key)?;
        Ok(Heard::Message(Message { response, stamp }))
    }

    /// Lets the client look for another member when this one failed.
    pub(super) async fn failed(&self, client: &Etcd3, error: &EtcdError) {
        if error.is_unavailable() {
            client.discard(&self.session).await;
        }
    }

    /// The member that serves the watch.
    pub(super) fn endpoint(&self) -> std::sync::Arc<str> {
        std::sync::Arc::clone(&self.session.endpoint)
    }

    fn ended(&self, reason: &str) -> EtcdError {
        EtcdError::WatchEnded { key: self.key.clone(), reason: reason.to_owned() }
    }
}

impl Message {
    /// The events in order. Keys that are not UTF-8 are none of ours and are left out.
    pub(super) fn events(&self) -> impl Iterator<Item = Event<'_>> {
        self.response.events().iter().filter_map(|event| {
            let kv = event.kv()?;
            let key = std::str::from_utf8(kv.key()).ok()?;
            Some(match event.event_type() {
                EventType::Put => Event::Put(Entry {
                    key,
                    value: kv.value(),
                    mod_revision: kv.mod_revision(),
                    create_revision: kv.create_revision(),
                }),
                EventType::Delete => Event::Delete { key, revision: kv.mod_revision() },
            })
        })
    }

    /// The revision up to which everything has been told now. With events that is the last one's:
    /// while a watch catches up the header runs ahead of them.
    pub(super) fn revision(&self) -> i64 {
        let last = self.response.events().last().and_then(|event| event.kv());
        match last {
            Some(kv) => kv.mod_revision(),
            // The confirmation says nothing about what is still to come.
            None if self.response.created() => 0,
            None => self.stamp.revision,
        }
    }

    /// True for anything that has events.
    pub(super) fn has_events(&self) -> bool {
        !self.response.events().is_empty()
    }
}
