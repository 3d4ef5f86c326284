//! The comparison can fail: wrong answers of each kind are found, and so is a command that is blind to
//! a feature of the language.

use super::*;

use std::collections::BTreeSet;

use calico_agent::explain::document::{Outcome, RuleAsked, RulesAsked};

/// Something that is wrong in an answer.
type Mutant = (&'static str, fn(&mut Answer));

/// Worlds that have to find each.
const WORLDS: u64 = 100;

fn each_list(answer: &mut Answer) -> impl Iterator<Item = &mut RulesAsked> {
    answer.sides.iter_mut().flat_map(|side| {
        let tiers = side.tiers.iter_mut().flat_map(|tier| &mut tier.policies);
        tiers.chain(&mut side.profiles)
    })
}

fn last_rule(answer: &mut Answer) -> Option<&mut RuleAsked> {
    each_list(answer).filter_map(|asked| asked.rules.last_mut()).last()
}

const MUTANTS: [Mutant; 14] = [
    ("another outcome", |answer| {
        answer.outcome = match answer.outcome {
            Outcome::Allowed => Outcome::Denied,
            _ => Outcome::Allowed,
        };
    }),
    ("another reason for all", |answer| answer.because.push('!')),
    ("another verdict of a side", |answer| {
        answer.sides.iter_mut().for_each(|side| side.allowed = side.allowed.map(|yes| !yes));
    }),
    ("another reason of a side", |answer| {
        answer.sides.iter_mut().for_each(|side| side.reason = side.reason.replace("[0]", "[1]"));
    }),
    ("another endpoint", |answer| {
        answer.sides.iter_mut().take(1).for_each(|side| side.endpoint.push('x'));
    }),
    ("another host", |answer| {
        answer.sides.iter_mut().take(1).for_each(|side| side.node = Some("nowhere".to_owned()));
    }),
    ("another hook", |answer| {
        answer.sides.iter_mut().filter(|side| side.hook.is_some()).for_each(|side| {
            side.hook = Some("hook".to_owned());
        });
    }),
    ("a side left out", |answer| drop(answer.sides.pop())),
    ("sides in another order", |answer| answer.sides.reverse()),
    ("another tier", |answer| {
        let tiers = answer.sides.iter_mut().flat_map(|side| &mut side.tiers);
        tiers.take(1).for_each(|tier| tier.tier.push('x'));
    }),
    ("another end of a tier", |answer| {
        for tier in answer.sides.iter_mut().flat_map(|side| &mut side.tiers) {
            tier.end = tier.end.as_deref().map(|end| match end {
                "deny" => "pass".to_owned(),
                _ => "deny".to_owned(),
            });
        }
    }),
    ("a policy left out", |answer| {
        let tiers = answer.sides.iter_mut().flat_map(|side| &mut side.tiers);
        tiers.filter(|tier| tier.policies.len() > 1).for_each(|tier| drop(tier.policies.remove(0)));
    }),
    ("a rule left out that was passed", |answer| {
        each_list(answer).filter(|asked| asked.rules.len() > 1).for_each(|asked| {
            asked.rules.remove(0);
        });
    }),
    ("another rule that decides", |answer| {
        if let Some(rule) = last_rule(answer) {
            rule.matches = !rule.matches;
        }
    }),
];

#[test]
fn a_wrong_answer_of_each_kind_is_found() {
    let mut found = [0; MUTANTS.len()];
    for seed in 0..WORLDS {
        let world = World::random(seed);
        let updates = world.updates();
        let (reference, explained) = (Reference::new(&updates), Explained::new(&updates));
        for (packet, interface) in packets(&world, seed) {
            let Some(answer) = explained.ask(&packet, interface) else { continue };
            for (at, (what, mutate)) in MUTANTS.iter().enumerate() {
                let mut wrong = answer.clone();
                mutate(&mut wrong);
                if wrong == answer {
                    continue;
                }
                let differ = difference(&reference, &packet, interface, &wrong).is_some();
                assert!(differ, "CALICO_SEED={seed}: {what} is not seen: {wrong:#?}");
                found[at] += 1;
            }
        }
    }
    for ((what, _), count) in MUTANTS.iter().zip(found) {
        println!("{count:>6}  {what}");
        assert!(count >= 25, "{what} was tried {count} times");
    }
}

#[test]
fn a_command_that_is_blind_to_a_feature_is_found() {
    let mut left: BTreeSet<&str> = features().map(|feature| feature.name).collect();
    let (all, mut worlds) = (left.len(), 0);
    for seed in 0..15 * WORLDS {
        if left.is_empty() {
            break;
        }
        worlds += 1;
        let world = World::random(seed);
        let updates = world.updates();
        let reference = Reference::new(&updates);
        let wanted = left.clone();
        for feature in features().filter(|feature| wanted.contains(feature.name)) {
            let Some(without) = feature.without(&world, &updates) else { continue };
            let explained = Explained::new(&without);
            let sees = packets(&world, seed).into_iter().any(|(packet, interface)| {
                let answer = explained.ask(&packet, interface);
                answer.is_some_and(|answer| {
                    difference(&reference, &packet, interface, &answer).is_some()
                })
            });
            if sees {
                left.remove(feature.name);
            }
        }
    }
    println!("{all} features, blindness to {} found in {worlds} worlds", all - left.len());
    assert!(left.is_empty(), "nobody sees that these are missing: {left:?}");
}
