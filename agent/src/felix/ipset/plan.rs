//! What has to be written so that the sets become as they should be: pure.
//!
//! In two phases, with the tables between: what rules may need comes before the rules, what rules
//! may still use goes after them.

use std::collections::{BTreeMap, HashSet};

use calico_datastore::model::{Cidr, Family};

use super::{ActualSet, Command, Counts, Entry, SetSpec};
use crate::desired::Member;
use crate::felix::iptables::names;

/// The commands before and after the tables are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// New sets and new members.
    pub before: Vec<Command>,
    /// Members that go, sets that go.
    pub after: Vec<Command>,
}

/// The members that stand for `member` in the kernel's set of `family`: none for the other family,
/// two for "everywhere", which a hash type cannot hold.
pub fn members_of(member: &Member, family: Family) -> Vec<Entry> {
    match *member {
        Member::Net(net) if net.family() == family => match net.halves() {
            Some((low, high)) if net.prefix_len() == 0 => {
                vec![Entry::Net(low), Entry::Net(high)]
            }
            _ => vec![Entry::Net(net)],
        },
        Member::Port(ip, protocol, port) if Family::of(ip) == family => {
            vec![Entry::Port(ip, protocol, port)]
        }
        _ => Vec::new(),
    }
}

/// The members that go from the kernel's set when `removed` goes and `still` tells what stays: half
/// of everything may be a member by itself too.
pub(crate) fn members_gone(
    removed: &Member,
    family: Family,
    still: impl Fn(&Member) -> bool,
) -> Vec<Entry> {
    let everywhere = |net: &Cidr| {
        let any = Cidr::new(net.address(), 0).ok();
        net.prefix_len() <= 1 && any.is_some_and(|any| still(&Member::Net(any)))
    };
    members_of(removed, family)
        .into_iter()
        .filter(|entry| match entry {
            Entry::Net(net) => !still(&Member::Net(*net)) && !everywhere(net),
            Entry::Port(..) | Entry::NetIface(..) => true,
        })
        .collect()
}

/// Plans to make `actual`, all of our sets, equal to `desired`.
pub fn full(
    desired: &BTreeMap<String, (SetSpec, HashSet<Entry>)>,
    actual: &BTreeMap<String, ActualSet>,
) -> Phases {
    let mut phases = Phases::default();
    let mut temporaries = 0;
    for (name, (spec, members)) in desired {
        let fill = |set: &str, out: &mut Vec<Command>| {
            let mut sorted: Vec<&Entry> = members.iter().collect();
            sorted.sort();
            out.extend(sorted.into_iter().map(|m| Command::Add(set.to_owned(), m.clone())));
        };
        match actual.get(name) {
            None => {
                phases.before.push(Command::Create(name.clone(), *spec));
                fill(name, &mut phases.before);
            }
            Some(set) if set.spec == Some(*spec) => {
                let mut added: Vec<&Entry> = members.difference(&set.members).collect();
                // One that is negated and wanted is turned round by adding it.
                let all = set.members.union(&set.negated);
                let mut gone: Vec<&Entry> = all.filter(|m| !members.contains(*m)).collect();
                added.sort();
                gone.sort();
                let add = |m: &Entry| Command::Add(name.clone(), m.clone());
                let delete = |m: &Entry| Command::Delete(name.clone(), m.clone());
                phases.before.extend(added.into_iter().map(add));
                phases.after.extend(gone.into_iter().map(delete));
            }
            Some(set) if set.shape != Some((spec.kind, spec.family)) => {
                // What somebody else made under our name. Only sets of one type change places, and
                // a rule that uses it can only be one that we know to close (it cannot be filled).
                phases.before.push(Command::Destroy(name.clone()));
                phases.before.push(Command::Create(name.clone(), *spec));
                fill(name, &mut phases.before);
            }
            Some(set) => {
                // Another size, with counters or without, or members that go by themselves.
                let mut temporary = names::temporary(spec.family, temporaries);
                while actual.contains_key(&temporary) {
                    temporaries += 1;
                    temporary = names::temporary(spec.family, temporaries);
                }
                temporaries += 1;
                phases.before.push(Command::Create(temporary.clone(), *spec));
                fill(&temporary, &mut phases.before);
                if spec.counters {
                    let mut counts: Vec<_> = set.counts.iter().collect();
                    counts.retain(|(entry, _)| members.contains(*entry));
                    counts.sort_by_key(|(entry, _)| *entry);
                    let count = |(entry, counts): (&Entry, &Counts)| {
                        Command::Count(temporary.clone(), entry.clone(), *counts)
                    };
                    phases.before.extend(counts.into_iter().map(count));
                }
                phases.before.push(Command::Swap(temporary.clone(), name.clone()));
                phases.before.push(Command::Destroy(temporary));
            }
        }
    }
    let gone = actual.keys().filter(|name| !desired.contains_key(*name));
    phases.after.extend(gone.map(|name| Command::Destroy(name.clone())));
    phases
}
