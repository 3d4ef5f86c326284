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

/// Versions of Calico that agree about tiers and ties: the table of datamodel B.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// Nobody said a version that can be read.
    Unknown,
    /// 3.0 to 3.28: one tier.
    Before29,
    /// 3.29 to 3.31: the tier is in the name.
    From29,
    /// 3.32 and later: the tier is in the `spec`.
    From32,
}

impl Generation {
    /// Of `v3.29.1`; the `v` may be missing, and so may what is behind the second number.
    pub(crate) fn of(version: &str) -> Self {
        let plain = version.trim_start_matches(['v', 'V']);
        let release = plain.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = release.split('.').map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => match (major, minor) {
                (..3, _) | (3, ..29) => Self::Before29,
                (3, 29..32) => Self::From29,
                _ => Self::From32,
            },
            _ => Self::Unknown,
        }
    }
}

/// All policies, tier by tier.
pub(crate) fn arrange(
    generation: Generation,
    tiers: &BTreeMap<Name, Tier>,
    policies: &BTreeMap<PolicyId, Policy>,
) -> Vec<Asked> {
    // Before 3.29 nothing reads objects of tiers.
    let none = BTreeMap::new();
    let tiers = if generation == Generation::Before29 { &none } else { tiers };
    // From 3.29 on the writers store the tier `default`, and it is like any other.
    let built_in = matches!(generation, Generation::Unknown | Generation::Before29);
    let mut by_tier: BTreeMap<Name, Vec<(&PolicyId, Order)>> = BTreeMap::new();
    for (id, policy) in policies {
        let tier = tier_of(generation, id, policy, tiers);
        by_tier.entry(tier).or_default().push((id, policy.object.order));
    }
    let mut all: Vec<(u8, Order, Asked)> = Vec::new();
    for (name, mut members) in by_tier {
        // Equal orders go by the text of the names.
        members.sort_by(|(a, order_a), (b, order_b)| {
            order_a
                .cmp(order_b)
                .then_with(|| text(generation, a).cmp(&text(generation, b)))
                .then_with(|| a.cmp(b))
        });
        let policies = members.into_iter().map(|(id, _)| id.clone()).collect();
        let asked = |action| Asked { name: name.clone(), default_action: action, policies };
        all.push(match tiers.get(&name) {
            Some(tier) => (0, tier.order, asked(tier.default_action)),
            // Built in where nobody stored it: behind what is stored.
            None if name == *DEFAULT && built_in => (1, Order::LAST, asked(TierAction::Deny)),
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

fn tier_of(
    generation: Generation,
    id: &PolicyId,
    policy: &Policy,
    tiers: &BTreeMap<Name, Tier>,
) -> Name {
    let before_dot = id.name.as_str().split_once('.').map(|(tier, _)| tier);
    let before_dot = before_dot.filter(|tier| !tier.is_empty());
    let tier = match generation {
        Generation::Unknown => {
            let object = &policy.object;
            let known = before_dot.filter(|tier| tiers.contains_key(*tier)).map(Name::from);
            object.tier.clone().or_else(|| object.tier_label.clone()).or(known)
        }
        Generation::Before29 => None,
        Generation::From29 => {
            let name = id.name.as_str();
            let whole = [
                ("knp.default.", DEFAULT),
                ("kanp.adminnetworkpolicy.", "adminnetworkpolicy"),
                ("kbanp.baselineadminnetworkpolicy.", "baselineadminnetworkpolicy"),
            ];
            let made = whole.into_iter().find(|(prefix, _)| name.starts_with(prefix));
            made.map(|(_, tier)| tier).or(before_dot).map(Name::from)
        }
        Generation::From32 => policy.object.tier.clone(),
    };
    tier.unwrap_or_else(|| Name::from(DEFAULT))
}

/// What equal orders go by.
fn text(generation: Generation, id: &PolicyId) -> String {
    match (&id.namespace, generation) {
        (Some(namespace), Generation::From32) => {
            format!("{}/{namespace}/NetworkPolicy", id.name)
        }
        (None, Generation::From32) => format!("{}//GlobalNetworkPolicy", id.name),
        (Some(namespace), _) => format!("{namespace}/{}", id.name),
        (None, _) => id.name.as_str().to_owned(),
    }
}
