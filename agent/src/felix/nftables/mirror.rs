//! What the table in the kernel holds, as far as a plan has to know: chains, what sets are, and where
//! the keys of verdict maps lead. Not the other elements, of which there may be hundreds of thousands.

use std::collections::HashMap;
use std::sync::Arc;

use calico_datastore::model::InterfaceName;

use super::object::{Chain, Change, Element, Name, SetSpec, Verdict};
use super::wire::read::ListedBase;

/// What is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mirror {
    pub(super) chains: HashMap<Name, Held>,
    pub(super) sets: HashMap<Name, HeldSet>,
}

/// A chain in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// It is this one.
    Known(Arc<Chain>),
    /// It has other rules; how it is called is known.
    Foreign(Option<ListedBase>),
}

impl Held {
    /// How the kernel calls it.
    pub(super) fn base(&self) -> Option<ListedBase> {
        match self {
            Self::Known(chain) => chain.base.map(ListedBase::from),
            Self::Foreign(base) => base.clone(),
        }
    }
}

/// A set in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldSet {
    /// What it is; `None` when somebody else made something of that name.
    pub(super) spec: Option<SetSpec>,
    /// Of a map: where its keys lead.
    pub(super) verdicts: HashMap<Key, Verdict>,
}

/// A key of a verdict map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Group(u32),
    Named(InterfaceName),
}

impl Key {
    /// The key and the verdict of an element of a map.
    pub(super) fn of(element: &Element) -> Option<(Self, &Verdict)> {
        match element {
            Element::Group(group, verdict) => Some((Self::Group(*group), verdict)),
            Element::Named(name, verdict) => Some((Self::Named(name.clone()), verdict)),
            _ => None,
        }
    }

    /// The element of a map.
    pub(super) fn element(self, verdict: Verdict) -> Element {
        match self {
            Self::Group(group) => Element::Group(group, verdict),
            Self::Named(name) => Element::Named(name, verdict),
        }
    }
}

impl Mirror {
    /// The kernel did these changes. What goes goes first: what is named twice is replaced.
    pub(super) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::DeleteChain(name) => drop(self.chains.remove(name)),
                Change::DeleteSet(name) => drop(self.sets.remove(name)),
                Change::Delete(name, element) => {
                    if let Some((key, _)) = Key::of(element)
                        && let Some(set) = self.sets.get_mut(name)
                    {
                        set.verdicts.remove(&key);
                    }
                }
                _ => {}
            }
        }
        for change in changes {
            match change {
                Change::PutChain(name, chain) => {
                    self.chains.insert(name.clone(), Held::Known(Arc::clone(chain)));
                }
                Change::CreateSet(name, spec) => {
                    let set = HeldSet { spec: Some(*spec), verdicts: HashMap::new() };
                    self.sets.insert(name.clone(), set);
                }
                _ => {}
            }
        }
        for change in changes {
            if let Change::Add(name, element) = change
                && let Some((key, verdict)) = Key::of(element)
                && let Some(set) = self.sets.get_mut(name)
            {
                set.verdicts.insert(key, verdict.clone());
            }
        }
    }
}
