//! The batch that is being put together: what changed since the last one was handed out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::layout::Rejection;
use crate::model::Update;

/// Net changes since the last batch. What comes and goes in between leaves no trace.
#[derive(Debug, Default)]
pub(super) struct Draft {
    slots: Vec<Slot>,
    /// Hash of the id → its place in `slots`.
    places: HashMap<u64, usize>,
    /// Key → refusal, and whether the reader already knows the key as refused.
    rejections: BTreeMap<String, (Rejection, bool)>,
    accepted: BTreeSet<String>,
    /// Kinds whose count changed.
    kinds: BTreeSet<u16>,
}

#[derive(Debug)]
struct Slot {
    /// Whether the reader knew the object before this batch.
    known: bool,
    gone: bool,
    update: Update,
}

/// What a draft held, in the order in which objects were first touched.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) updates: Vec<Update>,
    pub(super) rejections: Vec<Rejection>,
    pub(super) accepted: Vec<String>,
    pub(super) kinds: BTreeSet<u16>,
}

impl Draft {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
            && self.rejections.is_empty()
            && self.accepted.is_empty()
            && self.kinds.is_empty()
    }

    /// An object has a new value. `known`: the reader may have an older one, if this draft has not
    /// said otherwise yet.
    pub(super) fn set(&mut self, id_hash: u64, known: bool, update: Update) {
        self.touch(id_hash, known, false, update);
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, id_hash: u64, deletion: Update) {
        self.touch(id_hash, true, true, deletion);
    }

    fn touch(&mut self, id_hash: u64, known: bool, gone: bool, update: Update) {
        match self.places.get(&id_hash).and_then(|place| self.slots.get_mut(*place)) {
            Some(slot) => {
                slot.gone = gone;
                slot.update = update;
            }
            None => {
                self.places.insert(id_hash, self.slots.len());
                self.slots.push(Slot { known, gone, update });
            }
        }
    }

    /// A key is refused.
    pub(super) fn reject(&mut self, rejection: Rejection) {
        let told = self.rejections.get(&rejection.key).is_some_and(|(_, told)| *told)
            || self.accepted.remove(&rejection.key);
        self.rejections.insert(rejection.key.clone(), (rejection, told));
    }

    /// A key that was refused no longer is.
    pub(super) fn accept(&mut self, key: &str) {
        // Refused and accepted within one batch: the reader need not hear of it.
        if !matches!(self.rejections.remove(key), Some((_, false))) {
            self.accepted.insert(key.to_owned());
        }
    }

    /// The count of a kind changed.
    pub(super) fn recount(&mut self, kind: u16) {
        self.kinds.insert(kind);
    }

    /// Hands everything over and starts anew.
    pub(super) fn take(&mut self) -> Parts {
        let draft = std::mem::take(self);
        Parts {
            updates: draft
                .slots
                .into_iter()
                .filter(|slot| slot.known || !slot.gone)
                .map(|slot| slot.update)
                .collect(),
            rejections: draft.rejections.into_values().map(|(rejection, _)| rejection).collect(),
            accepted: draft.accepted.into_iter().collect(),
            kinds: draft.kinds,
        }
    }
}
