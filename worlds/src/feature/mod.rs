//! The features of the language, each by what the world would be without it.
//!
//! A feature decided about a packet when a world without it gives another answer. So each is written
//! down as a change of a world that makes the reference blind to it: a criterion is taken out of
//! every rule, all orders become one, the far endpoints go. The same changes make wrong evaluators,
//! which a test has to find.

mod criteria;
mod hosts;
mod order;
mod outer;
mod subjects;

use std::sync::Arc;

use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::{Policy, Profile, Rule, Update};

use crate::world::World;

pub(crate) use self::hosts::FEATURES as HOST_FEATURES;

/// How a world is made blind to something.
#[derive(Clone, Copy, Debug)]
enum Blind {
    /// By changing decoded objects.
    Objects(fn(&mut Vec<Update>)),
    /// By changing what is stored, where decoding folds it into something else.
    Stored(fn(&mut World)),
}

/// Something that can decide.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// What it is called in reports.
    pub name: &'static str,
    /// How often it has to decide at least in 10,000 questions.
    pub least: u64,
    blind: Blind,
}

impl Feature {
    const fn objects(name: &'static str, least: u64, blind: fn(&mut Vec<Update>)) -> Self {
        Self { name, least, blind: Blind::Objects(blind) }
    }

    const fn stored(name: &'static str, least: u64, blind: fn(&mut World)) -> Self {
        Self { name, least, blind: Blind::Stored(blind) }
    }

    /// The objects of the world without the feature, later ones of an id in place of earlier ones;
    /// `None` when it has none of it. `updates` are those of the world.
    pub fn without(&self, world: &World, updates: &[Update]) -> Option<Vec<Update>> {
        let mut changed = updates.to_vec();
        match self.blind {
            Blind::Objects(blind) => {
                blind(&mut changed);
                (changed != updates).then_some(changed)
            }
            Blind::Stored(blind) => {
                let mut blinded = world.clone();
                blind(&mut blinded);
                changed.extend(differences(world, &blinded));
                (changed.len() > updates.len()).then_some(changed)
            }
        }
    }
}

/// What leads from one world to the other: to decode all of it would take most of the time.
fn differences(from: &World, to: &World) -> Vec<Update> {
    let gone = from.objects.keys().filter(|key| !to.objects.contains_key(*key));
    let gone = gone.filter_map(|key| v3::id_of(key)).map(Update::deleted);
    let new = to.objects.iter().filter(|(key, value)| from.objects.get(*key) != Some(*value));
    let new = new.filter_map(|(key, value)| {
        match v3::decode(key, value.to_string().as_bytes()) {
            Decoded::Object(update) => Some(update),
            // It may have been one before.
            _ => v3::id_of(key).map(Update::deleted),
        }
    });
    gone.chain(new).collect()
}

/// Every feature.
pub fn features() -> impl Iterator<Item = &'static Feature> {
    let all = [criteria::FEATURES, order::FEATURES, subjects::FEATURES, outer::FEATURES];
    all.into_iter().flatten()
}

/// Changes every rule.
fn each_rule(updates: &mut [Update], mut change: impl FnMut(&mut Rule)) {
    each_list(updates, |rules, _| rules.iter_mut().for_each(&mut change));
}

/// Changes every list of rules; true for those of policies.
fn each_list(updates: &mut [Update], mut change: impl FnMut(&mut Vec<Rule>, bool)) {
    for update in updates {
        match update {
            Update::Policy(_, Some(policy)) => {
                let policy: &mut Policy = Arc::make_mut(policy);
                change(&mut policy.ingress, true);
                change(&mut policy.egress, true);
            }
            Update::Profile(_, Some(profile)) => {
                let profile: &mut Profile = Arc::make_mut(profile);
                change(&mut profile.ingress, false);
                change(&mut profile.egress, false);
            }
            _ => {}
        }
    }
}

/// Changes every policy.
fn each_policy(updates: &mut [Update], mut change: impl FnMut(&mut Policy)) {
    for update in updates {
        if let Update::Policy(_, Some(policy)) = update {
            change(Arc::make_mut(policy));
        }
    }
}
