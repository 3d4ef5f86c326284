//! Address sets and their members.
//!
//! Owns every endpoint and network set of the cluster, as far as sets need it: group, addresses,
//! named ports. A set exists while a rule in force uses it (reference counts). A member is there
//! while an item brings it: two endpoints may own one address, and it stays until both are gone.
//!
//! An endpoint that is administratively down stays a member, as in the original: its state says
//! what this host lets through on its interface, not whose its addresses are.

use std::collections::HashMap;
use std::sync::Arc;

use calico_datastore::model::{Cidr, Labels, Name, NamedPort};
use imbl::{OrdMap, OrdSet};

use super::addresses::{Addresses, difference};
use super::item::ItemId;
use super::matching::{MatchIndex, only_in};
use super::set_spec::SetSpec;
use super::slots::{Slab, Slot, SlotSet};
use crate::desired::{AddressSet, Member, SetId};

/// Something with addresses.
#[derive(Debug)]
struct Item {
    group: Slot,
    addresses: Addresses,
    ports: Box<[NamedPort]>,
}

/// Who needs a set. What each needs is published apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Audience {
    /// The endpoints of pods.
    Workloads,
    /// The host endpoints.
    Host,
}

/// How many rules use a set, by audience.
#[derive(Debug, Default)]
struct References {
    workloads: u32,
    host: u32,
}

impl References {
    fn of(&mut self, audience: Audience) -> &mut u32 {
        match audience {
            Audience::Workloads => &mut self.workloads,
            Audience::Host => &mut self.host,
        }
    }
}

/// A set that a rule uses.
#[derive(Debug)]
struct Entry {
    id: SetId,
    spec: SetSpec,
    description: Arc<str>,
    selector: Slot,
    references: References,
    members: Members,
}

/// Members with the number of items that bring each. Nearly all are brought by one, and those cost
/// no counter.
#[derive(Debug, Default)]
struct Members {
    present: OrdSet<Member>,
    /// How many items beyond the first bring a member.
    shared: HashMap<Member, u32>,
}

impl Members {
    fn add(&mut self, member: Member) -> bool {
        if self.present.contains(&member) {
            *self.shared.entry(member).or_insert(0) += 1;
            return false;
        }
        self.present.insert(member);
        true
    }

    fn remove(&mut self, member: Member) -> bool {
        if let Some(others) = self.shared.get_mut(&member) {
            *others -= 1;
            if *others == 0 {
                self.shared.remove(&member);
            }
            return false;
        }
        self.present.remove(&member).is_some()
    }
}

/// The set index.
#[derive(Debug, Default)]
pub(super) struct SetIndex {
    matching: MatchIndex,
    items: Slab<Item>,
    by_item: HashMap<ItemId, Slot>,
    sets: Slab<Entry>,
    by_id: HashMap<SetId, Slot>,
    by_selector: HashMap<Slot, SlotSet>,
    dirty: SlotSet,
    /// Sets that nothing used at some moment since the last sweep.
    unused: Vec<SetId>,
    /// How many members were added, removed or counted; tests count with it.
    touched: u64,
}

impl SetIndex {
    /// An item is new or different.
    pub(super) fn put(
        &mut self,
        id: ItemId,
        labels: &Labels,
        profiles: &[Name],
        addresses: Addresses,
        ports: Box<[NamedPort]>,
    ) {
        let Some(&slot) = self.by_item.get(&id) else {
            // The slot has to be known to join; the group is written right after.
            let slot = self.items.insert(Item { group: 0, addresses, ports });
            let group = self.matching.join(labels, profiles, slot);
            if let Some(item) = self.items.get_mut(slot) {
                item.group = group;
            }
            self.by_item.insert(id, slot);
            let matches = self.matching.matches(group).to_vec();
            self.contribute(&matches, slot);
            return;
        };
        let Some(old) = self.items.get(slot) else { return };
        let old_group = old.group;
        // Leaving first would forget the group when its only item changes nothing but addresses.
        let group = self.matching.join(labels, profiles, slot);
        if group == old_group && old.ports == ports && old.addresses == addresses {
            return;
        }
        let old_matches = self.matching.matches(old_group).to_vec();
        if group != old_group {
            self.matching.leave(old_group, slot);
        }
        let matches = self.matching.matches(group).to_vec();
        let new = Item { group, addresses, ports };
        let Some(item) = self.items.get_mut(slot) else { return };
        let old = std::mem::replace(item, new);
        // Add before removing: a member that stays never goes.
        if item.ports == old.ports {
            let (added, removed) = difference(&old.addresses, &item.addresses);
            let ports = old.ports.clone();
            let (started, stopped) =
                (only_in(&matches, &old_matches), only_in(&old_matches, &matches));
            let stayed = only_in(&matches, &started);
            self.contribute(&started, slot);
            self.change(Change::Add, &stayed, &added, &ports);
            self.change(Change::Remove, &stopped, &old.addresses, &ports);
            self.change(Change::Remove, &stayed, &removed, &ports);
        } else {
            self.contribute(&matches, slot);
            self.change(Change::Remove, &old_matches, &old.addresses, &old.ports);
        }
    }

    /// An item is gone.
    pub(super) fn remove(&mut self, id: &ItemId) {
        let Some(slot) = self.by_item.remove(id) else { return };
        let Some(item) = self.items.remove(slot) else { return };
        let matches = self.matching.matches(item.group).to_vec();
        self.change(Change::Remove, &matches, &item.addresses, &item.ports);
        self.matching.leave(item.group, slot);
    }

    /// A profile has other labels.
    pub(super) fn set_profile(&mut self, name: &Name, labels: &Labels) {
        for change in self.matching.set_profile(name, labels) {
            let items: Vec<Slot> = self.matching.items(change.group).collect();
            for slot in items {
                self.contribute(&change.started, slot);
                let Some(Item { addresses, ports, .. }) = self.items.get(slot) else { continue };
                let tables = (&mut self.sets, &self.by_selector, &mut self.dirty);
                self.touched += apply(tables, Change::Remove, &change.stopped, addresses, ports);
            }
        }
    }

    /// A rule uses a set; its members are found when it is the first.
    pub(super) fn acquire(&mut self, spec: &SetSpec, audience: Audience) {
        let id = spec.id();
        if let Some((&slot, entry)) =
            self.by_id.get(&id).and_then(|slot| Some((slot, self.sets.get_mut(*slot)?)))
        {
            let references = entry.references.of(audience);
            *references += 1;
            if *references == 1 {
                // This audience has not got it.
                self.dirty.insert(slot);
            }
            return;
        }
        let selector = self.matching.acquire(spec.selector());
        let mut entry = Entry {
            id: id.clone(),
            spec: spec.clone(),
            description: spec.description(),
            selector,
            references: References::default(),
            members: Members::default(),
        };
        *entry.references.of(audience) = 1;
        for item in self.matching.matched_items(selector).filter_map(|slot| self.items.get(slot)) {
            for member in spec.members(&item.addresses, &item.ports) {
                self.touched += 1;
                entry.members.add(member);
            }
        }
        let slot = self.sets.insert(entry);
        self.by_selector.entry(selector).or_default().insert(slot);
        self.by_id.insert(id, slot);
        self.dirty.insert(slot);
    }

    /// A rule no longer uses a set. It stays until [`Self::publish`], where another rule may use it.
    pub(super) fn release(&mut self, id: &SetId, audience: Audience) {
        let Some(entry) = self.by_id.get(id).and_then(|slot| self.sets.get_mut(*slot)) else {
            return;
        };
        let references = entry.references.of(audience);
        *references -= 1;
        if *references == 0 {
            self.unused.push(id.clone());
        }
    }

    /// Writes what changed into the desired state: what each audience needs.
    pub(super) fn publish(
        &mut self,
        workloads: &mut OrdMap<SetId, AddressSet>,
        host: &mut OrdMap<SetId, AddressSet>,
    ) {
        for id in std::mem::take(&mut self.unused) {
            let Some(&slot) = self.by_id.get(&id) else { continue };
            let Some(References { workloads: pods, host: hosts }) =
                self.sets.get(slot).map(|entry| &entry.references)
            else {
                continue;
            };
            // Removing what is not there would unshare the map from the last state's.
            if *pods == 0 && workloads.contains_key(&id) {
                workloads.remove(&id);
            }
            if *hosts == 0 && host.contains_key(&id) {
                host.remove(&id);
            }
            if *pods > 0 || *hosts > 0 {
                continue;
            }
            let Some(entry) = self.sets.remove(slot) else { continue };
            self.by_id.remove(&id);
            self.dirty.remove(slot);
            if let Some(sets) = self.by_selector.get_mut(&entry.selector) {
                sets.remove(slot);
                if sets.is_empty() {
                    self.by_selector.remove(&entry.selector);
                }
            }
            self.matching.release(entry.selector);
        }
        for slot in std::mem::take(&mut self.dirty).iter() {
            let Some(entry) = self.sets.get(slot) else { continue };
            let set = AddressSet {
                kind: entry.spec.kind(),
                selector: Arc::clone(&entry.description),
                members: entry.members.present.clone(),
            };
            if entry.references.host > 0 {
                host.insert(entry.id.clone(), set.clone());
            }
            if entry.references.workloads > 0 {
                workloads.insert(entry.id.clone(), set);
            }
        }
    }

    /// How often a selector was evaluated so far.
    pub(super) fn evaluations(&self) -> u64 {
        self.matching.evaluations()
    }

    /// How many members were added, removed or counted so far.
    pub(super) fn touched(&self) -> u64 {
        self.touched
    }

    /// True when nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let items = self.items.len() == 0 && self.by_item.is_empty();
        let sets = self.sets.len() == 0 && self.by_id.is_empty() && self.by_selector.is_empty();
        let work = self.dirty.is_empty() && self.unused.is_empty();
        self.matching.is_empty() && items && sets && work
    }

    /// Adds what an item brings to the sets of selectors.
    fn contribute(&mut self, selectors: &[Slot], item: Slot) {
        let Some(Item { addresses, ports, .. }) = self.items.get(item) else { return };
        let tables = (&mut self.sets, &self.by_selector, &mut self.dirty);
        self.touched += apply(tables, Change::Add, selectors, addresses, ports);
    }

    /// Adds to the sets of selectors what addresses with ports bring, or takes it out.
    fn change(
        &mut self,
        change: Change,
        selectors: &[Slot],
        addresses: &[Cidr],
        ports: &[NamedPort],
    ) {
        let tables = (&mut self.sets, &self.by_selector, &mut self.dirty);
        self.touched += apply(tables, change, selectors, addresses, ports);
    }
}

/// What becomes of members.
#[derive(Clone, Copy, Debug)]
enum Change {
    Add,
    Remove,
}

/// The sets, those of each selector, and those that changed.
type Tables<'a> = (&'a mut Slab<Entry>, &'a HashMap<Slot, SlotSet>, &'a mut SlotSet);

/// Adds to the sets of selectors what addresses with ports bring, or takes it out. Returns how many
/// members were looked at.
fn apply(
    (sets, by_selector, dirty): Tables<'_>,
    change: Change,
    selectors: &[Slot],
    addresses: &[Cidr],
    ports: &[NamedPort],
) -> u64 {
    let mut touched = 0;
    for selector in selectors {
        for slot in by_selector.get(selector).into_iter().flat_map(SlotSet::iter) {
            let Some(entry) = sets.get_mut(slot) else { continue };
            let mut changed = false;
            for member in entry.spec.members(addresses, ports) {
                touched += 1;
                changed |= match change {
                    Change::Add => entry.members.add(member),
                    Change::Remove => entry.members.remove(member),
                };
            }
            if changed {
                dirty.insert(slot);
            }
        }
    }
    touched
}
