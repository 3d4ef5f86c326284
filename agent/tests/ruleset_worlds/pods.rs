//! Thousands of random worlds of pods, two at a time asked about packets between them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use calico_agent::config::Settings;
use calico_agent::desired::verdict::{Flow, Judge, Reason, Side};
use calico_datastore::model::{Protocol, Update, WorkloadEndpointId};
use calico_reference::{Direction, Reference};
use calico_worlds::{Case, Question, World};

use crate::kernel::ASKED;
use crate::number;
use crate::subject::{Subject, settings};

/// Questions to each world.
const QUESTIONS: usize = 40;

pub(crate) fn allowed(reference: &Reference, question: &Question) -> bool {
    let Question { endpoint, direction, packet } = question;
    reference.workload(endpoint, *direction, packet).is_some_and(|verdict| verdict.allowed)
}

/// The first question that is answered in another way.
fn difference(world: &World, seed: u64, tally: &Tally) -> Option<(Question, String)> {
    let updates = world.updates();
    let questions = world.questions_of(&updates, seed, QUESTIONS);
    difference_of(world, updates, questions, seed, tally)
}

/// The first of these questions that is answered in another way; the seed draws the settings.
fn difference_of(
    world: &World,
    updates: Vec<Update>,
    questions: Vec<Question>,
    seed: u64,
    tally: &Tally,
) -> Option<(Question, String)> {
    let reference = Reference::new(&updates);
    let subject = Subject::new(&world.node, updates, settings(seed));
    tally.rules.fetch_add(subject.rules(), Ordering::Relaxed);
    for question in questions {
        let on = !subject.is_off(question.packet.family());
        let expected = on && allowed(&reference, &question);
        let Some(outcome) = subject.ask(&question) else { continue };
        tally.asked[usize::from(expected)].fetch_add(1, Ordering::Relaxed);
        if outcome.fate.passed() != expected {
            let why = reference.workload(&question.endpoint, question.direction, &question.packet);
            let trace = subject.trace(&question, &outcome);
            return Some((question, format!("reference: {why:?}\n{trace}")));
        }
        // Between two endpoints of this host both are asked.
        let Some((other, outcome)) = subject.between(&question) else { continue };
        let both = expected && allowed(&reference, &other);
        tally.pairs[usize::from(both)].fetch_add(1, Ordering::Relaxed);
        if outcome.fate.passed() != both {
            let trace = subject.trace(&question, &outcome);
            return Some((question, format!("and then {other}, together: {both}\n{trace}")));
        }
    }
    None
}

/// How much was asked: how many were dropped, and how many passed.
#[derive(Debug, Default)]
struct Tally {
    asked: [AtomicUsize; 2],
    pairs: [AtomicUsize; 2],
    rules: AtomicUsize,
}

pub(crate) fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/worlds")
}

/// Makes a world small in which the ruleset is wrong, and keeps it as a file.
fn keep(seed: u64, world: &World) -> String {
    let quiet = Tally::default();
    let wrong = |world: &World| difference(world, seed, &quiet);
    let small = calico_worlds::shrink(world, |world| wrong(world).is_some());
    let (question, told) = wrong(&small).unwrap();
    let case = Case {
        about: format!("seed {seed}: the ruleset and the reference differed"),
        world: small,
        questions: vec![question],
    };
    let path = corpus().join(format!("ruleset-{seed}.json"));
    std::fs::write(&path, case.to_text()).unwrap();
    format!("small: {told}\nkept as {}\n{}", path.display(), case.to_text())
}

#[test]
fn worlds_that_failed_once() {
    let cases = Case::read_all(&corpus()).unwrap();
    assert!(cases.len() >= 5, "the corpus is not where it used to be");
    let tally = Tally::default();
    for (name, case) in cases {
        // With the settings of several seeds.
        for seed in 0..6 {
            let questions = case.questions.clone();
            let updates = case.world.updates();
            let found = difference_of(&case.world, updates, questions, seed, &tally);
            assert_eq!(found, None, "{name}");
        }
    }
}

#[test]
fn the_ruleset_does_what_the_reference_says() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let worlds = number("CALICO_RULESET_WORLDS", 2000);
    let first = number("CALICO_SEED", now % 1_000_000 * 100_000);
    let start = Instant::now();
    let tally = Tally::default();
    let run = |part: u64, parts: u64| {
        let mut seeds = (first..first + worlds).filter(|seed| seed % parts == part);
        seeds.find_map(|seed| {
            let world = World::random(seed);
            let found = difference(&world, seed, &tally)?;
            Some((seed, world, found))
        })
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8) as u64;
    let found = std::thread::scope(|scope| {
        let run = &run;
        let all: Vec<_> =
            (0..threads).map(|part| scope.spawn(move || run(part, threads))).collect();
        all.into_iter().find_map(|one| one.join().unwrap())
    });
    if let Some((seed, world, (question, told))) = found {
        panic!("CALICO_SEED={seed}: {question}\n{told}\n{}", keep(seed, &world));
    }
    println!("{worlds} worlds from {first}: {tally:?}, {:?}", start.elapsed());
    let count = |of: &[AtomicUsize; 2]| of.each_ref().map(|n| n.load(Ordering::Relaxed) as u64);
    // Each allow beside a deny.
    assert!(count(&tally.asked).iter().all(|n| *n > worlds * 5), "{tally:?}");
    assert!(count(&tally.pairs).iter().all(|n| *n > worlds / 10), "{tally:?}");
}

#[test]
fn crafted_worlds_are_answered_alike() {
    let tally = Tally::default();
    for (seed, world) in (1..).zip(crate::crafted::worlds()) {
        assert_eq!(difference(&world, seed, &tally), None);
    }
    let both = tally.asked.each_ref().map(|n| n.load(Ordering::Relaxed));
    assert!(both.iter().all(|n| *n >= 10), "{both:?}");
}

#[test]
fn an_endpoint_is_asked_at_its_own_end() {
    // What the tests above rest on: a question reaches the chains of its endpoint.
    let world = World::random(1);
    let subject = Subject::new(&world.node, world.updates(), settings(1));
    let mut ways = [0, 0];
    for question in world.questions(1, 100) {
        let Some(outcome) = subject.ask(&question) else { continue };
        let trace = subject.trace(&question, &outcome);
        let (way, chain) = match question.direction {
            Direction::Ingress => (0, ASKED[0]),
            Direction::Egress => (1, ASKED[1]),
        };
        ways[way] += usize::from(trace.contains(chain));
    }
    assert!(ways.iter().all(|n| *n > 20), "{ways:?}");
}

/// Of the interfaces that worlds name, about half.
const PREFIXES: [&str; 5] = ["cali1", "cali3", "cali5", "cali7", "cali9"];

/// Endpoints on other interfaces are policed neither by the ruleset nor by what tells and cuts.
#[test]
fn interfaces_that_are_none_of_pods_are_left_alone() {
    let worlds = number("CALICO_RULESET_WORLDS", 2000) / 20;
    let first = number("CALICO_SEED", 0);
    let host = BTreeSet::new();
    let (mut strays, mut pods) = ([0, 0], [0, 0]);
    for seed in first..first + worlds {
        let world = World::random(seed);
        let updates = world.updates();
        let questions = world.questions_of(&updates, seed, QUESTIONS);
        let reference = Reference::new(&updates);
        let interface_prefixes = PREFIXES.map(str::to_owned).to_vec();
        let settings = Settings { interface_prefixes, ..Settings::clone(&settings(seed)) };
        let subject = Subject::new(&world.node, updates, Arc::new(settings));
        let state = &subject.state;
        let judge = Judge::new(state, &host);
        let policed = |id: &WorkloadEndpointId| {
            let endpoint = state.endpoints.get(id);
            endpoint.is_some_and(|one| state.settings.is_of_pods(&one.interface))
        };
        for question in questions {
            let Some(outcome) = subject.ask(&question) else { continue };
            let Question { endpoint, direction, packet } = &question;
            let on = !subject.is_off(packet.family());
            let (said, stray) = (allowed(&reference, &question), !policed(endpoint));
            let count = if stray { &mut strays } else { &mut pods };
            count[usize::from(said)] += 1;
            let trace = || subject.trace(&question, &outcome);
            let expected = stray || (on && said);
            assert_eq!(
                outcome.fate.passed(),
                expected,
                "CALICO_SEED={seed}: {question}\n{}",
                trace()
            );
            let side = match direction {
                Direction::Ingress => Side::Destination,
                Direction::Egress => Side::Source,
            };
            let flow = Flow {
                source: packet.source,
                destination: packet.destination,
                protocol: Protocol::from_number(packet.protocol),
                ports: packet.ports,
                icmp: packet.icmp,
            };
            let verdict = judge.ask(endpoint, side, &flow).unwrap();
            assert_eq!(
                verdict.reason == Reason::NotOfPods,
                stray,
                "CALICO_SEED={seed}: {question}"
            );
            assert!(verdict.allowed || !stray, "CALICO_SEED={seed}: {question}");
            for verdict in judge.judge(&flow) {
                let id = verdict.subject.workload().unwrap();
                assert!(policed(id), "CALICO_SEED={seed}: {id} is asked by {question}");
            }
            let Some((other, outcome)) = subject.between(&question) else { continue };
            let allowed = |question: &Question| {
                !policed(&question.endpoint) || (on && allowed(&reference, question))
            };
            let both = allowed(&question) && allowed(&other);
            let trace = || subject.trace(&question, &outcome);
            let passed = outcome.fate.passed();
            assert_eq!(passed, both, "CALICO_SEED={seed}: {question}, then {other}\n{}", trace());
        }
    }
    // What policy denies passes there; elsewhere it does not.
    let few = |counts: &[u64; 2]| worlds >= 50 && counts.iter().any(|count| *count < worlds);
    assert!(!few(&strays) && !few(&pods), "{strays:?}, {pods:?}");
}
