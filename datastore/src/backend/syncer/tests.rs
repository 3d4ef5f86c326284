//! Tables by name, and a property: any listings and events end equal to a naive model.

mod owners;

use std::collections::{BTreeMap, btree_map};

use proptest::prelude::*;

use super::*;
use crate::layout::Rejection;
use crate::model::{Name, Profile, Update};

const KEYS: [&str; 8] = ["/a", "/b", "/c", "/d", "/e", "/f", "/g", "/h"];

/// A toy: `=name:value` is an object called `name` (empty: called as the key), `!reason` is
/// refused, `?kind` is not supported, anything else is ignored.
const LAYOUT: Layout = Layout { prefixes: &["/"], ready_key: "/ready", decode, id_of };

fn decode(key: &str, value: &[u8]) -> Decoded {
    let text = std::str::from_utf8(value).unwrap();
    if let Some(object) = text.strip_prefix('=') {
        let (name, value) = object.split_once(':').unwrap();
        let name = if name.is_empty() { key } else { name };
        let labels = [("value", value)].into_iter().collect();
        let profile = Profile { labels, ..Profile::default() };
        return Decoded::Object(Update::Profile(Name::from(name), Some(Arc::new(profile))));
    }
    if let Some(reason) = text.strip_prefix('!') {
        let rejection =
            Rejection { key: key.to_owned(), id: id_of(key), reason: reason.to_owned() };
        return Decoded::Rejected(rejection);
    }
    match text.strip_prefix('?') {
        Some(kind) => Decoded::Unsupported { kind: kind.to_owned() },
        None => Decoded::Ignored,
    }
}

fn id_of(key: &str) -> Option<ResourceId> {
    Some(ResourceId::Profile(Name::from(key)))
}

/// (value, revision that wrote it, revision that created the key)
type Store = BTreeMap<&'static str, (String, i64, i64)>;

/// What a reader knows after every batch it was given.
#[derive(Debug, Default, PartialEq)]
struct Reader {
    objects: BTreeMap<ResourceId, String>,
    rejected: BTreeMap<String, Option<ResourceId>>,
    unsupported: BTreeMap<String, usize>,
}

impl Reader {
    fn take(&mut self, batch: Batch) {
        for update in batch.updates {
            let id = update.id();
            let Update::Profile(_, value) = update else { panic!("{update:?}") };
            match value {
                Some(profile) => {
                    self.objects.insert(id, profile.labels.get("value").unwrap().to_owned());
                }
                None => {
                    let known = self.objects.remove(&id);
                    assert!(known.is_some(), "{id} was never there and is deleted");
                }
            }
        }
        for key in batch.accepted {
            assert!(self.rejected.remove(&key).is_some(), "{key} was never refused");
        }
        for rejection in batch.rejections {
            self.rejected.insert(rejection.key, rejection.id);
        }
        for (kind, count) in batch.unsupported {
            self.unsupported.insert(kind, count);
        }
        self.unsupported.retain(|_, count| *count > 0);
    }

    /// The same from scratch, the naive way.
    fn of(store: &Store) -> Self {
        let mut reader = Self::default();
        let mut by_age: Vec<_> = store.iter().collect();
        by_age.sort_by_key(|(key, (_, _, created))| (*created, **key));
        for (key, (value, _, _)) in by_age {
            match decode(key, value.as_bytes()) {
                Decoded::Object(update) => {
                    let id = update.id();
                    let Update::Profile(_, Some(profile)) = update else { unreachable!() };
                    match reader.objects.entry(id.clone()) {
                        btree_map::Entry::Occupied(_) => {
                            reader.rejected.insert((*key).to_owned(), Some(id));
                        }
                        btree_map::Entry::Vacant(free) => {
                            free.insert(profile.labels.get("value").unwrap().to_owned());
                        }
                    }
                }
                Decoded::Rejected(rejection) => {
                    reader.rejected.insert(rejection.key, rejection.id);
                }
                Decoded::Unsupported { kind } => {
                    *reader.unsupported.entry(kind).or_default() += 1;
                }
                Decoded::Ignored => {}
                Decoded::Part(part) => unreachable!("{part:?}"),
            }
        }
        reader
    }
}

/// A store, a syncer that follows it, and the syncer's reader.
struct Rig {
    store: Store,
    revision: i64,
    syncer: Syncer,
    reader: Reader,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self {
            store: Store::new(),
            revision: 0,
            syncer: Syncer::new(LAYOUT),
            reader: Reader::default(),
        };
        rig.list(usize::MAX);
        rig
    }

    /// Writes to the store only.
    fn write(&mut self, key: &'static str, value: Option<&str>) {
        match value {
            Some(value) => {
                let created = self.store.get(key).map_or(self.revision, |(_, _, created)| *created);
                self.store.insert(key, (value.to_owned(), self.revision, created));
            }
            None => {
                self.store.remove(key);
            }
        }
    }

    /// One revision: writes to the store and tells the syncer. A key appears once, as in etcd.
    fn transact(&mut self, writes: &[(&'static str, Option<&str>)]) -> Option<Batch> {
        self.revision += 1;
        let mut events = BTreeMap::new();
        for (key, value) in writes {
            let was = self.store.contains_key(key);
            self.write(key, *value);
            if was || value.is_some() {
                events.insert(*key, ());
            }
        }
        let events = events.into_keys().map(|key| match self.store.get(key) {
            Some((value, mod_revision, create_revision)) => Event::Put(Entry {
                key,
                value: value.as_bytes(),
                mod_revision: *mod_revision,
                create_revision: *create_revision,
            }),
            None => Event::Delete { key, revision: self.revision },
        });
        self.syncer.apply(self.revision, events);
        if self.syncer.needs_listing() {
            assert_eq!(self.syncer.take(), None, "nothing is told before the listing");
            return self.list(usize::MAX);
        }
        self.take()
    }

    /// A listing that breaks off after some keys.
    fn list(&mut self, keys: usize) -> Option<Batch> {
        self.syncer.begin_listing();
        for (key, (value, mod_revision, create_revision)) in self.store.iter().take(keys) {
            self.syncer.list(Entry {
                key,
                value: value.as_bytes(),
                mod_revision: *mod_revision,
                create_revision: *create_revision,
            });
        }
        if keys < self.store.len() {
            assert_eq!(self.syncer.take(), None, "half a listing is told");
            return None;
        }
        self.syncer.finish_listing(self.revision);
        assert!(!self.syncer.needs_listing());
        self.take()
    }

    fn take(&mut self) -> Option<Batch> {
        let batch = self.syncer.take();
        if let Some(batch) = batch.clone() {
            self.reader.take(batch);
        }
        assert_eq!(self.reader, Reader::of(&self.store), "{:?}", self.store);
        batch
    }
}

#[test]
fn a_key_costs_little() {
    assert!(size_of::<Known>() <= 48, "{}", size_of::<Known>());
}

fn names(batch: &Batch) -> Vec<String> {
    batch.updates.iter().map(|update| update.id().to_string()).collect()
}

#[test]
fn nothing_is_told_before_the_first_listing() {
    let mut syncer = Syncer::new(LAYOUT);
    let entry = Entry { key: "/a", value: b"=:1", mod_revision: 1, create_revision: 1 };
    syncer.apply(1, [Event::Put(entry)]);
    assert_eq!(syncer.take(), None);
    syncer.begin_listing();
    syncer.list(entry);
    assert_eq!(syncer.take(), None);
    syncer.finish_listing(1);
    assert_eq!(syncer.take().unwrap().updates.len(), 1);
    assert_eq!(syncer.take(), None, "told once");
}

#[test]
fn an_empty_store_is_told_too() {
    let mut syncer = Syncer::new(LAYOUT);
    syncer.begin_listing();
    syncer.finish_listing(7);
    assert_eq!(syncer.take(), Some(Batch { revision: 7, ..Batch::default() }));
}

#[test]
fn a_relist_tells_only_what_differs() {
    let mut rig = Rig::new();
    rig.transact(&[("/a", Some("=:1")), ("/b", Some("=:1")), ("/c", Some("=:1"))]);
    rig.revision += 5;
    rig.write("/b", Some("=:2"));
    rig.write("/c", None);
    rig.write("/d", Some("=:1"));
    let batch = rig.list(usize::MAX).unwrap();
    assert_eq!(names(&batch), ["Profile /b", "Profile /d", "Profile /c"]);
    let batch = rig.list(usize::MAX).unwrap();
    assert_eq!(batch, Batch { revision: rig.revision, ..Batch::default() });
}

#[test]
fn a_value_written_again_unchanged_is_no_change() {
    let mut rig = Rig::new();
    assert!(rig.transact(&[("/a", Some("=:1")), ("/b", Some("!bad"))]).is_some());
    assert_eq!(rig.transact(&[("/a", Some("=:1")), ("/b", Some("!bad"))]), None);
}

#[test]
fn what_comes_and_goes_between_two_batches_leaves_no_trace() {
    let mut rig = Rig::new();
    let entry = Entry { key: "/a", value: b"=:1", mod_revision: 1, create_revision: 1 };
    let refused = Entry { key: "/b", value: b"!bad", mod_revision: 1, create_revision: 1 };
    rig.syncer.apply(1, [Event::Put(entry), Event::Put(refused)]);
    let delete = |key| Event::Delete { key, revision: 2 };
    rig.syncer.apply(2, [delete("/a"), delete("/b")]);
    assert_eq!(rig.take(), None);
}

#[test]
fn a_refused_value_deletes_the_object_until_it_is_mended() {
    let mut rig = Rig::new();
    rig.transact(&[("/a", Some("=:1")), ("/b", Some("=:1"))]);
    let batch = rig.transact(&[("/a", Some("!broken"))]).unwrap();
    assert_eq!(batch.updates, [Update::deleted(id_of("/a").unwrap())]);
    assert_eq!(batch.rejections[0].reason, "broken");
    assert_eq!(batch.rejections[0].key, "/a");
    let batch = rig.transact(&[("/a", Some("=:2"))]).unwrap();
    assert_eq!(names(&batch), ["Profile /a"]);
    assert_eq!(batch.accepted, ["/a"]);
    assert!(batch.rejections.is_empty());
    // A refused key that goes is accepted too, and deletes nothing.
    rig.transact(&[("/c", Some("!bad"))]);
    let batch = rig.transact(&[("/c", None)]).unwrap();
    assert_eq!((batch.accepted.as_slice(), batch.updates.len()), (["/c".to_owned()].as_slice(), 0));
}

#[test]
fn an_object_that_becomes_ignored_is_deleted() {
    let mut rig = Rig::new();
    rig.transact(&[("/a", Some("=:1"))]);
    let batch = rig.transact(&[("/a", Some("of another host"))]).unwrap();
    assert_eq!(batch.updates, [Update::deleted(id_of("/a").unwrap())]);
    assert!(rig.syncer.is_empty(), "ignored keys cost nothing");
}

#[test]
fn unsupported_kinds_are_counted() {
    let mut rig = Rig::new();
    let batch = rig.transact(&[("/a", Some("?peers")), ("/b", Some("?peers"))]).unwrap();
    assert_eq!(batch.unsupported, [("peers".to_owned(), 2)]);
    let batch = rig.transact(&[("/a", None)]).unwrap();
    assert_eq!(batch.unsupported, [("peers".to_owned(), 1)]);
    let batch = rig.transact(&[("/b", Some("=:1"))]).unwrap();
    assert_eq!(batch.unsupported, [("peers".to_owned(), 0)]);
}

#[test]
fn an_event_that_is_older_than_what_is_known_is_ignored() {
    let mut rig = Rig::new();
    rig.revision = 10;
    rig.transact(&[("/a", Some("=:new"))]);
    let old = Entry { key: "/a", value: b"=:old", mod_revision: 5, create_revision: 5 };
    rig.syncer.apply(11, [Event::Put(old), Event::Delete { key: "/a", revision: 6 }]);
    assert_eq!(rig.take(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Transact(Vec<(usize, Option<String>)>),
    /// Writes that only a listing will show.
    Outage(Vec<(usize, Option<String>)>),
    /// A listing that breaks off after so many keys, and then a complete one.
    List(usize),
    /// The store is replaced: revisions start over.
    Rebuild,
}

fn writes() -> impl Strategy<Value = Vec<(usize, Option<String>)>> {
    let value = prop_oneof![
        3 => (0..3_u8).prop_map(|v| format!("=:{v}")),
        3 => (0..3_u8, 0..3_u8).prop_map(|(name, v)| format!("=shared{name}:{v}")),
        1 => (0..2_u8).prop_map(|v| format!("!bad{v}")),
        1 => (0..2_u8).prop_map(|v| format!("?kind{v}")),
        1 => Just("ignored".to_owned()),
    ];
    prop::collection::vec((0..KEYS.len(), prop::option::weighted(0.75, value)), 1..5)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => writes().prop_map(Step::Transact),
        2 => writes().prop_map(Step::Outage),
        1 => (0..KEYS.len()).prop_map(Step::List),
        1 => Just(Step::Rebuild),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// `Rig::take` compares with the naive model after every step, and the reader refuses
    /// deletions of what it never had.
    #[test]
    fn any_listings_and_events_end_equal_to_a_naive_model(steps in steps()) {
        let mut rig = Rig::new();
        for step in steps {
            match step {
                Step::Transact(writes) => {
                    let writes: Vec<_> =
                        writes.iter().map(|(key, value)| (KEYS[*key], value.as_deref())).collect();
                    rig.transact(&writes);
                }
                Step::Outage(writes) => {
                    for (key, value) in &writes {
                        rig.revision += 1;
                        rig.write(KEYS[*key], value.as_deref());
                    }
                    rig.list(usize::MAX);
                }
                Step::List(keys) => {
                    rig.list(keys);
                    rig.list(usize::MAX);
                }
                Step::Rebuild => {
                    rig.revision = 0;
                    let values: Vec<_> =
                        rig.store.iter().map(|(key, (value, _, _))| (*key, value.clone())).collect();
                    rig.store.clear();
                    for (key, value) in values.iter().rev().skip(1) {
                        rig.revision += 1;
                        rig.write(key, Some(value));
                    }
                    rig.list(usize::MAX);
                }
            }
        }
    }
}
