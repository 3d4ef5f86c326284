//! What is in the kernel beside what should be: the differences in words, and the changes that undo
//! them. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::contents::{Contents, Set};
use super::mirror::Key;
use super::object::{Chain, Change, Element, Name};
use super::read::{Found, FoundChain, FoundSet};
use super::wire::read::ListedBase;
use crate::drift::{self, Drift};

/// How many elements or rules a line names.
const NAMED: usize = 3;

/// How a table differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In words, one for each object.
    pub drift: Vec<Drift>,
    /// What comes or changes: the first transaction.
    pub now: Vec<Change>,
    /// What nothing needs any more: chains and sets, and keys of maps that lead nowhere. It can wait
    /// until no interface is in a group that goes; the second transaction.
    pub after: Vec<Change>,
}

impl Difference {
    /// Whether everything is as it should be.
    pub fn is_none(&self) -> bool {
        self.now.is_empty() && self.after.is_empty()
    }
}

/// Compares; `None` found = there is no table.
pub fn compare(found: Option<&Found>, wanted: &Contents) -> Difference {
    let mut out = Difference::default();
    let Some(found) = found else {
        out.now = wanted.as_changes();
        out.report("the table", drift::Change::Missing, String::new());
        return out;
    };
    if found.asleep {
        let detail = "it is dormant, so no packet came to it".to_owned();
        out.report("the table", drift::Change::Modified, detail);
        // Whatever is written wakes it.
        let any = wanted.chains.iter().next();
        out.now.extend(any.map(|(name, chain)| Change::PutChain(name.clone(), Arc::clone(chain))));
    }
    for (name, set) in &wanted.sets {
        match found.sets.get(name) {
            Some(there) => out.set(name, set, there),
            None => {
                out.report(&format!("set {name}"), drift::Change::Missing, String::new());
                out.make_set(name, set);
            }
        }
    }
    for (name, chain) in &wanted.chains {
        if found.holds(name, chain) {
            continue;
        }
        let change = Change::PutChain(name.clone(), Arc::clone(chain));
        out.now.push(change);
        match found.chains.get(name) {
            Some(there) => {
                let detail = rules(there, chain);
                out.report(&format!("chain {name}"), drift::Change::Modified, detail);
            }
            None => out.report(&format!("chain {name}"), drift::Change::Missing, String::new()),
        }
    }
    for name in found.chains.keys().filter(|name| !wanted.chains.contains_key(*name)) {
        out.after.push(Change::DeleteChain(name.clone()));
        out.report(&format!("chain {name}"), drift::Change::Unexpected, String::new());
    }
    for name in found.sets.keys().filter(|name| !wanted.sets.contains_key(*name)) {
        out.after.push(Change::DeleteSet(name.clone()));
        out.report(&format!("set {name}"), drift::Change::Unexpected, String::new());
    }
    out
}

impl Difference {
    fn report(&mut self, subject: &str, change: drift::Change, detail: String) {
        self.drift.push(Drift::new(format!("nftables {subject}"), change, detail));
    }

    /// A new set, or one in the place of another.
    fn make_set(&mut self, name: &Name, set: &Set) {
        self.now.push(Change::CreateSet(name.clone(), set.spec));
        let elements = set.elements.iter();
        self.now.extend(elements.map(|element| Change::Add(name.clone(), element)));
    }

    fn set(&mut self, name: &Name, wanted: &Set, there: &FoundSet) {
        let what = format!("set {name}");
        if there.spec != Some(wanted.spec) {
            let detail = "it is of another type".to_owned();
            self.report(&what, drift::Change::Modified, detail);
            return self.remake(name, wanted);
        }
        if !there.strange.is_empty() {
            let detail = format!("it holds {}", first_of(&there.strange));
            self.report(&what, drift::Change::Unexpected, detail);
            return self.remake(name, wanted);
        }
        let held: BTreeSet<&Element> = there.elements.iter().collect();
        let mut missing: Vec<Element> =
            wanted.elements.iter().filter(|element| !held.contains(element)).collect();
        missing.sort();
        let strange: Vec<&Element> =
            held.into_iter().filter(|element| !wanted.elements.contains(element)).collect();
        // A key that is there and leads elsewhere is not missing.
        let missing_keys: BTreeSet<Key> =
            missing.iter().filter_map(|element| Some(Key::of(element)?.0)).collect();
        let (led, strange): (Vec<_>, Vec<_>) = strange.into_iter().partition(|element| {
            Key::of(element).is_some_and(|(key, _)| missing_keys.contains(&key))
        });
        if !led.is_empty() {
            let detail = format!("it led elsewhere: {}", first_of(&led));
            self.report(&what, drift::Change::Modified, detail);
        }
        let led_keys: BTreeSet<Key> =
            led.iter().filter_map(|element| Some(Key::of(element)?.0)).collect();
        let gone: Vec<&Element> = missing
            .iter()
            .filter(|element| Key::of(element).is_none_or(|(key, _)| !led_keys.contains(&key)))
            .collect();
        if !gone.is_empty() {
            let detail = format!("it does not hold {}", first_of(&gone));
            self.report(&what, drift::Change::Missing, detail);
        }
        if !strange.is_empty() {
            let detail = format!("it holds {}", first_of(&strange));
            self.report(&what, drift::Change::Unexpected, detail);
        }
        for element in strange {
            let change = Change::Delete(name.clone(), element.clone());
            // A key of a map is what interfaces are told apart by: it may still be in use.
            let list = if Key::of(element).is_some() { &mut self.after } else { &mut self.now };
            list.push(change);
        }
        self.now.extend(missing.into_iter().map(|element| Change::Add(name.clone(), element)));
    }

    fn remake(&mut self, name: &Name, wanted: &Set) {
        self.now.push(Change::DeleteSet(name.clone()));
        self.make_set(name, wanted);
    }
}

/// The first few of many.
fn first_of<T: ToString>(all: &[T]) -> String {
    let mut named: Vec<String> = all.iter().take(NAMED).map(ToString::to_string).collect();
    if all.len() > NAMED {
        named.push(format!("{} more", all.len() - NAMED));
    }
    named.join(", ")
}

/// How a chain differs.
fn rules(there: &FoundChain, wanted: &Chain) -> String {
    if there.base != wanted.base.map(ListedBase::from) {
        return "its type, hook, priority or policy".to_owned();
    }
    let same = |(found, rule): &(&super::read::FoundRule, &super::object::Rule)| found.is(rule);
    let front = there.rules.iter().zip(&wanted.rules).take_while(same).count();
    let back = (there.rules.iter().rev().zip(wanted.rules.iter().rev())).take_while(same).count();
    let back = back.min(there.rules.len().min(wanted.rules.len()) - front);
    let (found, should) = (there.rules.len() - front - back, wanted.rules.len() - front - back);
    let number = front + 1;
    match (found, should) {
        (0, 1) => format!("rule {number} is gone"),
        (0, many) => format!("{many} rules are gone from rule {number} on"),
        (1, 0) => format!("a rule too many before rule {number}"),
        (many, 0) => format!("{many} rules too many before rule {number}"),
        (1, 1) => format!("rule {number} is another"),
        _ => format!("{should} rules from rule {number} on are {found} others"),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
pub(super) mod tests;
