//! Changes in the order in which the kernel takes them in one batch. Pure.
//!
//! The kernel does the messages of a batch one after the other on what the next packets will see, and
//! refuses what names something that is not there (yet), and what goes while something names it
//! (still). So: first the rules that change go, then keys of maps that lead elsewhere and elements that
//! go, then sets and chains; after that sets and chains come, then elements, then rules. What is named
//! as gone and as new is replaced on the way, and rules that name it are written again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::mirror::{Held, Key, Mirror};
use super::object::{Base, Chain, Change, Element, Match, Name, Rule, SetSpec, Statement, Verdict};
use super::wire::read::ListedBase;

/// What the batch does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// All rules of a chain go.
    Flush(&'a Name),
    /// Elements go.
    Remove(&'a Name, Vec<Gone<'a>>),
    /// A set goes.
    DropSet(&'a Name),
    /// A chain goes.
    DropChain(&'a Name),
    /// A set comes.
    MakeSet(&'a Name, SetSpec),
    /// A chain comes.
    MakeChain(&'a Name, Option<Base>),
    /// Elements come.
    Insert(&'a Name, Vec<&'a Element>),
    /// Rules come, in an empty chain.
    Fill(&'a Name, Arc<Chain>),
}

/// An element that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gone<'a> {
    /// As the change says.
    Asked(&'a Element),
    /// A key of a map, with where it led.
    Led(Element),
}

impl Gone<'_> {
    /// The element.
    pub(super) fn element(&self) -> &Element {
        match self {
            Self::Asked(element) => element,
            Self::Led(element) => element,
        }
    }
}

/// The steps of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan<'a> {
    /// In this order.
    pub(super) steps: Vec<Step<'a>>,
    /// New sets that nothing in the kernel can see before the rules are there: they and their elements
    /// may come earlier.
    pub(super) unseen: BTreeSet<&'a Name>,
}

/// What changes of one set.
#[derive(Default)]
struct Elements<'a> {
    come: Vec<&'a Element>,
    go: Vec<&'a Element>,
}

/// The changes by what they are about.
#[derive(Default)]
struct Sorted<'a> {
    put: BTreeMap<&'a Name, &'a Arc<Chain>>,
    no_chain: BTreeSet<&'a Name>,
    create: BTreeMap<&'a Name, SetSpec>,
    no_set: BTreeSet<&'a Name>,
    elements: Vec<(&'a Name, Elements<'a>)>,
    places: HashMap<&'a Name, usize>,
}

impl<'a> Sorted<'a> {
    fn new(changes: &'a [Change]) -> Self {
        let mut sorted = Self::default();
        for change in changes {
            match change {
                Change::PutChain(name, chain) => drop(sorted.put.insert(name, chain)),
                Change::DeleteChain(name) => drop(sorted.no_chain.insert(name)),
                Change::CreateSet(name, spec) => drop(sorted.create.insert(name, *spec)),
                Change::DeleteSet(name) => drop(sorted.no_set.insert(name)),
                Change::Add(name, element) => sorted.of(name).come.push(element),
                Change::Delete(name, element) => sorted.of(name).go.push(element),
            }
        }
        sorted
    }

    fn of(&mut self, name: &'a Name) -> &mut Elements<'a> {
        // Changes of one set mostly come one after the other.
        let place = match self.elements.last() {
            Some((last, _)) if Arc::ptr_eq(last, name) => self.elements.len() - 1,
            _ => {
                let next = self.elements.len();
                let place = *self.places.entry(name).or_insert(next);
                if place == next {
                    self.elements.push((name, Elements::default()));
                }
                place
            }
        };
        &mut self.elements[place].1
    }
}

/// The sets that a rule names.
fn sets_of(rule: &Rule) -> impl Iterator<Item = &Name> {
    let matched = rule.matches.iter().filter_map(|one| match one {
        Match::AddressIn { set, .. }
        | Match::AddressPortIn { set, .. }
        | Match::InterfaceAddressIn { set, .. }
        | Match::InterfaceIn { set, .. }
        | Match::SourceMacIn { set, .. } => Some(set),
        _ => None,
    });
    let dispatched = rule.statements.iter().filter_map(|statement| match statement {
        Statement::Dispatch { map, .. } => Some(map),
        _ => None,
    });
    matched.chain(dispatched)
}

/// The chain that a verdict leads to.
pub(super) fn target(verdict: &Verdict) -> Option<&Name> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
        _ => None,
    }
}

/// The chains that a rule names itself.
pub(super) fn targets(rule: &Rule) -> impl Iterator<Item = &Name> {
    rule.statements.iter().filter_map(|statement| match statement {
        Statement::Verdict(verdict) => target(verdict),
        _ => None,
    })
}

/// Plans `changes` of a table that holds what `mirror` says. What is there already, or gone already, is
/// no step.
pub(super) fn plan<'a>(mirror: &'a Mirror, changes: &'a [Change]) -> Plan<'a> {
    let mut sorted = Sorted::new(changes);
    sorted.put.retain(|name, chain| {
        sorted.no_chain.contains(name)
            || !matches!(mirror.chains.get(*name), Some(Held::Known(held)) if held == *chain)
    });
    // A set that comes while one of its name is there replaces it.
    sorted.no_set.extend(sorted.create.keys().copied());
    sorted.no_set.retain(|name| mirror.sets.contains_key(*name));
    sorted.no_chain.retain(|name| mirror.chains.contains_key(*name));
    let mut remade: BTreeSet<&Name> = BTreeSet::new();
    for (name, chain) in &sorted.put {
        // How a chain is called cannot be changed. The rest is a matter of its rules.
        let held = mirror.chains.get(*name);
        if held.is_some_and(|held| held.base() != chain.base.map(ListedBase::from)) {
            remade.insert(name);
        }
        sorted.no_chain.remove(name);
    }
    sorted.no_chain.extend(remade.iter().copied());

    let again = written_again(mirror, &sorted);
    let mut steps = Vec::new();
    let exists = |name: &&&Name| mirror.chains.contains_key(**name);
    let mut flushed: BTreeSet<&Name> = sorted.put.keys().filter(exists).copied().collect();
    flushed.extend(&sorted.no_chain);
    flushed.extend(again.keys());
    steps.extend(flushed.into_iter().map(Step::Flush));

    let mut come = Vec::new();
    for (name, elements) in &sorted.elements {
        let (gone, new) = of_set(mirror, &sorted, name, elements);
        if !gone.is_empty() {
            steps.push(Step::Remove(name, gone));
        }
        if !new.is_empty() {
            come.push(Step::Insert(name, new));
        }
    }
    steps.extend(sorted.no_set.iter().map(|name| Step::DropSet(name)));
    steps.extend(sorted.no_chain.iter().map(|name| Step::DropChain(name)));
    steps.extend(sorted.create.iter().map(|(name, spec)| Step::MakeSet(name, *spec)));
    for (name, chain) in &sorted.put {
        if remade.contains(name) || !mirror.chains.contains_key(*name) {
            steps.push(Step::MakeChain(name, chain.base));
        }
    }
    steps.extend(come);
    let put = sorted.put.iter().map(|(name, chain)| (*name, Arc::clone(chain)));
    let filled = put.chain(again).filter(|(_, chain)| !chain.rules.is_empty());
    steps.extend(filled.map(|(name, chain)| Step::Fill(name, chain)));

    let new = |name: &&&Name| !mirror.sets.contains_key(**name);
    let plain = |name: &&&Name| !super::wire::set::is_map(sorted.create[**name].kind);
    let unseen = sorted.create.keys().filter(new).filter(plain).copied().collect();
    Plan { steps, unseen }
}

/// Chains that do not change but name something that is replaced.
fn written_again<'a>(mirror: &'a Mirror, sorted: &Sorted<'a>) -> BTreeMap<&'a Name, Arc<Chain>> {
    if sorted.no_set.iter().all(|name| !sorted.create.contains_key(name))
        && sorted.no_chain.iter().all(|name| !sorted.put.contains_key(name))
    {
        return BTreeMap::new();
    }
    let names_replaced = |rule: &Rule| {
        sets_of(rule).any(|set| sorted.no_set.contains(set) && sorted.create.contains_key(set))
            || targets(rule).any(|to| sorted.no_chain.contains(to) && sorted.put.contains_key(to))
    };
    mirror
        .chains
        .iter()
        .filter(|(name, _)| !sorted.put.contains_key(name) && !sorted.no_chain.contains(name))
        .filter_map(|(name, held)| match held {
            Held::Known(chain) if chain.rules.iter().any(names_replaced) => {
                Some((name, Arc::clone(chain)))
            }
            _ => None,
        })
        .collect()
}

/// What goes of a set and what comes.
fn of_set<'a>(
    mirror: &'a Mirror,
    sorted: &Sorted<'a>,
    name: &'a Name,
    elements: &Elements<'a>,
) -> (Vec<Gone<'a>>, Vec<&'a Element>) {
    let (dropped, created) = (sorted.no_set.contains(name), sorted.create.contains_key(name));
    if dropped || created {
        // With its set every element went. A new set has none, and a gone one gets none.
        return (Vec::new(), if created { elements.come.clone() } else { Vec::new() });
    }
    let held = mirror.sets.get(name);
    let verdicts = held.map(|set| &set.verdicts);
    let leads = |key: &Key| verdicts.and_then(|verdicts| verdicts.get(key));
    let mut gone = Vec::new();
    let mut new = Vec::new();
    let mut coming: HashMap<Key, &Verdict> = HashMap::new();
    for element in &elements.come {
        let Some((key, verdict)) = Key::of(element) else {
            new.push(*element);
            continue;
        };
        match leads(&key) {
            Some(old) if old == verdict => {}
            Some(old) => {
                gone.push(Gone::Led(key.clone().element(old.clone())));
                new.push(element);
            }
            None => new.push(element),
        }
        coming.insert(key, verdict);
    }
    for element in &elements.go {
        match Key::of(element) {
            None => gone.push(Gone::Asked(element)),
            Some((key, _)) if !coming.contains_key(&key) && leads(&key).is_some() => {
                gone.push(Gone::Asked(element));
            }
            // Gone already, or it leads elsewhere from now on.
            Some(_) => {}
        }
    }
    (gone, new)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
