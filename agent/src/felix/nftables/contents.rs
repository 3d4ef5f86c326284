//! All that the table holds, and what a list of changes makes of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::object::{Chain, Change, Element, Name, SetSpec, Verdict};

/// Everything in our table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Chains by name.
    pub chains: BTreeMap<Name, Arc<Chain>>,
    /// Sets and maps by name.
    pub sets: BTreeMap<Name, Set>,
}

/// A set, or a map, with its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What it is.
    pub spec: SetSpec,
    /// Its elements.
    pub elements: Elements,
}

/// Elements by what is looked up: of a map a key leads to one verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements(HashMap<Element, Option<Verdict>>);

impl Elements {
    /// An element comes; what its key led to before is gone.
    pub fn insert(&mut self, element: Element) {
        let (key, verdict) = split(element);
        self.0.insert(key, verdict);
    }

    /// An element goes. False when it, with that verdict, is not there.
    pub fn remove(&mut self, element: Element) -> bool {
        let (key, verdict) = split(element);
        let there = self.0.get(&key) == Some(&verdict);
        there && self.0.remove(&key).is_some()
    }

    /// True when it is there, of a map with that verdict.
    pub fn contains(&self, element: &Element) -> bool {
        let (key, verdict) = split(element.clone());
        self.0.get(&key) == Some(&verdict)
    }

    /// Where the key of this one leads.
    pub fn verdict(&self, element: &Element) -> Option<&Verdict> {
        self.0.get(&split(element.clone()).0)?.as_ref()
    }

    /// Each of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Element> {
        self.0.iter().map(|(key, verdict)| match (key, verdict) {
            (Element::Group(group, _), Some(verdict)) => Element::Group(*group, verdict.clone()),
            (Element::Named(name, _), Some(verdict)) => {
                Element::Named(name.clone(), verdict.clone())
            }
            _ => key.clone(),
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Element> for Elements {
    fn from_iter<T: IntoIterator<Item = Element>>(iter: T) -> Self {
        let mut out = Self::default();
        iter.into_iter().for_each(|element| out.insert(element));
        out
    }
}

/// The key, with a verdict that says nothing, and the verdict.
fn split(element: Element) -> (Element, Option<Verdict>) {
    match element {
        Element::Group(group, verdict) => (Element::Group(group, Verdict::Drop), Some(verdict)),
        Element::Named(name, verdict) => (Element::Named(name, Verdict::Drop), Some(verdict)),
        other => (other, None),
    }
}

impl Contents {
    /// Carries changes out, as the kernel does with one transaction. What does not fit (an element of
    /// a set that is not there, or one that goes and is not there) is returned: nothing of ours makes
    /// such a change.
    pub fn apply(&mut self, changes: &[Change]) -> Vec<Change> {
        let mut odd = Vec::new();
        // What goes, goes before what comes: an object that is named twice is replaced.
        for change in changes {
            let there = match change {
                Change::DeleteChain(name) => self.chains.remove(name).is_some(),
                Change::DeleteSet(name) => self.sets.remove(name).is_some(),
                _ => continue,
            };
            if !there {
                odd.push(change.clone());
            }
        }
        for change in changes {
            match change {
                Change::PutChain(name, chain) => {
                    self.chains.insert(name.clone(), Arc::clone(chain));
                }
                Change::CreateSet(name, spec) => {
                    let set = Set { spec: *spec, elements: Elements::default() };
                    if self.sets.insert(name.clone(), set).is_some() {
                        odd.push(change.clone());
                    }
                }
                _ => {}
            }
        }
        let deletes = changes.iter().filter(|change| matches!(change, Change::Delete(..)));
        let adds = changes.iter().filter(|change| matches!(change, Change::Add(..)));
        for change in deletes.chain(adds) {
            let fits = match change {
                Change::Delete(set, element) => {
                    self.sets.get_mut(set).is_some_and(|set| set.elements.remove(element.clone()))
                }
                Change::Add(set, element) => self.sets.get_mut(set).is_some_and(|set| {
                    set.elements.insert(element.clone());
                    true
                }),
                _ => true,
            };
            if !fits {
                odd.push(change.clone());
            }
        }
        odd
    }

    /// The changes that make these contents out of nothing.
    pub fn as_changes(&self) -> Vec<Change> {
        let mut out = Vec::new();
        for (name, set) in &self.sets {
            out.push(Change::CreateSet(name.clone(), set.spec));
            out.extend(set.elements.iter().map(|element| Change::Add(name.clone(), element)));
        }
        let chains = self.chains.iter();
        out.extend(chains.map(|(name, chain)| Change::PutChain(name.clone(), Arc::clone(chain))));
        out
    }
}
