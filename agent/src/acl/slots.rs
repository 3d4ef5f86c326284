//! Small numbers instead of names: where things are kept ([`Slab`]) and sets of such places
//! ([`SlotSet`]). Owns no meaning; the tables of this module are built from them because a host
//! knows every endpoint of the cluster and has to be small.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// Where something is kept in a [`Slab`].
pub(super) type Slot = u32;

/// A hasher for slots. They are numbers that we hand out ourselves, so nobody can choose them to
/// collide, and a multiplication is enough.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SlotHasher(u64);

impl Hasher for SlotHasher {
    fn finish(&self) -> u64 {
        // The table takes its buckets from the low bits and its tags from the high ones.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, slot: u32) {
        self.0 = (self.0 ^ u64::from(slot)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Builds [`SlotHasher`]s.
pub(super) type SlotState = BuildHasherDefault<SlotHasher>;

/// A set of slots. Most hold none or one (a label value that only one endpoint has), and those cost
/// no allocation.
#[derive(Debug, Default)]
pub(super) enum SlotSet {
    /// None.
    #[default]
    Empty,
    /// Exactly one.
    One(Slot),
    /// Any number.
    Many(HashSet<Slot, SlotState>),
}

impl SlotSet {
    /// Adds a slot; false when it was there.
    pub(super) fn insert(&mut self, slot: Slot) -> bool {
        match self {
            Self::Empty => {
                *self = Self::One(slot);
                true
            }
            Self::One(present) if *present == slot => false,
            Self::One(present) => {
                *self = Self::Many(HashSet::from_iter([*present, slot]));
                true
            }
            Self::Many(slots) => slots.insert(slot),
        }
    }

    /// Takes a slot out; false when it was not there.
    pub(super) fn remove(&mut self, slot: Slot) -> bool {
        match self {
            Self::One(present) if *present == slot => {
                *self = Self::Empty;
                true
            }
            Self::Empty | Self::One(_) => false,
            Self::Many(slots) => {
                let removed = slots.remove(&slot);
                if slots.is_empty() {
                    *self = Self::Empty;
                }
                removed
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(_) => 1,
            Self::Many(slots) => slots.len(),
        }
    }

    /// True without any.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each of them, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        let (one, many) = match self {
            Self::Empty => (None, None),
            Self::One(slot) => (Some(*slot), None),
            Self::Many(slots) => (None, Some(slots.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// Things by slot. A slot is used again after its thing is gone.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<Slot>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Keeps a thing and says where.
    pub(super) fn insert(&mut self, thing: T) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.entries[slot as usize] = Some(thing);
            return slot;
        }
        let slot = Slot::try_from(self.entries.len()).expect("fewer than 2^32 objects fit memory");
        self.entries.push(Some(thing));
        slot
    }

    /// Gives the thing back and its slot free.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<T> {
        let thing = self.entries.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(thing)
    }

    /// The thing at a slot.
    pub(super) fn get(&self, slot: Slot) -> Option<&T> {
        self.entries.get(slot as usize)?.as_ref()
    }

    /// The thing at a slot, to change it.
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    /// How many things there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Every slot in use.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..).zip(&self.entries).filter_map(|(slot, entry)| entry.is_some().then_some(slot))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_slot_set_is_a_set_at_every_size() {
        let mut set = SlotSet::default();
        let mut model = BTreeSet::new();
        // Up and down through all three forms, with repetitions.
        for slot in [7, 7, 9, 1, 9, 3] {
            assert_eq!(set.insert(slot), model.insert(slot));
            assert_eq!(set.iter().collect::<BTreeSet<_>>(), model);
        }
        for slot in [9, 9, 7, 4, 1, 3, 3] {
            assert_eq!(set.remove(slot), model.remove(&slot));
            assert_eq!(set.iter().collect::<BTreeSet<_>>(), model);
            assert_eq!(set.len(), model.len());
        }
        assert!(set.is_empty());
        assert!(set.insert(2) && !set.remove(3) && set.remove(2));
    }

    #[test]
    fn a_slot_is_used_again() {
        let mut slab = Slab::default();
        let a = slab.insert("a");
        let b = slab.insert("b");
        assert_eq!(slab.remove(a), Some("a"));
        assert_eq!(slab.remove(a), None);
        assert_eq!((slab.get(a), slab.get(b), slab.len()), (None, Some(&"b"), 1));
        assert_eq!(slab.insert("c"), a);
        assert_eq!(slab.slots().collect::<Vec<_>>(), [a, b]);
    }
}
