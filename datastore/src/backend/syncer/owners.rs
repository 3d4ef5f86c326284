//! Two keys, one object: the one that was created first describes it.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use super::{Entry, Meaning, Shadow, Syncer};
use crate::layout::{Decoded, Rejection};
use crate::model::{ResourceId, Update};

impl Syncer {
    /// A key that describes nothing so far turns out to be an object.
    pub(super) fn claim(&mut self, entry: Entry<'_>, hash: u64, update: Update) {
        let id = update.id();
        let id_hash = self.hasher.hash_one(&id);
        let key: Arc<str> = Arc::from(entry.key);
        let other = self.owners.get(&id_hash).cloned();
        if let Some(other) = &other {
            let age = self.keys.get(other).map_or(i64::MAX, |known| known.create_revision);
            if (age, &**other) < (entry.create_revision, entry.key) {
                self.draft.reject(second(&key, &id, other));
                self.shadows.insert(key.clone(), Shadow { id, value: Some(entry.value.into()) });
                return self.remember(key, entry, hash, Meaning::Shadow);
            }
            self.demote(other, &id, &key);
        }
        self.own(id_hash, &key, other.is_some(), update);
        let meaning = self.meaning(&key, id);
        self.remember(key, entry, hash, meaning);
    }

    pub(super) fn own(&mut self, id_hash: u64, key: &Arc<str>, known: bool, update: Update) {
        self.owners.insert(id_hash, Arc::clone(key));
        self.draft.set(id_hash, known, update);
    }

    pub(super) fn meaning(&self, key: &str, id: ResourceId) -> Meaning {
        let own = (self.layout.id_of)(key).is_none_or(|named| named != id);
        Meaning::Object(own.then(|| Box::new(id)))
    }

    /// The key that described an object is gone: the next one takes over, or the object is gone.
    pub(super) fn release(&mut self, id: ResourceId) {
        let id_hash = self.hasher.hash_one(&id);
        self.owners.remove(&id_hash);
        self.draft.remove(id_hash, Update::deleted(id.clone()));
        self.elect(id);
    }

    /// Gives an object to the oldest of the keys that describe it.
    pub(super) fn elect(&mut self, id: ResourceId) {
        let id_hash = self.hasher.hash_one(&id);
        let age = |key: &Arc<str>| Some((self.keys.get(key)?.create_revision, Arc::clone(key)));
        let owner = self.owners.get(&id_hash).cloned();
        let second = self.shadows.iter().filter(|(_, shadow)| shadow.id == id);
        let Some((second_age, key)) = second.filter_map(|(key, _)| age(key)).min() else { return };
        if owner.as_ref().and_then(age).is_some_and(|first| first < (second_age, Arc::clone(&key)))
        {
            return;
        }
        let value = self.shadows.get(&key).and_then(|shadow| shadow.value.as_ref());
        let decoded = value.map(|value| (self.layout.decode)(&key, value));
        let Some(Decoded::Object(update)) = decoded else {
            // Its value is needed: a listing reads it, and nothing is said before.
            self.incomplete = true;
            return;
        };
        self.shadows.remove(&key);
        self.draft.accept(&key);
        if let Some(owner) = owner {
            self.demote(&owner, &id, &key);
        }
        self.own(id_hash, &key, true, update);
        let meaning = self.meaning(&key, id);
        if let Some(known) = self.keys.get_mut(&key) {
            known.meaning = meaning;
        }
    }

    /// A key that was first comes second from now on. Its value is not kept.
    pub(super) fn demote(&mut self, key: &Arc<str>, id: &ResourceId, first: &str) {
        if let Some(known) = self.keys.get_mut(key) {
            known.meaning = Meaning::Shadow;
        }
        self.draft.reject(second(key, id, first));
        self.shadows.insert(Arc::clone(key), Shadow { id: id.clone(), value: None });
    }
}

fn second(key: &str, id: &ResourceId, first: &str) -> Rejection {
    Rejection {
        key: key.to_owned(),
        id: Some(id.clone()),
        reason: format!("describes {id}, which the older key {first} describes already"),
    }
}
