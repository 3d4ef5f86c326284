//! The match index: which selectors match which groups of the label index.
//!
//! Owns the only place where selectors are evaluated. A selector that demands a label (see
//! [`Anchor`]) is only asked about groups that carry it, whether the selector is new or the group is.

use std::collections::HashMap;

use calico_datastore::model::{Labels, Name, Selector};

use super::anchor::{Anchor, AnchorIndex};
use super::labels::LabelIndex;
use super::slots::{Slab, Slot, SlotSet};

/// A selector that somebody uses.
#[derive(Debug)]
struct Entry {
    selector: Selector,
    users: u32,
    anchor: Anchor,
    groups: SlotSet,
}

/// A group that other selectors match than before.
#[derive(Debug)]
pub(super) struct GroupChange {
    /// The group.
    pub(super) group: Slot,
    /// Selectors that match now.
    pub(super) started: Vec<Slot>,
    /// Selectors that no longer match.
    pub(super) stopped: Vec<Slot>,
}

/// The match index.
#[derive(Debug, Default)]
pub(super) struct MatchIndex {
    labels: LabelIndex,
    selectors: Slab<Entry>,
    by_selector: HashMap<Selector, Slot>,
    anchors: AnchorIndex,
    /// How often a selector was evaluated; tests count with it.
    evaluations: u64,
}

impl MatchIndex {
    /// Puts an item into the group of its labels and profiles; says which.
    pub(super) fn join(&mut self, labels: &Labels, profiles: &[Name], item: Slot) -> Slot {
        let (group, new) = self.labels.join(labels, profiles, item);
        if new {
            self.rematch(group);
        }
        group
    }

    /// Takes an item out of its group.
    pub(super) fn leave(&mut self, group: Slot, item: Slot) {
        for selector in self.labels.leave(group, item).into_iter().flatten() {
            if let Some(entry) = self.selectors.get_mut(selector) {
                entry.groups.remove(group);
            }
        }
    }

    /// Gives a profile other labels. Returns what that changed for the groups that list it.
    pub(super) fn set_profile(&mut self, name: &Name, labels: &Labels) -> Vec<GroupChange> {
        let groups = self.labels.set_profile(name, labels);
        groups.into_iter().filter_map(|group| self.rematch(group)).collect()
    }

    /// Uses a selector: finds its groups when nobody used it so far.
    pub(super) fn acquire(&mut self, selector: &Selector) -> Slot {
        if let Some(&slot) = self.by_selector.get(selector) {
            if let Some(entry) = self.selectors.get_mut(slot) {
                entry.users += 1;
            }
            return slot;
        }
        let candidates = Anchor::cheapest_scan(selector, &self.labels);
        let mut matched = SlotSet::default();
        for group in candidates {
            let Some(labels) = self.labels.labels(group) else { continue };
            self.evaluations += 1;
            if selector.matches(&labels) {
                matched.insert(group);
            }
        }
        let anchor = self.anchors.choose(selector);
        let slot = self.selectors.insert(Entry {
            selector: selector.clone(),
            users: 1,
            anchor: anchor.clone(),
            groups: SlotSet::default(),
        });
        self.anchors.insert(&anchor, slot);
        self.by_selector.insert(selector.clone(), slot);
        for group in matched.iter() {
            if let Some(matches) = self.labels.matches_mut(group)
                && let Err(at) = matches.binary_search(&slot)
            {
                matches.insert(at, slot);
            }
        }
        if let Some(entry) = self.selectors.get_mut(slot) {
            entry.groups = matched;
        }
        slot
    }

    /// Stops using a selector: it is forgotten when nobody else uses it.
    pub(super) fn release(&mut self, selector: Slot) {
        let Some(entry) = self.selectors.get_mut(selector) else { return };
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        let Some(entry) = self.selectors.remove(selector) else { return };
        self.by_selector.remove(&entry.selector);
        self.anchors.remove(&entry.anchor, selector);
        for group in entry.groups.iter() {
            if let Some(matches) = self.labels.matches_mut(group)
                && let Ok(at) = matches.binary_search(&selector)
            {
                matches.remove(at);
            }
        }
    }

    /// The selectors that match a group, sorted.
    pub(super) fn matches(&self, group: Slot) -> &[Slot] {
        self.labels.matches(group)
    }

    /// The items of a group.
    pub(super) fn items(&self, group: Slot) -> impl Iterator<Item = Slot> + '_ {
        self.labels.items(group)
    }

    /// The items that a selector matches.
    pub(super) fn matched_items(&self, selector: Slot) -> impl Iterator<Item = Slot> + '_ {
        let groups = self.selectors.get(selector).into_iter().flat_map(|entry| entry.groups.iter());
        groups.flat_map(|group| self.labels.items(group))
    }

    /// How often a selector was evaluated so far.
    pub(super) fn evaluations(&self) -> u64 {
        self.evaluations
    }

    /// True when nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let selectors = self.selectors.len() == 0 && self.by_selector.is_empty();
        self.labels.is_empty() && selectors && self.anchors.is_empty()
    }

    /// Asks every selector that may match a group.
    fn rematch(&mut self, group: Slot) -> Option<GroupChange> {
        let labels = self.labels.labels(group)?;
        let mut now = self.anchors.candidates(labels.iter());
        now.sort_unstable();
        now.dedup();
        self.evaluations += now.len() as u64;
        now.retain(|slot| {
            self.selectors.get(*slot).is_some_and(|entry| entry.selector.matches(&labels))
        });
        let matches = self.labels.matches_mut(group)?;
        let started = only_in(&now, matches);
        let stopped = only_in(matches, &now);
        now.shrink_to_fit();
        *matches = now;
        for &slot in &started {
            if let Some(entry) = self.selectors.get_mut(slot) {
                entry.groups.insert(group);
            }
        }
        for &slot in &stopped {
            if let Some(entry) = self.selectors.get_mut(slot) {
                entry.groups.remove(group);
            }
        }
        let changed = !started.is_empty() || !stopped.is_empty();
        changed.then_some(GroupChange { group, started, stopped })
    }
}

/// What is in the sorted list `these` and not in the sorted list `those`.
pub(super) fn only_in(these: &[Slot], those: &[Slot]) -> Vec<Slot> {
    these.iter().filter(|slot| those.binary_search(slot).is_err()).copied().collect()
}
