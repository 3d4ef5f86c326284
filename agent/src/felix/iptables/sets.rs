//! Which sets a desired state needs in the kernel, and what a change of it changes in them: pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use calico_datastore::model::{Cidr, Family};

use super::members::{self, Kinds};
use super::names;
use crate::desired::{
    AddressSet, Change, DesiredDiff, DesiredState, Member, SetId, SetKind, SetsDiff, members_diff,
};
use crate::felix::endpoints::Interfaces;
use crate::felix::ipset::{
    ActualSet, Command, Entry, Phases, SetSpec, SetType, full, members_gone, members_of,
};
use crate::felix::scene::Changed;

fn kind(set: &AddressSet) -> SetType {
    match set.kind {
        SetKind::Net => SetType::Net,
        SetKind::Port => SetType::Port,
    }
}

fn spec(state: &DesiredState, kind: SetType, family: Family) -> SetSpec {
    SetSpec { kind, family, max: state.settings.max_ipset_size, counters: false }
}

/// A set of the (prefix, interface) pairs of endpoints, which may count.
fn of_endpoints(state: &DesiredState, family: Family) -> SetSpec {
    let counters = state.settings.endpoint_counters;
    SetSpec { counters, ..spec(state, SetType::NetIface, family) }
}

/// The members of the set of all pools and of the set of masqueraded pools.
fn pool_members(state: &DesiredState, family: Family) -> [(String, HashSet<Entry>); 2] {
    let of = |wanted: fn(bool) -> bool| {
        let pools = state.pools.iter().filter(|(_, nat)| wanted(**nat)).map(|(cidr, _)| *cidr);
        pools.flat_map(|cidr: Cidr| members_of(&Member::Net(cidr), family)).collect()
    };
    [
        (names::all_pools(family), of(|_| true)),
        (names::masq_pools(family), of(|masquerade| masquerade)),
    ]
}

/// Every set of rules: what pods need, and what only host endpoints need.
fn of_rules(state: &DesiredState) -> impl Iterator<Item = (&SetId, &AddressSet)> {
    let hosts = state.host_endpoints.sets.iter();
    state.sets.iter().chain(hosts.filter(|(id, _)| !state.sets.contains_key(*id)))
}

/// A set of rules.
fn of_rules_named<'a>(state: &'a DesiredState, id: &SetId) -> Option<&'a AddressSet> {
    state.sets.get(id).or_else(|| state.host_endpoints.sets.get(id))
}

/// What differs of the sets of rules. A set that pods needed and now only host endpoints need stays,
/// and what it holds is the same for both.
fn rules_diff(old: &DesiredState, new: &DesiredState, diff: &DesiredDiff) -> SetsDiff {
    let hosts = &diff.hosts.sets;
    if hosts.is_empty() && new.host_endpoints.sets.is_empty() {
        let (added, changed) = (diff.sets_added.clone(), diff.sets_changed.clone());
        return SetsDiff { added, changed, removed: diff.sets_removed.clone() };
    }
    let added = diff.sets_added.iter().chain(&hosts.added).map(|(id, _)| id);
    let changed = diff.sets_changed.iter().chain(&hosts.changed).map(|(id, _)| id);
    let removed = diff.sets_removed.iter().chain(&hosts.removed);
    let ids: BTreeSet<&SetId> = added.chain(changed).chain(removed).collect();
    let mut out = SetsDiff::default();
    for id in ids {
        match (of_rules_named(old, id), of_rules_named(new, id)) {
            (None, Some(set)) => out.added.push((id.clone(), set.clone())),
            (Some(_), None) => out.removed.push(id.clone()),
            (Some(old), Some(new)) => out.changed.push((id.clone(), members_diff(old, new))),
            (None, None) => {}
        }
    }
    out
}

/// Every set with every member.
pub(in crate::felix) fn all(
    state: &DesiredState,
    interfaces: &Interfaces,
    families: &[Family],
) -> BTreeMap<String, (SetSpec, HashSet<Entry>)> {
    let mut out = BTreeMap::new();
    for &family in families {
        for (id, set) in of_rules(state) {
            let members = set.members.iter().flat_map(|m| members_of(m, family)).collect();
            out.insert(names::set(family, id), (spec(state, kind(set), family), members));
        }
        for (name, members) in pool_members(state, family) {
            out.insert(name, (spec(state, SetType::Net, family), members));
        }
        let classes = state.classes.iter().filter(|(_, class)| class.active);
        for (id, _) in classes {
            let spec = spec(state, SetType::NetIface, family);
            out.insert(names::class_set(family, id), (spec, HashSet::new()));
        }
        let spoofed = interfaces.spoofers().get(&family).map(|_| names::spoofed(family));
        let counting = names::counting(family).into_iter();
        let counting = counting.filter(|_| state.settings.endpoint_counters);
        for name in [names::local_endpoints(family)].into_iter().chain(spoofed).chain(counting) {
            out.insert(name, (of_endpoints(state, family), HashSet::new()));
        }
        let kinds = Kinds::of(&state.settings);
        let members = interfaces.owners().flat_map(|(_, e)| members::of(e, family, kinds));
        for (name, member) in members {
            if let Some((_, members)) = out.get_mut(&name) {
                members.insert(member);
            }
        }
    }
    out
}

/// Those of the sets of rules that have one of these names, with every member.
pub(in crate::felix) fn some(
    state: &DesiredState,
    families: &[Family],
    wanted: &BTreeSet<String>,
) -> Vec<(Family, String, SetSpec, Vec<Entry>)> {
    let mut out = Vec::new();
    for &family in families {
        for (id, set) in of_rules(state) {
            let name = names::set(family, id);
            if wanted.contains(&name) {
                let members = set.members.iter().flat_map(|m| members_of(m, family)).collect();
                out.push((family, name, spec(state, kind(set), family), members));
            }
        }
    }
    out
}

/// What makes `actual` equal to `desired`, which is [`all`]. The sets of a family that is switched
/// off go; those of one that this kernel does not know (`known`) stay.
pub(in crate::felix) fn full_plan(
    desired: &BTreeMap<String, (SetSpec, HashSet<Entry>)>,
    known: &[Family],
    actual: &BTreeMap<String, ActualSet>,
) -> Phases {
    let mut phases = full(desired, actual);
    phases.after.retain(|command| {
        names::family_of_set(command.set()).is_none_or(|family| known.contains(&family))
    });
    phases
}

/// True when a set of that name would be of one of these families. One of an old Felix whose name does
/// not tell is of none.
pub(in crate::felix) fn is_of<'a>(
    families: impl IntoIterator<Item = &'a Family>,
    name: &str,
) -> bool {
    let family = names::family_of_set(name);
    families.into_iter().any(|one| family == Some(*one))
}

/// What a difference changes.
pub(in crate::felix) fn changed(
    new: &DesiredState,
    changed: &Changed<'_>,
    families: &[Family],
) -> Phases {
    let Changed { old, diff, interfaces, .. } = *changed;
    let mut out = Phases::default();
    let sets = rules_diff(old, new, diff);
    for &family in families {
        for (id, set) in &sets.added {
            let name = names::set(family, id);
            out.before.push(Command::Create(name.clone(), spec(new, kind(set), family)));
            let members = set.members.iter().flat_map(|m| members_of(m, family));
            out.before.extend(members.map(|m| Command::Add(name.clone(), m)));
        }
        for (id, change) in &sets.changed {
            let name = names::set(family, id);
            let added = change.added.iter().flat_map(|m| members_of(m, family));
            out.before.extend(added.map(|m| Command::Add(name.clone(), m)));
            let still = |m: &Member| holds(new, id, m);
            let gone = change.removed.iter().flat_map(|m| members_gone(m, family, still));
            out.after.extend(gone.map(|m| Command::Delete(name.clone(), m)));
        }
        for (id, change) in &diff.classes {
            let name = names::class_set(family, id);
            match change {
                Change::Added(class) if class.active => {
                    let spec = spec(new, SetType::NetIface, family);
                    out.before.push(Command::Create(name, spec));
                }
                Change::Removed(class) if class.active => out.after.push(Command::Destroy(name)),
                Change::Added(_) | Change::Removed(_) | Change::Updated { .. } => {}
            }
        }
        if interfaces.spoof_begins.contains(&family) {
            let spec = of_endpoints(new, family);
            out.before.push(Command::Create(names::spoofed(family), spec));
        }
        if interfaces.spoof_ends.contains(&family) {
            out.after.push(Command::Destroy(names::spoofed(family)));
        }
        if diff.pools {
            let (before, after) = (pool_members(old, family), pool_members(new, family));
            for ((name, old), (_, new)) in before.into_iter().zip(after) {
                let added = new.difference(&old).cloned();
                out.before.extend(added.map(|m| Command::Add(name.clone(), m)));
                let gone = old.difference(&new).cloned();
                out.after.extend(gone.map(|m| Command::Delete(name.clone(), m)));
            }
        }
        for id in &sets.removed {
            out.after.push(Command::Destroy(names::set(family, id)));
        }
    }
    let (added, removed) = members::changed(interfaces, families, Kinds::of(&new.settings));
    out.before.extend(added.into_iter().map(|(set, member)| Command::Add(set, member)));
    let gone = removed.into_iter().map(|(set, member)| Command::Delete(set, member));
    // Before the sets themselves go.
    out.after.splice(0..0, gone.collect::<Vec<_>>());
    out
}

fn holds(state: &DesiredState, id: &SetId, member: &Member) -> bool {
    of_rules_named(state, id).is_some_and(|set| set.members.contains(member))
}
