//! The plan against a model of the kernel that understands the text of a transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::felix::iptables::save::{Found, parse};
use crate::felix::iptables::spelling::Spellings;

/// A table as text: chains and their rules. `cali-` chains and one chain of the kernel.
type Model = BTreeMap<String, Vec<String>>;

/// Carries out a transaction as iptables-restore --noflush does.
fn restore(model: &mut Model, text: &str) {
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words.as_slice() {
            ["COMMIT"] | ["*filter"] => {}
            [declared, ..] if declared.starts_with(':') => {
                model.insert(declared[1..].to_owned(), Vec::new());
            }
            ["-A", chain, rule] => model.get_mut(*chain).unwrap().push((*rule).to_owned()),
            ["-D", chain, rule] => {
                let rules = model.get_mut(*chain).unwrap();
                let at = rules.iter().position(|r| r == rule).expect("the rule is there");
                rules.remove(at);
            }
            ["-I", chain, rest] => {
                let (at, rule) = rest.split_once(' ').unwrap();
                let at: usize = at.parse().unwrap();
                model.get_mut(*chain).unwrap().insert(at - 1, rule.to_owned());
            }
            ["-X", chain] => {
                let gone = model.remove(*chain).expect("the chain is there");
                assert!(gone.is_empty(), "{chain} is deleted with rules in it");
                let jump = format!("--jump {chain}");
                for rules in model.values() {
                    assert!(!rules.iter().any(|r| r.ends_with(&jump)), "{chain} is in use");
                }
            }
            other => panic!("not understood: {other:?}"),
        }
    }
}

fn save(model: &Model) -> ActualTable {
    let mut text = "*filter\n".to_owned();
    for chain in model.keys() {
        text += &format!(":{chain} - [0:0]\n");
    }
    for (chain, rules) in model {
        for rule in rules {
            text += &format!("-A {chain} {rule}\n");
        }
    }
    parse(&text).remove(&Table::Filter).unwrap()
}

/// The same, compared with what should be.
fn seen(model: &Model, wanted: &DesiredTable) -> ActualTable {
    let mut read = save(model);
    read.recognise(wanted.chains.iter(), &mut Spellings::default());
    read
}

fn some_chains() -> impl Strategy<Value = BTreeMap<String, Vec<String>>> {
    let rule = prop::sample::select(vec!["--jump DROP", "-p tcp --jump RETURN", "--jump ACCEPT"]);
    prop::collection::btree_map(
        prop::sample::select(vec!["cali-a", "cali-b", "cali-c", "cali-pi-x"])
            .prop_map(str::to_owned),
        prop::collection::vec(rule.prop_map(str::to_owned), 0..4),
        0..4,
    )
}

fn desired(chains: &BTreeMap<String, Vec<String>>, place: Option<Place>) -> DesiredTable {
    let mut chains = chains.clone();
    let jumps = match place {
        Some(place) => {
            chains.entry("cali-FORWARD".to_owned()).or_default();
            vec![Jump { from: "FORWARD", to: "cali-FORWARD", place }]
        }
        None => Vec::new(),
    };
    let chains = chains
        .into_iter()
        .map(|(name, lines)| (name.clone(), Arc::new(Chain::new(&name, lines))))
        .collect();
    DesiredTable { chains, jumps }
}

fn some_place() -> impl Strategy<Value = Option<Place>> {
    prop::sample::select(vec![None, Some(Place::Top), Some(Place::Anywhere), Some(Place::End)])
}

proptest! {
    #[test]
    fn a_plan_leads_from_anything_to_what_should_be(
        before in some_chains(),
        before_place in some_place(),
        after in some_chains(),
        place in some_place(),
        foreign in prop::collection::vec(prop::sample::select(vec!["-s 1.2.3.4/32 -j ACCEPT", "-j DOCKER"]), 0..3),
        tampered in prop::bool::ANY,
        modified in prop::bool::ANY,
        above in prop::bool::ANY,
    ) {
        let mut model: Model = [("FORWARD".to_owned(), foreign.iter().map(|r| (*r).to_owned()).collect())].into();
        // An earlier run…
        let first = desired(&before, before_place);
        if let Some(plan) = plan(Table::Filter, &first, &save(&model), Scope::EVERYTHING) {
            restore(&mut model, &plan.text);
        }
        // …and somebody who was at it meanwhile.
        if tampered && let Some(rules) = model.get_mut("cali-a") {
            rules.push("-j ACCEPT".to_owned());
        }
        if modified {
            // The comment stays.
            for rule in model.values_mut().flatten() {
                *rule = rule.replace("--jump DROP", "-j LOG").replace("cali-FORWARD", "cali-b");
            }
        }
        if above {
            model.get_mut("FORWARD").unwrap().insert(0, "-j ABOVE".to_owned());
        }
        let theirs = |model: &Model| -> Vec<String> {
            model["FORWARD"].iter().filter(|r| !r.contains("cali:")).cloned().collect()
        };
        let untouched = theirs(&model);

        let wanted = desired(&after, place);
        let mut known = seen(&model, &wanted);
        if let Some(plan) = plan(Table::Filter, &wanted, &known, Scope::EVERYTHING) {
            restore(&mut model, &plan.text);
            plan.done(&mut known);
        }
        let read = seen(&model, &wanted);
        prop_assert_eq!(&known.chains, &read.chains);
        for (name, chain) in &wanted.chains {
            prop_assert_eq!(&read.chains[name], &Held::Known(Arc::clone(chain)));
            let rules: Vec<_> = (0..chain.lines.len()).map(|at| chain.rule(at)).collect();
            prop_assert_eq!(&model[name], &rules);
        }
        prop_assert_eq!(read.chains.len(), wanted.chains.len());
        prop_assert_eq!(theirs(&model), untouched);
        let ours: Vec<usize> = model["FORWARD"].iter().enumerate().filter(|(_, r)| r.contains("cali:")).map(|(i, _)| i).collect();
        prop_assert_eq!(ours.len(), wanted.jumps.len());
        if place == Some(Place::Top) {
            prop_assert_eq!(ours, [0]);
        }
        // Done is done, by what is read and by what is remembered.
        prop_assert!(plan(Table::Filter, &wanted, &read, Scope::EVERYTHING).is_none());
        prop_assert!(plan(Table::Filter, &wanted, &known, Scope::EVERYTHING).is_none());
    }
}

proptest! {
    /// One memory over many changes, as in a running agent: rule by rule where that is shorter.
    #[test]
    fn what_is_remembered_is_what_the_kernel_holds_after_any_changes(
        steps in prop::collection::vec(prop::collection::btree_map(
            prop::sample::select(vec!["cali-a", "cali-b"]).prop_map(str::to_owned),
            prop::collection::vec((0..9_u8).prop_map(|n| format!("-p {n} --jump DROP")), 0..10),
            0..3,
        ), 1..8),
    ) {
        let scope = Scope::EVERYTHING;
        let mut model: Model = [("FORWARD".to_owned(), Vec::new())].into();
        let mut known = save(&model);
        for chains in steps {
            let wanted = desired(&chains, Some(Place::Top));
            if let Some(plan) = plan(Table::Filter, &wanted, &known, scope) {
                restore(&mut model, &plan.text);
                plan.done(&mut known);
            }
            prop_assert_eq!(&known.chains, &seen(&model, &wanted).chains);
            for (name, chain) in &wanted.chains {
                let rules: Vec<_> = (0..chain.lines.len()).map(|at| chain.rule(at)).collect();
                prop_assert_eq!(&model[name], &rules);
            }
        }
    }
}

#[test]
fn one_rule_more_among_many_is_one_line() {
    let scope = Scope::EVERYTHING;
    let rules = |count: u8| (0..count).map(|n| format!("-p {n} --jump DROP")).collect::<Vec<_>>();
    let mut known = ActualTable::default();
    for count in [20, 21] {
        let wanted = desired(&[("cali-a".to_owned(), rules(count))].into(), None);
        let plan = plan(Table::Filter, &wanted, &known, scope).unwrap();
        assert_eq!(plan.lines, if count == 20 { 21 } else { 1 });
        plan.done(&mut known);
    }
    // After a restart too, by what was read.
    let old = desired(&[("cali-a".to_owned(), rules(21))].into(), None);
    let found = |held: &Held| -> Vec<Found> {
        let rules = held.rules().into_iter();
        rules.map(|(hash, text)| Found { hash, proven: false, text }).collect()
    };
    let mut read = known.clone();
    read.chains.values_mut().for_each(|held| *held = Held::Other(found(held)));
    let wanted = desired(&[("cali-a".to_owned(), rules(20))].into(), None);
    read.recognise(old.chains.iter(), &mut Spellings::default());
    assert_eq!(read.chains, known.chains);
    assert_eq!(plan(Table::Filter, &wanted, &read, scope).unwrap().lines, 1);
}
