//! In which group each interface has to be: pure.

use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::model::InterfaceName;
use imbl::ordmap::DiffItem;

use crate::desired::ClassId;
use crate::drift::{Change, Drift};
use crate::felix::nftables::groups::Grouped;
use crate::felix::nftables::render::groups::is_ours;
use crate::felix::scene::{Changed, Scene};
use crate::felix::watch::{GROUP, Placed};
use crate::routes::monitor::Links;

/// The group of nobody: no map leads on from it.
pub(super) const NONE: u32 = 0;

/// An interface that has to go to another group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    /// Its index.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: InterfaceName,
    /// Where it goes.
    pub(super) to: u32,
}

/// The interfaces whose group may be another: those whose owner changed, and those that are new or
/// another.
pub(super) fn concerned(
    changed: &Changed<'_>,
    before: &Links,
    now: &Links,
) -> BTreeSet<InterfaceName> {
    let mut names: BTreeSet<_> = changed.interfaces.owners.keys().cloned().collect();
    for item in before.diff(now) {
        match item {
            DiffItem::Add(name, _) => drop(names.insert(name.clone())),
            DiffItem::Update { old: (name, old), new: (_, new) } if old.index != new.index => {
                names.insert(name.clone());
            }
            DiffItem::Update { .. } | DiffItem::Remove(..) => {}
        }
    }
    names
}

/// Takes out those that are no more, or another under the same name.
pub(super) fn forget_gone(placed: &mut Placed, before: &Links, now: &Links) {
    for item in before.diff(now) {
        match item {
            DiffItem::Remove(_, old) => drop(placed.remove(&old.index)),
            DiffItem::Update { old: (_, old), new: (_, new) } if old.index != new.index => {
                placed.remove(&old.index);
            }
            DiffItem::Update { .. } | DiffItem::Add(..) => {}
        }
    }
}

/// The moves of these interfaces. `placed`: where they are.
pub(super) fn some(
    names: &BTreeSet<InterfaceName>,
    scene: &Scene<'_>,
    links: &Links,
    placed: &Placed,
    group_of: impl Fn(&ClassId) -> Option<u32>,
) -> Vec<Move> {
    let moves = names.iter().filter_map(|name| {
        let index = links.get(name)?.index;
        let from = placed.get(&index).map(|(_, group)| *group);
        let owner = scene.interfaces.endpoint(name);
        let to = owner.and_then(|owner| group_of(&owner.class)).unwrap_or(NONE);
        // Who is new is in none.
        let same = from.unwrap_or(NONE) == to;
        (!same).then(|| Move { index, name: name.clone(), to })
    });
    moves.collect()
}

/// The moves of all interfaces, as the kernel has them. Without `groups` only those groups matter that nobody
/// else gives: they go. With `only_give` nobody loses a group.
pub(super) fn all(
    held: &BTreeMap<InterfaceName, Grouped>,
    scene: &Scene<'_>,
    group_of: impl Fn(&ClassId) -> Option<u32>,
    groups: bool,
    only_give: bool,
) -> Vec<Move> {
    let moves = held.values().filter_map(|one| {
        let owner = scene.interfaces.endpoint(&one.name);
        let to = match owner {
            Some(owner) if groups => group_of(&owner.class).unwrap_or(NONE),
            _ if is_ours(one.group) && !only_give => NONE,
            _ => return None,
        };
        let moved = Move { index: one.index, name: one.name.clone(), to };
        (one.group != to).then_some(moved)
    });
    moves.collect()
}

/// The interfaces that are where they have to be.
pub(super) fn right(
    held: &BTreeMap<InterfaceName, Grouped>,
    scene: &Scene<'_>,
    group_of: impl Fn(&ClassId) -> Option<u32>,
) -> Placed {
    let owned = held.values().filter_map(|one| {
        let group = group_of(&scene.interfaces.endpoint(&one.name)?.class)?;
        (one.group == group).then(|| (one.index, (one.name.clone(), group)))
    });
    owned.collect()
}

/// What others changed: interfaces that are no longer in the group where we left them.
pub(super) fn drift(
    held: &BTreeMap<InterfaceName, Grouped>,
    placed: &Placed,
    scene: &Scene<'_>,
) -> Vec<Drift> {
    let held: BTreeMap<u32, &Grouped> = held.values().map(|one| (one.index, one)).collect();
    let changed = placed.iter().filter_map(|(index, (name, group))| {
        let one = held.get(index).filter(|one| one.group != *group)?;
        let detail = format!("was {:#x}, should be {group:#x}", one.group);
        let drift = Drift::new(format!("{GROUP}{name}"), Change::Modified, detail);
        Some(drift.of(scene.interfaces.owner(name)))
    });
    changed.collect()
}
