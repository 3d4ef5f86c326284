//! What the calculation tells people: whose order of policies holds, and what of a policy or a
//! profile is not in force as it stands there.

use calico_datastore::model::{
    CalicoVersion, HostEndpoint, HostEndpointId, Name, PolicyId, ResourceId,
};

use super::Calculator;
use crate::acl::generation::Generation;
use crate::acl::notices;

impl Calculator {
    /// Takes over the rules of the version that holds: the one that is set, else the store's.
    pub(super) fn set_generation(&mut self, set: Option<CalicoVersion>) {
        let stored = || self.version.as_ref().and_then(|version| version.parse().ok());
        let generation = Generation::of(set.or_else(stored));
        if self.policies.set_generation(generation) {
            self.untold.extend(self.policies.ids().cloned());
        }
        let unheard = self.version.as_ref().filter(|_| set.is_none());
        let notice = unheard.and_then(|version| notices::of_version(version));
        let subject = ResourceId::ClusterInformation.to_string();
        notices::set(&mut self.next.notices, &subject, notice);
    }

    /// Says what there is to say about a policy.
    pub(super) fn tell_policy(&mut self, id: &PolicyId) {
        let notice = self.policies.any(id).and_then(|policy| {
            let needed = self.active_policies.contains(id) || self.host.needs_policy(id);
            let tier = self.policies.tier_of(id).filter(|_| needed)?;
            notices::of_policy(policy, &tier)
        });
        let subject = ResourceId::Policy(id.clone()).to_string();
        notices::set(&mut self.next.notices, &subject, notice);
    }

    /// Says what of a host endpoint is not in force: of any host's, because what is left out is
    /// missing from the sets of all.
    pub(super) fn tell_host_endpoint(
        &mut self,
        id: &HostEndpointId,
        endpoint: Option<&HostEndpoint>,
    ) {
        let notice = endpoint.and_then(notices::of_host_endpoint);
        let subject = ResourceId::HostEndpoint(id.clone()).to_string();
        notices::set(&mut self.next.notices, &subject, notice);
    }

    /// Says what there is to say about a profile.
    pub(super) fn tell_profile(&mut self, name: &Name) {
        let needed = self.active_profiles.contains(name) || self.host.needs_profile(name);
        let stored = self.profiles.get(name).map(|profile| &**profile);
        let notice = if needed { notices::of_profile(name, stored) } else { None };
        let subject = ResourceId::Profile(name.clone()).to_string();
        notices::set(&mut self.next.notices, &subject, notice);
    }
}
