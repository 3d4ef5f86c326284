//! Policies and profiles in force: those that a class in use names, or a host endpoint.
//!
//! Counts who uses them and keeps the sets that their rules use alive. What is no longer used is
//! dropped only in [`ActiveTable::sweep`], so that a policy that moves from one class to another
//! inside one calculation keeps its sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::rules::Resolved;
use super::sets::{Audience, SetIndex};
use crate::desired::{ActiveRules, SetId};

/// Something in force.
#[derive(Debug)]
struct Entry {
    users: u32,
    sets: Vec<SetId>,
}

/// What is in force, by id.
#[derive(Debug)]
pub(super) struct ActiveTable<K> {
    audience: Audience,
    entries: BTreeMap<K, Entry>,
    unused: Vec<K>,
}

impl<K: Ord + Clone> ActiveTable<K> {
    /// A table with nothing in force, whose sets are needed by `audience`.
    pub(super) fn of(audience: Audience) -> Self {
        Self { audience, entries: BTreeMap::new(), unused: Vec::new() }
    }

    /// One class more uses it. True when it is the first: then [`Self::set_rules`] has to follow.
    pub(super) fn acquire(&mut self, id: &K) -> bool {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.users += 1;
            return false;
        }
        self.entries.insert(id.clone(), Entry { users: 1, sets: Vec::new() });
        true
    }

    /// One class less uses it.
    pub(super) fn release(&mut self, id: &K) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.users -= 1;
            if entry.users == 0 {
                self.unused.push(id.clone());
            }
        }
    }

    /// True when it is in force.
    pub(super) fn contains(&self, id: &K) -> bool {
        self.entries.contains_key(id)
    }

    /// True when nothing is in force.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.unused.is_empty()
    }

    /// Puts rules in force.
    pub(super) fn set_rules(
        &mut self,
        id: &K,
        resolved: Resolved,
        sets: &mut SetIndex,
        desired: &mut OrdMap<K, Arc<ActiveRules>>,
    ) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        // The new ones first: a set that stays is never unused.
        for spec in resolved.sets.values() {
            sets.acquire(spec, self.audience);
        }
        let old = std::mem::replace(&mut entry.sets, resolved.sets.into_keys().collect());
        for set in &old {
            sets.release(set, self.audience);
        }
        if desired.get(id).is_none_or(|rules| **rules != resolved.rules) {
            desired.insert(id.clone(), Arc::new(resolved.rules));
        }
    }

    /// Drops what nothing uses any more; returns what that was.
    pub(super) fn sweep(
        &mut self,
        sets: &mut SetIndex,
        desired: &mut OrdMap<K, Arc<ActiveRules>>,
    ) -> Vec<K> {
        let mut dropped = Vec::new();
        for id in std::mem::take(&mut self.unused) {
            if self.entries.get(&id).is_none_or(|entry| entry.users > 0) {
                continue;
            }
            let Some(entry) = self.entries.remove(&id) else { continue };
            for set in &entry.sets {
                sets.release(set, self.audience);
            }
            desired.remove(&id);
            dropped.push(id);
        }
        dropped
    }
}
