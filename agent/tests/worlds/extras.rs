//! What endpoints may do beside policy, in random worlds: who may send from which address, and where
//! external addresses lead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_agent::config::Settings;
use calico_agent::desired::Externals;
use calico_reference::{Reason, Reference};
use calico_worlds::{World, shrink};

use crate::agent::Agent;
use crate::number;

/// Questions about each world.
const QUESTIONS: usize = 30;

/// The first thing that the agent says otherwise.
fn difference(
    world: &World,
    seed: u64,
    tally: &mut BTreeMap<&'static str, usize>,
) -> Option<String> {
    let updates = world.updates();
    let reference = Reference::new(&updates);
    let questions = world.spoofed_questions(&updates, seed, QUESTIONS);
    let agent = Agent::of(&world.node, updates, &Arc::new(Settings::default()));
    let mut count = |what| *tally.entry(what).or_default() += 1;
    let nobody = BTreeSet::new();
    let judge = agent.judge(&nobody);
    for question in questions {
        let expected = reference.workload(&question.endpoint, question.direction, &question.packet);
        let actual = agent.ask(&judge, &question);
        if expected != actual {
            return Some(format!("{question}: reference {expected:?}, agent {actual:?}"));
        }
        let own = reference.workloads().any(|(id, endpoint)| {
            *id == question.endpoint
                && endpoint.addresses.iter().any(|net| net.contains(question.packet.source))
        });
        match expected {
            _ if own => count("its own address"),
            Some(verdict) if verdict.reason == Reason::NotItsAddress => count("not listed"),
            Some(verdict) if verdict.allowed => count("listed, allowed"),
            Some(_) => count("listed, denied"),
            None => {}
        }
    }
    let expected = reference.externals(&world.node);
    let actual = Externals::of(agent.state(), |_| true);
    let given: BTreeMap<_, _> = actual
        .given
        .into_iter()
        .map(|(external, target)| (external, (target.endpoint, target.internal)))
        .collect();
    if expected != given {
        return Some(format!("external addresses: {expected:?}, agent {given:?}"));
    }
    (0..given.len()).for_each(|_| count("external addresses"));
    (0..actual.refused.len()).for_each(|_| count("external addresses refused"));
    (0..actual.off).for_each(|_| count("external addresses switched off"));
    None
}

#[test]
fn the_agent_agrees_about_what_is_beside_policy() {
    let worlds = number("CALICO_WORLDS").unwrap_or(3000);
    let first = number("CALICO_SEED").unwrap_or(0);
    let mut tally = BTreeMap::new();
    for seed in first..first + worlds {
        let world = World::with_extras(seed);
        if let Some(said) = difference(&world, seed, &mut tally) {
            let quiet = &mut BTreeMap::new();
            let small = shrink(&world, |world| difference(world, seed, quiet).is_some());
            panic!("CALICO_SEED={seed} CALICO_WORLDS=1: {said}\n{:#?}", small.objects);
        }
    }
    println!("{worlds} worlds from {first}: {tally:#?}");
    for (what, least) in [
        ("its own address", 3),
        ("not listed", 300),
        ("listed, allowed", 150),
        ("listed, denied", 300),
        ("external addresses", 150),
        ("external addresses refused", 40),
        ("external addresses switched off", 60),
    ] {
        // Of a hundred worlds.
        let count = tally.get(what).copied().unwrap_or(0) as u64;
        assert!(worlds < 100 || count * 100 >= least * worlds, "{what}: {tally:#?}");
    }
}
