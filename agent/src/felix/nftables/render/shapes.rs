//! The shapes of all sets of rules, and which sets a state needs: pure.

use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::model::Family;

use super::members;
use super::shape::Shape;
use crate::desired::{
    AddressSet, DesiredDiff, DesiredState, SetChange, SetId, SetsDiff, members_diff,
};
use crate::felix::nftables::contents::{Contents, Set};
use crate::felix::nftables::object::{Change, Match, Side};

/// What the sets of rules look like in the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes {
    of: BTreeMap<SetId, Vec<(Family, Shape)>>,
}

/// Every set of rules: what pods need, and what only host endpoints need.
fn sets(state: &DesiredState) -> impl Iterator<Item = (&SetId, &AddressSet)> {
    let hosts = state.host_endpoints.sets.iter();
    state.sets.iter().chain(hosts.filter(|(id, _)| !state.sets.contains_key(*id)))
}

fn set<'a>(state: &'a DesiredState, id: &SetId) -> Option<&'a AddressSet> {
    state.sets.get(id).or_else(|| state.host_endpoints.sets.get(id))
}

/// The sets that may not be the same.
fn touched(diff: &DesiredDiff) -> BTreeSet<&SetId> {
    let SetsDiff { added, changed, removed } = &diff.hosts.sets;
    let ids = diff.sets_added.iter().chain(added).map(|(id, _)| id);
    let changed = diff.sets_changed.iter().chain(changed).map(|(id, _)| id);
    ids.chain(changed).chain(&diff.sets_removed).chain(removed).collect()
}

impl Shapes {
    /// What asks for a member of a set: one of these has to match; negated, all.
    pub(super) fn matches(&self, family: Family, id: &SetId, side: Side, not: bool) -> Vec<Match> {
        let of = self.of.get(id).into_iter().flatten().find(|(of, _)| *of == family);
        of.map(|(_, shape)| shape.matches(family, id, side, not)).unwrap_or_default()
    }

    /// Takes over every set of a state, and says what they hold. Shapes that are known stay as large as
    /// they are.
    pub(super) fn all(&mut self, state: &DesiredState, families: &[Family], out: &mut Contents) {
        let mut old = std::mem::take(&mut self.of);
        for (id, set) in sets(state) {
            let known = old.remove(id).unwrap_or_default();
            let mut shapes = Vec::new();
            for family in families {
                let known = known.iter().find(|(of, _)| of == family).map(|(_, shape)| shape);
                let mut shape = known.cloned().unwrap_or_else(|| Shape::new(set.kind));
                shape.grow(set.members.iter(), *family);
                for (name, spec) in shape.sets(*family, id) {
                    let empty = Set { spec, elements: Default::default() };
                    out.sets.insert(name, empty);
                }
                for (name, element) in members::elements(set, *family, id, &shape) {
                    if let Some(set) = out.sets.get_mut(&name) {
                        set.elements.insert(element);
                    }
                }
                shapes.push((*family, shape));
            }
            self.of.insert(id.clone(), shapes);
        }
    }

    /// Follows a change. Returns the sets of which rules have to say something else.
    pub(super) fn change(
        &mut self,
        (old, new): (&DesiredState, &DesiredState),
        diff: &DesiredDiff,
        families: &[Family],
        out: &mut Vec<Change>,
    ) -> BTreeSet<SetId> {
        let mut grown = BTreeSet::new();
        for id in touched(diff) {
            match (set(old, id), set(new, id)) {
                (Some(_), None) => self.remove(id, out),
                (Some(before), Some(after)) if self.of.contains_key(id) => {
                    let change = members_diff(before, after);
                    if self.follow(id, (before, after), &change, out) {
                        grown.insert(id.clone());
                    }
                }
                (_, Some(set)) => {
                    self.add(id, set, families, out);
                    grown.insert(id.clone());
                }
                (None, None) => {}
            }
        }
        grown
    }

    fn add(&mut self, id: &SetId, set: &AddressSet, families: &[Family], out: &mut Vec<Change>) {
        let shape = |family: &Family| (*family, Shape::of(set, *family));
        let shapes: Vec<(Family, Shape)> = families.iter().map(shape).collect();
        for (family, shape) in &shapes {
            out.extend(filled(set, *family, id, shape));
        }
        self.of.insert(id.clone(), shapes);
    }

    fn remove(&mut self, id: &SetId, out: &mut Vec<Change>) {
        for (family, shape) in self.of.remove(id).unwrap_or_default() {
            let sets = shape.sets(family, id).into_iter();
            out.extend(sets.map(|(name, _)| Change::DeleteSet(name)));
        }
    }

    /// True when rules have to say something else.
    fn follow(
        &mut self,
        id: &SetId,
        (before, after): (&AddressSet, &AddressSet),
        change: &SetChange,
        out: &mut Vec<Change>,
    ) -> bool {
        let mut grown = false;
        for (family, shape) in self.of.get_mut(id).into_iter().flatten() {
            let known = shape.clone();
            if shape.grow(&change.added, *family) {
                grown = true;
                if *shape == Shape::Ranges {
                    let gone = known.sets(*family, id).into_iter();
                    out.extend(gone.map(|(name, _)| Change::DeleteSet(name)));
                    out.extend(filled(after, *family, id, shape));
                    continue;
                }
                let known = known.sets(*family, id);
                let new = shape.sets(*family, id).into_iter().filter(|one| !known.contains(one));
                out.extend(new.map(|(name, spec)| Change::CreateSet(name, spec)));
            }
            out.extend(members::changes(before, after, change, (*family, id), shape));
        }
        grown
    }
}

/// A new set with all that it holds.
fn filled(set: &AddressSet, family: Family, id: &SetId, shape: &Shape) -> Vec<Change> {
    let sets = shape.sets(family, id).into_iter();
    let new = sets.map(|(name, spec)| Change::CreateSet(name, spec));
    let elements = members::elements(set, family, id, shape).into_iter();
    new.chain(elements.map(|(name, element)| Change::Add(name, element))).collect()
}
