use super::*;
use crate::felix::nftables::lower::lower;
use crate::felix::nftables::object::{Rule, SetKind, SetSpec, Statement, Verdict};
use crate::felix::nftables::read::FoundRule;
use crate::felix::nftables::strategies;
use calico_datastore::model::Family;
use proptest::prelude::*;

/// These contents as the kernel would show them.
pub(in crate::felix::nftables) fn shown(contents: &Contents) -> Found {
    let chains = contents.chains.iter().map(|(name, chain)| {
        let rules = chain.rules.iter().map(|rule| FoundRule {
            exprs: lower(rule),
            comment: rule.comment.as_deref().map(str::to_owned),
        });
        let base = chain.base.map(ListedBase::from);
        (name.clone(), FoundChain { base, rules: rules.collect() })
    });
    let sets = contents.sets.iter().map(|(name, set)| {
        let elements = set.elements.iter().collect();
        (name.clone(), FoundSet { spec: Some(set.spec), elements, strange: Vec::new() })
    });
    Found { asleep: false, chains: chains.collect(), sets: sets.collect() }
}

fn rule(verdict: Verdict) -> Rule {
    Rule { matches: vec![], statements: vec![Statement::Verdict(verdict)], comment: None }
}

fn of_rules(verdicts: &[Verdict]) -> Contents {
    let rules = verdicts.iter().cloned().map(rule).collect();
    let chain = Arc::new(Chain { base: None, rules });
    Contents { chains: [("a".into(), chain)].into(), ..Contents::default() }
}

fn of_elements(elements: Vec<Element>) -> Contents {
    let spec = SetSpec { kind: SetKind::VerdictsByGroup, counters: false };
    let set = Set { spec, elements: elements.into_iter().collect() };
    Contents { sets: [("m".into(), set)].into(), ..Contents::default() }
}

fn told(found: &Contents, wanted: &Contents) -> Vec<String> {
    let drift = compare(Some(&shown(found)), wanted).drift;
    let line = |drift: Drift| format!("{} {}: {}", drift.subject, drift.change, drift.detail);
    drift.into_iter().map(line).collect()
}

#[test]
fn rules_are_told_by_number() {
    use Verdict::{Accept, Drop, Return};
    let three = of_rules(&[Accept, Drop, Return]);
    for (found, detail) in [
        (vec![Accept, Return], "rule 2 is gone"),
        (vec![], "3 rules are gone from rule 1 on"),
        (vec![Accept, Drop, Drop, Return], "a rule too many before rule 3"),
        (vec![Accept, Accept, Return], "rule 2 is another"),
        (vec![Drop, Accept, Return], "2 rules from rule 1 on are 2 others"),
    ] {
        let expected = format!("nftables chain a modified: {detail}");
        assert_eq!(told(&of_rules(&found), &three), [expected]);
    }
    assert_eq!(told(&three, &three), [""; 0]);
    assert_eq!(told(&Contents::default(), &three), ["nftables chain a missing: "]);
    assert_eq!(told(&three, &Contents::default()), ["nftables chain a unexpected: "]);
}

#[test]
fn elements_are_told_by_key() {
    let wanted = of_elements(vec![
        Element::Group(1, Verdict::Drop),
        Element::Group(2, Verdict::Drop),
        Element::Group(3, Verdict::Drop),
    ]);
    let found = of_elements(vec![
        Element::Group(1, Verdict::Drop),
        Element::Group(2, Verdict::Accept),
        Element::Group(4, Verdict::Accept),
    ]);
    let expected = [
        "nftables set m modified: it led elsewhere: 2 : accept",
        "nftables set m missing: it does not hold 3 : drop",
        "nftables set m unexpected: it holds 4 : accept",
    ];
    assert_eq!(told(&found, &wanted), expected);
    // What leads nowhere that is ours can wait for the second transaction.
    let difference = compare(Some(&shown(&found)), &wanted);
    let stray = Change::Delete("m".into(), Element::Group(4, Verdict::Accept));
    assert_eq!(difference.after, [stray]);
}

#[test]
fn a_set_of_another_type_is_made_anew() {
    let wanted = of_elements(vec![Element::Group(1, Verdict::Drop)]);
    let mut found = wanted.clone();
    let spec = SetSpec { kind: SetKind::Address(Family::V4), counters: true };
    found.sets.insert("m".into(), Set { spec, elements: Default::default() });
    let difference = compare(Some(&shown(&found)), &wanted);
    let name: Name = "m".into();
    let expected = [
        Change::DeleteSet(name.clone()),
        Change::CreateSet(name.clone(), wanted.sets["m"].spec),
        Change::Add(name, Element::Group(1, Verdict::Drop)),
    ];
    assert_eq!(difference.now, expected);
    assert_eq!(difference.drift.len(), 1);
}

proptest! {
    #[test]
    fn the_changes_undo_every_difference(
        found in strategies::contents(),
        wanted in strategies::contents(),
    ) {
        let difference = compare(Some(&shown(&found)), &wanted);
        let mut result = found.clone();
        result.apply(&difference.now);
        result.apply(&difference.after);
        prop_assert_eq!(&result, &wanted);
        prop_assert_eq!(difference.is_none(), found == wanted);
        prop_assert_eq!(difference.drift.is_empty(), found == wanted);
        let mut fresh = Contents::default();
        fresh.apply(&compare(None, &wanted).now);
        prop_assert_eq!(&fresh, &wanted);
    }
}
