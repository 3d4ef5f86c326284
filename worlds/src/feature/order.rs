//! Which policies are asked, and in which order.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_datastore::model::{
    Name, Order, PolicyId, PolicyKind, Selector, Tier, TierAction, Update,
};

use super::{Feature, each_policy};

pub(super) const FEATURES: &[Feature] = &[
    Feature::objects("defaultAction Pass", 200, |u| {
        each_tier(u, |t| t.default_action = TierAction::Deny)
    }),
    Feature::objects("defaultAction Deny", 300, |u| {
        each_tier(u, |t| t.default_action = TierAction::Pass)
    }),
    Feature::objects("order of tiers", 35, |u| each_tier(u, |t| t.order = Order::LAST)),
    Feature::objects("tie of tiers", 4, tiers_by_descending_name),
    Feature::objects("end of a missing tier", 50, |u| add_tiers(u, |name| *name != "default")),
    Feature::objects("end of a default tier that nobody stored", 150, |u| {
        add_tiers(u, |name| *name == "default");
    }),
    Feature::objects("tier in the name of a policy", 75, |u| {
        each_policy(u, |p| {
            if p.tier_label.is_none() {
                p.tier = Some(p.tier.clone().unwrap_or(Name::from("default")));
            }
        });
    }),
    Feature::objects("tier in a label of a policy", 10, |u| {
        each_policy(u, |p| p.tier_label = None);
    }),
    Feature::objects("version of Calico", 35, |u| {
        u.retain(|update| !matches!(update, Update::ClusterInformation(_)));
    }),
    Feature::objects("order of policies", 40, |u| each_policy(u, |p| p.order = Order::LAST)),
    Feature::objects("tie of policies", 15, |u| rank(u, |id| id.to_string(), true)),
    Feature::objects("namespace in a tie of policies", 1, |u| {
        rank(u, |id| id.name.as_str().to_owned(), false);
    }),
    Feature::objects("types", 150, |u| {
        each_policy(u, |p| {
            p.governs_ingress = true;
            p.governs_egress = true;
        });
    }),
    Feature::objects("selector of a policy", 700, |u| {
        each_policy(u, |p| p.selector = Selector::all())
    }),
    Feature::objects("doNotTrack and preDNAT are not for pods", 80, |u| {
        each_policy(u, |p| p.kind = PolicyKind::Normal);
    }),
];

fn each_tier(updates: &mut [Update], change: impl Fn(&mut Tier)) {
    for update in updates {
        if let Update::Tier(_, Some(tier)) = update {
            change(Arc::make_mut(tier));
        }
    }
}

/// Tiers of equal order the other way round.
fn tiers_by_descending_name(updates: &mut Vec<Update>) {
    let mut all: Vec<(Order, Name)> = Vec::new();
    for update in updates.iter() {
        if let Update::Tier(name, Some(tier)) = update {
            all.push((tier.order, name.clone()));
        }
    }
    all.sort_by(|(a, name_a), (b, name_b)| a.cmp(b).then_with(|| name_b.cmp(name_a)));
    for update in updates {
        if let Update::Tier(name, Some(tier)) = update
            && let Some(place) = all.iter().position(|(_, other)| other == name)
        {
            Arc::make_mut(tier).order = order(place);
        }
    }
}

fn order(place: usize) -> Order {
    u32::try_from(place).ok().and_then(|place| Order::new(f64::from(place))).unwrap_or(Order::LAST)
}

/// Tiers that are only named come to be, and pass what they do not decide.
fn add_tiers(updates: &mut Vec<Update>, meant: impl Fn(&Name) -> bool) {
    let mut named = BTreeSet::new();
    let mut stored = BTreeSet::new();
    for update in updates.iter() {
        match update {
            Update::Policy(_, Some(policy)) => {
                let tier = policy.tier.clone().or(policy.tier_label.clone());
                named.insert(tier.unwrap_or(Name::from("default")));
            }
            Update::Tier(name, Some(_)) => drop(stored.insert(name.clone())),
            _ => {}
        }
    }
    for name in named.into_iter().filter(|name| !stored.contains(name) && meant(name)) {
        let tier = Tier { order: Order::LAST, default_action: TierAction::Pass };
        updates.push(Update::Tier(name, Some(Arc::new(tier))));
    }
}

/// Policies of equal order by another text, or the other way round.
fn rank(updates: &mut Vec<Update>, text: impl Fn(&PolicyId) -> String, descending: bool) {
    let mut all: Vec<(Order, String, PolicyId)> = Vec::new();
    for update in updates.iter() {
        if let Update::Policy(id, Some(policy)) = update {
            all.push((policy.order, text(id), id.clone()));
        }
    }
    all.sort_by(|(a, text_a, _), (b, text_b, _)| {
        let by_text = if descending { text_b.cmp(text_a) } else { text_a.cmp(text_b) };
        a.cmp(b).then(by_text)
    });
    for update in updates {
        if let Update::Policy(id, Some(policy)) = update
            && let Some(place) = all.iter().position(|(_, _, other)| other == id)
        {
            Arc::make_mut(policy).order = order(place);
        }
    }
}
