//! What was made, and what hangs on what: a change makes again what it concerns and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ask::{Key, Unit};
use super::place::Place;
use crate::desired::SetId;
use crate::felix::iptables::uses::Subject;
use crate::felix::nftables::object::{Chain, Change, Name};

/// Everything that was made.
#[derive(Clone, Debug, Default)]
pub(super) struct Units {
    units: BTreeMap<Key, Unit>,
    /// How many need it.
    needed: BTreeMap<Key, usize>,
    /// Who asks a policy or profile itself.
    askers: BTreeMap<Subject, BTreeSet<Key>>,
    /// Whose rules name a set.
    namers: BTreeMap<SetId, BTreeSet<Key>>,
}

/// True for what nothing needs and that is there all the same.
fn is_root(key: &Key) -> bool {
    matches!(key, Key::Frame | Key::Nat | Key::Class(_))
}

impl Units {
    /// All chains.
    pub(super) fn chains(&self) -> impl Iterator<Item = (&Name, &Arc<Chain>)> {
        self.units.values().flat_map(|unit| &unit.chains)
    }

    /// Who asks this policy or profile.
    pub(super) fn askers(&self, subject: &Subject) -> impl Iterator<Item = &Key> {
        self.askers.get(subject).into_iter().flatten()
    }

    /// Whose rules name this set.
    pub(super) fn namers(&self, set: &SetId) -> impl Iterator<Item = &Key> {
        self.namers.get(set).into_iter().flatten()
    }

    /// True when rules that name this set are made again, or are asked by what is.
    pub(super) fn is_entangled(&self, set: &SetId, again: &BTreeSet<Key>) -> bool {
        let Some(namers) = self.namers.get(set) else { return false };
        let asks =
            |key: &Key| self.units.get(key).is_some_and(|unit| !unit.needs.is_disjoint(namers));
        !namers.is_disjoint(again) || again.iter().any(asks)
    }

    /// The policies and profiles that are asked by what this chain was made with.
    pub(super) fn asked_with(&self, chain: &str) -> impl Iterator<Item = &Subject> {
        let with = self.units.values().filter(move |unit| unit.chains.contains_key(chain));
        with.flat_map(|unit| &unit.subjects)
    }

    /// What is made of a policy or profile. There is a unit for each place that asks it: they are looked up, since
    /// each policy that changes asks for its own.
    pub(super) fn of_subject(&self, subject: &Subject) -> impl Iterator<Item = Key> {
        let keys = Place::all().map(|place| Key::Rules(place, subject.clone()));
        keys.filter(|key| self.units.contains_key(key))
    }

    /// Makes these again, and what they need that was not there; what nobody needs any more goes, and
    /// so do `gone`.
    pub(super) fn make(
        &mut self,
        mut again: BTreeSet<Key>,
        gone: impl IntoIterator<Item = Key>,
        unit_of: impl Fn(&Key) -> Unit,
        out: &mut Vec<Change>,
    ) {
        let mut left: Vec<Key> = gone.into_iter().collect();
        let mut puts: BTreeMap<Name, Arc<Chain>> = BTreeMap::new();
        let (mut fresh, mut deletes) = (BTreeSet::new(), BTreeSet::new());
        let mut doubtful = BTreeSet::new();
        while let Some(key) = again.pop_first() {
            if !is_root(&key) && !self.needed.contains_key(&key) {
                continue;
            }
            let unit = unit_of(&key);
            let old = self.units.remove(&key).unwrap_or_default();
            for need in unit.needs.difference(&old.needs) {
                let count = self.needed.entry(need.clone()).or_default();
                *count += 1;
                if *count == 1 && !self.units.contains_key(need) {
                    again.insert(need.clone());
                }
            }
            for need in old.needs.difference(&unit.needs) {
                self.let_go(need, &mut doubtful);
            }
            self.unlist(&key, &old);
            for subject in &unit.subjects {
                self.askers.entry(subject.clone()).or_default().insert(key.clone());
            }
            for set in &unit.sets {
                self.namers.entry(set.clone()).or_default().insert(key.clone());
            }
            for (name, chain) in &unit.chains {
                let known = old.chains.get(name);
                if known.is_none() {
                    fresh.insert(name.clone());
                }
                if known != Some(chain) {
                    puts.insert(name.clone(), Arc::clone(chain));
                }
            }
            let gone = old.chains.keys().filter(|name| !unit.chains.contains_key(*name));
            deletes.extend(gone.cloned());
            self.units.insert(key, unit);
        }
        loop {
            left.extend(doubtful.iter().filter(|key| !self.needed.contains_key(*key)).cloned());
            doubtful.clear();
            let Some(key) = left.pop() else { break };
            let Some(unit) = self.units.remove(&key) else { continue };
            self.unlist(&key, &unit);
            for need in &unit.needs {
                self.let_go(need, &mut doubtful);
            }
            for name in unit.chains.into_keys() {
                // It may have been made again before the last one who needs it was.
                puts.remove(&name);
                if !fresh.contains(&name) {
                    deletes.insert(name);
                }
            }
        }
        out.extend(puts.into_iter().map(|(name, chain)| Change::PutChain(name, chain)));
        out.extend(deletes.into_iter().map(Change::DeleteChain));
    }

    fn let_go(&mut self, need: &Key, doubtful: &mut BTreeSet<Key>) {
        let Some(count) = self.needed.get_mut(need) else { return };
        *count -= 1;
        if *count == 0 {
            self.needed.remove(need);
            doubtful.insert(need.clone());
        }
    }

    fn unlist(&mut self, key: &Key, unit: &Unit) {
        for subject in &unit.subjects {
            if let Some(keys) = self.askers.get_mut(subject) {
                keys.remove(key);
                if keys.is_empty() {
                    self.askers.remove(subject);
                }
            }
        }
        for set in &unit.sets {
            if let Some(keys) = self.namers.get_mut(set) {
                keys.remove(key);
                if keys.is_empty() {
                    self.namers.remove(set);
                }
            }
        }
    }
}
