//! Thousands of random worlds: what the agent's calculation says of a packet is what the reference
//! says, and for the same reason.
//!
//! The worlds that failed once are kept in `tests/worlds/` and are asked first. `CALICO_WORLDS` =
//! how many worlds (3000), `CALICO_SEED` = the first one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod agent;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use calico_agent::config::Settings;
use calico_worlds::World;

use agent::Agent;

const QUESTIONS: usize = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn the_agent_agrees_with_the_reference() {
    let worlds = number("CALICO_WORLDS").unwrap_or(3000);
    let first = number("CALICO_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 1_000_000 * 100_000
    });
    let start = Instant::now();
    let settings = Arc::new(Settings::default());
    let host = BTreeSet::new();
    let mut asked = 0;
    let mut allowed = 0;
    let mut bad = 0;
    for seed in first..first + worlds {
        let world = World::random(seed);
        let reference = world.reference();
        let agent = Agent::new(&world, &settings);
        let judge = agent.judge(&host);
        for question in world.questions(seed, QUESTIONS) {
            let expected =
                reference.workload(&question.endpoint, question.direction, &question.packet);
            let actual = agent.ask(&judge, &question);
            asked += 1;
            allowed += usize::from(expected.as_ref().is_some_and(|v| v.allowed));
            if expected != actual && bad < 10 {
                println!("{seed} {question} reference {expected:?} agent {actual:?}");
                bad += 1;
            }
        }
    }
    println!("{worlds} worlds {asked} asked {allowed} allowed {:?}", start.elapsed());
    assert_eq!(bad, 0);
}
