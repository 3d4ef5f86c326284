//! Listings and events in, minimal batches out: the memory of a store's reader.
//!
//! Owns what is known of each key: a revision, a hash of the value and what it turned out to be.
//! Values are not kept. Pure: it knows no store, no clock and no channel.
//!
//! A listing is mark and sweep. Only keys whose value differs are decoded again, keys that are no
//! longer there become deletions, and nothing is handed out before the listing is complete. A
//! listing that breaks off loses nothing: what it found waits for the next one to complete.
//!
//! # Two keys, one object
//! Two keys can decode to one id when an object's name lives in its value. The key that was
//! created first is the object (ties: the smaller key); any other is refused, naming the first.
//! The rule looks only at the store, so every host and every restart decide alike. When the first
//! goes, the next takes over in the same batch, so the object is never deleted in between.
//!
//! # Many keys, one object
//! A layout may spread an object over keys that are no objects by themselves. Their parts are kept,
//! and whenever one comes, changes or goes the object is put together anew. A part that is refused is
//! none.

mod draft;
mod owners;
mod parts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use self::draft::Draft;
use super::{Batch, Layout};
use crate::layout::{Decoded, Part};
use crate::model::ResourceId;

/// A key as it is in the store.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a str,
    /// The value.
    pub value: &'a [u8],
    /// The revision that wrote the value.
    pub mod_revision: i64,
    /// The revision that created the key.
    pub create_revision: i64,
}

/// One change of one key.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Created or overwritten.
    Put(Entry<'a>),
    /// Deleted, or expired.
    Delete {
        /// The key.
        key: &'a str,
        /// The revision that deleted it.
        revision: i64,
    },
}

impl<'a> Event<'a> {
    /// The key that changed.
    pub fn key(&self) -> &'a str {
        match self {
            Self::Put(entry) => entry.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// What is known of a key that is not ignored.
#[derive(Debug)]
struct Known {
    mod_revision: i64,
    create_revision: i64,
    hash: u64,
    /// The listing that saw it last.
    round: u32,
    meaning: Meaning,
}

#[derive(Debug)]
enum Meaning {
    /// The object that the key names, or the boxed one when the value names another.
    Object(Option<Box<ResourceId>>),
    /// An object that an older key already describes; see `Syncer::shadows`.
    Shadow,
    Rejected,
    Unsupported(u16),
    /// A part of an object; see `Syncer::parts`.
    Part(Box<ResourceId>),
}

/// The object of a key that comes second.
#[derive(Debug)]
struct Shadow {
    id: ResourceId,
    /// For the time when the first is gone. Absent when the key was first until an older one
    /// appeared: its value is then read again.
    value: Option<Box<[u8]>>,
}

/// The memory of one reader; see the [module](self) for its rules.
#[derive(Debug)]
pub struct Syncer {
    layout: Layout,
    hasher: RandomState,
    keys: HashMap<Arc<str>, Known>,
    /// Hash of an object's id → the key that describes it. (The hash is keyed and 64 bits wide:
    /// ids are a third of the memory that a key costs.)
    owners: HashMap<u64, Arc<str>>,
    /// Keys that come second. Rare, so these keep their values.
    shadows: BTreeMap<Arc<str>, Shadow>,
    /// Objects that several keys describe together, by the keys of what is known of them.
    parts: HashMap<ResourceId, BTreeMap<Arc<str>, Part>>,
    /// Kinds that are not supported yet, with the number of their keys.
    kinds: Vec<(String, usize)>,
    draft: Draft,
    revision: i64,
    round: u32,
    /// A complete listing is needed before anything may be handed out.
    incomplete: bool,
    /// A batch is owed even when nothing changed.
    announce: bool,
}

impl Syncer {
    /// A reader that knows nothing: it needs a listing first.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            hasher: RandomState::new(),
            keys: HashMap::new(),
            owners: HashMap::new(),
            shadows: BTreeMap::new(),
            parts: HashMap::new(),
            kinds: Vec::new(),
            draft: Draft::default(),
            revision: 0,
            round: 0,
            incomplete: true,
            announce: false,
        }
    }

    /// Starts a listing. [`Syncer::take`] returns nothing until [`Syncer::finish_listing`].
    pub fn begin_listing(&mut self) {
        self.incomplete = true;
        self.round = self.round.wrapping_add(1);
    }

    /// One key of the listing. The order of keys does not matter.
    pub fn list(&mut self, entry: Entry<'_>) {
        self.put(entry, true);
    }

    /// The listing was complete, as of `revision`: whatever it did not mention is gone.
    pub fn finish_listing(&mut self, revision: i64) {
        let mut gone: Vec<Arc<str>> = self
            .keys
            .iter()
            .filter(|(_, known)| known.round != self.round)
            .map(|(key, _)| Arc::clone(key))
            .collect();
        // Those that come second go first: a first key must not hand its object to one that is
        // gone as well, and ask for another listing because the value was not kept.
        gone.sort_unstable_by_key(|key| (!self.shadows.contains_key(key), Arc::clone(key)));
        for key in gone {
            self.forget(&key);
        }
        self.incomplete = false;
        // While keys came one by one, an object may have gone to another than the oldest of them,
        // or to none because a value was not at hand. Every value was seen by now.
        let contested: BTreeSet<_> = self.shadows.values().map(|s| s.id.clone()).collect();
        for id in contested {
            self.elect(id);
        }
        self.revision = revision;
        self.announce = true;
    }

    /// Every event of one or several whole revisions, in order. `revision` is that of the last.
    pub fn apply<'a>(&mut self, revision: i64, events: impl IntoIterator<Item = Event<'a>>) {
        for event in events {
            match event {
                Event::Put(entry) => self.put(entry, false),
                Event::Delete { key, revision } => {
                    if self.keys.get(key).is_some_and(|known| known.mod_revision < revision) {
                        self.forget(key);
                    }
                }
            }
        }
        self.revision = self.revision.max(revision);
    }

    /// Asks for a batch even when nothing changed: the store was away and is back.
    pub fn announce(&mut self) {
        self.announce = true;
    }

    /// True until a listing is complete, and again when an object must be read that the store
    /// still has but whose value was not kept.
    pub fn needs_listing(&self) -> bool {
        self.incomplete
    }

    /// Whether [`Syncer::take`] may have a batch.
    pub fn is_due(&self) -> bool {
        !self.incomplete && (self.announce || !self.draft.is_empty())
    }

    /// Everything that changed since the last call, or `None` when nothing did or when a listing
    /// is needed first.
    pub fn take(&mut self) -> Option<Batch> {
        if !self.is_due() {
            return None;
        }
        let announced = std::mem::take(&mut self.announce);
        let parts = self.draft.take();
        let unsupported = parts.kinds.into_iter();
        let batch = Batch {
            revision: self.revision,
            updates: parts.updates,
            rejections: parts.rejections,
            accepted: parts.accepted,
            unsupported: unsupported
                .filter_map(|kind| self.kinds.get(usize::from(kind)).cloned())
                .collect(),
        };
        let nothing = batch.updates.is_empty()
            && batch.rejections.is_empty()
            && batch.accepted.is_empty()
            && batch.unsupported.is_empty();
        (announced || !nothing).then_some(batch)
    }

    /// How many keys are known, ignored ones not counted.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when no key is known.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn put(&mut self, entry: Entry<'_>, listed: bool) {
        let hash = self.hasher.hash_one(entry.value);
        let mut same_object = false;
        if let Some(known) = self.keys.get_mut(entry.key) {
            if !listed && entry.mod_revision <= known.mod_revision {
                return;
            }
            let same_age = known.create_revision == entry.create_revision;
            let same_value = known.hash == hash;
            known.mod_revision = entry.mod_revision;
            known.create_revision = entry.create_revision;
            known.hash = hash;
            known.round = self.round;
            // A value written again unchanged means nothing to anybody. Age matters only where
            // two keys compete, and the value of a second key may be wanted.
            let alone = self.shadows.is_empty();
            if same_value && (alone || (same_age && !matches!(known.meaning, Meaning::Shadow))) {
                return;
            }
            same_object = alone || same_age;
        }
        let decoded = (self.layout.decode)(entry.key, entry.value);
        if let Decoded::Object(update) = &decoded
            && same_object
            && self.object_of(entry.key).is_some_and(|id| id == update.id())
        {
            let id_hash = self.hasher.hash_one(update.id());
            self.draft.set(id_hash, true, update.clone());
            return;
        }
        self.forget(entry.key);
        let meaning = match decoded {
            Decoded::Ignored => return,
            Decoded::Object(update) => return self.claim(entry, hash, update),
            Decoded::Part(part) => return self.join(entry, hash, part),
            Decoded::Rejected(rejection) => {
                self.draft.reject(rejection);
                Meaning::Rejected
            }
            Decoded::Unsupported { kind } => {
                let index = self.kind(kind);
                self.count(index, 1);
                Meaning::Unsupported(index)
            }
        };
        let key = Arc::from(entry.key);
        self.remember(key, entry, hash, meaning);
    }

    /// The object that a key is known to describe.
    fn object_of(&self, key: &str) -> Option<ResourceId> {
        match &self.keys.get(key)?.meaning {
            Meaning::Object(Some(id)) => Some((**id).clone()),
            Meaning::Object(None) => (self.layout.id_of)(key),
            _ => None,
        }
    }

    fn remember(&mut self, key: Arc<str>, entry: Entry<'_>, hash: u64, meaning: Meaning) {
        let known = Known {
            mod_revision: entry.mod_revision,
            create_revision: entry.create_revision,
            hash,
            round: self.round,
            meaning,
        };
        self.keys.insert(key, known);
    }

    /// A key is gone, or no longer is what it was.
    fn forget(&mut self, key: &str) {
        let object = self.object_of(key);
        let Some(known) = self.keys.remove(key) else { return };
        match known.meaning {
            Meaning::Object(_) => {
                if let Some(id) = object {
                    self.release(id);
                }
            }
            Meaning::Shadow => {
                self.shadows.remove(key);
                self.draft.accept(key);
            }
            Meaning::Rejected => self.draft.accept(key),
            Meaning::Unsupported(kind) => self.count(kind, -1),
            Meaning::Part(id) => self.part(&id, key),
        }
    }

    fn kind(&mut self, kind: String) -> u16 {
        let index = self.kinds.iter().position(|(name, _)| *name == kind).unwrap_or_else(|| {
            self.kinds.push((kind, 0));
            self.kinds.len() - 1
        });
        // A layout has some dozens of kinds.
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    fn count(&mut self, kind: u16, by: isize) {
        if let Some((_, count)) = self.kinds.get_mut(usize::from(kind)) {
            *count = count.saturating_add_signed(by);
            self.draft.recount(kind);
        }
    }
}
