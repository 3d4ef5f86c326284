//! Short ways to look at a state.

use std::sync::Arc;

use calico_datastore::model::{Order, Policy, Rule, TierAction, Update, WorkloadEndpoint};

use super::make::*;
use super::{Bench, HOST};
use crate::desired::{AclClass, AddressSet, DesiredState, DirectionAcl, SetId};

/// A local endpoint `w` with labels and profiles, at 10.0.0.1.
pub(super) fn endpoint(own: &str, profiles: &str) -> Update {
    put_wep(HOST, "w", with(wep("w", "10.0.0.1"), own, profiles))
}

pub(super) fn with(mut endpoint: WorkloadEndpoint, own: &str, profiles: &str) -> WorkloadEndpoint {
    endpoint.labels = labels(own);
    endpoint.profiles = names(profiles);
    endpoint
}

pub(super) fn tier_policy(tier: &str, place: Order) -> Policy {
    Policy { tier: Some(tier.into()), order: place, ..policy("all()") }
}

pub(super) fn class(state: &DesiredState, workload: &str) -> Arc<AclClass> {
    let endpoint = &state.endpoints[&wep_id(HOST, workload)];
    Arc::clone(&state.classes[&endpoint.class])
}

/// `tier: a b | tier2 (pass): c`.
pub(super) fn show(direction: &DirectionAcl) -> String {
    let tier = |tier: &crate::desired::TierAcl| {
        let pass = if tier.default_action == TierAction::Pass { " (pass)" } else { "" };
        let policies: Vec<String> = tier.policies.iter().map(ToString::to_string).collect();
        format!("{}{pass}: {}", tier.tier, policies.join(" "))
    };
    direction.tiers.iter().map(tier).collect::<Vec<_>>().join(" | ")
}

/// The tiers of `w`, which must be the same in both directions.
#[track_caller]
pub(super) fn tiers(state: &DesiredState) -> String {
    let class = class(state, "w");
    assert_eq!(class.ingress, class.egress);
    show(&class.ingress)
}

/// The set of a selector.
pub(super) fn set<'a>(state: &'a DesiredState, text: &str) -> Option<&'a AddressSet> {
    let found = state.sets.values().find(|set| *set.selector == *text)?;
    Some(found)
}

/// The id of a selector's set.
pub(super) fn set_id(state: &DesiredState, text: &str) -> SetId {
    let found = state.sets.iter().find(|(_, set)| *set.selector == *text);
    found.map(|(id, _)| id.clone()).unwrap_or_else(|| panic!("no set {text} in {:?}", state.sets))
}

/// The members of a set in order, as text.
pub(super) fn members(state: &DesiredState, text: &str) -> Vec<String> {
    let set = set(state, text).unwrap_or_else(|| panic!("no set {text} in {:?}", state.sets));
    set.members.iter().map(|member| format!("{member:?}")).collect()
}

pub(super) fn notice(state: &DesiredState, subject: &str) -> Option<String> {
    state.notices.get(subject).map(ToString::to_string)
}

/// A policy for `all()` with the given ingress rules, and `w` to make it active.
pub(super) fn world_with_rules(rules: Vec<Rule>) -> (Bench, Arc<DesiredState>) {
    let mut bench = Bench::new();
    let governed = Policy { ingress: rules, egress: vec![], ..policy("all()") };
    let state = bench.apply([endpoint("", ""), put_policy("p", governed)]);
    (bench, state)
}
