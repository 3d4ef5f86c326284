use std::sync::Arc;

use super::*;
use crate::felix::nftables::object::{Change, DispatchKey, Element, SetKind, SetSpec, Verdict};

fn rule(statement: Statement) -> Rule {
    Rule { matches: Vec::new(), statements: vec![statement], comment: None }
}

fn goto(to: &str) -> Rule {
    rule(Statement::Verdict(Verdict::Goto(to.into())))
}

/// A table whose chain `top` is called at a hook.
fn table(base: Base, chains: Vec<(&str, Vec<Rule>)>, more: &[Change]) -> Option<Fault> {
    let mut mirror = Mirror::default();
    let chain = |(name, rules): (&str, Vec<Rule>)| {
        let base = (name == "top").then_some(base);
        Change::PutChain(name.into(), Arc::new(Chain { base, rules }))
    };
    mirror.apply(&chains.into_iter().map(chain).collect::<Vec<_>>());
    mirror.apply(more);
    fault(&mirror)
}

const FORWARD: Base = Base { kind: BaseKind::Filter, hook: Hook::Forward, priority: 0 };

/// `c1` to `c<n>`, each leading to the next.
fn row(n: usize) -> Vec<(&'static str, Vec<Rule>)> {
    let name = |n: usize| -> &'static str { Box::leak(format!("c{n}").into_boxed_str()) };
    let mut chains: Vec<_> = (1..n).map(|n| (name(n), vec![goto(name(n + 1))])).collect();
    chains.push((name(n), vec![]));
    chains.push(("top", vec![rule(Statement::Counter), goto("c1")]));
    chains
}

#[test]
fn a_table_without_fault_has_none() {
    assert_eq!(table(FORWARD, row(15), &[]), None);
    assert_eq!(table(FORWARD, vec![("a", vec![goto("a")]), ("top", vec![])], &[]), None);
}

#[test]
fn a_way_that_is_too_deep_is_told() {
    let fault = table(FORWARD, row(16), &[]).unwrap();
    assert_eq!(fault.subject, Subject::Rule("c15".into(), 1));
    assert!(fault.said.starts_with("more than 16 chains deep: top → c1 → c2"), "{}", fault.said);
}

#[test]
fn a_circle_is_told() {
    let chains = vec![("a", vec![goto("b")]), ("b", vec![goto("a")]), ("top", vec![goto("a")])];
    let fault = table(FORWARD, chains, &[]).unwrap();
    assert_eq!(fault.subject, Subject::Rule("b".into(), 1));
    assert_eq!(fault.said, "a circle: top → a → b → a");
}

#[test]
fn a_map_leads_as_rules_do() {
    let dispatch = || rule(Statement::Dispatch { key: DispatchKey::InGroup, map: "m".into() });
    let chains = vec![("a", vec![dispatch()]), ("top", vec![dispatch()])];
    let spec = SetSpec { kind: SetKind::VerdictsByGroup, counters: false };
    let more = vec![
        Change::CreateSet("m".into(), spec),
        Change::Add("m".into(), Element::Group(1, Verdict::Goto("a".into()))),
    ];
    let fault = table(FORWARD, chains, &more).unwrap();
    assert_eq!((fault.subject, &*fault.said), (Subject::Set("m".into()), "a circle: top → a → a"));
}

#[test]
fn a_statement_that_the_hook_has_no_use_for_is_told() {
    let masquerade = || rule(Statement::Snat { to: None, ports: None, random_fully: false });
    let chains =
        || vec![("a", vec![goto("b"), masquerade()]), ("b", vec![]), ("top", vec![goto("a")])];
    let fault = table(FORWARD, chains(), &[]).unwrap();
    assert_eq!(fault.subject, Subject::Rule("a".into(), 2));
    let nat = Base { kind: BaseKind::Nat, hook: Hook::Postrouting, priority: 100 };
    assert_eq!(table(nat, chains(), &[]), None);
}
