//! The order in which policies are asked: datamodel B.3, B.8 and B.9.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use calico_datastore::model::{Name, Order, PolicyId, Tier, TierAction};

use crate::store::Policy;

/// The tier of policies that name none.
const DEFAULT: &str = "default";

/// A tier with its policies in order.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) name: Name,
    pub(crate) default_action: TierAction,
    pub(crate) policies: Vec<PolicyId>,
}

/// All policies, tier by tier.
pub(crate) fn arrange(
    tiers: &BTreeMap<Name, Tier>,
    policies: &BTreeMap<PolicyId, Policy>,
) -> Vec<Asked> {
    let mut by_tier: BTreeMap<Name, Vec<(&PolicyId, Order)>> = BTreeMap::new();
    for (id, policy) in policies {
        let tier = tier_of(id, policy, tiers);
        by_tier.entry(tier).or_default().push((id, policy.object.order));
    }
    let mut all: Vec<(u8, Order, Asked)> = Vec::new();
    for (name, mut members) in by_tier {
        // Equal orders go by the text of the names.
        members.sort_by(|(a, order_a), (b, order_b)| {
            order_a.cmp(order_b).then_with(|| text(a).cmp(&text(b))).then_with(|| a.cmp(b))
        });
        let policies = members.into_iter().map(|(id, _)| id.clone()).collect();
        let asked = |action| Asked { name: name.clone(), default_action: action, policies };
        all.push(match tiers.get(&name) {
            Some(tier) => (0, tier.order, asked(tier.default_action)),
            // Built in where nobody stored it: behind what is stored.
            None if name == *DEFAULT => (1, Order::LAST, asked(TierAction::Deny)),
            // Only named: last, and denies.
            None => (2, Order::LAST, asked(TierAction::Deny)),
        });
    }
    all.sort_by(|(place_a, order_a, a), (place_b, order_b, b)| {
        let by_place: Ordering = place_a.cmp(place_b);
        by_place.then_with(|| order_a.cmp(order_b)).then_with(|| a.name.cmp(&b.name))
    });
    all.into_iter().map(|(_, _, asked)| asked).collect()
}

fn tier_of(id: &PolicyId, policy: &Policy, tiers: &BTreeMap<Name, Tier>) -> Name {
    if let Some(tier) = &policy.object.tier {
        return tier.clone();
    }
    if let Some((before_dot, _)) = id.name.as_str().split_once('.')
        && let Some((tier, _)) = tiers.get_key_value(before_dot)
    {
        return tier.clone();
    }
    Name::from(DEFAULT)
}

fn text(id: &PolicyId) -> String {
    match &id.namespace {
        Some(namespace) => format!("{namespace}/{}", id.name),
        None => id.name.as_str().to_owned(),
    }
}
