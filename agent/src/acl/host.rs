//! The host endpoints of this host: which policies, profiles and sets they need.
//!
//! A host endpoint meets policies in the same match index as the endpoints of pods; what it needs is
//! counted and published apart from what they need.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use calico_datastore::model::{
    HostEndpoint, HostEndpointId, Name, Policy, PolicyId, PolicyKind, Profile,
};

use super::active::ActiveTable;
use super::policies::PolicyIndex;
use super::rules;
use super::sets::{Audience, SetIndex};
use super::slots::{Slab, Slot};
use crate::desired::{self, HostTiers, LocalHostEndpoint, TierAcl};

/// Marks a slot of the policy index as that of a host endpoint: pods and hosts are numbered apart.
const HOST: Slot = 1 << (Slot::BITS - 1);

/// True when a slot of the policy index is that of a host endpoint.
pub(super) fn is_host(slot: Slot) -> bool {
    slot & HOST != 0
}

/// A host endpoint of this host.
#[derive(Debug)]
struct Local {
    id: HostEndpointId,
    endpoint: Arc<HostEndpoint>,
    group: Slot,
    /// What it uses, counted.
    uses: Uses,
}

/// Policies and profiles that a host endpoint needs.
#[derive(Debug, Default)]
struct Uses {
    policies: BTreeSet<PolicyId>,
    profiles: BTreeSet<Name>,
}

/// Policies and profiles about which there may be something else to say.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Policies.
    pub(super) policies: Vec<PolicyId>,
    /// Profiles.
    pub(super) profiles: Vec<Name>,
}

/// The host endpoints of this host.
#[derive(Debug)]
pub(super) struct HostTable {
    endpoints: Slab<Local>,
    by_id: HashMap<HostEndpointId, Slot>,
    policies: ActiveTable<PolicyId>,
    profiles: ActiveTable<Name>,
    dirty_policies: BTreeSet<PolicyId>,
    dirty_profiles: BTreeSet<Name>,
}

impl Default for HostTable {
    fn default() -> Self {
        Self {
            endpoints: Slab::default(),
            by_id: HashMap::new(),
            policies: ActiveTable::of(Audience::Host),
            profiles: ActiveTable::of(Audience::Host),
            dirty_policies: BTreeSet::new(),
            dirty_profiles: BTreeSet::new(),
        }
    }
}

impl HostTable {
    /// A host endpoint of this host is new or different.
    pub(super) fn put(
        &mut self,
        id: &HostEndpointId,
        endpoint: &Arc<HostEndpoint>,
        policies: &mut PolicyIndex,
    ) {
        let HostEndpoint { labels, profiles, .. } = &**endpoint;
        let Some(&slot) = self.by_id.get(id) else {
            let slot = self.endpoints.insert(Local {
                id: id.clone(),
                endpoint: Arc::clone(endpoint),
                group: 0,
                uses: Uses::default(),
            });
            let group = policies.join(labels, profiles, slot | HOST);
            if let Some(local) = self.endpoints.get_mut(slot) {
                local.group = group;
            }
            self.by_id.insert(id.clone(), slot);
            return;
        };
        let Some(local) = self.endpoints.get_mut(slot) else { return };
        local.endpoint = Arc::clone(endpoint);
        let group = policies.join(labels, profiles, slot | HOST);
        let old = std::mem::replace(&mut local.group, group);
        if old != group {
            policies.leave(old, slot | HOST);
        }
    }

    /// A host endpoint is gone, or is another host's.
    pub(super) fn remove(
        &mut self,
        id: &HostEndpointId,
        policies: &mut PolicyIndex,
        next: &mut desired::HostEndpoints,
    ) {
        let Some(slot) = self.by_id.remove(id) else { return };
        let Some(local) = self.endpoints.remove(slot) else { return };
        policies.leave(local.group, slot | HOST);
        self.release(&local.uses);
        next.endpoints.remove(id);
    }

    /// A policy has other rules, or is gone.
    pub(super) fn policy_changed(&mut self, id: &PolicyId) {
        if self.policies.contains(id) {
            self.dirty_policies.insert(id.clone());
        }
    }

    /// A profile has other rules, or is gone.
    pub(super) fn profile_changed(&mut self, name: &Name) {
        if self.profiles.contains(name) {
            self.dirty_profiles.insert(name.clone());
        }
    }

    /// True when a host endpoint needs the policy.
    pub(super) fn needs_policy(&self, id: &PolicyId) -> bool {
        self.policies.contains(id)
    }

    /// True when a host endpoint lists the profile.
    pub(super) fn needs_profile(&self, name: &Name) -> bool {
        self.profiles.contains(name)
    }

    /// Brings the state in the making up to date. `marked` are the slots of the policy index to
    /// look at again. Returns what is needed since now, has other rules, or is needed no more.
    pub(super) fn calculate(
        &mut self,
        marked: Vec<Slot>,
        policies: &PolicyIndex,
        profiles: &HashMap<Name, Arc<Profile>>,
        sets: &mut SetIndex,
        next: &mut desired::HostEndpoints,
    ) -> Touched {
        for slot in marked {
            self.resolve(slot & !HOST, policies, next);
        }
        let mut touched = Touched {
            policies: self.dirty_policies.iter().cloned().collect(),
            profiles: self.dirty_profiles.iter().cloned().collect(),
        };
        for id in std::mem::take(&mut self.dirty_policies) {
            // One that is gone is used by nobody any more: the sweep drops it.
            let Some(policy) = policies.any(&id) else { continue };
            let resolved = rules::resolve(&policy.ingress, &policy.egress);
            self.policies.set_rules(&id, resolved, sets, &mut next.policies);
        }
        for name in std::mem::take(&mut self.dirty_profiles) {
            let resolved = rules::of_profile(&name, profiles.get(&name).map(|stored| &**stored));
            self.profiles.set_rules(&name, resolved, sets, &mut next.profiles);
        }
        touched.policies.extend(self.policies.sweep(sets, &mut next.policies));
        touched.profiles.extend(self.profiles.sweep(sets, &mut next.profiles));
        touched
    }

    /// True when nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let endpoints = self.endpoints.len() == 0 && self.by_id.is_empty();
        let dirty = (self.dirty_policies.is_empty(), self.dirty_profiles.is_empty());
        endpoints && self.policies.is_empty() && self.profiles.is_empty() && dirty == (true, true)
    }

    fn resolve(&mut self, slot: Slot, policies: &PolicyIndex, next: &mut desired::HostEndpoints) {
        let Some(local) = self.endpoints.get_mut(slot) else { return };
        let endpoint = local.desired(policies);
        let new = Uses::of(&endpoint);
        // Taken before the old ones go: what stays is never unused.
        for policy in &new.policies {
            if self.policies.acquire(policy) {
                self.dirty_policies.insert(policy.clone());
            }
        }
        for profile in &new.profiles {
            if self.profiles.acquire(profile) {
                self.dirty_profiles.insert(profile.clone());
            }
        }
        let old = std::mem::replace(&mut local.uses, new);
        if next.endpoints.get(&local.id).is_none_or(|old| **old != endpoint) {
            next.endpoints.insert(local.id.clone(), Arc::new(endpoint));
        }
        self.release(&old);
    }

    fn release(&mut self, uses: &Uses) {
        uses.policies.iter().for_each(|id| self.policies.release(id));
        uses.profiles.iter().for_each(|name| self.profiles.release(name));
    }
}

impl Uses {
    fn of(endpoint: &LocalHostEndpoint) -> Self {
        // What applies on forward is part of the normal tiers.
        let LocalHostEndpoint { normal, untracked, pre_dnat, profiles, .. } = endpoint;
        let both = [normal, untracked].into_iter();
        let lists = both.flat_map(|tiers| [&tiers.ingress, &tiers.egress]).chain([pre_dnat]);
        Self {
            policies: lists.flatten().flat_map(|tier| &tier.policies).cloned().collect(),
            profiles: profiles.iter().cloned().collect(),
        }
    }
}

impl Local {
    /// What follows from policies and profiles.
    fn desired(&self, policies: &PolicyIndex) -> LocalHostEndpoint {
        let HostEndpoint { interface, expected_addresses, profiles, .. } = &*self.endpoint;
        let mut addresses = expected_addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        let tiers = |applies: fn(&Policy) -> bool| {
            let (ingress, egress): (Vec<TierAcl>, Vec<TierAcl>) =
                policies.resolve(self.group, applies);
            HostTiers { ingress, egress }
        };
        LocalHostEndpoint {
            interface: interface.clone(),
            addresses,
            normal: tiers(|policy| policy.kind == PolicyKind::Normal),
            forward: tiers(|policy| policy.kind == PolicyKind::Normal && policy.apply_on_forward),
            untracked: tiers(|policy| policy.kind == PolicyKind::Untracked),
            // A destination is translated once, on the way in: there is nothing to ask on the way
            // out, whatever the policy says that it governs.
            pre_dnat: tiers(|policy| policy.kind == PolicyKind::PreDnat).ingress,
            profiles: profiles.clone(),
        }
    }
}
