//! What has to be written so that a table becomes as it should be: pure.
//!
//! The plan is one transaction for `iptables-restore --noflush`. A chain that does not differ is not
//! mentioned, so its counters live on. One that differs is changed rule by rule when that is
//! shorter; else it is declared, which empties it, and written anew. Chains of others are never declared: rules of ours in them come and go one by
//! one, by their full text.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::chain::Chain;
use super::delta::delta;
use super::hash::{self, RuleHash};
use super::save::{ActualTable, ForeignChain, Held, OwnRule, Table};
use super::spelling;

/// Where a jump has to stand in a chain of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before every rule.
    Top,
    /// Anywhere; put at the top when missing. (rkt puts its own NAT rules first at each start.)
    Anywhere,
    /// Anywhere; put at the end when missing.
    End,
}

/// A jump from a chain of the kernel into one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The kernel's chain.
    pub from: &'static str,
    /// Our chain.
    pub to: &'static str,
    /// Where it has to stand.
    pub place: Place,
}

impl Jump {
    fn line(&self) -> String {
        format!("--jump {}", self.to)
    }

    /// The hash of its rule.
    pub(super) fn hash(&self) -> Option<RuleHash> {
        hash::of_chain(self.from, [&self.line()]).next()
    }

    /// Its rule as the tools take it behind the name of the chain.
    fn rule(&self) -> String {
        let hash = self.hash().map(|hash| format!("-m comment --comment \"cali:{hash}\" "));
        hash.unwrap_or_default() + &self.line()
    }

    /// True when `own` is its rule, wherever it stands.
    pub(super) fn is(&self, own: &OwnRule) -> bool {
        own.hash == self.hash() && spelling::same(&self.rule(), &own.text)
    }
}

/// A table as it should be.
#[derive(Clone, Debug, Default)]
pub struct DesiredTable {
    /// Our chains.
    pub chains: BTreeMap<String, Arc<Chain>>,
    /// The jumps into them.
    pub jumps: Vec<Jump>,
}

/// How much of a table a plan looks at.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Only these chains; `None` = all, and what should not be there.
    pub only: Option<&'a BTreeSet<String>>,
    /// Chains that stay as they are, whatever they are.
    pub hold: &'a BTreeSet<String>,
    /// Delete chains that should not be there.
    pub delete: bool,
    /// Which of our rules in chains of others.
    pub jumps: Jumps<'a>,
    /// Write chains from their beginning, whatever is known of them.
    pub anew: bool,
}

static NONE: BTreeSet<String> = BTreeSet::new();

impl Scope<'_> {
    /// The whole table.
    pub const EVERYTHING: Self =
        Self { only: None, hold: &NONE, delete: true, jumps: Jumps::All, anew: false };
    /// The whole table, but nothing is deleted.
    pub const NO_DELETES: Self = Self { delete: false, ..Self::EVERYTHING };
}

/// Which of our rules in chains of others a plan looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jumps<'a> {
    /// All.
    All,
    /// Those in this chain.
    In(&'a str),
    /// They stay as they are.
    Stay,
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The text for `iptables-restore --noflush`.
    pub text: String,
    /// How many lines of it are rules or chains.
    pub lines: u64,
    edits: Vec<Edit>,
}

/// What the transaction changes in what we know.
#[derive(Clone, Debug)]
enum Edit {
    Chain(String, Arc<Chain>),
    Gone(String),
    Foreign(String, ForeignChain),
}

/// Plans to make `actual` equal to `desired` inside `scope`; `None` when it is already.
pub fn plan(
    table: Table,
    desired: &DesiredTable,
    actual: &ActualTable,
    scope: Scope<'_>,
) -> Option<Plan> {
    let mut edits = Vec::new();
    let (mut declare, mut rules, mut jumps, mut delete) =
        (String::new(), String::new(), String::new(), String::new());
    let mut lines = 0;

    let mut consider = |name: &String| {
        if scope.hold.contains(name) {
            return;
        }
        match (desired.chains.get(name), actual.chains.get(name)) {
            (Some(chain), held) if !held.is_some_and(|held| chain.is_held(held)) => {
                let held = held.filter(|_| !scope.anew);
                if let Some((text, changed)) = held.and_then(|h| delta(name, &h.rules(), chain)) {
                    rules.push_str(&text);
                    lines += changed;
                } else {
                    let _ = writeln!(declare, ":{name} - [0:0]");
                    for at in 0..chain.lines.len() {
                        let _ = writeln!(rules, "-A {name} {}", chain.rule(at));
                    }
                    lines += 1 + chain.lines.len() as u64;
                }
                edits.push(Edit::Chain(name.clone(), Arc::clone(chain)));
            }
            (None, Some(_)) if scope.delete => {
                // Emptied first: chains that go together may jump to each other.
                let _ = writeln!(declare, ":{name} - [0:0]");
                let _ = writeln!(delete, "-X {name}");
                lines += 2;
                edits.push(Edit::Gone(name.clone()));
            }
            _ => {}
        }
    };
    match scope.only {
        Some(only) => only.iter().for_each(&mut consider),
        None => {
            desired.chains.keys().for_each(&mut consider);
            let gone = actual.chains.keys().filter(|name| !desired.chains.contains_key(*name));
            gone.for_each(&mut consider);
        }
    }

    let wanted: BTreeSet<&str> = desired.jumps.iter().map(|jump| jump.from).collect();
    let names = wanted
        .iter()
        .copied()
        .chain(actual.foreign.keys().map(String::as_str).filter(|name| !wanted.contains(name)));
    let inside = |name: &&str| match scope.jumps {
        Jumps::All => true,
        Jumps::In(one) => *name == one,
        Jumps::Stay => false,
    };
    for name in names.filter(inside) {
        let before = actual.foreign.get(name);
        if let Some(after) = plan_jumps(name, &desired.jumps, before, &mut jumps, &mut lines) {
            edits.push(Edit::Foreign(name.to_owned(), after));
        }
    }

    (!edits.is_empty()).then(|| Plan {
        text: format!("*{}\n{declare}{rules}{jumps}{delete}COMMIT\n", table.name()),
        lines,
        edits,
    })
}

/// Plans our rules in the chain `name` of somebody else; returns the chain as it will be.
fn plan_jumps(
    name: &str,
    jumps: &[Jump],
    before: Option<&ForeignChain>,
    out: &mut String,
    lines: &mut u64,
) -> Option<ForeignChain> {
    let empty = ForeignChain::default();
    let before = before.unwrap_or(&empty);
    let wanted: Vec<&Jump> = jumps.iter().filter(|jump| jump.from == name).collect();
    let right = before.own.len() == wanted.len()
        && before.own.iter().zip(&wanted).all(|(own, jump)| {
            jump.is(own) && (jump.place != Place::Top || own.index < wanted.len())
        });
    if right {
        return None;
    }
    // Inside one transaction there is no moment without them. Equal rules are deleted one by one,
    // each time the first.
    for own in &before.own {
        let _ = writeln!(out, "-D {name} {}", own.text);
    }
    let mut after = ForeignChain { len: before.len - before.own.len(), own: Vec::new() };
    let (end, top): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|j| j.place == Place::End);
    for (index, jump) in top.into_iter().chain(end).enumerate() {
        let (hash, text) = (jump.hash(), jump.rule());
        let index = if jump.place == Place::End {
            let _ = writeln!(out, "-A {name} {text}");
            after.len
        } else {
            let _ = writeln!(out, "-I {name} {} {text}", index + 1);
            index
        };
        after.len += 1;
        after.own.push(OwnRule { index, hash, text });
    }
    *lines += (before.own.len() + after.own.len()) as u64;
    Some(after)
}

impl Plan {
    /// Notes in `actual` that the kernel took the transaction.
    pub fn done(self, actual: &mut ActualTable) {
        for edit in self.edits {
            match edit {
                Edit::Chain(name, chain) => {
                    actual.chains.insert(name, Held::Known(chain));
                }
                Edit::Gone(name) => {
                    actual.chains.remove(&name);
                }
                Edit::Foreign(name, chain) => {
                    actual.foreign.insert(name, chain);
                }
            }
        }
    }

    /// The chains of ours that it writes or deletes.
    pub fn touches(&self) -> impl Iterator<Item = &str> {
        self.edits.iter().filter_map(|edit| match edit {
            Edit::Chain(name, _) | Edit::Gone(name) => Some(name.as_str()),
            Edit::Foreign(..) => None,
        })
    }
}
