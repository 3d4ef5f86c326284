//! Tier resolution: which policies decide about an endpoint, in which order.

use std::collections::HashMap;
use std::sync::Arc;

use calico_datastore::model::{Name, Order, Policy, PolicyId, Tier, TierAction};

use crate::desired::TierAcl;

/// The tier of policies that name none.
pub(super) const DEFAULT_TIER: &str = "default";

/// The tiers as stored.
#[derive(Debug, Default)]
pub(super) struct TierTable {
    tiers: HashMap<Name, Tier>,
}

/// A policy that matches an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Matched<'a> {
    /// What it is called.
    pub(super) id: &'a PolicyId,
    /// `id` as text: decides between policies of equal order.
    pub(super) sort_name: &'a Arc<str>,
    /// The policy.
    pub(super) policy: &'a Policy,
}

/// Where a tier comes from; the first thing that its place depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Existence {
    /// It has an object.
    Stored,
    /// `default` without an object: stores older than tiers have none, and it is all they need.
    BuiltIn,
    /// It is only named.
    Missing,
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

    /// The tier of a policy: the one it names, else the text before the first dot of its name when
    /// a tier is called so, else `default`.
    pub(super) fn of(&self, id: &PolicyId, policy: &Policy) -> Name {
        if let Some(tier) = &policy.tier {
            return tier.clone();
        }
        let known = tier_in_name(id).filter(|tier| self.tiers.contains_key(tier));
        known.unwrap_or_else(|| Name::from(DEFAULT_TIER))
    }

    /// A tier's place, and what its end does. Behind all that exist, whatever their order: first
    /// `default`, then any other that policies name and that does not exist. The end of a missing
    /// one denies, since nobody said that it may be passed.
    fn place(&self, name: &Name) -> ((Existence, Order), TierAction) {
        match self.tiers.get(name) {
            Some(tier) => ((Existence::Stored, tier.order), tier.default_action),
            None if *name == DEFAULT_TIER => ((Existence::BuiltIn, Order::LAST), TierAction::Deny),
            None => ((Existence::Missing, Order::LAST), TierAction::Deny),
        }
    }

    /// The tiers that govern each direction, in order: (ingress, egress). A tier is part of a
    /// direction only when one of its policies governs it.
    pub(super) fn resolve(&self, matched: Vec<Matched<'_>>) -> (Vec<TierAcl>, Vec<TierAcl>) {
        let mut ordered: Vec<_> = matched
            .into_iter()
            .map(|policy| {
                let tier = self.of(policy.id, policy.policy);
                let (place, action) = self.place(&tier);
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

/// The text before the first dot of a policy's name.
pub(super) fn tier_in_name(id: &PolicyId) -> Option<Name> {
    id.name.as_str().split_once('.').map(|(tier, _)| Name::from(tier))
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
