//! The endpoints of this host.
//!
//! Owns who has which interface. When two endpoints name one interface, the one with the lowest id
//! has it, whatever the order of arrival; the other is not programmed and a notice says so. Giving
//! the interface to both would let each use the other's addresses.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use calico_datastore::model::{
    Cidr, InterfaceName, PolicyKind, WorkloadEndpoint, WorkloadEndpointId,
};

use super::policies::PolicyIndex;
use super::slots::{Slab, Slot};
use crate::desired::{AclClass, ClassId, DirectionAcl, LocalEndpoint};

/// An endpoint of this host.
#[derive(Debug)]
pub(super) struct Local {
    /// Its id.
    pub(super) id: WorkloadEndpointId,
    /// The endpoint.
    pub(super) endpoint: Arc<WorkloadEndpoint>,
    /// Its class, once it has one.
    pub(super) class: Option<ClassId>,
    group: Slot,
}

/// The endpoints of this host.
#[derive(Debug, Default)]
pub(super) struct LocalEndpoints {
    endpoints: Slab<Local>,
    by_id: HashMap<WorkloadEndpointId, Slot>,
    by_interface: HashMap<InterfaceName, BTreeSet<WorkloadEndpointId>>,
}

impl LocalEndpoints {
    /// An endpoint is new or different.
    pub(super) fn put(
        &mut self,
        id: &WorkloadEndpointId,
        endpoint: &Arc<WorkloadEndpoint>,
        policies: &mut PolicyIndex,
    ) {
        let claim = &endpoint.interface;
        let Some(local) = self.by_id.get(id).and_then(|slot| self.endpoints.get_mut(*slot)) else {
            let slot = self.endpoints.insert(Local {
                id: id.clone(),
                endpoint: Arc::clone(endpoint),
                class: None,
                group: 0,
            });
            let group = policies.join(&endpoint.labels, &endpoint.profiles, slot);
            if let Some(local) = self.endpoints.get_mut(slot) {
                local.group = group;
            }
            self.by_id.insert(id.clone(), slot);
            self.claim(claim, id, policies);
            return;
        };
        let slot = self.by_id[id];
        let old = std::mem::replace(&mut local.endpoint, Arc::clone(endpoint));
        let old_group = local.group;
        local.group = policies.join(&endpoint.labels, &endpoint.profiles, slot);
        if local.group != old_group {
            policies.leave(old_group, slot);
        }
        if old.interface != *claim {
            self.unclaim(&old.interface, id, policies);
            self.claim(claim, id, policies);
        }
    }

    /// An endpoint is gone; returns it.
    pub(super) fn remove(
        &mut self,
        id: &WorkloadEndpointId,
        policies: &mut PolicyIndex,
    ) -> Option<Local> {
        let slot = self.by_id.remove(id)?;
        let local = self.endpoints.remove(slot)?;
        policies.leave(local.group, slot);
        self.unclaim(&local.endpoint.interface, id, policies);
        Some(local)
    }

    /// The endpoint at a slot.
    pub(super) fn get(&self, slot: Slot) -> Option<&Local> {
        self.endpoints.get(slot)
    }

    /// The same, to change its class.
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Local> {
        self.endpoints.get_mut(slot)
    }

    /// The endpoint that has the interface instead of this one, if another has it.
    pub(super) fn rival(&self, local: &Local) -> Option<&WorkloadEndpointId> {
        let winner = self.by_interface.get(&local.endpoint.interface)?.first()?;
        (*winner != local.id).then_some(winner)
    }

    /// True when nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.len() == 0 && self.by_id.is_empty() && self.by_interface.is_empty()
    }

    fn claim(&mut self, name: &InterfaceName, id: &WorkloadEndpointId, policies: &mut PolicyIndex) {
        let claims = self.by_interface.entry(name.clone()).or_default();
        let before = claims.first().cloned();
        claims.insert(id.clone());
        // Only the one at the head has it; the others need no second look, but the notices of all
        // losers name the winner.
        if before.as_ref() != claims.first() {
            mark(&self.by_id, claims, policies);
        }
    }

    fn unclaim(
        &mut self,
        name: &InterfaceName,
        id: &WorkloadEndpointId,
        policies: &mut PolicyIndex,
    ) {
        let Some(claims) = self.by_interface.get_mut(name) else { return };
        let had_it = claims.first() == Some(id);
        claims.remove(id);
        if had_it {
            mark(&self.by_id, claims, policies);
        }
        if claims.is_empty() {
            self.by_interface.remove(name);
        }
    }
}

impl Local {
    /// The ACL that follows from policies and profiles.
    pub(super) fn acl(&self, policies: &PolicyIndex) -> AclClass {
        if !self.endpoint.active {
            // Everything is dropped: it needs no policy, and all such endpoints are of one class.
            return AclClass::default();
        }
        let (ingress, egress) =
            policies.resolve(self.group, |policy| policy.kind == PolicyKind::Normal);
        // The profiles are part of both directions even when no tier lets a packet reach them: a
        // tier that passes may come at any time, and the class must not depend on guesses.
        let profiles = &self.endpoint.profiles;
        AclClass {
            active: true,
            ingress: DirectionAcl { tiers: ingress, profiles: profiles.clone() },
            egress: DirectionAcl { tiers: egress, profiles: profiles.clone() },
        }
    }

    /// What the dataplane needs.
    pub(super) fn desired(&self, class: ClassId) -> LocalEndpoint {
        let WorkloadEndpoint { interface, active, mac, addresses, nat, spoof, .. } =
            &*self.endpoint;
        let sorted = |prefixes: &[Cidr]| {
            let mut all = prefixes.to_vec();
            all.sort_unstable();
            all.dedup();
            all
        };
        LocalEndpoint {
            interface: interface.clone(),
            active: *active,
            mac: *mac,
            addresses: sorted(addresses),
            nat: nat.clone(),
            spoof: sorted(spoof),
            class,
        }
    }
}

fn mark(
    by_id: &HashMap<WorkloadEndpointId, Slot>,
    claims: &BTreeSet<WorkloadEndpointId>,
    policies: &mut PolicyIndex,
) {
    for slot in claims.iter().filter_map(|id| by_id.get(id)) {
        policies.mark(*slot);
    }
}
