//! What a change of the scene changes in the table.

use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::model::Family;

use super::ask::{Key, passes, rules_of};
use super::elements::{self, own};
use super::names;
use super::pods::at;
use super::{Renderer, Steps, shapes};
use crate::desired::{AclClass, ActiveRules, Change as Differs, ClassId, DesiredState, SetId};
use crate::felix::iptables::uses::Subject;
use crate::felix::nftables::object::{Change, Element, Name};
use crate::felix::ruleset::Direction;
use crate::felix::scene::{Changed, Scene};

impl Renderer {
    /// What changed since the last call, of this or of [`Renderer::all`]. Costs what changed: carried out
    /// on what was before it makes what [`Renderer::all`] would make.
    pub fn changed(&mut self, scene: &Scene<'_>, changed: Changed<'_>) -> Steps {
        let Changed { old, diff, interfaces, hosts, .. } = changed;
        let state = scene.state;
        let mut out = Vec::new();
        let mut again = BTreeSet::new();
        let mut gone = Vec::new();

        let subjects = subjects(changed);
        for subject in &subjects {
            again.extend(self.units.of_subject(subject));
            if matters_to_askers(subject, old, state) {
                again.extend(self.units.askers(subject).cloned());
            }
        }

        let active = |class: &AclClass| class.active;
        let heirs = self.heirs(changed);
        let inherited: BTreeSet<ClassId> = heirs.values().cloned().collect();
        let mut freed = Vec::new();
        for (id, change) in &diff.classes {
            match change {
                Differs::Added(class) if active(class) => {
                    again.insert(Key::Class(id.clone()));
                    if let Some(old) = heirs.get(id) {
                        self.groups.hand_over(old, id);
                    }
                    let elements = self.class_elements(id).into_iter();
                    out.extend(elements.map(|(map, element)| Change::Add(map, element)));
                }
                Differs::Removed(class) if active(class) => {
                    gone.push(Key::Class(id.clone()));
                    if !inherited.contains(id) {
                        freed.push(id.clone());
                    }
                }
                Differs::Added(_) | Differs::Removed(_) | Differs::Updated { .. } => {}
            }
        }
        for id in &freed {
            // Its elements as they were given out.
            let elements =
                if self.groups.get(id).is_some() { self.class_elements(id) } else { Vec::new() };
            out.extend(elements.into_iter().map(|(map, element)| Change::Delete(map, element)));
            self.groups.free(id);
        }

        if self.endpoints(scene, changed, &mut out) || hosts || interfaces.spoofers {
            again.insert(Key::Frame);
        }
        if diff.pools || !interfaces.moved.is_empty() {
            again.insert(Key::Nat);
        }
        if diff.pools {
            self.pools(old, state, &mut out);
        }

        let entangled = self.entangled(changed, state, &again, &inherited);
        let families = self.style.families.clone();
        let grown = self.shapes.change((old, state), diff, &families, &entangled, &mut out);
        again.extend(grown.iter().flat_map(|set| self.units.namers(set)).cloned());
        self.make(again, gone, scene, &mut out);

        let moves = left(changed).any(|class| !inherited.contains(&class));
        steps(out, moves && self.options.groups && !freed.is_empty())
    }

    /// The new classes to which all endpoints of another one go that is no more: they take its group over, so
    /// that the interfaces stay where they are and are in the new class when the rest of the change comes
    /// into force. In between they would be in the old class, whose policies and sets are the new ones.
    fn heirs(&self, changed: Changed<'_>) -> BTreeMap<ClassId, ClassId> {
        let (mut new, mut old) = (BTreeSet::new(), BTreeMap::new());
        for (id, change) in changed.diff.classes.iter().filter(|_| self.options.groups) {
            match change {
                Differs::Added(class) if class.active => drop(new.insert(id)),
                Differs::Removed(class) if class.active && self.groups.get(id).is_some() => {
                    old.insert(id, BTreeSet::new());
                }
                _ => {}
            }
        }
        if new.is_empty() || old.is_empty() {
            return BTreeMap::new();
        }
        for (before, after) in changed.interfaces.owners.values() {
            let (Some(before), Some(after)) = (before, after) else { continue };
            if let Some(heirs) = old.get_mut(&before.class) {
                heirs.insert(&after.class);
            }
        }
        let mut out = BTreeMap::new();
        for (old, heirs) in old {
            if let (Some(heir), 1) = (heirs.first(), heirs.len())
                && new.contains(heir)
            {
                out.entry(ClassId::clone(heir)).or_insert_with(|| old.clone());
            }
        }
        out
    }

    /// The sets that change together with rules that name them, when these are made `again`. Rules that name
    /// such a set, or one that outgrows its shape, are made again as well, and what else they name follows.
    fn entangled(
        &self,
        changed: Changed<'_>,
        state: &DesiredState,
        again: &BTreeSet<Key>,
        inherited: &BTreeSet<ClassId>,
    ) -> BTreeSet<SetId> {
        let mut out = BTreeSet::new();
        let mut touched = shapes::touched(changed.diff);
        if touched.is_empty() {
            return out;
        }
        let outgrown = self.shapes.outgrown((changed.old, state), &touched);
        let mut again = again.clone();
        again.extend(outgrown.into_iter().flat_map(|set| self.units.namers(set)).cloned());
        // Whose key leads elsewhere leaves its class with the change.
        again.extend(inherited.iter().cloned().map(Key::Class));
        if !self.options.groups {
            again.extend(left(changed).map(Key::Class));
        }
        loop {
            let (more, rest): (BTreeSet<&SetId>, _) =
                touched.into_iter().partition(|set| self.units.is_entangled(set, &again));
            if more.is_empty() {
                return out;
            }
            again.extend(more.iter().flat_map(|set| self.units.namers(set)).cloned());
            out.extend(more.into_iter().cloned());
            touched = rest;
        }
    }

    /// Follows the endpoints. True when there are other sets than before.
    fn endpoints(
        &mut self,
        scene: &Scene<'_>,
        changed: Changed<'_>,
        out: &mut Vec<Change>,
    ) -> bool {
        let owners = &changed.interfaces.owners;
        if owners.is_empty() && !changed.interfaces.spoofers {
            return false;
        }
        for (_, new) in owners.values() {
            let Some(new) = new else { continue };
            for family in self.style.families.iter().copied() {
                self.nets[at(family)] |= own(new, family).any(|net| !net.is_host());
            }
            self.macs |= new.mac.is_some();
        }
        let wanted = self.sets(scene).specs();
        let is_of_pools = |name: &Name| {
            Family::ALL
                .iter()
                .any(|f| *name == names::all_pools(*f) || *name == names::masq_pools(*f))
        };
        let differ = self.frame_sets.iter().filter(|(name, _)| !is_of_pools(name)).ne(&wanted);
        let mut new_sets = BTreeSet::new();
        if differ {
            let known = std::mem::take(&mut self.frame_sets);
            for (name, spec) in &wanted {
                if !known.contains_key(name) {
                    new_sets.insert(name.clone());
                    out.push(Change::CreateSet(name.clone(), *spec));
                }
            }
            for (name, spec) in known {
                if is_of_pools(&name) {
                    self.frame_sets.insert(name, spec);
                } else if !wanted.contains_key(&name) {
                    out.push(Change::DeleteSet(name));
                }
            }
            self.frame_sets.extend(wanted);
        }
        let sets = self.sets(scene);
        for (before, after) in owners.values() {
            let elements = |endpoint: Option<&_>| -> BTreeSet<(Name, Element)> {
                let all = endpoint.map(|one: &std::sync::Arc<_>| sets.of_endpoint(one));
                let all = all.into_iter().flatten();
                all.filter(|(set, _)| !new_sets.contains(set)).collect()
            };
            let (before, after) = (elements(before.as_ref()), elements(after.as_ref()));
            // Of a map the key that stays leads elsewhere: what comes replaces what was.
            let replaced = |(set, element): &(Name, Element)| match element {
                Element::Named(name, _) => after.iter().any(|(other, element)| {
                    set == other && matches!(element, Element::Named(of, _) if of == name)
                }),
                _ => false,
            };
            let goes = before.difference(&after).filter(|one| !replaced(one));
            out.extend(goes.cloned().map(|(set, element)| Change::Delete(set, element)));
            let comes = after.difference(&before).cloned();
            out.extend(comes.map(|(set, element)| Change::Add(set, element)));
        }
        if !new_sets.is_empty() {
            for (_, endpoint) in scene.interfaces.owners() {
                let all = sets.of_endpoint(endpoint).into_iter();
                let new = all.filter(|(set, _)| new_sets.contains(set));
                out.extend(new.map(|(set, element)| Change::Add(set, element)));
            }
        }
        differ
    }

    fn pools(&mut self, old: &DesiredState, new: &DesiredState, out: &mut Vec<Change>) {
        let families = self.style.families.clone();
        let (old, new) = (elements::pools(old, &families), elements::pools(new, &families));
        for (name, (spec, elements)) in &new {
            let known: BTreeSet<&Element> =
                old.get(name).into_iter().flat_map(|(_, elements)| elements).collect();
            if !old.contains_key(name) {
                out.push(Change::CreateSet(name.clone(), *spec));
                self.frame_sets.insert(name.clone(), *spec);
            }
            let wanted: BTreeSet<&Element> = elements.iter().collect();
            let goes = known.difference(&wanted).copied().cloned();
            out.extend(goes.map(|element| Change::Delete(name.clone(), element)));
            let comes = wanted.difference(&known).copied().cloned();
            out.extend(comes.map(|element| Change::Add(name.clone(), element)));
        }
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            out.push(Change::DeleteSet(name.clone()));
            self.frame_sets.remove(name);
        }
    }
}

/// The classes that endpoints leave for another.
fn left(changed: Changed<'_>) -> impl Iterator<Item = ClassId> {
    changed.interfaces.owners.values().filter_map(|(before, after)| {
        let (before, after) = (before.as_ref()?, after.as_ref()?);
        (before.class != after.class).then(|| before.class.clone())
    })
}

/// The policies and profiles that are not the same.
fn subjects(changed: Changed<'_>) -> BTreeSet<Subject> {
    let diff = changed.diff;
    let policies = diff.policies.iter().chain(&diff.hosts.policies).map(|(id, _)| id.clone());
    let profiles = diff.profiles.iter().chain(&diff.hosts.profiles).map(|(name, _)| name.clone());
    policies.map(Subject::Policy).chain(profiles.map(Subject::Profile)).collect()
}

/// True when whoever asks it has to be made again: it comes or goes, or is written there.
fn matters_to_askers(subject: &Subject, old: &DesiredState, new: &DesiredState) -> bool {
    let passing = |rules: &ActiveRules| Direction::ALL.iter().any(|way| passes(rules, *way));
    match (rules_of(subject, old), rules_of(subject, new)) {
        (Some(old), Some(new)) => passing(old) || passing(new),
        _ => true,
    }
}

/// What goes waits, when interfaces have to change their groups first: their old class goes on until
/// then.
fn steps(all: Vec<Change>, waits: bool) -> Steps {
    let goes = |change: &Change| match change {
        Change::DeleteChain(_) | Change::DeleteSet(_) => true,
        Change::Delete(_, element) => matches!(element, Element::Group(..)),
        _ => false,
    };
    let (after, now) = all.into_iter().partition(|change| waits && goes(change));
    Steps { now, after }
}
