//! Whether the store that answers is the one that was read before.
//!
//! A cluster's id is made of its members' addresses and its token: wiped and started again, or
//! restored from a backup, it is the same. The revision proves as little once others have
//! written. So the store is asked for the ready key *as it was* at the last revision applied, and for
//! the newest change: a store that left this history before has not got it.

use std::sync::Arc;

use etcd_client::GetOptions;

use super::client::Etcd3;
use super::error::EtcdError;
use super::list::Stamp;
use crate::backend::Event;

/// How far the store has been read, and how to recognise it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The last revision applied.
    pub(super) stamp: Stamp,
    /// The revision that wrote the ready key.
    pub(super) ready: i64,
    /// The newest change known.
    pub(super) newest: Option<Change>,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    key: Arc<str>,
    /// The revision that made it.
    revision: i64,
    deleted: bool,
}

/// What a key must have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    /// Written by this revision.
    Written(i64),
    There,
    Gone,
}

/// What must be found in the store's history: the key, the revision at which it is read, and what it
/// must be there.
type Trace<'a> = (&'a str, i64, Was);

/// What became of the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum History {
    /// It goes on where it was left.
    Same,
    /// It is another one, or has forgotten the revision; why.
    Other(&'static str),
}

impl Change {
    /// What wrote a key.
    pub(super) fn put(key: &str, revision: i64) -> Self {
        Self { key: Arc::from(key), revision, deleted: false }
    }

    /// That a key is not there proves nothing: so it is in many a store. That one revision took it
    /// away does. When what was before it is compacted the store no longer knows that, and everything
    /// is listed.
    fn traces(&self, last: i64) -> Vec<Trace<'_>> {
        let key = &*self.key;
        if self.deleted {
            vec![(key, self.revision - 1, Was::There), (key, self.revision, Was::Gone)]
        } else {
            vec![(key, last, Was::Written(self.revision))]
        }
    }
}

impl Was {
    /// Whether a key is that; `found`: the revision that wrote it.
    fn is(self, found: Option<i64>) -> bool {
        match self {
            Self::Written(revision) => found == Some(revision),
            Self::There => found.is_some(),
            Self::Gone => found.is_none(),
        }
    }
}

impl Position {
    /// Takes over what happened since, in order.
    ///
    /// Of several changes in one revision one that wrote a key is preferred: it can be asked for as
    /// long as the last revision can, a deletion only as long as the revision before it.
    pub(super) fn follow<'a>(&mut self, events: impl Iterator<Item = Event<'a>>) {
        let changes = events.map(|event| match event {
            Event::Put(entry) => (entry.mod_revision, true, entry.key),
            Event::Delete { key, revision } => (revision, false, key),
        });
        if let Some((revision, there, key)) = changes.max_by_key(|(at, there, _)| (*at, *there)) {
            self.newest = Some(Change { key: Arc::from(key), revision, deleted: !there });
        }
    }

    fn traces<'a>(&'a self, ready_key: &'a str) -> Vec<Trace<'a>> {
        let last = self.stamp.revision;
        let newest = self.newest.iter().flat_map(|newest| newest.traces(last));
        std::iter::once((ready_key, last, Was::Written(self.ready))).chain(newest).collect()
    }

    /// Compares the store with what was known of it.
    pub(super) async fn check(
        &self,
        client: &Etcd3,
        ready_key: &str,
    ) -> Result<History, EtcdError> {
        let traces = self.traces(ready_key);
        let reads = traces.iter().map(|(key, revision, _)| read_at(client, key, *revision));
        let found = match futures::future::try_join_all(reads).await {
            Ok(found) => found,
            Err(error) if error.is_compacted() => {
                return Ok(History::Other("what was read last has been compacted"));
            }
            Err(error) if error.is_future() => {
                return Ok(History::Other("the store went back to an older revision"));
            }
            Err(error) => return Err(error),
        };
        if found.iter().any(|then| then.cluster_id != self.stamp.cluster_id) {
            return Ok(History::Other("another cluster answers"));
        }
        let mut pairs = traces.iter().zip(&found);
        if !pairs.all(|((_, _, was), then)| was.is(then.mod_revision)) {
            return Ok(History::Other("the store's history is another one"));
        }
        Ok(History::Same)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Entry;

    const READY: &str = "/ready";

    /// What happened in a store: revisions with a key that was put or, after a `-`, deleted.
    type Store = [(i64, &'static str)];

    fn event(at: i64, what: &'static str) -> Event<'static> {
        match what.strip_prefix('-') {
            Some(key) => Event::Delete { key, revision: at },
            None => {
                Event::Put(Entry { key: what, value: b"", mod_revision: at, create_revision: at })
            }
        }
    }

    /// The position after a listing and the messages that came then.
    fn position(listed: &Store, messages: &[&Store]) -> Position {
        let (revision, newest) = *listed.last().unwrap();
        let newest = Some(Change::put(newest, revision));
        let mut position =
            Position { stamp: Stamp { cluster_id: 1, revision }, ready: listed[0].0, newest };
        for message in messages {
            position.follow(message.iter().map(|(at, what)| event(*at, what)));
            position.stamp.revision = message.last().unwrap().0;
        }
        position
    }

    /// Whether the position goes on in a store.
    fn goes_on(position: &Position, store: &Store) -> bool {
        position.traces(READY).into_iter().all(|(key, revision, was)| {
            let mut before = store.iter().rev().filter(|(at, _)| *at <= revision);
            let found = before.find(|(_, what)| what.trim_start_matches('-') == key);
            was.is(found.filter(|(_, what)| !what.starts_with('-')).map(|(at, _)| *at))
        })
    }

    #[test]
    fn a_store_that_went_back_behind_a_deletion_is_another_one() {
        let listed: &Store = &[(2, READY), (3, "/a"), (4, "/p")];
        let messages: [&[&Store]; 4] = [
            // The newest key, an older one, and one that came in between, at once or not.
            &[&[(5, "-/p")]],
            &[&[(5, "-/a")]],
            &[&[(5, "/q")], &[(6, "-/q")]],
            &[&[(5, "/q"), (6, "-/q")]],
        ];
        for messages in messages {
            let position = position(listed, messages);
            let mut store = listed.to_vec();
            messages.iter().for_each(|message| store.extend_from_slice(message));
            let last = store.len();
            store.push((7, "/later"));
            assert!(goes_on(&position, &store), "{messages:?}");
            // A backup of before, and others who write beyond.
            for kept in 1..last {
                let mut other = store[..kept].to_vec();
                other.extend((store[kept].0..9).map(|at| (at, "/others")));
                assert!(!goes_on(&position, &other), "{messages:?} {kept}");
            }
        }
    }

    #[test]
    fn what_has_gone_again_is_no_reason_to_list() {
        // `/k` was the newest key and is written again; the one after it goes in the same message.
        let listed: &Store = &[(2, READY), (3, "/k")];
        let message: &Store = &[(4, "/k"), (5, "/l"), (6, "-/l")];
        let position = position(listed, &[message]);
        assert!(goes_on(&position, &[listed, message].concat()));
    }

    #[test]
    fn one_revision_is_known_by_what_it_wrote() {
        // A deletion could be asked for until a compaction only.
        let position = position(&[(2, READY), (3, "/k")], &[&[(4, "/l"), (4, "-/k")]]);
        assert_eq!(position.newest, Some(Change::put("/l", 4)));
        assert_eq!(position.traces(READY)[1..], [("/l", 4, Was::Written(4))]);
    }
}
