//! Why the kernel refused a whole batch. It looks at the ways that packets can take only when all
//! messages are done, and then names none of them: a circle, a way through too many chains, a statement
//! where the hook has no use for it. Pure; asked only after a refusal.

use std::collections::{BTreeMap, HashMap};

use super::mirror::{Held, Mirror};
use super::object::{Base, BaseKind, Chain, Hook, Name, Rule, Statement};
use super::plan::{target, targets};
use super::subject::Subject;

/// `NFT_JUMP_STACK_SIZE`: a way through more chains than this is refused.
const DEEPEST: usize = 16;

/// What is wrong with a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The rule or the map that does it.
    pub(super) subject: Subject,
    /// What.
    pub(super) said: String,
}

struct Walk<'a> {
    chains: BTreeMap<&'a str, (&'a Name, &'a Chain)>,
    mirror: &'a Mirror,
    /// How deep each chain was found, for this base chain: less deep has nothing new to say.
    seen: HashMap<&'a str, usize>,
    path: Vec<&'a Name>,
    base: Base,
}

/// The first fault of a table that would hold what `mirror` says.
pub(super) fn fault(mirror: &Mirror) -> Option<Fault> {
    let known = mirror.chains.iter().filter_map(|(name, held)| match held {
        Held::Known(chain) => Some((&**name, (name, &**chain))),
        Held::Foreign(_) => None,
    });
    let chains: BTreeMap<_, _> = known.collect();
    let bases: Vec<_> =
        chains.values().filter_map(|(name, chain)| Some((*name, chain.base?))).collect();
    let mut walk = Walk {
        chains,
        mirror,
        seen: HashMap::new(),
        path: Vec::new(),
        base: Base { kind: BaseKind::Filter, hook: Hook::Input, priority: 0 },
    };
    bases.into_iter().find_map(|(name, base)| {
        walk.seen.clear();
        walk.base = base;
        walk.enter(name)
    })
}

impl<'a> Walk<'a> {
    fn enter(&mut self, name: &'a Name) -> Option<Fault> {
        let (_, chain) = *self.chains.get(&**name)?;
        let depth = self.path.len();
        if self.seen.get(&**name).is_some_and(|seen| *seen >= depth) {
            return None;
        }
        self.seen.insert(name, depth);
        self.path.push(name);
        let fault =
            (1..).zip(&chain.rules).find_map(|(number, rule)| self.rule(name, number, rule));
        self.path.pop();
        fault
    }

    fn rule(&mut self, chain: &'a Name, number: usize, rule: &'a Rule) -> Option<Fault> {
        let here = || Subject::Rule(chain.clone(), number);
        if let Some(statement) = rule.statements.iter().find(|one| misplaced(self.base, one)) {
            let said = format!(
                "{} in a chain that {} leads to: the kernel has no use for it there",
                word(statement),
                self.path.first().map_or("", |name| name)
            );
            return Some(Fault { subject: here(), said });
        }
        targets(rule).find_map(|to| self.follow(to, here)).or_else(|| {
            let maps = rule.statements.iter().filter_map(|statement| match statement {
                Statement::Dispatch { map, .. } => Some(map),
                _ => None,
            });
            let mirror = self.mirror;
            let led = maps.filter_map(|map| Some((map, mirror.sets.get(map)?)));
            led.flat_map(|(map, set)| set.verdicts.values().map(move |verdict| (map, verdict)))
                .filter_map(|(map, verdict)| Some((map, target(verdict)?)))
                .find_map(|(map, to)| self.follow(to, || Subject::Set(map.clone())))
        })
    }

    fn follow(&mut self, to: &'a Name, subject: impl FnOnce() -> Subject) -> Option<Fault> {
        let way = || {
            let names: Vec<&str> = self.path.iter().chain([&to]).map(|name| &***name).collect();
            names.join(" → ")
        };
        if self.path.contains(&to) {
            return Some(Fault { subject: subject(), said: format!("a circle: {}", way()) });
        }
        if self.path.len() >= DEEPEST && self.chains.contains_key(&**to) {
            let said = format!("more than {DEEPEST} chains deep: {}", way());
            return Some(Fault { subject: subject(), said });
        }
        self.enter(to)
    }
}

/// Whether a hook has no use for a statement.
fn misplaced(base: Base, statement: &Statement) -> bool {
    let nat = base.kind == BaseKind::Nat;
    match statement {
        Statement::Dnat { .. } => !nat || !matches!(base.hook, Hook::Prerouting | Hook::Output),
        Statement::Snat { to: Some(_), .. } => {
            !nat || !matches!(base.hook, Hook::Postrouting | Hook::Input)
        }
        Statement::Snat { to: None, .. } => !nat || base.hook != Hook::Postrouting,
        Statement::Reject => base.hook == Hook::Postrouting,
        _ => false,
    }
}

fn word(statement: &Statement) -> &'static str {
    match statement {
        Statement::Dnat { .. } => "dnat",
        Statement::Snat { to: Some(_), .. } => "snat",
        Statement::Snat { to: None, .. } => "masquerade",
        _ => "reject",
    }
}

#[cfg(test)]
#[path = "depth_tests.rs"]
mod tests;
