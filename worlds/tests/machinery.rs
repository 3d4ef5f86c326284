//! Would an evaluator that is wrong be found, and its world be small in the end? One is made wrong on
//! purpose, again and again: blind to one feature each time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

use calico_reference::Reference;
use calico_worlds::{Case, Feature, Question, World, features, shrink};

/// Worlds in which an error has to show.
const WORLDS: u64 = 2000;
const QUESTIONS: usize = 40;
/// A small world has at most so many objects, of the 15 to 35 that one begins with.
const OBJECTS: usize = 5;
/// And so many rules.
const RULES: usize = 3;

/// Does somebody who is blind to the feature answer otherwise?
fn is_wrong(feature: &Feature, world: &World, question: &Question) -> bool {
    let updates = world.updates();
    let Some(without) = feature.without(world, &updates) else { return false };
    let ask = |reference: &Reference| {
        let Question { endpoint, direction, packet } = question;
        reference.workload(endpoint, *direction, packet).map(|verdict| verdict.allowed)
    };
    match (ask(&Reference::new(&updates)), ask(&Reference::new(&without))) {
        (Some(right), Some(wrong)) => right != wrong,
        _ => false,
    }
}

/// The first world in which the error shows, and the question.
fn find(feature: &Feature) -> Option<(u64, World, Question)> {
    (0..WORLDS).find_map(|seed| {
        let world = World::random(seed);
        let updates = world.updates();
        feature.without(&world, &updates)?;
        let questions = world.questions_of(&updates, seed, QUESTIONS);
        let question = questions.into_iter().find(|q| is_wrong(feature, &world, q))?;
        Some((seed, world, question))
    })
}

/// Errors of every kind: criteria, order, members, inheritance, what decoding folds, what it leaves
/// out.
const ERRORS: [&str; 14] = [
    "source notNets",
    "notNets of one family",
    "destination ports",
    "destination named ports",
    "destination notSelector",
    "notICMP",
    "Pass in a policy",
    "Log decides nothing",
    "http of an Allow or a Pass",
    "tie of policies",
    "order of tiers",
    "labelsToApply",
    "namespaceSelector of a rule",
    "staged policies",
];

#[test]
fn an_error_is_found_and_its_world_is_small() {
    for name in ERRORS {
        let feature = features().find(|feature| feature.name == name).unwrap();
        let (seed, world, question) = find(feature).unwrap_or_else(|| panic!("{name}: not found"));
        let fails = |world: &World| is_wrong(feature, world, &question);
        let small = shrink(&world, fails);
        let case = Case { about: name.to_owned(), world: small, questions: vec![question.clone()] };
        let text = case.to_text();
        println!(
            "{name}: seed {seed}, {} objects become {}",
            world.objects.len(),
            case.world.objects.len()
        );
        assert!(fails(&case.world), "{name}: it became another\n{text}");
        assert!(case.world.objects.len() <= OBJECTS, "{name}: too many objects\n{text}");
        assert!(text.matches("\"action\"").count() <= RULES, "{name}: too many rules\n{text}");
        for key in case.world.objects.keys() {
            let mut less = case.world.clone();
            less.objects.remove(key);
            assert!(!fails(&less), "{name}: without {key} it still fails\n{text}");
        }
        let read = Case::from_text(&text).unwrap();
        assert_eq!(read, case, "{name}: the file says something else");
    }
}

#[test]
fn nobody_is_wrong_where_nothing_is_missing() {
    // The other side of it: without a difference the predicate says so, and nothing shrinks.
    let world = World::random(3);
    let feature = features().find(|feature| feature.name == "network sets").unwrap();
    let mut without = world.clone();
    without.objects.retain(|key, _| !key.contains("networksets"));
    let questions = without.questions(3, QUESTIONS);
    assert!(!questions.is_empty());
    assert!(!questions.iter().any(|question| is_wrong(feature, &without, question)));
    assert_eq!(shrink(&world, |_| false), world);
}

#[test]
fn a_seed_is_a_world() {
    for seed in [0, 7, 1_000_003] {
        assert_eq!(World::random(seed), World::random(seed));
        assert_eq!(World::random(seed).questions(5, 20), World::random(seed).questions(5, 20));
        assert_eq!(World::random(seed).packets(5, 20), World::random(seed).packets(5, 20));
        assert_ne!(World::random(seed), World::random(seed + 1));
        assert_ne!(World::random(seed).questions(5, 20), World::random(seed).questions(6, 20));
    }
}

#[test]
fn what_is_no_case_is_refused() {
    let good = Case {
        about: "x".to_owned(),
        world: World::random(1),
        questions: World::random(1).questions(1, 2),
    };
    assert_eq!(Case::from_text(&good.to_text()), Ok(good));
    for text in [
        "",
        "[]",
        "{}",
        r#"{"about":"x","node":"near","questions":["what?"],"objects":{}}"#,
        r#"{"about":"x","node":"near","questions":[],"objects":[]}"#,
        r#"{"about":"x","questions":[],"objects":{}}"#,
    ] {
        assert!(Case::from_text(text).is_err(), "{text}");
    }
}
