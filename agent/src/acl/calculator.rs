//! The calculation as a whole: takes updates apart, and puts the desired state together.

mod tell;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use calico_datastore::model::{
    AffinityState, HostEndpoint, HostEndpointId, Labels, Name, NetworkSet, NetworkSetId, Policy,
    PolicyId, Profile, ResourceId, Update, WorkloadEndpoint, WorkloadEndpointId,
};

use super::active::ActiveTable;
use super::addresses::Addresses;
use super::bgp::BgpTable;
use super::classes::ClassTable;
use super::endpoints::LocalEndpoints;
use super::generation::Generation;
use super::host::{HostTable, Touched, is_host};
use super::item::ItemId;
use super::notices;
use super::policies::{PolicyChange, PolicyIndex};
use super::pools::PoolTable;
use super::rules;
use super::sets::{Audience, SetIndex};
use super::slots::Slot;
use crate::config::Settings;
use crate::desired::{AclClass, BgpState, DesiredState};

/// The calculation for one host.
///
/// [`Calculator::apply`] takes updates in any order and any portions; [`Calculator::desired`] gives
/// the state that follows from all of them, which depends on the objects alone, and on the one setting
/// that says whose order of policies holds. Both cost what the
/// changes touch. Nothing is resolved before `desired` is called, so the first snapshot is best
/// applied as a whole.
#[derive(Debug)]
pub struct Calculator {
    node: Name,
    policies: PolicyIndex,
    sets: SetIndex,
    endpoints: LocalEndpoints,
    host: HostTable,
    profiles: HashMap<Name, Arc<Profile>>,
    classes: ClassTable,
    active_policies: ActiveTable<PolicyId>,
    active_profiles: ActiveTable<Name>,
    pools: PoolTable,
    bgp: BgpTable,
    dirty_policies: BTreeSet<PolicyId>,
    dirty_profiles: BTreeSet<Name>,
    bgp_dirty: bool,
    /// Policies that are in force because they say so, and those that may or may not be from now on.
    everywhere: BTreeSet<PolicyId>,
    maybe_everywhere: BTreeSet<PolicyId>,
    /// `calicoVersion` of the store.
    version: Option<Arc<str>>,
    /// Policies about which there may be something else to say.
    untold: BTreeSet<PolicyId>,
    /// The state in the making; its generation, revision and settings mean nothing.
    next: DesiredState,
    last: Option<Arc<DesiredState>>,
}

impl Calculator {
    /// The calculation for the host called `node`, with nothing in the store.
    pub fn new(node: Name) -> Self {
        Self {
            node,
            policies: PolicyIndex::default(),
            sets: SetIndex::default(),
            endpoints: LocalEndpoints::default(),
            host: HostTable::default(),
            profiles: HashMap::new(),
            classes: ClassTable::default(),
            active_policies: ActiveTable::of(Audience::Workloads),
            active_profiles: ActiveTable::of(Audience::Workloads),
            pools: PoolTable::default(),
            bgp: BgpTable::default(),
            dirty_policies: BTreeSet::new(),
            dirty_profiles: BTreeSet::new(),
            bgp_dirty: true,
            everywhere: BTreeSet::new(),
            maybe_everywhere: BTreeSet::new(),
            version: None,
            untold: BTreeSet::new(),
            next: DesiredState::default(),
            last: None,
        }
    }

    /// Takes changes of objects. The last one about an object counts.
    pub fn apply(&mut self, updates: impl IntoIterator<Item = Update>) {
        for update in updates {
            self.update(&update);
        }
    }

    /// The state that follows from everything applied so far. The same value as last time when
    /// nothing in it differs; else one with the next generation, starting at 1.
    pub fn desired(&mut self, settings: Arc<Settings>, revision: i64) -> Arc<DesiredState> {
        self.set_generation(settings.calico_version);
        self.calculate();
        if let Some(last) = &self.last {
            let same_settings = Arc::ptr_eq(&last.settings, &settings) || last.settings == settings;
            if same_settings && last.has_content_of(&self.next) {
                return Arc::clone(last);
            }
        }
        let generation = self.last.as_ref().map_or(0, |last| last.generation) + 1;
        let state = Arc::new(DesiredState { generation, revision, settings, ..self.next.clone() });
        self.last = Some(Arc::clone(&state));
        state
    }

    /// The versions of Calico whose names and order of policies hold, as of the last
    /// [`Calculator::desired`].
    pub fn generation(&self) -> Generation {
        self.policies.generation()
    }

    /// `calicoVersion` as the store has it.
    pub fn stored_version(&self) -> Option<&Arc<str>> {
        self.version.as_ref()
    }

    /// How often a selector was evaluated against labels so far: the measure of work that must not
    /// grow with what merely exists.
    pub fn selector_evaluations(&self) -> u64 {
        self.policies.evaluations() + self.sets.evaluations()
    }

    /// How many members of address sets were added, removed or counted so far: likewise.
    pub fn members_touched(&self) -> u64 {
        self.sets.touched()
    }

    /// Fails when a table still holds something of objects that are gone.
    #[cfg(test)]
    pub(super) fn assert_nothing_left(&self) {
        assert!(self.policies.is_empty(), "{:#?}", self.policies);
        assert!(self.sets.is_empty(), "{:#?}", self.sets);
        assert!(self.endpoints.is_empty(), "{:#?}", self.endpoints);
        assert!(self.host.is_empty(), "{:#?}", self.host);
        assert!(self.profiles.is_empty() && self.untold.is_empty());
        assert!(self.everywhere.is_empty() && self.maybe_everywhere.is_empty());
        assert!(self.dirty_policies.is_empty() && self.dirty_profiles.is_empty());
        assert!(self.classes.is_empty() && self.pools.is_empty() && self.bgp.is_empty());
        assert!(self.active_policies.is_empty() && self.active_profiles.is_empty());
    }

    fn update(&mut self, update: &Update) {
        match update {
            Update::ClusterInformation(information) => {
                self.version = information.as_ref().and_then(|i| i.calico_version.clone());
            }
            // Settings are the daemon's business.
            Update::FelixConfiguration(..) => {}
            // What belongs to this host is said by the affinities.
            Update::Block(..) => {}
            Update::BgpConfiguration(name, value) => {
                self.bgp_dirty |= self.bgp.set_configuration(name, value.as_ref());
            }
            Update::Node(name, node) => self.bgp_dirty |= self.bgp.set_node(name, node.as_ref()),
            Update::Pool(name, pool) => {
                self.pools.set(name, pool.as_ref(), &mut self.next);
                self.bgp_dirty = true;
            }
            Update::Tier(name, tier) => self.policies.set_tier(name, tier.as_deref().copied()),
            Update::Profile(name, profile) => self.set_profile(name, profile.as_ref()),
            Update::Policy(id, policy) => self.set_policy(id, policy.as_ref()),
            Update::NetworkSet(id, set) => self.set_network_set(id, set.as_ref()),
            Update::HostEndpoint(id, endpoint) => self.set_host_endpoint(id, endpoint.as_ref()),
            Update::WorkloadEndpoint(id, endpoint) => {
                self.set_workload_endpoint(id, endpoint.as_ref());
            }
            Update::Affinity(id, affinity) => {
                let confirmed =
                    affinity.as_ref().is_some_and(|a| a.state == AffinityState::Confirmed);
                if id.host == self.node && confirmed {
                    self.next.blocks.insert(id.block);
                } else if id.host == self.node {
                    self.next.blocks.remove(&id.block);
                }
            }
        }
    }

    fn set_profile(&mut self, name: &Name, profile: Option<&Arc<Profile>>) {
        // The built-in profile is what it is, whatever somebody stored under its name.
        if *name == Profile::DEFAULT_ALLOW {
            return;
        }
        let old = match profile {
            Some(profile) => self.profiles.insert(name.clone(), Arc::clone(profile)),
            None => self.profiles.remove(name),
        };
        if old.as_ref() == profile {
            return;
        }
        let labels = profile.map_or_else(Labels::default, |profile| profile.labels.clone());
        self.policies.set_profile(name, &labels);
        self.sets.set_profile(name, &labels);
        self.dirty_profiles.insert(name.clone());
        self.host.profile_changed(name);
    }

    fn set_policy(&mut self, id: &PolicyId, policy: Option<&Arc<Policy>>) {
        if self.policies.set_policy(id, policy) != PolicyChange::Nothing {
            self.dirty_policies.insert(id.clone());
            self.host.policy_changed(id);
        }
        if policy.is_some_and(|policy| policy.needed_everywhere) || self.everywhere.contains(id) {
            self.maybe_everywhere.insert(id.clone());
        }
        self.untold.insert(id.clone());
    }

    fn set_network_set(&mut self, id: &NetworkSetId, set: Option<&Arc<NetworkSet>>) {
        let item = ItemId::network_set(id);
        match set {
            Some(set) => {
                let nets = Addresses::Set(Arc::clone(set));
                self.sets.put(item, &set.labels, &set.profiles, nets, Box::default());
            }
            None => self.sets.remove(&item),
        }
    }

    fn set_host_endpoint(&mut self, id: &HostEndpointId, endpoint: Option<&Arc<HostEndpoint>>) {
        self.tell_host_endpoint(id, endpoint.map(|endpoint| &**endpoint));
        let item = ItemId::host(id);
        match endpoint.map(|endpoint| &**endpoint) {
            Some(HostEndpoint { expected_addresses, labels, profiles, ports, .. }) => {
                let addresses = expected_addresses.iter().map(|ip| (*ip).into()).collect();
                let addresses = Addresses::Own(addresses);
                self.sets.put(item, labels, profiles, addresses, ports.as_slice().into());
            }
            None => self.sets.remove(&item),
        }
        match endpoint.filter(|endpoint| endpoint.node == self.node) {
            Some(endpoint) => self.host.put(id, endpoint, &mut self.policies),
            None => self.host.remove(id, &mut self.policies, &mut self.next.host_endpoints),
        }
    }

    fn set_workload_endpoint(
        &mut self,
        id: &WorkloadEndpointId,
        endpoint: Option<&Arc<WorkloadEndpoint>>,
    ) {
        let item = ItemId::workload(id);
        match endpoint.map(|endpoint| &**endpoint) {
            Some(WorkloadEndpoint { addresses, labels, profiles, ports, .. }) => {
                let addresses = Addresses::Own(addresses.as_slice().into());
                self.sets.put(item, labels, profiles, addresses, ports.as_slice().into());
            }
            None => self.sets.remove(&item),
        }
        if id.node != self.node {
            return;
        }
        if let Some(endpoint) = endpoint {
            self.endpoints.put(id, endpoint, &mut self.policies);
        } else if let Some(local) = self.endpoints.remove(id, &mut self.policies) {
            if let Some(class) = local.class {
                self.classes.release(&class);
            }
            self.next.endpoints.remove(id);
            let subject = ResourceId::WorkloadEndpoint(id.clone()).to_string();
            notices::set(&mut self.next.notices, &subject, None);
        }
    }

    /// Brings the state in the making up to date with the indexes. Everything is taken into use
    /// before anything is dropped, so what only moves is neither built nor torn down.
    fn calculate(&mut self) {
        let (host, pods): (Vec<Slot>, Vec<Slot>) =
            self.policies.take_dirty().into_iter().partition(|slot| is_host(*slot));
        for slot in pods {
            self.reclassify(slot);
        }
        for id in std::mem::take(&mut self.maybe_everywhere) {
            self.put_everywhere(&id);
        }
        for id in std::mem::take(&mut self.dirty_policies) {
            if self.active_policies.contains(&id) {
                self.resolve_policy(&id);
            }
        }
        for name in std::mem::take(&mut self.dirty_profiles) {
            if self.active_profiles.contains(&name) {
                self.resolve_profile(&name);
            }
        }
        for class in self.classes.sweep(&mut self.next.classes) {
            let (policies, profiles) = members(&class);
            policies.iter().for_each(|id| self.active_policies.release(id));
            profiles.iter().for_each(|name| self.active_profiles.release(name));
        }
        let dropped = self.active_policies.sweep(&mut self.sets, &mut self.next.policies);
        self.untold.extend(dropped);
        let dropped = self.active_profiles.sweep(&mut self.sets, &mut self.next.profiles);
        let next = &mut self.next.host_endpoints;
        let Touched { policies, profiles } =
            self.host.calculate(host, &self.policies, &self.profiles, &mut self.sets, next);
        self.sets.publish(&mut self.next.sets, &mut next.sets);
        self.untold.extend(policies);
        for id in std::mem::take(&mut self.untold) {
            self.tell_policy(&id);
        }
        for name in dropped.into_iter().chain(profiles) {
            self.tell_profile(&name);
        }
        if std::mem::take(&mut self.bgp_dirty) {
            let state: BgpState = self.bgp.state(&self.node, self.pools.exported());
            if *self.next.bgp != state {
                self.next.bgp = Arc::new(state);
            }
        }
    }

    /// Gives an endpoint of this host the class that it has now.
    fn reclassify(&mut self, slot: Slot) {
        let Some(local) = self.endpoints.get(slot) else { return };
        let id = local.id.clone();
        let subject = ResourceId::WorkloadEndpoint(id.clone()).to_string();
        if let Some(winner) = self.endpoints.rival(local) {
            let notice = notices::of_rival(local.endpoint.interface.as_str(), winner);
            notices::set(&mut self.next.notices, &subject, notice);
            self.next.endpoints.remove(&id);
            if let Some(class) = self.endpoints.get_mut(slot).and_then(|local| local.class.take()) {
                self.classes.release(&class);
            }
            return;
        }
        notices::set(&mut self.next.notices, &subject, None);
        let acl = local.acl(&self.policies);
        let class = acl.id();
        let old = local.class.clone();
        let endpoint = local.desired(class.clone());
        if self.next.endpoints.get(&id).is_none_or(|old| **old != endpoint) {
            self.next.endpoints.insert(id, Arc::new(endpoint));
        }
        if old.as_ref() == Some(&class) {
            return;
        }
        let (policies, profiles) = members(&acl);
        if self.classes.acquire(&class, acl, &mut self.next.classes) {
            for policy in policies {
                if self.active_policies.acquire(&policy) {
                    self.dirty_policies.remove(&policy);
                    self.resolve_policy(&policy);
                }
            }
            for profile in profiles {
                if self.active_profiles.acquire(&profile) {
                    self.dirty_profiles.remove(&profile);
                    self.resolve_profile(&profile);
                }
            }
        }
        if let Some(old) = old {
            self.classes.release(&old);
        }
        if let Some(local) = self.endpoints.get_mut(slot) {
            local.class = Some(class);
        }
    }

    /// Uses a policy that is to be in force without an endpoint, or does so no more.
    fn put_everywhere(&mut self, id: &PolicyId) {
        let needed = self.policies.get(id).is_some_and(|policy| policy.needed_everywhere);
        if needed && self.everywhere.insert(id.clone()) {
            if self.active_policies.acquire(id) {
                self.dirty_policies.remove(id);
                self.resolve_policy(id);
            }
        } else if !needed && self.everywhere.remove(id) {
            self.active_policies.release(id);
        }
    }

    fn resolve_policy(&mut self, id: &PolicyId) {
        // Gone: the sweep that follows drops it, since no class names it any more.
        let Some(policy) = self.policies.get(id) else { return };
        let resolved = rules::resolve(&policy.ingress, &policy.egress);
        self.untold.insert(id.clone());
        self.active_policies.set_rules(id, resolved, &mut self.sets, &mut self.next.policies);
    }

    fn resolve_profile(&mut self, name: &Name) {
        let stored = self.profiles.get(name).map(|profile| &**profile);
        let resolved = rules::of_profile(name, stored);
        self.active_profiles.set_rules(name, resolved, &mut self.sets, &mut self.next.profiles);
        self.tell_profile(name);
    }
}

/// The policies and profiles that a class names, each once.
fn members(class: &AclClass) -> (BTreeSet<PolicyId>, BTreeSet<Name>) {
    let directions = [&class.ingress, &class.egress];
    let tiers = directions.iter().flat_map(|direction| &direction.tiers);
    let policies = tiers.flat_map(|tier| &tier.policies).cloned().collect();
    let profiles = directions.iter().flat_map(|direction| &direction.profiles).cloned().collect();
    (policies, profiles)
}
