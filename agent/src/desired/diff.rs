//! What changed between two states, at the cost of what changed.

use std::sync::Arc;

use calico_datastore::model::{HostEndpointId, Name, PolicyId, WorkloadEndpointId};

use imbl::ordmap::DiffItem;
use imbl::ordset::DiffItem as SetDiffItem;
use imbl::{OrdMap, OrdSet};

use super::{
    AclClass, ActiveRules, AddressSet, ClassId, DesiredState, HostEndpoints, LocalEndpoint,
    LocalHostEndpoint, Member, SetId,
};

/// One object that is new, different or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<V> {
    /// Was not there.
    Added(V),
    /// Was different.
    Updated {
        /// Before.
        old: V,
        /// Now.
        new: V,
    },
    /// Is not there any more.
    Removed(V),
}

/// What changed in the members of a set that is in both states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetChange {
    /// Members that are new.
    pub added: Vec<Member>,
    /// Members that are gone.
    pub removed: Vec<Member>,
}

/// The difference of two host parts. Every list is in order of its key.
#[derive(Clone, Debug, Default)]
pub struct HostDiff {
    /// Host endpoints.
    pub endpoints: Vec<(HostEndpointId, Change<Arc<LocalHostEndpoint>>)>,
    /// Policies.
    pub policies: Vec<(PolicyId, Change<Arc<ActiveRules>>)>,
    /// Profiles.
    pub profiles: Vec<(Name, Change<Arc<ActiveRules>>)>,
    /// Sets: of one that is in both, its members.
    pub sets: SetsDiff,
}

/// The difference of two lists of sets.
#[derive(Clone, Debug, Default)]
pub struct SetsDiff {
    /// New.
    pub added: Vec<(SetId, AddressSet)>,
    /// With other members.
    pub changed: Vec<(SetId, SetChange)>,
    /// Gone.
    pub removed: Vec<SetId>,
}

impl HostDiff {
    /// True when nothing differs.
    pub fn is_empty(&self) -> bool {
        let Self { endpoints, policies, profiles, sets } = self;
        endpoints.is_empty() && policies.is_empty() && profiles.is_empty() && sets.is_empty()
    }
}

impl SetsDiff {
    /// True when nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// The difference of two states. Every list is in order of its key.
#[derive(Clone, Debug, Default)]
pub struct DesiredDiff {
    /// Endpoints.
    pub endpoints: Vec<(WorkloadEndpointId, Change<Arc<LocalEndpoint>>)>,
    /// ACL classes; their content follows from their id, so none is ever updated.
    pub classes: Vec<(ClassId, Change<Arc<AclClass>>)>,
    /// Policies.
    pub policies: Vec<(PolicyId, Change<Arc<ActiveRules>>)>,
    /// Profiles.
    pub profiles: Vec<(Name, Change<Arc<ActiveRules>>)>,
    /// Sets that are new.
    pub sets_added: Vec<(SetId, AddressSet)>,
    /// Sets with other members.
    pub sets_changed: Vec<(SetId, SetChange)>,
    /// Sets that are gone.
    pub sets_removed: Vec<SetId>,
    /// The host endpoints, and what they need.
    pub hosts: HostDiff,
    /// The pools are not the same.
    pub pools: bool,
    /// The overlays of pools are not the same.
    pub overlays: bool,
    /// This host's blocks are not the same.
    pub blocks: bool,
    /// BIRD's part is not the same.
    pub bgp: bool,
    /// The settings are not the same.
    pub settings: bool,
    /// Notices, for those who say something once.
    pub notices: Vec<(Arc<str>, Change<Arc<str>>)>,
}

impl DesiredDiff {
    /// True when nothing differs, notices aside.
    pub fn is_empty(&self) -> bool {
        let Self { endpoints, classes, policies, profiles, .. } = self;
        let sets = (&self.sets_added, &self.sets_changed, &self.sets_removed);
        endpoints.is_empty()
            && (classes.is_empty() && policies.is_empty() && profiles.is_empty())
            && (sets.0.is_empty() && sets.1.is_empty() && sets.2.is_empty())
            && self.hosts.is_empty()
            && !(self.pools || self.overlays)
            && !(self.blocks || self.bgp || self.settings)
    }
}

impl DesiredState {
    /// What must change to come from `old` to `self`.
    ///
    /// Costs what differs when one state was made from the other: maps walk down only where their
    /// nodes are not shared, and equal values are recognised by their address.
    pub fn diff(&self, old: &Self) -> DesiredDiff {
        let sets = sets_diff(&old.sets, &self.sets);
        DesiredDiff {
            endpoints: map_diff(&old.endpoints, &self.endpoints),
            classes: map_diff(&old.classes, &self.classes),
            policies: map_diff(&old.policies, &self.policies),
            profiles: map_diff(&old.profiles, &self.profiles),
            notices: map_diff(&old.notices, &self.notices),
            sets_added: sets.added,
            sets_changed: sets.changed,
            sets_removed: sets.removed,
            hosts: host_diff(&old.host_endpoints, &self.host_endpoints),
            pools: !same_map(&old.pools, &self.pools),
            overlays: !same_map(&old.overlays, &self.overlays),
            blocks: !same_set(&old.blocks, &self.blocks),
            bgp: !same_value(&old.bgp, &self.bgp),
            settings: !same_value(&old.settings, &self.settings),
        }
    }

    /// True when everything but generation, revision, origin and settings is equal, at the cost of what
    /// differs.
    pub fn has_content_of(&self, other: &Self) -> bool {
        same_map(&self.endpoints, &other.endpoints)
            && same_map(&self.classes, &other.classes)
            && same_map(&self.policies, &other.policies)
            && same_map(&self.profiles, &other.profiles)
            && same_map(&self.sets, &other.sets)
            && same_host(&self.host_endpoints, &other.host_endpoints)
            && same_map(&self.pools, &other.pools)
            && same_map(&self.overlays, &other.overlays)
            && same_set(&self.blocks, &other.blocks)
            && same_value(&self.bgp, &other.bgp)
            && same_map(&self.notices, &other.notices)
    }
}

fn host_diff(old: &HostEndpoints, new: &HostEndpoints) -> HostDiff {
    HostDiff {
        endpoints: map_diff(&old.endpoints, &new.endpoints),
        policies: map_diff(&old.policies, &new.policies),
        profiles: map_diff(&old.profiles, &new.profiles),
        sets: sets_diff(&old.sets, &new.sets),
    }
}

fn sets_diff(old: &OrdMap<SetId, AddressSet>, new: &OrdMap<SetId, AddressSet>) -> SetsDiff {
    let mut out = SetsDiff::default();
    for item in old.diff(new) {
        match item {
            DiffItem::Add(id, set) => out.added.push((id.clone(), set.clone())),
            DiffItem::Remove(id, _) => out.removed.push(id.clone()),
            DiffItem::Update { old: (id, old), new: (_, new) } => {
                // A set's kind and selector follow from its id; only members ever differ.
                out.changed.push((id.clone(), members_diff(old, new)));
            }
        }
    }
    out
}

/// What is new in a set, and what is gone.
pub fn members_diff(old: &AddressSet, new: &AddressSet) -> SetChange {
    let (added, removed) = set_diff(&old.members, &new.members);
    SetChange { added, removed }
}

fn map_diff<K: Ord + Clone, V: PartialEq + Clone>(
    old: &OrdMap<K, V>,
    new: &OrdMap<K, V>,
) -> Vec<(K, Change<V>)> {
    let change = |item: DiffItem<'_, '_, K, V>| match item {
        DiffItem::Add(key, new) => (key.clone(), Change::Added(new.clone())),
        DiffItem::Remove(key, old) => (key.clone(), Change::Removed(old.clone())),
        DiffItem::Update { old: (_, old), new: (key, new) } => {
            (key.clone(), Change::Updated { old: old.clone(), new: new.clone() })
        }
    };
    old.diff(new).map(change).collect()
}

/// What is new in a set and what is gone.
fn set_diff<T: Ord + Clone>(old: &OrdSet<T>, new: &OrdSet<T>) -> (Vec<T>, Vec<T>) {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for item in old.diff(new) {
        match item {
            SetDiffItem::Add(member) => added.push(member.clone()),
            SetDiffItem::Remove(member) => removed.push(member.clone()),
        }
    }
    (added, removed)
}

/// `imbl` compares maps by a diff that stops at the first difference, so this costs what is not
/// shared.
fn same_map<K: Ord, V: PartialEq>(a: &OrdMap<K, V>, b: &OrdMap<K, V>) -> bool {
    a.ptr_eq(b) || a == b
}

fn same_host(a: &HostEndpoints, b: &HostEndpoints) -> bool {
    same_map(&a.endpoints, &b.endpoints)
        && same_map(&a.policies, &b.policies)
        && same_map(&a.profiles, &b.profiles)
        && same_map(&a.sets, &b.sets)
}

fn same_set<T: Ord>(a: &OrdSet<T>, b: &OrdSet<T>) -> bool {
    a.ptr_eq(b) || a == b
}

fn same_value<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

#[cfg(test)]
mod tests;
