//! What must follow from a state, and what does, in one form.

use std::collections::{BTreeMap, BTreeSet};

use calico_agent::desired::{ActiveRules, AddressSet, DesiredState, Member, SetId, TierAcl};
use calico_datastore::model::{Cidr, Name, PolicyId};
use serde_json::Value;

use super::state::{list, text};

/// A tier with its policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tier {
    pub(crate) name: String,
    pub(crate) ingress: Vec<String>,
    pub(crate) egress: Vec<String>,
}

/// The tiers of an endpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) normal: Vec<Tier>,
    pub(crate) untracked: Vec<Tier>,
    pub(crate) pre_dnat: Vec<Tier>,
}

/// What must follow, in a form that both sides can be brought to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Workload endpoints by `orchestrator/workload/endpoint`, host endpoints by name.
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    pub(crate) policies: BTreeSet<String>,
    pub(crate) untracked_policies: BTreeSet<String>,
    pub(crate) pre_dnat_policies: BTreeSet<String>,
    pub(crate) profiles: BTreeSet<String>,
    /// Set id → members.
    pub(crate) sets: BTreeMap<String, BTreeSet<String>>,
}

/// What the case says.
pub(crate) fn expected(state: &Value, ids: &Value) -> Outcome {
    let expected = &state["expected"];
    // 2.6 writes a policy as its name, 3.32 as an object.
    let name = |policy: &Value| policy.as_str().unwrap_or_else(|| text(&policy["Name"])).to_owned();
    let ids_of = |key: &str| list(&expected[key]).map(|id| text(&id["Name"]).to_owned()).collect();
    let mut outcome = Outcome {
        policies: ids_of("active_policies"),
        untracked_policies: ids_of("untracked_policies"),
        pre_dnat_policies: ids_of("pre_dnat_policies"),
        profiles: ids_of("active_profiles"),
        ..Outcome::default()
    };
    for (id, endpoint) in expected["endpoints"].as_object().unwrap() {
        let tier = |tier: &Value| Tier {
            name: text(&tier["Name"]).to_owned(),
            ingress: list(&tier["IngressPolicies"]).map(name).collect(),
            egress: list(&tier["EgressPolicies"]).map(name).collect(),
        };
        let tiers = |key: &str| list(&endpoint[key]).map(tier).collect();
        let endpoint = Endpoint {
            normal: tiers("tiers"),
            untracked: tiers("untracked_tiers"),
            pre_dnat: tiers("pre_dnat_tiers"),
        };
        outcome.endpoints.insert(id.clone(), endpoint);
    }
    for (symbol, members) in expected["ipsets"].as_object().unwrap() {
        // 2.6 writes an address without its length, and one address of a set may be in it twice.
        let member = |member: &Value| match text(member).parse::<Cidr>() {
            Ok(cidr) => cidr.to_string(),
            Err(_) => text(member).to_owned(),
        };
        let members = list(members).map(member).collect();
        // Sets of Kubernetes services have no id there; states with one are left out.
        let id = ids[symbol].as_str().unwrap_or(symbol);
        outcome.sets.insert(id.to_owned(), members);
    }
    outcome
}

/// What was calculated. What pods and what host endpoints need are two parts here and one there.
pub(crate) fn outcome(state: &DesiredState) -> Outcome {
    let host = &state.host_endpoints;
    let mut outcome = Outcome::default();
    for (id, endpoint) in &state.endpoints {
        let class = &state.classes[&endpoint.class];
        let normal = tiers(&class.ingress.tiers, &class.egress.tiers);
        outcome.endpoints.insert(id.on_host(), Endpoint { normal, ..Endpoint::default() });
    }
    for (id, local) in &host.endpoints {
        let endpoint = Endpoint {
            normal: tiers(&local.normal.ingress, &local.normal.egress),
            untracked: tiers(&local.untracked.ingress, &local.untracked.egress),
            pre_dnat: tiers(&local.pre_dnat, &[]),
        };
        outcome.untracked_policies.extend(names(&endpoint.untracked));
        outcome.pre_dnat_policies.extend(names(&endpoint.pre_dnat));
        // The v1 layout has the host in front.
        let name = id.name.as_str();
        let own = name.split_once('/').map_or(name, |(_, name)| name);
        outcome.endpoints.insert(own.to_owned(), endpoint);
    }
    outcome.need(state.policies.keys(), state.profiles.keys(), &state.sets);
    outcome.need(host.policies.keys(), host.profiles.keys(), &host.sets);
    agree(&state.policies, &host.policies);
    agree(&state.profiles, &host.profiles);
    outcome
}

impl Outcome {
    fn need<'a>(
        &mut self,
        policies: impl Iterator<Item = &'a PolicyId>,
        profiles: impl Iterator<Item = &'a Name>,
        sets: &imbl::OrdMap<SetId, AddressSet>,
    ) {
        self.policies.extend(policies.map(|id| id.name.to_string()));
        self.profiles.extend(profiles.map(ToString::to_string));
        for (id, set) in sets {
            let members = set.members.iter().map(member).collect();
            if let Some(other) = self.sets.insert(id.to_string(), members) {
                assert_eq!(other, self.sets[id.as_str()], "the two parts disagree about {id}");
            }
        }
    }
}

/// What is in both parts is the same in both.
fn agree<K: Ord + std::fmt::Debug>(
    pods: &imbl::OrdMap<K, std::sync::Arc<ActiveRules>>,
    host: &imbl::OrdMap<K, std::sync::Arc<ActiveRules>>,
) {
    for (id, rules) in host {
        assert!(pods.get(id).is_none_or(|other| other == rules), "the two parts disagree: {id:?}");
    }
}

fn names(tiers: &[Tier]) -> impl Iterator<Item = String> + '_ {
    tiers.iter().flat_map(|tier| tier.ingress.iter().chain(&tier.egress)).cloned()
}

fn member(member: &Member) -> String {
    match member {
        Member::Net(cidr) => cidr.to_string(),
        Member::Port(address, protocol, port) => format!("{address},{protocol}:{port}"),
    }
}

/// Both directions list their tiers in the same order; here they become one list.
fn tiers(ingress: &[TierAcl], egress: &[TierAcl]) -> Vec<Tier> {
    let mut order: Vec<&Name> = ingress.iter().map(|acl| &acl.tier).collect();
    for (at, acl) in egress.iter().enumerate() {
        if !order.contains(&&acl.tier) {
            order.insert(at.min(order.len()), &acl.tier);
        }
    }
    let policies = |direction: &[TierAcl], tier: &Name| -> Vec<String> {
        let tiers = direction.iter().filter(|acl| acl.tier == *tier);
        tiers.flat_map(|acl| &acl.policies).map(|id| id.name.to_string()).collect()
    };
    let tier = |tier: &Name| Tier {
        name: tier.to_string(),
        ingress: policies(ingress, tier),
        egress: policies(egress, tier),
    };
    order.into_iter().map(tier).collect()
}
