//! The host endpoints in the file. A set that pods need as well stands there once, with theirs.

use std::net::IpAddr;
use std::sync::Arc;

use calico_datastore::model::{HostEndpointId, Name, PolicyId};
use serde::{Deserialize, Serialize};

use super::content::{Dangling, Policy, Profile, Set};
use super::rules::{Tier, active, text, tiers, written_tiers};
use crate::desired::{DesiredState, HostEndpoints, HostTiers, LocalHostEndpoint, SetId};
use crate::felix::ruleset::sets_named;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Both {
    ingress: Vec<Tier>,
    egress: Vec<Tier>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Endpoint {
    name: Arc<str>,
    interface: Option<Arc<str>>,
    addresses: Vec<IpAddr>,
    normal: Both,
    forward: Both,
    untracked: Both,
    pre_dnat: Vec<Tier>,
    profiles: Vec<Arc<str>>,
}

/// Host endpoints, and what only they need.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hosts {
    endpoints: Vec<Endpoint>,
    policies: Vec<Policy>,
    profiles: Vec<Profile>,
    sets: Vec<Set>,
}

impl Hosts {
    /// Those of a state.
    pub(super) fn of(state: &DesiredState) -> Self {
        let hosts = &state.host_endpoints;
        let both = |tiers: &HostTiers| Both {
            ingress: written_tiers(&tiers.ingress),
            egress: written_tiers(&tiers.egress),
        };
        let endpoint = |(id, one): (&HostEndpointId, &Arc<LocalHostEndpoint>)| Endpoint {
            name: text(&id.name),
            interface: one.interface.as_ref().map(text),
            addresses: one.addresses.clone(),
            normal: both(&one.normal),
            forward: both(&one.forward),
            untracked: both(&one.untracked),
            pre_dnat: written_tiers(&one.pre_dnat),
            profiles: one.profiles.iter().map(text).collect(),
        };
        let own = hosts.sets.iter().filter(|(id, _)| !state.sets.contains_key(*id));
        Self {
            endpoints: hosts.endpoints.iter().map(endpoint).collect(),
            policies: hosts.policies.iter().map(|(id, rules)| Policy::of(id, rules)).collect(),
            profiles: hosts.profiles.iter().map(|(name, rules)| Profile::of(name, rules)).collect(),
            sets: own.map(|(id, set)| Set::of(id, set)).collect(),
        }
    }

    /// Puts them into a state that has all that pods need.
    ///
    /// # Errors
    /// When something names what is not there.
    pub(super) fn join(self, state: &mut DesiredState) -> Result<(), Dangling> {
        let mut hosts = HostEndpoints::default();
        let both =
            |both: Both| HostTiers { ingress: tiers(both.ingress), egress: tiers(both.egress) };
        for one in self.endpoints {
            let endpoint = LocalHostEndpoint {
                interface: one.interface.map(|name| Name::from(&*name)),
                addresses: one.addresses,
                normal: both(one.normal),
                forward: both(one.forward),
                untracked: both(one.untracked),
                pre_dnat: tiers(one.pre_dnat),
                profiles: one.profiles.iter().map(|name| Name::from(&**name)).collect(),
            };
            let id = HostEndpointId { name: Name::from(&*one.name) };
            hosts.endpoints.insert(id, Arc::new(endpoint));
        }
        for one in self.policies {
            hosts.policies.insert(PolicyId::from(one.id), active(one.ingress, one.egress));
        }
        for one in self.profiles {
            hosts.profiles.insert(Name::from(&*one.name), active(one.ingress, one.egress));
        }
        let mut own: std::collections::BTreeMap<SetId, _> =
            self.sets.into_iter().map(Set::into_set).collect();
        let policies = hosts.policies.iter().map(|(id, rules)| (format!("policy {id}"), rules));
        let profiles =
            hosts.profiles.iter().map(|(name, rules)| (format!("profile {name}"), rules));
        let mut sets = imbl::OrdMap::new();
        for (subject, rules) in policies.chain(profiles) {
            for id in sets_named(rules).filter(|id| !state.sets.contains_key(*id)) {
                if !sets.contains_key(id) {
                    let Some(set) = own.remove(id) else {
                        return Err(Dangling { subject, object: format!("set {id}") });
                    };
                    sets.insert(id.clone(), set);
                }
            }
            for id in sets_named(rules) {
                if let Some(set) = state.sets.get(id) {
                    sets.insert(id.clone(), set.clone());
                }
            }
        }
        hosts.sets = sets;
        check(&hosts)?;
        state.host_endpoints = hosts;
        Ok(())
    }
}

/// What an endpoint names must be there.
fn check(hosts: &HostEndpoints) -> Result<(), Dangling> {
    for (id, one) in &hosts.endpoints {
        let lists = [&one.normal, &one.forward, &one.untracked];
        let lists = lists.into_iter().flat_map(|tiers| [&tiers.ingress, &tiers.egress]);
        let policies = lists.chain([&one.pre_dnat]).flatten().flat_map(|tier| &tier.policies);
        let policies = policies.filter(|id| !hosts.policies.contains_key(*id));
        let profiles = one.profiles.iter().filter(|name| !hosts.profiles.contains_key(*name));
        let missing = policies.map(|id| format!("policy {id}"));
        let mut missing = missing.chain(profiles.map(|name| format!("profile {name}")));
        if let Some(object) = missing.next() {
            return Err(Dangling { subject: format!("host endpoint {}", id.name), object });
        }
    }
    Ok(())
}
