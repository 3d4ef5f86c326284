//! Many keys, one object: it is what its parts say together.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use super::{Entry, Meaning, Syncer};
use crate::layout::Part;
use crate::model::{ResourceId, Update};

impl Syncer {
    /// A key says a part of an object: the object becomes what its parts say together.
    pub(super) fn join(&mut self, entry: Entry<'_>, hash: u64, part: Part) {
        let id = part.id().clone();
        let key: Arc<str> = Arc::from(entry.key);
        let parts = self.parts.entry(id.clone()).or_default();
        let known = !parts.is_empty();
        parts.insert(Arc::clone(&key), part);
        self.assemble(&id, known);
        self.remember(key, entry, hash, Meaning::Part(Box::new(id)));
    }

    /// A part of an object is gone: the object becomes what is left, or goes with its last part.
    pub(super) fn part(&mut self, id: &ResourceId, key: &str) {
        if let Some(parts) = self.parts.get_mut(id) {
            parts.remove(key);
            self.assemble(id, true);
        }
    }

    pub(super) fn assemble(&mut self, id: &ResourceId, known: bool) {
        let id_hash = self.hasher.hash_one(id);
        let update = self.parts.get(id).and_then(|parts| Part::assemble(id, parts.values()));
        match update {
            Some(update) => self.draft.set(id_hash, known, update),
            None => {
                self.parts.remove(id);
                self.draft.remove(id_hash, Update::deleted(id.clone()));
            }
        }
    }
}
