//! The label index: which endpoints and network sets carry which labels.
//!
//! Items (numbers that the caller hands out) with the same own labels and the same list of profiles
//! form one *group*. Everything about selectors is done per group, so the hundredth pod of a
//! deployment costs no evaluation at all. A label is looked up among a group's own labels first and
//! then in its profiles in the order of the list; the first hit wins.

use std::collections::HashMap;
use std::sync::Arc;

use calico_datastore::model::selector::LabelSource;
use calico_datastore::model::{Labels, Name};

use super::slots::{Slab, Slot, SlotSet};

/// What the items of a group have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct GroupKey {
    /// Own labels in order of their keys.
    labels: Box<[(Arc<str>, Arc<str>)]>,
    /// The profiles in the order of the list.
    profiles: Box<[Name]>,
}

/// Items that every selector treats alike.
#[derive(Debug)]
struct Group {
    key: Arc<GroupKey>,
    /// The profiles of the key, as places in the table of profiles.
    profiles: Box<[Slot]>,
    items: SlotSet,
    /// The selectors that match, sorted. Kept here for the caller.
    matches: Vec<Slot>,
}

/// A profile that is stored or listed by a group.
#[derive(Debug)]
struct ProfileLabels {
    name: Name,
    labels: Labels,
    groups: SlotSet,
}

/// Key → value → groups or profiles that carry the label themselves.
type Postings = HashMap<Arc<str>, HashMap<Arc<str>, SlotSet>>;

/// The label index.
#[derive(Debug, Default)]
pub(super) struct LabelIndex {
    groups: Slab<Group>,
    by_key: HashMap<Arc<GroupKey>, Slot>,
    postings: Postings,
    profiles: Slab<ProfileLabels>,
    profile_by_name: HashMap<Name, Slot>,
    profile_postings: Postings,
}

/// The labels of a group as a selector sees them.
pub(super) struct GroupLabels<'a> {
    group: &'a Group,
    profiles: &'a Slab<ProfileLabels>,
}

impl LabelSource for GroupLabels<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        let own = &self.group.key.labels;
        if let Ok(at) = own.binary_search_by(|(k, _)| (**k).cmp(key)) {
            return Some(&own[at].1);
        }
        self.inherited().find_map(|labels| labels.get(key))
    }
}

impl<'a> GroupLabels<'a> {
    fn inherited(&self) -> impl Iterator<Item = &'a Labels> {
        let profiles = self.profiles;
        self.group.profiles.iter().filter_map(|slot| Some(&profiles.get(*slot)?.labels))
    }

    /// Every label that may be visible: an inherited one may be hidden by another of its key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)> {
        let own = self.group.key.labels.iter().map(|(k, v)| (k, v));
        own.chain(self.inherited().flat_map(Labels::iter))
    }
}

impl LabelIndex {
    /// Puts an item into the group of its labels and profiles. Says which, and whether it is new.
    pub(super) fn join(&mut self, labels: &Labels, profiles: &[Name], item: Slot) -> (Slot, bool) {
        let key = GroupKey {
            labels: labels.iter().map(|(k, v)| (Arc::clone(k), Arc::clone(v))).collect(),
            profiles: profiles.into(),
        };
        if let Some(&group) = self.by_key.get(&key) {
            if let Some(group) = self.groups.get_mut(group) {
                group.items.insert(item);
            }
            return (group, false);
        }
        // Strings that the index holds already are shared with it.
        let labels = key.labels.iter().map(|(k, v)| self.shared_text(k, v)).collect();
        let profile_slots = profiles.iter().map(|name| self.profile_slot(name)).collect();
        let key = Arc::new(GroupKey { labels, profiles: key.profiles });
        let mut items = SlotSet::default();
        items.insert(item);
        let group = self.groups.insert(Group {
            key: Arc::clone(&key),
            profiles: profile_slots,
            items,
            matches: Vec::new(),
        });
        for (k, v) in &key.labels {
            post(&mut self.postings, k, v, group);
        }
        for name in profiles {
            let slot = self.profile_slot(name);
            if let Some(profile) = self.profiles.get_mut(slot) {
                profile.groups.insert(group);
            }
        }
        self.by_key.insert(key, group);
        (group, true)
    }

    /// Takes an item out of its group. Returns the selectors that matched when that was the last
    /// item and the group is gone.
    pub(super) fn leave(&mut self, group: Slot, item: Slot) -> Option<Vec<Slot>> {
        let entry = self.groups.get_mut(group)?;
        entry.items.remove(item);
        if !entry.items.is_empty() {
            return None;
        }
        let entry = self.groups.remove(group)?;
        self.by_key.remove(&entry.key);
        for (k, v) in &entry.key.labels {
            unpost(&mut self.postings, k, v, group);
        }
        for &slot in &entry.profiles {
            if let Some(profile) = self.profiles.get_mut(slot) {
                profile.groups.remove(group);
            }
            self.forget_profile_if_unused(slot);
        }
        Some(entry.matches)
    }

    /// Gives a profile other labels; no labels when it is gone. Returns the groups that list it, or
    /// nothing when its labels are what they were.
    pub(super) fn set_profile(&mut self, name: &Name, labels: &Labels) -> Vec<Slot> {
        if labels.is_empty() && !self.profile_by_name.contains_key(name) {
            return Vec::new();
        }
        let slot = self.profile_slot(name);
        let Some(profile) = self.profiles.get_mut(slot) else { return Vec::new() };
        if profile.labels == *labels {
            self.forget_profile_if_unused(slot);
            return Vec::new();
        }
        let old = std::mem::replace(&mut profile.labels, labels.clone());
        let mut groups: Vec<Slot> = profile.groups.iter().collect();
        groups.sort_unstable();
        for (k, v) in old.iter() {
            unpost(&mut self.profile_postings, k, v, slot);
        }
        for (k, v) in labels.iter() {
            post(&mut self.profile_postings, k, v, slot);
        }
        self.forget_profile_if_unused(slot);
        groups
    }

    /// The labels of a group.
    pub(super) fn labels(&self, group: Slot) -> Option<GroupLabels<'_>> {
        Some(GroupLabels { group: self.groups.get(group)?, profiles: &self.profiles })
    }

    /// The items of a group.
    pub(super) fn items(&self, group: Slot) -> impl Iterator<Item = Slot> + '_ {
        self.groups.get(group).into_iter().flat_map(|group| group.items.iter())
    }

    /// The selectors that match a group, sorted.
    pub(super) fn matches(&self, group: Slot) -> &[Slot] {
        self.groups.get(group).map_or(&[], |group| &group.matches)
    }

    /// The same, to change them.
    pub(super) fn matches_mut(&mut self, group: Slot) -> Option<&mut Vec<Slot>> {
        Some(&mut self.groups.get_mut(group)?.matches)
    }

    /// Every group.
    pub(super) fn all(&self) -> impl Iterator<Item = Slot> + '_ {
        self.groups.slots()
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// At least the groups whose label `key` has one of `values` (any value when `None`); a group
    /// may come twice.
    pub(super) fn carriers<'a>(
        &'a self,
        key: &'a str,
        values: Option<&'a [Arc<str>]>,
    ) -> impl Iterator<Item = Slot> + 'a {
        let own = posted(&self.postings, key, values).flat_map(SlotSet::iter);
        own.chain(
            posted(&self.profile_postings, key, values)
                .flat_map(SlotSet::iter)
                .filter_map(|profile| self.profiles.get(profile))
                .flat_map(|profile| profile.groups.iter()),
        )
    }

    /// How many [`Self::carriers`] there are at most.
    pub(super) fn count_carriers(&self, key: &str, values: Option<&[Arc<str>]>) -> usize {
        let own: usize = posted(&self.postings, key, values).map(SlotSet::len).sum();
        let inherited: usize = posted(&self.profile_postings, key, values)
            .flat_map(SlotSet::iter)
            .filter_map(|profile| self.profiles.get(profile))
            .map(|profile| profile.groups.len())
            .sum();
        own + inherited
    }

    /// True when nothing is left, not even an empty posting.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let lists = (self.postings.is_empty(), self.profile_postings.is_empty());
        let profiles = self.profiles.len() == 0 && self.profile_by_name.is_empty();
        self.len() == 0 && self.by_key.is_empty() && profiles && lists == (true, true)
    }

    fn shared_text(&self, key: &Arc<str>, value: &Arc<str>) -> (Arc<str>, Arc<str>) {
        match self.postings.get_key_value(key) {
            None => (Arc::clone(key), Arc::clone(value)),
            Some((key, values)) => {
                let value = values.get_key_value(value).map_or(value, |(value, _)| value);
                (Arc::clone(key), Arc::clone(value))
            }
        }
    }

    fn profile_slot(&mut self, name: &Name) -> Slot {
        if let Some(&slot) = self.profile_by_name.get(name) {
            return slot;
        }
        let slot = self.profiles.insert(ProfileLabels {
            name: name.clone(),
            labels: Labels::default(),
            groups: SlotSet::default(),
        });
        self.profile_by_name.insert(name.clone(), slot);
        slot
    }

    fn forget_profile_if_unused(&mut self, slot: Slot) {
        let unused =
            |profile: &ProfileLabels| profile.labels.is_empty() && profile.groups.is_empty();
        if self.profiles.get(slot).is_some_and(unused)
            && let Some(profile) = self.profiles.remove(slot)
        {
            self.profile_by_name.remove(&profile.name);
        }
    }
}

fn post(postings: &mut Postings, key: &Arc<str>, value: &Arc<str>, slot: Slot) {
    if !postings.contains_key(key) {
        postings.insert(Arc::clone(key), HashMap::new());
    }
    let Some(values) = postings.get_mut(key) else { return };
    match values.get_mut(value) {
        Some(slots) => {
            slots.insert(slot);
        }
        None => {
            values.insert(Arc::clone(value), SlotSet::One(slot));
        }
    }
}

fn unpost(postings: &mut Postings, key: &Arc<str>, value: &Arc<str>, slot: Slot) {
    let Some(values) = postings.get_mut(key) else { return };
    if let Some(slots) = values.get_mut(value) {
        slots.remove(slot);
        if slots.is_empty() {
            values.remove(value);
        }
    }
    if values.is_empty() {
        postings.remove(key);
    }
}

fn posted<'a>(
    postings: &'a Postings,
    key: &str,
    values: Option<&'a [Arc<str>]>,
) -> impl Iterator<Item = &'a SlotSet> {
    let by_value = postings.get(key);
    let some = values.into_iter().flatten().filter_map(move |value| by_value?.get(value));
    let any = by_value.filter(|_| values.is_none()).into_iter().flat_map(HashMap::values);
    some.chain(any)
}
