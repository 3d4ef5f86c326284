//! Anchors: the one demand of a selector that an index finds it by.
//!
//! A selector that demands a label (`k == "v"`, `k in {…}`, `has(k)` on every way through it) can
//! only match where that label is. It is filed under one such demand, and whoever carries none of
//! the values never meets it. A selector without a demand (`all()`, `k != "v"`) is met by all.

use std::collections::HashMap;
use std::sync::Arc;

use calico_datastore::model::Selector;
use calico_datastore::model::selector::Restriction;

use super::labels::LabelIndex;
use super::slots::{Slot, SlotSet};

/// Where a selector is filed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// It matches nothing: filed nowhere.
    Nowhere,
    /// Under a label with any of these values.
    Values(Arc<str>, Vec<Arc<str>>),
    /// Under a label with any value.
    Present(Arc<str>),
    /// No demand.
    Everywhere,
}

impl Anchor {
    /// Every anchor that the selector can be filed under.
    fn choices(selector: &Selector) -> Vec<Self> {
        let restrictions = selector.restrictions();
        if restrictions.values().any(Restriction::is_impossible) {
            return vec![Self::Nowhere];
        }
        let choice = |(key, demand): (Arc<str>, Restriction)| match demand.one_of {
            Some(values) => Some(Self::Values(key, values)),
            None if demand.must_be_present => Some(Self::Present(key)),
            None => None,
        };
        let mut choices: Vec<Self> = restrictions.into_iter().filter_map(choice).collect();
        if choices.is_empty() {
            choices.push(Self::Everywhere);
        }
        choices
    }

    /// The groups to ask a new selector about: by the demand that the fewest groups meet.
    pub(super) fn cheapest_scan(selector: &Selector, labels: &LabelIndex) -> Vec<Slot> {
        let cost = |anchor: &Self| match anchor {
            Self::Nowhere => 0,
            Self::Values(key, values) => labels.count_carriers(key, Some(values)),
            Self::Present(key) => labels.count_carriers(key, None),
            Self::Everywhere => labels.len(),
        };
        let mut groups: Vec<Slot> = match Self::choices(selector).into_iter().min_by_key(cost) {
            None | Some(Self::Nowhere) => Vec::new(),
            Some(Self::Values(key, values)) => labels.carriers(&key, Some(&values)).collect(),
            Some(Self::Present(key)) => labels.carriers(&key, None).collect(),
            Some(Self::Everywhere) => labels.all().collect(),
        };
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

/// Selectors filed under one label.
#[derive(Debug, Default)]
struct KeyAnchors {
    present: SlotSet,
    values: HashMap<Arc<str>, SlotSet>,
}

/// Selectors by their anchors.
#[derive(Debug, Default)]
pub(super) struct AnchorIndex {
    keys: HashMap<Arc<str>, KeyAnchors>,
    everywhere: SlotSet,
}

impl AnchorIndex {
    /// The best place for a selector: where the fewest others are, because whoever carries that
    /// label meets them all. It keeps selectors away from labels that everybody has
    /// (`projectcalico.org/namespace == "default"`).
    pub(super) fn choose(&self, selector: &Selector) -> Anchor {
        let crowd = |anchor: &Anchor| match anchor {
            Anchor::Nowhere => 0,
            Anchor::Values(key, values) => {
                let Some(key) = self.keys.get(key) else { return 0 };
                let crowds = values.iter().filter_map(|value| key.values.get(value));
                crowds.map(SlotSet::len).max().unwrap_or(0)
            }
            Anchor::Present(key) => self.keys.get(key).map_or(0, |key| key.present.len()),
            Anchor::Everywhere => usize::MAX,
        };
        Anchor::choices(selector).into_iter().min_by_key(crowd).unwrap_or(Anchor::Everywhere)
    }

    /// Files a selector.
    pub(super) fn insert(&mut self, anchor: &Anchor, selector: Slot) {
        match anchor {
            Anchor::Nowhere => {}
            Anchor::Everywhere => {
                self.everywhere.insert(selector);
            }
            Anchor::Present(key) => {
                self.keys.entry(Arc::clone(key)).or_default().present.insert(selector);
            }
            Anchor::Values(key, values) => {
                let filed = &mut self.keys.entry(Arc::clone(key)).or_default().values;
                for value in values {
                    filed.entry(Arc::clone(value)).or_default().insert(selector);
                }
            }
        }
    }

    /// Takes a selector out again.
    pub(super) fn remove(&mut self, anchor: &Anchor, selector: Slot) {
        let key = match anchor {
            Anchor::Nowhere => return,
            Anchor::Everywhere => {
                self.everywhere.remove(selector);
                return;
            }
            Anchor::Present(key) | Anchor::Values(key, _) => key,
        };
        let Some(filed) = self.keys.get_mut(key) else { return };
        if let Anchor::Values(_, values) = anchor {
            for value in values {
                if let Some(selectors) = filed.values.get_mut(value) {
                    selectors.remove(selector);
                    if selectors.is_empty() {
                        filed.values.remove(value);
                    }
                }
            }
        } else {
            filed.present.remove(selector);
        }
        if filed.present.is_empty() && filed.values.is_empty() {
            self.keys.remove(key);
        }
    }

    /// True when nothing is filed.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.everywhere.is_empty()
    }

    /// Every selector that may match labels; one may come twice.
    pub(super) fn candidates<'a>(
        &self,
        labels: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>,
    ) -> Vec<Slot> {
        let mut found: Vec<Slot> = self.everywhere.iter().collect();
        for (key, value) in labels {
            let Some(filed) = self.keys.get(key) else { continue };
            found.extend(filed.present.iter());
            if let Some(selectors) = filed.values.get(value) {
                found.extend(selectors.iter());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(index: &AnchorIndex, text: &str) -> Anchor {
        index.choose(&text.parse().unwrap())
    }

    #[test]
    fn a_selector_is_filed_under_what_it_demands() {
        let index = AnchorIndex::default();
        for (text, anchor) in [
            ("all()", Anchor::Everywhere),
            ("a != 'b'", Anchor::Everywhere),
            ("!has(a)", Anchor::Everywhere),
            ("a == 'b' || has(c)", Anchor::Everywhere),
            ("has(a)", Anchor::Present("a".into())),
            ("a starts with 'x'", Anchor::Present("a".into())),
            ("a == 'b'", Anchor::Values("a".into(), vec!["b".into()])),
            ("a == 'b' || a == 'c'", Anchor::Values("a".into(), vec!["b".into(), "c".into()])),
            ("a in {}", Anchor::Nowhere),
            ("has(a) && !has(a)", Anchor::Nowhere),
        ] {
            assert_eq!(choose(&index, text), anchor, "{text}");
        }
    }

    #[test]
    fn the_emptier_place_is_taken() {
        let mut index = AnchorIndex::default();
        let everybody = choose(&index, "ns == 'default'");
        index.insert(&everybody, 0);
        assert_eq!(
            choose(&index, "ns == 'default' && role == 'web'"),
            Anchor::Values("role".into(), vec!["web".into()])
        );
        index.remove(&everybody, 0);
        assert!(index.keys.is_empty());
    }
}
