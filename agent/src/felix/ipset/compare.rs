//! What others changed in our sets, in words: pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{ActualSet, Command, Entry, Phases, SetSpec};
use crate::drift::{Change, Drift};

/// How many members are named.
const NAMED: usize = 3;

/// What differs in `actual` from what we left: from `desired`, less what `pending` is about to change
/// itself. Sets for which `unsure` says yes are left out.
pub fn compare(
    desired: &BTreeMap<String, (SetSpec, HashSet<Entry>)>,
    actual: &BTreeMap<String, ActualSet>,
    pending: &Phases,
    unsure: impl Fn(&str) -> bool,
) -> Vec<Drift> {
    let mut comes: BTreeSet<(&str, &Entry)> = BTreeSet::new();
    let mut goes: BTreeSet<(&str, &Entry)> = BTreeSet::new();
    let mut whole: BTreeSet<&str> = BTreeSet::new();
    for command in pending.before.iter().chain(&pending.after) {
        match command {
            Command::Add(set, entry) => drop(comes.insert((set, entry))),
            Command::Delete(set, entry) => drop(goes.insert((set, entry))),
            // Only in a set that is new.
            Command::Count(..) => {}
            Command::Create(set, _) | Command::Destroy(set) => drop(whole.insert(set)),
            Command::Swap(a, b) => whole.extend([a.as_str(), b.as_str()]),
        }
    }
    let told = |name: &str| !whole.contains(name) && !unsure(name);
    let mut out = Vec::new();
    let mut say = |name: &str, change, detail| {
        out.push(Drift::new(format!("address set {name}"), change, detail));
    };
    for (name, (spec, members)) in desired.iter().filter(|(name, _)| told(name)) {
        let Some(set) = actual.get(name) else {
            say(name, Change::Missing, count(members.len()));
            continue;
        };
        if set.spec != Some(*spec) {
            say(name, Change::Modified, "it is of another type, family or size".to_owned());
            continue;
        }
        let gone = members.difference(&set.members).filter(|m| !comes.contains(&(name, *m)));
        let all = set.members.union(&set.negated).filter(|m| !members.contains(*m));
        let more = all.filter(|m| !goes.contains(&(name, *m)));
        let (gone, more): (BTreeSet<&Entry>, BTreeSet<&Entry>) = (gone.collect(), more.collect());
        match (gone.is_empty(), more.is_empty()) {
            (true, true) => {}
            (false, true) => say(name, Change::Missing, list(&gone)),
            (true, false) => say(name, Change::Unexpected, list(&more)),
            (false, false) => {
                let detail = format!("missing {}; unexpected {}", list(&gone), list(&more));
                say(name, Change::Modified, detail);
            }
        }
    }
    let strays = actual.iter().filter(|(name, _)| !desired.contains_key(*name) && told(name));
    for (name, set) in strays {
        say(name, Change::Unexpected, count(set.members.len()));
    }
    out
}

fn count(members: usize) -> String {
    format!("{members} member{}", if members == 1 { "" } else { "s" })
}

fn list(members: &BTreeSet<&Entry>) -> String {
    let first: Vec<String> = members.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if members.len() > NAMED { ", …" } else { "" };
    format!("{}: {}{more}", count(members.len()), first.join(", "))
}
