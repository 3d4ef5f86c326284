use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use calico_datastore::model::Family;
use proptest::prelude::*;

use super::*;
use crate::felix::nftables::contents::{Contents, Set};
use crate::felix::nftables::object::{BaseKind, DispatchKey, Hook, SetKind};
use crate::felix::nftables::strategies;

/// The kernel, as far as it refuses things: an error where it has one.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kernel {
    chains: BTreeMap<Name, Chain>,
    sets: BTreeMap<Name, (SetSpec, BTreeMap<Element, Option<Verdict>>)>,
}

fn split(element: &Element) -> (Element, Option<Verdict>) {
    match Key::of(element) {
        Some((key, verdict)) => (key.element(Verdict::Drop), Some(verdict.clone())),
        None => (element.clone(), None),
    }
}

impl Kernel {
    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.chains.values().flat_map(|chain| &chain.rules)
    }

    fn is_target(&self, chain: &Name) -> bool {
        self.rules().any(|rule| targets(rule).any(|to| to == chain))
            || self
                .sets
                .values()
                .flat_map(|(_, elements)| elements.values().flatten())
                .any(|verdict| target(verdict) == Some(chain))
    }

    /// A chain that can be led to: there, and called by no hook.
    fn can_be_target(&self, chain: &Name) -> bool {
        self.chains.get(chain).is_some_and(|chain| chain.base.is_none())
    }

    fn step(&mut self, step: &Step<'_>) -> Result<(), String> {
        let check = |fine: bool, error: &str| match fine {
            true => Ok(()),
            false => Err(format!("{error}: {step:?}")),
        };
        match step {
            Step::Flush(name) => {
                let chain = self.chains.get_mut(*name).ok_or(format!("ENOENT {name}"))?;
                chain.rules.clear();
            }
            Step::Remove(name, gone) => {
                let (_, elements) = self.sets.get_mut(*name).ok_or(format!("ENOENT {name}"))?;
                for gone in gone {
                    let (key, _) = split(gone.element());
                    check(elements.remove(&key).is_some(), "ENOENT")?;
                }
            }
            Step::DropSet(name) => {
                check(!self.rules().any(|rule| sets_of(rule).any(|set| set == *name)), "EBUSY")?;
                check(self.sets.remove(*name).is_some(), "ENOENT")?;
            }
            Step::DropChain(name) => {
                check(!self.is_target(name), "EBUSY")?;
                let chain = self.chains.remove(*name);
                check(chain.is_some_and(|chain| chain.rules.is_empty()), "ENOENT or EBUSY")?;
            }
            Step::MakeSet(name, spec) => {
                let before = self.sets.insert((*name).clone(), (*spec, BTreeMap::new()));
                check(before.is_none(), "EEXIST")?;
            }
            Step::MakeChain(name, base) => {
                let chain = Chain { base: *base, rules: Vec::new() };
                check(self.chains.insert((*name).clone(), chain).is_none(), "EEXIST")?;
            }
            Step::Insert(name, elements) => {
                for element in elements {
                    let (key, verdict) = split(element);
                    if let Some(to) = verdict.as_ref().and_then(target) {
                        check(self.can_be_target(to), "ENOENT")?;
                    }
                    let (_, held) = self.sets.get_mut(*name).ok_or(format!("ENOENT {name}"))?;
                    let before = held.insert(key, verdict.clone());
                    check(before.is_none_or(|before| before == verdict), "EEXIST")?;
                }
            }
            Step::Fill(name, chain) => {
                for rule in &chain.rules {
                    check(sets_of(rule).all(|set| self.sets.contains_key(set)), "ENOENT")?;
                    check(targets(rule).all(|to| self.can_be_target(to)), "ENOENT")?;
                }
                let held = self.chains.get_mut(*name).ok_or(format!("ENOENT {name}"))?;
                check(held.rules.is_empty() && held.base == chain.base, "in an empty chain")?;
                held.rules.clone_from(&chain.rules);
            }
        }
        Ok(())
    }
}

impl From<&Contents> for Kernel {
    fn from(contents: &Contents) -> Self {
        let chains = contents.chains.iter();
        let sets = contents.sets.iter().map(|(name, set)| {
            let elements = set.elements.iter().map(|element| split(&element)).collect();
            (name.clone(), (set.spec, elements))
        });
        Self {
            chains: chains.map(|(name, chain)| (name.clone(), (**chain).clone())).collect(),
            sets: sets.collect(),
        }
    }
}

/// What makes `to` out of `from`, as a renderer says it.
fn difference(from: &Contents, to: &Contents) -> Vec<Change> {
    let mut out = Vec::new();
    for (name, chain) in &to.chains {
        let before = from.chains.get(name);
        if before.is_some_and(|before| before.base != chain.base) {
            out.push(Change::DeleteChain(name.clone()));
        }
        if before != Some(chain) {
            out.push(Change::PutChain(name.clone(), Arc::clone(chain)));
        }
    }
    let gone = from.chains.keys().filter(|name| !to.chains.contains_key(*name));
    out.extend(gone.map(|name| Change::DeleteChain(name.clone())));
    let gone = from.sets.keys().filter(|name| !to.sets.contains_key(*name));
    out.extend(gone.map(|name| Change::DeleteSet(name.clone())));
    for (name, set) in &to.sets {
        let all = |set: &Set| set.elements.iter().collect::<BTreeSet<_>>();
        let (before, after) = match from.sets.get(name) {
            Some(before) if before.spec == set.spec => (all(before), all(set)),
            before => {
                out.extend(before.map(|_| Change::DeleteSet(name.clone())));
                out.push(Change::CreateSet(name.clone(), set.spec));
                (BTreeSet::new(), all(set))
            }
        };
        out.extend(before.difference(&after).map(|e| Change::Delete(name.clone(), e.clone())));
        out.extend(after.difference(&before).map(|e| Change::Add(name.clone(), e.clone())));
    }
    out
}

fn mirror_of(contents: &Contents) -> Mirror {
    let mut mirror = Mirror::default();
    mirror.apply(&contents.as_changes());
    mirror
}

fn run(kernel: &mut Kernel, plan: &Plan<'_>) {
    for step in &plan.steps {
        if let Err(error) = kernel.step(step) {
            panic!("{error}\nof {:#?}\nafter {kernel:#?}", plan.steps);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_kernel_takes_every_plan_and_holds_what_was_wanted(
        from in strategies::contents(),
        to in strategies::contents(),
        order in any::<u64>(),
    ) {
        let mut changes = difference(&from, &to);
        // The order of a list says nothing.
        let place = |n: usize| (n as u64 + 1).wrapping_mul(order | 1).rotate_left(17);
        let mut places: Vec<_> = (0..changes.len()).collect();
        places.sort_by_key(|n| place(*n));
        changes = places.into_iter().map(|n| changes[n].clone()).collect();

        let mut mirror = mirror_of(&from);
        let mut kernel = Kernel::from(&from);
        let steps = plan(&mirror, &changes);
        run(&mut kernel, &steps);
        prop_assert_eq!(&kernel, &Kernel::from(&to));
        mirror.apply(&changes);
        prop_assert_eq!(&mirror, &mirror_of(&to));
        // And once more it is nothing.
        let again = to.chains.iter().map(|(n, c)| Change::PutChain(n.clone(), Arc::clone(c)));
        let again: Vec<_> = again.collect();
        prop_assert_eq!(plan(&mirror, &again).steps, []);
    }

    /// Sets may come before everything else when nothing sees them.
    #[test]
    fn unseen_sets_may_come_early(from in strategies::contents(), to in strategies::contents()) {
        let changes = difference(&from, &to);
        let mirror = mirror_of(&from);
        let mut kernel = Kernel::from(&from);
        let mut planned = plan(&mirror, &changes);
        let unseen = std::mem::take(&mut planned.unseen);
        planned.steps.sort_by_key(|step| match step {
            Step::MakeSet(name, _) | Step::Insert(name, _) => !unseen.contains(*name),
            _ => true,
        });
        run(&mut kernel, &planned);
        prop_assert_eq!(&kernel, &Kernel::from(&to));
    }
}

fn name(text: &str) -> Name {
    text.into()
}

fn rules(rules: Vec<Rule>) -> Arc<Chain> {
    Arc::new(Chain { base: None, rules })
}

fn jump(to: &str) -> Rule {
    let statements = vec![Statement::Verdict(Verdict::Jump(name(to)))];
    Rule { matches: Vec::new(), statements, comment: None }
}

fn group(key: u32, to: &str) -> Element {
    Element::Group(key, Verdict::Goto(name(to)))
}

const MAP: SetSpec = SetSpec { kind: SetKind::VerdictsByGroup, counters: false };

#[test]
fn an_element_is_one_step() {
    let set = name("s");
    let spec = SetSpec { kind: SetKind::Address(Family::V4), counters: false };
    let mut mirror = Mirror::default();
    mirror.apply(&[Change::CreateSet(set.clone(), spec)]);
    let element = Element::Address("10.0.0.1".parse().unwrap());
    let changes = [Change::Add(set.clone(), element.clone())];
    assert_eq!(plan(&mirror, &changes).steps, [Step::Insert(&set, vec![&element])]);
    let changes = [Change::Delete(set.clone(), element.clone())];
    let gone = vec![Gone::Asked(&element)];
    assert_eq!(plan(&mirror, &changes).steps, [Step::Remove(&set, gone)]);
}

#[test]
fn a_key_that_leads_elsewhere_is_deleted_and_added() {
    let map = name("m");
    let chains = ["a", "b"].map(|chain| Change::PutChain(name(chain), rules(vec![])));
    let mut mirror = Mirror::default();
    mirror.apply(&chains);
    mirror.apply(&[Change::CreateSet(map.clone(), MAP), Change::Add(map.clone(), group(1, "a"))]);
    let element = group(1, "b");
    let expected =
        [Step::Remove(&map, vec![Gone::Led(group(1, "a"))]), Step::Insert(&map, vec![&element])];
    // Whether the old verdict is named as going or not.
    let change = Change::Add(map.clone(), group(1, "b"));
    let told = [change.clone(), Change::Delete(map.clone(), group(1, "a"))];
    assert_eq!(plan(&mirror, &[change]).steps, expected);
    assert_eq!(plan(&mirror, &told).steps, expected);
    // What is there is no step, nor what is gone.
    let changes = [Change::Add(map.clone(), group(1, "a"))];
    assert_eq!(plan(&mirror, &changes).steps, []);
    let changes = [Change::Delete(map.clone(), group(2, "a"))];
    assert_eq!(plan(&mirror, &changes).steps, []);
}

#[test]
fn a_chain_goes_after_what_leads_to_it_and_comes_before() {
    let (map, a, b, c) = (name("m"), name("a"), name("b"), name("c"));
    let mut mirror = Mirror::default();
    mirror.apply(&[
        Change::PutChain(a.clone(), rules(vec![])),
        Change::PutChain(c.clone(), rules(vec![jump("a")])),
        Change::CreateSet(map.clone(), MAP),
        Change::Add(map.clone(), group(1, "a")),
    ]);
    let (element, new) = (group(1, "b"), rules(vec![jump("b")]));
    let changes = [
        Change::DeleteChain(a.clone()),
        Change::PutChain(c.clone(), Arc::clone(&new)),
        Change::PutChain(b.clone(), rules(vec![])),
        Change::Add(map.clone(), element.clone()),
    ];
    let expected = [
        Step::Flush(&a),
        Step::Flush(&c),
        Step::Remove(&map, vec![Gone::Led(group(1, "a"))]),
        Step::DropChain(&a),
        Step::MakeChain(&b, None),
        Step::Insert(&map, vec![&element]),
        Step::Fill(&c, new),
    ];
    assert_eq!(plan(&mirror, &changes).steps, expected);
}

#[test]
fn a_replaced_set_takes_the_rules_along_that_name_it() {
    let (map, top) = (name("m"), name("top"));
    let statements = vec![Statement::Dispatch { key: DispatchKey::InGroup, map: map.clone() }];
    let rule = Rule { matches: Vec::new(), statements, comment: None };
    let base = Some(Base { kind: BaseKind::Filter, hook: Hook::Forward, priority: 0 });
    let chain = Arc::new(Chain { base, rules: vec![rule] });
    let mut mirror = Mirror::default();
    mirror.apply(&[
        Change::CreateSet(map.clone(), MAP),
        Change::PutChain(top.clone(), Arc::clone(&chain)),
    ]);
    let spec = SetSpec { kind: SetKind::VerdictsByName, counters: false };
    let changes = [Change::DeleteSet(map.clone()), Change::CreateSet(map.clone(), spec)];
    let expected = [
        Step::Flush(&top),
        Step::DropSet(&map),
        Step::MakeSet(&map, spec),
        Step::Fill(&top, chain),
    ];
    assert_eq!(plan(&mirror, &changes).steps, expected);
    assert_eq!(plan(&mirror, &changes).unseen, BTreeSet::new());
}

#[test]
fn what_was_found_changed_is_written_whatever_it_was() {
    let a = name("a");
    let held = HashMap::from([(a.clone(), Held::Foreign(None))]);
    let mirror = Mirror { chains: held, ..Mirror::default() };
    let changes = [Change::PutChain(a.clone(), rules(vec![jump("b")]))];
    let expected = [Step::Flush(&a), Step::Fill(&a, rules(vec![jump("b")]))];
    assert_eq!(plan(&mirror, &changes).steps, expected);
}
