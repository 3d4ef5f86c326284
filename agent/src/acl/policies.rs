//! Policies and the endpoints of this host that they match: those of pods and host endpoints.
//!
//! Owns the policies as stored and the tiers. Says which endpoints have to be looked at again; what
//! their class becomes is not decided here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use calico_datastore::model::{Labels, Name, Policy, PolicyId, PolicyKind, Tier};

use super::generation::Generation;
use super::host::is_host;
use super::matching::MatchIndex;
use super::slots::{Slot, SlotSet};
use super::tiers::{Matched, TierTable};
use crate::desired::TierAcl;

/// A policy of any kind.
#[derive(Debug)]
struct Entry {
    policy: Arc<Policy>,
    sort_name: Arc<str>,
    selector: Slot,
}

/// What a new version of a policy changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PolicyChange {
    /// Nothing that matters here.
    Nothing,
    /// Its rules, perhaps; not where it applies.
    Rules,
    /// Where it applies; the endpoints have been marked.
    Place,
}

/// The policy index.
#[derive(Debug, Default)]
pub(super) struct PolicyIndex {
    /// The endpoints of this host against the selectors of the policies.
    matching: MatchIndex,
    policies: HashMap<PolicyId, Entry>,
    by_selector: HashMap<Slot, BTreeSet<PolicyId>>,
    /// Every tier that a policy is in or would be in if the tier's object existed.
    by_tier: HashMap<Name, BTreeSet<PolicyId>>,
    tiers: TierTable,
    /// Endpoints whose class may be another now.
    dirty: SlotSet,
}

impl PolicyIndex {
    /// An endpoint of this host with labels and profiles. Says its group.
    pub(super) fn join(&mut self, labels: &Labels, profiles: &[Name], endpoint: Slot) -> Slot {
        self.dirty.insert(endpoint);
        self.matching.join(labels, profiles, endpoint)
    }

    /// The endpoint leaves its group.
    pub(super) fn leave(&mut self, group: Slot, endpoint: Slot) {
        self.matching.leave(group, endpoint);
    }

    /// A profile has other labels.
    pub(super) fn set_profile(&mut self, name: &Name, labels: &Labels) {
        for change in self.matching.set_profile(name, labels) {
            for endpoint in self.matching.items(change.group) {
                self.dirty.insert(endpoint);
            }
        }
    }

    /// A policy is new or different, or gone.
    pub(super) fn set_policy(
        &mut self,
        id: &PolicyId,
        policy: Option<&Arc<Policy>>,
    ) -> PolicyChange {
        match (self.policies.get_mut(id), policy) {
            (None, None) => return PolicyChange::Nothing,
            (Some(entry), Some(policy)) if same_place(&entry.policy, policy) => {
                let same = Arc::ptr_eq(&entry.policy, policy) || entry.policy == *policy;
                entry.policy = Arc::clone(policy);
                return if same { PolicyChange::Nothing } else { PolicyChange::Rules };
            }
            _ => {}
        }
        // The new selector is taken before the old one goes: they may be the same.
        let selector = policy.map(|policy| self.matching.acquire(&policy.selector));
        if let Some(old) = self.policies.remove(id) {
            self.mark_matched(old.selector, for_hosts_only(&old.policy));
            self.matching.release(old.selector);
            remove_from(&mut self.by_selector, &old.selector, id);
            for tier in self.tiers.generation().tiers_to_watch(id, &old.policy) {
                remove_from(&mut self.by_tier, &tier, id);
            }
        }
        if let (Some(policy), Some(selector)) = (policy, selector) {
            self.by_selector.entry(selector).or_default().insert(id.clone());
            for tier in self.tiers.generation().tiers_to_watch(id, policy) {
                self.by_tier.entry(tier).or_default().insert(id.clone());
            }
            self.mark_matched(selector, for_hosts_only(policy));
            let sort_name = self.tiers.generation().sort_name(id);
            let policy = Arc::clone(policy);
            self.policies.insert(id.clone(), Entry { policy, sort_name, selector });
        }
        PolicyChange::Place
    }

    /// A tier is new, different or gone.
    pub(super) fn set_tier(&mut self, name: &Name, tier: Option<Tier>) {
        if !self.tiers.set(name, tier) {
            return;
        }
        let policies = self.by_tier.get(name).into_iter().flatten();
        let place = |entry: &Entry| (entry.selector, for_hosts_only(&entry.policy));
        let places: BTreeSet<(Slot, bool)> =
            policies.filter_map(|id| self.policies.get(id).map(place)).collect();
        for (selector, host_only) in places {
            self.mark_matched(selector, host_only);
        }
    }

    /// The versions whose rules place policies.
    pub(super) fn generation(&self) -> Generation {
        self.tiers.generation()
    }

    /// The rules of other versions hold: every endpoint that a policy matches has to be looked at
    /// again. False when they are those that held.
    pub(super) fn set_generation(&mut self, generation: Generation) -> bool {
        if generation == self.tiers.generation() {
            return false;
        }
        self.tiers.set_generation(generation);
        self.by_tier.clear();
        let mut places = BTreeSet::new();
        for (id, entry) in &mut self.policies {
            entry.sort_name = generation.sort_name(id);
            for tier in generation.tiers_to_watch(id, &entry.policy) {
                self.by_tier.entry(tier).or_default().insert(id.clone());
            }
            places.insert((entry.selector, for_hosts_only(&entry.policy)));
        }
        for (selector, host_only) in places {
            self.mark_matched(selector, host_only);
        }
        true
    }

    /// Every policy.
    pub(super) fn ids(&self) -> impl Iterator<Item = &PolicyId> {
        self.policies.keys()
    }

    /// The tier that a policy is in.
    pub(super) fn tier_of(&self, id: &PolicyId) -> Option<Name> {
        self.policies.get(id).map(|entry| self.tiers.of(id, &entry.policy))
    }

    /// The policy, when it is one for workload endpoints.
    pub(super) fn get(&self, id: &PolicyId) -> Option<&Arc<Policy>> {
        self.any(id).filter(|policy| !for_hosts_only(policy))
    }

    /// The policy, of whatever kind.
    pub(super) fn any(&self, id: &PolicyId) -> Option<&Arc<Policy>> {
        self.policies.get(id).map(|entry| &entry.policy)
    }

    /// The tiers that govern the endpoints of a group: (ingress, egress). Only of policies that
    /// `applies` says yes to.
    pub(super) fn resolve(
        &self,
        group: Slot,
        applies: impl Fn(&Policy) -> bool,
    ) -> (Vec<TierAcl>, Vec<TierAcl>) {
        let selectors = self.matching.matches(group).iter();
        let ids = selectors.filter_map(|selector| self.by_selector.get(selector)).flatten();
        let matched = ids.filter_map(|id| {
            let Entry { policy, sort_name, .. } = self.policies.get(id)?;
            applies(policy).then_some(Matched { id, sort_name, policy })
        });
        self.tiers.resolve(matched.collect())
    }

    /// An endpoint has to be looked at again.
    pub(super) fn mark(&mut self, endpoint: Slot) {
        self.dirty.insert(endpoint);
    }

    /// The endpoints to look at again since the last call, sorted.
    pub(super) fn take_dirty(&mut self) -> Vec<Slot> {
        let mut dirty: Vec<Slot> = std::mem::take(&mut self.dirty).iter().collect();
        dirty.sort_unstable();
        dirty
    }

    /// How often a selector was evaluated so far.
    pub(super) fn evaluations(&self) -> u64 {
        self.matching.evaluations()
    }

    /// True when nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let tables = self.by_selector.is_empty() && self.by_tier.is_empty();
        let objects = self.policies.is_empty() && self.tiers.is_empty();
        self.matching.is_empty() && objects && tables && self.dirty.is_empty()
    }

    /// Marks the endpoints that a policy is about. Untracked and pre-DNAT policies never apply to
    /// those of pods.
    fn mark_matched(&mut self, selector: Slot, host_only: bool) {
        for endpoint in self.matching.matched_items(selector) {
            if !host_only || is_host(endpoint) {
                self.dirty.insert(endpoint);
            }
        }
    }
}

/// True when a policy is not for the endpoints of pods.
fn for_hosts_only(policy: &Policy) -> bool {
    policy.kind != PolicyKind::Normal
}

/// True when both apply to the same endpoints at the same place in the order.
fn same_place(a: &Policy, b: &Policy) -> bool {
    (&a.tier, &a.tier_label, a.order, &a.selector, a.governs_ingress, a.governs_egress)
        == (&b.tier, &b.tier_label, b.order, &b.selector, b.governs_ingress, b.governs_egress)
        && (a.kind, a.apply_on_forward) == (b.kind, b.apply_on_forward)
}

fn remove_from<K: std::hash::Hash + Eq>(
    index: &mut HashMap<K, BTreeSet<PolicyId>>,
    key: &K,
    id: &PolicyId,
) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
