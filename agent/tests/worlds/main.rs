//! Thousands of random worlds: what the agent's calculation says of a packet is what the reference
//! says, and for the same reason.
//!
//! Worlds that failed once are kept in `tests/worlds/` and are asked first. A new one is made small
//! and written there. `CALICO_WORLDS` = how many worlds more (3000), `CALICO_SEED` = the first one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod agent;
mod explained;
mod extras;
mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use calico_agent::config::Settings;
use calico_reference::{Direction, Reason, Reference, Verdict};
use calico_worlds::{Case, Coverage, Question, World, shrink};

use agent::Agent;

/// Questions about each world.
const QUESTIONS: usize = 40;
/// Features are counted in so many worlds, always the same: whether the generator reaches what it
/// should is no matter of luck. To count one costs as much as ten comparisons.
const COUNTED: u64 = 800;
/// Failures of one run that are made small and kept.
const KEPT: usize = 5;

/// The answer of each, where they differ.
struct Difference {
    question: Question,
    reference: Option<Verdict>,
    agent: Option<Verdict>,
}

/// What one thread found.
#[derive(Default)]
struct Tally {
    asked: usize,
    allowed: usize,
    coverage: Coverage,
    failed: Vec<(u64, Difference)>,
}

/// Where the two differ about a world.
fn differences(
    world: &World,
    reference: &Reference,
    agent: &Agent,
    questions: Vec<Question>,
    tally: &mut Tally,
) -> Vec<Difference> {
    assert_eq!(world.node, *agent.node());
    let host = BTreeSet::new();
    let judge = agent.judge(&host);
    let mut found = Vec::new();
    for question in questions {
        let expected = reference.workload(&question.endpoint, question.direction, &question.packet);
        let actual = agent.ask(&judge, &question);
        tally.asked += 1;
        tally.allowed += usize::from(expected.as_ref().is_some_and(|verdict| verdict.allowed));
        if expected != actual {
            found.push(Difference { question, reference: expected, agent: actual });
        }
    }
    found
}

/// Asks about the worlds of these seeds.
fn play(seeds: impl Iterator<Item = u64>, count: bool, settings: &Arc<Settings>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let world = World::random(seed);
        let updates = world.updates();
        let reference = Reference::new(&updates);
        let questions = world.questions_of(&updates, seed, QUESTIONS);
        if count {
            tally.coverage.count(&world, &updates, &reference, &questions);
        }
        let agent = Agent::of(&world.node, updates, settings);
        let found = differences(&world, &reference, &agent, questions, &mut tally);
        tally.failed.extend(found.into_iter().next().map(|difference| (seed, difference)));
        if tally.failed.len() >= KEPT {
            break;
        }
    }
    tally
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/worlds")
}

/// Makes the world small, keeps it as a file, and says what is wrong.
fn keep(seed: u64, difference: &Difference, settings: &Arc<Settings>) -> String {
    let Question { endpoint, direction, packet } = &difference.question;
    let differ = |world: &World| {
        let agent = Agent::new(world, settings);
        let host = BTreeSet::new();
        let actual = agent.ask(&agent.judge(&host), &difference.question);
        world.reference().workload(endpoint, *direction, packet) != actual
    };
    let case = Case {
        about: format!("seed {seed}: the agent and the reference differed"),
        world: shrink(&World::random(seed), differ),
        questions: vec![difference.question.clone()],
    };
    let path = corpus().join(format!("seed-{seed}.json"));
    fs::write(&path, case.to_text()).unwrap();
    let say = |verdict: &Option<Verdict>| {
        verdict.as_ref().map_or("no such endpoint".to_owned(), Verdict::to_string)
    };
    let mut text = format!("CALICO_SEED={seed} CALICO_WORLDS=1: {}\n", difference.question);
    writeln!(text, "  reference: {}", say(&difference.reference)).unwrap();
    writeln!(text, "  agent:     {}", say(&difference.agent)).unwrap();
    writeln!(text, "  kept as {}\n{}", path.display(), case.to_text()).unwrap();
    text
}

#[test]
fn worlds_that_failed_once() {
    let settings = Arc::new(Settings::default());
    let cases = Case::read_all(&corpus()).unwrap();
    assert!(cases.len() >= 5, "the corpus is not where it used to be");
    let mut tally = Tally::default();
    for (name, case) in cases {
        let (reference, agent) = (case.world.reference(), Agent::new(&case.world, &settings));
        assert!(!case.questions.is_empty(), "{name} asks nothing");
        for question in &case.questions {
            let known = reference.workloads().any(|(id, _)| *id == question.endpoint);
            assert!(known, "{name}: nobody is asked by {question}");
        }
        let found = differences(&case.world, &reference, &agent, case.questions, &mut tally);
        if let Some(Difference { question, reference, agent }) = found.into_iter().next() {
            panic!("{name}: {question}: reference {reference:?}, agent {agent:?}");
        }
    }
}

/// Plays on every processor.
fn play_all(seeds: Range<u64>, count: bool, settings: &Arc<Settings>) -> Tally {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                let seeds = seeds.clone().skip(part).step_by(threads);
                scope.spawn(move || play(seeds, count, settings))
            })
            .collect();
        for part in parts {
            let part = part.join().unwrap();
            tally.asked += part.asked;
            tally.allowed += part.allowed;
            tally.coverage.add(&part.coverage);
            tally.failed.extend(part.failed);
        }
    });
    tally
}

fn check(seeds: Range<u64>, count: bool) -> Coverage {
    let start = Instant::now();
    let settings = Arc::new(Settings::default());
    let tally = play_all(seeds.clone(), count, &settings);
    println!(
        "seeds {}..{}, {} worlds, {} questions to the agent and the reference, {} allowed, {} \
         failed, {:?}",
        seeds.start,
        seeds.end,
        seeds.end - seeds.start,
        tally.asked,
        tally.allowed,
        tally.failed.len(),
        start.elapsed()
    );
    let failed = tally.failed.iter().take(KEPT);
    let texts: Vec<String> = failed.map(|(seed, d)| keep(*seed, d, &settings)).collect();
    assert!(texts.is_empty(), "{}", texts.join("\n"));
    tally.coverage
}

#[test]
fn every_feature_decides_and_the_agent_agrees() {
    let coverage = check(0..COUNTED, true);
    println!("{coverage}");
    assert_eq!(coverage.lacking(), Vec::<&str>::new(), "{coverage}");
}

#[test]
fn the_agent_agrees_about_worlds_that_nobody_saw() {
    let worlds = number("CALICO_WORLDS").unwrap_or(3000);
    let first = number("CALICO_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs() % 100_000_000 * 100_000
    });
    check(first..first + worlds, false);
}

#[test]
fn host_endpoints_agree_at_every_hook() {
    let worlds = number("CALICO_WORLDS").unwrap_or(3000).div_ceil(3);
    let first = number("CALICO_SEED").unwrap_or(0);
    // The reference's hooks know nothing of fail-safe ports; those are in what is explained.
    let no_failsafes = Settings {
        failsafe_inbound: Vec::new(),
        failsafe_outbound: Vec::new(),
        ..Settings::default()
    };
    let settings = Arc::new(no_failsafes);
    // Questions by what decided, at each hook.
    let mut tally: BTreeMap<String, usize> = BTreeMap::new();
    for seed in first..first + worlds {
        let world = World::random(seed);
        let updates = world.updates();
        let reference = Reference::new(&updates);
        let agent = Agent::of(&world.node, updates, &settings);
        let expected: Vec<_> =
            reference.hosts().filter(|(_, e)| e.node == world.node).map(|(id, _)| id).collect();
        assert_eq!(hosts::local(&agent).collect::<Vec<_>>(), expected, "CALICO_SEED={seed}");
        let nobody = BTreeSet::new();
        let judge = agent.judge(&nobody);
        for (packet, (id, hook)) in world.packets(seed, 8).into_iter().flat_map(|packet| {
            let asked = expected.iter().flat_map(|id| hosts::HOOKS.map(|hook| (*id, hook)));
            asked.map(move |asked| (packet, asked))
        }) {
            for direction in Direction::ALL {
                let expected = reference.host(id, hook, direction, &packet);
                let actual = hosts::ask(&agent, &judge, id, hook, direction, &packet);
                assert_eq!(
                    expected, actual,
                    "CALICO_SEED={seed}: {id:?} at {hook:?}, {direction:?} of {packet:?}"
                );
                let verdict = expected.unwrap();
                let by = match verdict.reason {
                    Reason::Policy { .. } => "a policy",
                    Reason::EndOfTier(_) => "the end of a tier",
                    Reason::Profile { .. } => "a profile",
                    Reason::NotAsked => "nobody",
                    _ => "what is missing",
                };
                let allowed = if verdict.allowed { "allowed" } else { "denied" };
                *tally.entry(format!("{hook:?} {allowed} by {by}")).or_default() += 1;
            }
        }
    }
    for (what, count) in &tally {
        println!("{count:>8}  {what}");
    }
    if worlds < 1000 || first != 0 {
        return;
    }
    for (what, least) in [
        ("Normal allowed by a policy", 500),
        ("Normal denied by a policy", 300),
        ("Normal denied by the end of a tier", 1000),
        ("Normal allowed by a profile", 500),
        ("Normal denied by what is missing", 500),
        ("Forward allowed by a policy", 200),
        ("Forward denied by a policy", 100),
        ("Forward denied by the end of a tier", 500),
        ("Forward allowed by nobody", 2000),
        ("Untracked allowed by a policy", 20),
        ("Untracked denied by a policy", 20),
        ("Untracked allowed by nobody", 2000),
        ("PreDnat allowed by a policy", 20),
        ("PreDnat denied by a policy", 20),
        ("PreDnat allowed by nobody", 2000),
    ] {
        assert!(tally.get(what).is_some_and(|count| *count >= least), "{what}: {tally:#?}");
    }
}
