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
///
/// Rules change for a packet at once, and so does each member of a set, but not both: the kernel decides
/// which rules a packet meets when its chain begins, and looks members up as they are when the rule is
/// asked. A packet that is in the old rules while the change comes into force finds the new members. So
/// a set that changes together with rules that name it becomes another set, with another name: the old
/// rules go on asking the old one.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes {
    of: BTreeMap<SetId, Vec<(Family, Shape)>>,
    /// Those that have their second name. Each change of that sort takes the other one.
    second: BTreeSet<SetId>,
}

/// What a set is called in the kernel when it has its second name.
fn second(id: &SetId) -> SetId {
    SetId::new(format!("{id}.b"))
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
pub(super) fn touched(diff: &DesiredDiff) -> BTreeSet<&SetId> {
    let SetsDiff { added, changed, removed } = &diff.hosts.sets;
    let ids = diff.sets_added.iter().chain(added).map(|(id, _)| id);
    let changed = diff.sets_changed.iter().chain(changed).map(|(id, _)| id);
    ids.chain(changed).chain(&diff.sets_removed).chain(removed).collect()
}

impl Shapes {
    /// What asks for a member of a set: one of these has to match; negated, all.
    pub(super) fn matches(&self, family: Family, id: &SetId, side: Side, not: bool) -> Vec<Match> {
        let of = self.of.get(id).into_iter().flatten().find(|(of, _)| *of == family);
        of.map(|(_, shape)| shape.matches(family, &self.called(id), side, not)).unwrap_or_default()
    }

    /// What a set goes by in the kernel now.
    fn called(&self, id: &SetId) -> SetId {
        if self.second.contains(id) { second(id) } else { id.clone() }
    }

    /// Takes over the names that are in use, for sets of which nothing is known yet.
    pub(super) fn take_over(
        &mut self,
        state: &DesiredState,
        families: &[Family],
        is_held: impl Fn(&str) -> bool,
    ) {
        for (id, set) in sets(state).filter(|(id, _)| !self.of.contains_key(*id)) {
            let held = |id: &SetId| {
                let names = families.iter().flat_map(|f| Shape::of(set, *f).sets(*f, id));
                names.into_iter().any(|(name, _)| is_held(&name))
            };
            if held(&second(id)) {
                self.second.insert(id.clone());
            }
        }
    }

    /// Those of `touched` that come, or do not fit their shapes any more: rules say something else because of
    /// them.
    pub(super) fn outgrown<'a>(
        &self,
        (old, new): (&DesiredState, &DesiredState),
        touched: &BTreeSet<&'a SetId>,
    ) -> Vec<&'a SetId> {
        let outgrows = |id: &SetId| match (set(old, id), set(new, id), self.of.get(id)) {
            (Some(before), Some(after), Some(shapes)) => {
                let added = members_diff(before, after).added;
                shapes.iter().any(|(family, shape)| shape.clone().grow(&added, *family))
            }
            (_, after, _) => after.is_some(),
        };
        touched.iter().copied().filter(|id| outgrows(id)).collect()
    }

    /// Gives the other name to those of which a set in the kernel is `chosen`, and that are not `renewed` yet,
    /// where they are noted. [`Shapes::all`] has to follow.
    pub(super) fn renew(
        &mut self,
        chosen: impl Fn(&str) -> bool,
        renewed: &mut BTreeSet<SetId>,
    ) -> bool {
        let is_chosen = |(id, shapes): &(&SetId, &Vec<(Family, Shape)>)| {
            let called = self.called(id);
            let names = shapes.iter().flat_map(|(family, shape)| shape.sets(*family, &called));
            names.into_iter().any(|(name, _)| chosen(&name))
        };
        let chosen = self.of.iter().filter(|(id, _)| !renewed.contains(*id)).filter(is_chosen);
        let chosen: Vec<SetId> = chosen.map(|(id, _)| id.clone()).collect();
        chosen.iter().for_each(|id| self.turn(id));
        let any = !chosen.is_empty();
        renewed.extend(chosen);
        any
    }

    fn turn(&mut self, id: &SetId) {
        if !self.second.remove(id) {
            self.second.insert(id.clone());
        }
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
                let called = self.called(id);
                for (name, spec) in shape.sets(*family, &called) {
                    let empty = Set { spec, elements: Default::default() };
                    out.sets.insert(name, empty);
                }
                for (name, element) in members::elements(set, *family, &called, &shape) {
                    if let Some(set) = out.sets.get_mut(&name) {
                        set.elements.insert(element);
                    }
                }
                shapes.push((*family, shape));
            }
            self.of.insert(id.clone(), shapes);
        }
        let of = &self.of;
        self.second.retain(|id| of.contains_key(id));
    }

    /// Follows a change. `entangled`: rules that name these change with it. Returns the sets of which
    /// rules have to say something else.
    pub(super) fn change(
        &mut self,
        (old, new): (&DesiredState, &DesiredState),
        diff: &DesiredDiff,
        families: &[Family],
        entangled: &BTreeSet<SetId>,
        out: &mut Vec<Change>,
    ) -> BTreeSet<SetId> {
        let mut grown = BTreeSet::new();
        for id in touched(diff) {
            match (set(old, id), set(new, id)) {
                (Some(_), None) => self.remove(id, out),
                (Some(_), Some(after)) if entangled.contains(id) && self.of.contains_key(id) => {
                    self.replace(id, after, out);
                    grown.insert(id.clone());
                }
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
            out.extend(filled(set, *family, &self.called(id), shape));
        }
        self.of.insert(id.clone(), shapes);
    }

    fn remove(&mut self, id: &SetId, out: &mut Vec<Change>) {
        let called = self.called(id);
        for (family, shape) in self.of.remove(id).unwrap_or_default() {
            let sets = shape.sets(family, &called).into_iter();
            out.extend(sets.map(|(name, _)| Change::DeleteSet(name)));
        }
        self.second.remove(id);
    }

    /// The set becomes another one, with what it holds now.
    fn replace(&mut self, id: &SetId, after: &AddressSet, out: &mut Vec<Change>) {
        let old = self.called(id);
        self.turn(id);
        let new = self.called(id);
        for (family, shape) in self.of.get_mut(id).into_iter().flatten() {
            let gone = shape.sets(*family, &old).into_iter();
            out.extend(gone.map(|(name, _)| Change::DeleteSet(name)));
            shape.grow(after.members.iter(), *family);
            out.extend(filled(after, *family, &new, shape));
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
        let called = &self.called(id);
        for (family, shape) in self.of.get_mut(id).into_iter().flatten() {
            let known = shape.clone();
            if shape.grow(&change.added, *family) {
                grown = true;
                if *shape == Shape::Ranges {
                    let gone = known.sets(*family, called).into_iter();
                    out.extend(gone.map(|(name, _)| Change::DeleteSet(name)));
                    out.extend(filled(after, *family, called, shape));
                    continue;
                }
                let known = known.sets(*family, called);
                let new =
                    shape.sets(*family, called).into_iter().filter(|one| !known.contains(one));
                out.extend(new.map(|(name, spec)| Change::CreateSet(name, spec)));
            }
            out.extend(members::changes(before, after, change, (*family, called), shape));
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
