//! Values go through the reader of the store, so that what is refused and what is gone comes as it
//! does in truth.

use std::collections::BTreeMap;

use calico_datastore::backend::syncer::{Entry, Event, Syncer};
use proptest::prelude::*;

use super::*;

const PREFIX: &str = "/calico/resources/v3/projectcalico.org/";

/// Keys of the kinds that are kept, and of one that is not.
const KEYS: [&str; 6] = [
    "globalnetworkpolicies/default.p",
    "networkpolicies/n/default.p",
    "tiers/t",
    "profiles/p",
    "globalnetworksets/s",
    "hostendpoints/h",
];

/// A value of `KEYS[key]`: of a version, or one that cannot be read.
fn value(key: usize, version: Option<u8>) -> String {
    let spec = match (key, version) {
        (0..=2, Some(version)) => format!(r#"{{"order":{version}}}"#),
        (3, Some(version)) => format!(r#"{{"labelsToApply":{{"v":"{version}"}}}}"#),
        (4, Some(version)) => format!(r#"{{"nets":["10.0.0.{version}/32"]}}"#),
        (_, Some(version)) => format!(r#"{{"node":"n","interfaceName":"eth{version}"}}"#),
        (0..=2, None) => r#"{"order":"first"}"#.to_owned(),
        (3, None) => r#"{"labelsToApply":7}"#.to_owned(),
        (4, None) => r#"{"nets":["everywhere"]}"#.to_owned(),
        (_, None) => r#"{"node":7}"#.to_owned(),
    };
    format!(r#"{{"metadata":{{}},"spec":{spec}}}"#)
}

/// A store with its reader, and what follows from what is applied.
struct Rig {
    syncer: Syncer,
    last_good: LastGood,
    in_force: BTreeMap<String, Update>,
    revision: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    Nothing,
    Good(u8),
    Bad,
}

impl Rig {
    fn new() -> Self {
        let mut syncer = Syncer::new(v3::LAYOUT);
        syncer.begin_listing();
        syncer.finish_listing(1);
        let _ = syncer.take();
        Self { syncer, last_good: LastGood::default(), in_force: BTreeMap::new(), revision: 1 }
    }

    fn put(&mut self, key: usize, stored: Stored) {
        self.revision += 1;
        let revision = self.revision;
        let name = format!("{PREFIX}{}", KEYS[key]);
        let value = match stored {
            Stored::Nothing => None,
            Stored::Good(version) => Some(value(key, Some(version))),
            Stored::Bad => Some(value(key, None)),
        };
        let event = match &value {
            None => Event::Delete { key: &name, revision },
            Some(value) => Event::Put(Entry {
                key: &name,
                value: value.as_bytes(),
                mod_revision: revision,
                create_revision: 1,
            }),
        };
        self.syncer.apply(revision, [event]);
    }

    /// The batch that is due. Says how many updates it became.
    fn flush(&mut self) -> usize {
        let Some(batch) = self.syncer.take() else { return 0 };
        let updates = self.last_good.take(batch.updates, &batch.rejections, &batch.accepted);
        self.apply(updates)
    }

    fn set_mode(&mut self, mode: InvalidPolicy) {
        let updates = self.last_good.set_mode(mode);
        self.apply(updates);
    }

    fn apply(&mut self, updates: Vec<Update>) -> usize {
        let count = updates.len();
        for update in updates {
            let id = update.id();
            if update == Update::deleted(id.clone()) {
                self.in_force.remove(&id.to_string());
            } else {
                self.in_force.insert(id.to_string(), update);
            }
        }
        count
    }

    /// What is in force of a key.
    fn of(&self, key: usize) -> Option<&Update> {
        let id = (v3::LAYOUT.id_of)(&format!("{PREFIX}{}", KEYS[key])).unwrap();
        self.in_force.get(&id.to_string())
    }

    fn kept(&self) -> Vec<String> {
        self.last_good.kept().into_iter().map(|key| key.replace(PREFIX, "")).collect()
    }
}

/// The object of a version.
fn object(key: usize, version: u8) -> Update {
    let name = format!("{PREFIX}{}", KEYS[key]);
    match (v3::LAYOUT.decode)(&name, value(key, Some(version)).as_bytes()) {
        calico_datastore::layout::Decoded::Object(update) => update,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_refused_is_absent_or_as_it_was() {
    for (key, name) in KEYS.into_iter().enumerate() {
        let keeps = key < 5;
        let mut rig = Rig::new();
        rig.put(key, Stored::Good(1));
        rig.flush();
        assert_eq!(rig.of(key), Some(&object(key, 1)), "{name}");
        rig.put(key, Stored::Bad);
        rig.flush();
        assert_eq!((rig.of(key), rig.kept().len()), (None, 0), "{name}: absent");
        // It is remembered, whatever the mode was when it was refused.
        rig.set_mode(InvalidPolicy::KeepLast);
        assert_eq!(rig.of(key), keeps.then_some(&object(key, 1)), "{name}");
        assert_eq!(rig.kept(), Vec::from_iter(keeps.then_some(name)));
        rig.set_mode(InvalidPolicy::Absent);
        assert_eq!((rig.of(key), rig.kept().len()), (None, 0), "{name}: absent again");
        rig.set_mode(InvalidPolicy::KeepLast);
        // Refused again with other words: the same version stays.
        rig.put(key, Stored::Good(2));
        rig.put(key, Stored::Bad);
        rig.flush();
        assert_eq!(rig.of(key), keeps.then_some(&object(key, 1)), "{name}: 2 was never seen");
        rig.put(key, Stored::Good(3));
        rig.flush();
        assert_eq!((rig.of(key), rig.kept().len()), (Some(&object(key, 3)), 0), "{name}");
    }
}

#[test]
fn what_is_deleted_goes_whatever_was_refused_before() {
    let mut rig = Rig::new();
    rig.set_mode(InvalidPolicy::KeepLast);
    for key in 0..KEYS.len() {
        rig.put(key, Stored::Good(1));
        rig.flush();
        rig.put(key, Stored::Bad);
        rig.flush();
        rig.put(key, Stored::Nothing);
        rig.flush();
        assert_eq!((rig.of(key), rig.kept().len()), (None, 0));
        // And is not remembered by what comes after it.
        rig.put(key, Stored::Bad);
        assert_eq!(rig.flush(), 0);
        assert_eq!((rig.of(key), rig.kept().len()), (None, 0));
        rig.put(key, Stored::Nothing);
        rig.flush();
    }
    assert!(rig.last_good.versions.is_empty() && rig.last_good.refused.is_empty());
}

fn stored() -> impl Strategy<Value = Stored> {
    prop_oneof![
        1 => Just(Stored::Nothing),
        2 => (1..4u8).prop_map(Stored::Good),
        2 => Just(Stored::Bad),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, Stored),
    Flush,
    Mode(InvalidPolicy),
    /// Everything is listed again.
    List,
}

fn step() -> impl Strategy<Value = Step> {
    let modes = [InvalidPolicy::Absent, InvalidPolicy::KeepLast];
    prop_oneof![
        6 => (0..KEYS.len(), stored()).prop_map(|(key, stored)| Step::Put(key, stored)),
        3 => Just(Step::Flush),
        1 => proptest::sample::select(modes.to_vec()).prop_map(Step::Mode),
        1 => Just(Step::List),
    ]
}

proptest! {
    /// Whatever happens in whatever portions: what is in force is what the store says, and for what
    /// it does not say, what it last said at the end of a batch, if that is asked for.
    #[test]
    fn any_sequence_ends_as_the_store_and_the_mode_say(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut rig = Rig::new();
        let mut now = [Stored::Nothing; KEYS.len()];
        let mut seen = [None; KEYS.len()];
        let mut mode = InvalidPolicy::Absent;
        for step in steps.into_iter().chain([Step::Flush]) {
            match step {
                Step::Put(key, stored) => {
                    rig.put(key, stored);
                    now[key] = stored;
                    continue;
                }
                Step::Mode(new) => {
                    mode = new;
                    rig.set_mode(new);
                    continue;
                }
                Step::Flush => {}
                Step::List => {
                    rig.syncer.begin_listing();
                    rig.revision += 1;
                    for (key, stored) in now.into_iter().enumerate() {
                        let version = match stored {
                            Stored::Nothing => continue,
                            Stored::Good(version) => Some(version),
                            Stored::Bad => None,
                        };
                        rig.syncer.list(Entry {
                            key: &format!("{PREFIX}{}", KEYS[key]),
                            value: value(key, version).as_bytes(),
                            mod_revision: rig.revision,
                            create_revision: 1,
                        });
                    }
                    rig.syncer.finish_listing(rig.revision);
                }
            }
            rig.flush();
            for key in 0..KEYS.len() {
                match now[key] {
                    Stored::Good(version) => seen[key] = Some(version),
                    Stored::Nothing => seen[key] = None,
                    Stored::Bad => {}
                }
                let keeps = mode == InvalidPolicy::KeepLast && key < 5;
                let expected = match now[key] {
                    Stored::Bad if !keeps => None,
                    _ => seen[key],
                };
                let object = expected.map(|version| object(key, version));
                prop_assert_eq!(rig.of(key), object.as_ref(), "{}", KEYS[key]);
                let kept = now[key] == Stored::Bad && expected.is_some();
                prop_assert_eq!(rig.kept().contains(&KEYS[key].to_owned()), kept);
            }
        }
    }
}
