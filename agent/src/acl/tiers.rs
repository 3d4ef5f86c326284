//! Tier resolution: which policies decide about an endpoint, in which order.

use std::collections::HashMap;
use std::sync::Arc;

use calico_datastore::model::{Name, Policy, PolicyId, Tier, TierAction};

use super::generation::Generation;
use crate::desired::TierAcl;

/// The tiers as stored.
#[derive(Debug, Default)]
pub(super) struct TierTable {
    tiers: HashMap<Name, Tier>,
    generation: Generation,
}

/// A policy that matches an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Matched<'a> {
    /// What it is called.
    pub(super) id: &'a PolicyId,
    /// [`Generation::sort_name`]: decides between policies of equal order.
    pub(super) sort_name: &'a Arc<str>,
    /// The policy.
    pub(super) policy: &'a Policy,
}

impl TierTable {
    /// Keeps a tier, or forgets it. False when nothing changed.
    pub(super) fn set(&mut self, name: &Name, tier: Option<Tier>) -> bool {
        let old = match tier {
            Some(tier) => self.tiers.insert(name.clone(), tier),
            None => self.tiers.remove(name),
        };
        old != tier
    }

    /// True without tiers.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// The versions whose rules hold.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// The rules of other versions hold from now on.
    pub(super) fn set_generation(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// The tier of a policy.
    pub(super) fn of(&self, id: &PolicyId, policy: &Policy) -> Name {
        self.generation.tier(id, policy, |tier| self.tiers.contains_key(tier))
    }

    /// The tiers that govern each direction, in order: (ingress, egress). A tier is part of a
    /// direction only when one of its policies governs it.
    pub(super) fn resolve(&self, matched: Vec<Matched<'_>>) -> (Vec<TierAcl>, Vec<TierAcl>) {
        let mut ordered: Vec<_> = matched
            .into_iter()
            .map(|policy| {
                let tier = self.of(policy.id, policy.policy);
                let (place, action) = self.generation.place(&tier, self.tiers.get(&tier));
                (place, tier, action, policy)
            })
            .collect();
        ordered.sort_by(|(place_a, tier_a, _, a), (place_b, tier_b, _, b)| {
            let tiers = place_a.cmp(place_b).then_with(|| tier_a.cmp(tier_b));
            let policies = || {
                let order = a.policy.order.cmp(&b.policy.order);
                // The id last: two ids can have one text ("a" in no namespace called "x/y").
                order.then_with(|| a.sort_name.cmp(b.sort_name)).then_with(|| a.id.cmp(b.id))
            };
            tiers.then_with(policies)
        });
        let (mut ingress, mut egress) = (Vec::new(), Vec::new());
        for (_, tier, action, matched) in ordered {
            if matched.policy.governs_ingress {
                push(&mut ingress, &tier, action, matched.id);
            }
            if matched.policy.governs_egress {
                push(&mut egress, &tier, action, matched.id);
            }
        }
        (ingress, egress)
    }
}

fn push(direction: &mut Vec<TierAcl>, tier: &Name, action: TierAction, policy: &PolicyId) {
    match direction.last_mut() {
        Some(last) if last.tier == *tier => last.policies.push(policy.clone()),
        _ => direction.push(TierAcl {
            tier: tier.clone(),
            policies: vec![policy.clone()],
            default_action: action,
        }),
    }
}
