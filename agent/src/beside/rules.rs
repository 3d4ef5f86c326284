//! Rulesets in the form that both of nftables and iptables are brought into, and what becomes of a
//! packet in them: pure.
//!
//! Not everything that a rule can ask is known of a packet. A rule whose conditions cannot be told
//! decides nothing here; where it could have let a packet pass that is dropped later, that is said.

use std::collections::BTreeMap;

use calico_datastore::model::Family;

use super::packet::{Field, Packet, Pattern};

/// Where in the kernel a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// For this host.
    Input,
    /// For others.
    Forward,
    /// On the way out.
    Postrouting,
}

impl Hook {
    /// Those that a packet passes.
    pub fn of(packet: &Packet) -> &'static [Self] {
        match packet.to {
            Some(_) => &[Self::Prerouting, Self::Forward, Self::Postrouting],
            None => &[Self::Prerouting, Self::Input],
        }
    }
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// `inet firewalld`, `IPv4 iptables-legacy`.
    pub name: String,
    /// Whose packets see it; `None`: all.
    pub family: Option<Family>,
    /// Its chains.
    pub chains: BTreeMap<String, Chain>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel calls it, when it does, and whether what is not decided there is dropped.
    pub base: Option<(Hook, bool)>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All have to be true.
    pub conditions: Vec<Condition>,
    /// What follows.
    pub verdict: Verdict,
    /// How people are told of it.
    pub text: String,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at; `None`: something that is not understood.
    pub field: Option<Field>,
    /// It has to be none of `any`.
    pub negated: bool,
    /// It has to be one of these.
    pub any: Vec<Pattern>,
}

impl Condition {
    /// One that is not understood.
    pub fn unknown() -> Self {
        Self { field: None, negated: false, any: Vec::new() }
    }

    fn holds(&self, packet: &Packet) -> Option<bool> {
        Some(any(&self.any, self.field?, packet)? != self.negated)
    }
}

fn any(patterns: &[Pattern], field: Field, packet: &Packet) -> Option<bool> {
    let mut unknown = false;
    for pattern in patterns {
        match pattern.fits(field, packet) {
            Some(true) => return Some(true),
            Some(false) => {}
            None => unknown = true,
        }
    }
    (!unknown).then_some(false)
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet is through with this base chain.
    Accept,
    /// It is dropped or refused.
    Drop,
    /// Another chain, and back.
    Jump(String),
    /// Another chain.
    Goto(String),
    /// Back.
    Return,
    /// One of several.
    Map(Field, Vec<(Vec<Pattern>, Verdict)>),
    /// One of several, but it is not understood which.
    Unknown,
    /// Nothing.
    Continue,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It passes.
    Passes,
    /// It does not.
    Drops(Dropped),
}

/// How it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The chains that it came through, the base chain first.
    pub path: Vec<String>,
    /// The rule that drops it, or the policy of the base chain.
    pub rule: String,
    /// A rule that may let it pass, and is not understood.
    pub unless: Option<String>,
}

/// What a jump into a chain of ours does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ours {
    /// What policy accepts is accepted there.
    Accept,
    /// It comes back.
    Return,
}

/// Chains that jump deeper than this are not followed; the kernel allows 16.
const DEEPEST: usize = 16;

/// What becomes of `packet` in the base chain `base` of `table`, when it is one that policy accepts.
/// `ours`: what a chain of ours does, by name; `None`: it is not ours.
pub fn fate(
    table: &Table,
    base: &str,
    packet: &Packet,
    ours: &dyn Fn(&str) -> Option<Ours>,
) -> Fate {
    let mut walk = Walk { table, packet, ours, unless: None };
    let mut path = vec![base.to_owned()];
    let end = walk.chain(base, &mut path);
    let policy = table.chains.get(base).and_then(|chain| chain.base);
    match (end, policy) {
        (End::Drop(rule), _) => Fate::Drops(Dropped { path, rule, unless: walk.unless }),
        (End::Fell, Some((_, true))) => {
            Fate::Drops(Dropped { path, rule: "policy drop".to_owned(), unless: walk.unless })
        }
        (End::Fell | End::Accept, _) => Fate::Passes,
    }
}

struct Walk<'a> {
    table: &'a Table,
    packet: &'a Packet,
    ours: &'a dyn Fn(&str) -> Option<Ours>,
    unless: Option<String>,
}

enum End {
    Accept,
    /// `path` of the walk leads to the rule.
    Drop(String),
    /// Off the end, or back.
    Fell,
}

impl Walk<'_> {
    fn chain(&mut self, name: &str, path: &mut Vec<String>) -> End {
        let Some(chain) = self.table.chains.get(name).filter(|_| path.len() <= DEEPEST) else {
            return End::Fell;
        };
        for rule in &chain.rules {
            let mut holds = Some(true);
            for condition in &rule.conditions {
                match condition.holds(self.packet) {
                    Some(true) => {}
                    // One that is false is enough, whatever the others say.
                    Some(false) => {
                        holds = Some(false);
                        break;
                    }
                    None => holds = None,
                }
            }
            match holds {
                Some(false) => continue,
                None => {
                    self.doubt(&rule.verdict, rule, path.len());
                    continue;
                }
                Some(true) => {}
            }
            let verdict = match &rule.verdict {
                Verdict::Map(field, cases) => self.choose(*field, cases, rule),
                other => Some(other),
            };
            match verdict {
                Some(Verdict::Accept) => return End::Accept,
                Some(Verdict::Drop) => return End::Drop(rule.text.clone()),
                Some(Verdict::Return) => return End::Fell,
                Some(Verdict::Jump(target)) => match self.call(target, path) {
                    End::Fell => {}
                    end => return end,
                },
                Some(Verdict::Goto(target)) => return self.call(target, path),
                Some(Verdict::Unknown) => self.doubt(&Verdict::Unknown, rule, path.len()),
                Some(Verdict::Continue | Verdict::Map(..)) | None => {}
            }
        }
        End::Fell
    }

    fn call(&mut self, target: &str, path: &mut Vec<String>) -> End {
        match (self.ours)(target) {
            Some(Ours::Accept) => return End::Accept,
            Some(Ours::Return) => return End::Fell,
            None => {}
        }
        path.push(target.to_owned());
        let end = self.chain(target, path);
        if !matches!(end, End::Drop(_)) {
            path.pop();
        }
        end
    }

    fn choose<'v>(
        &mut self,
        field: Field,
        cases: &'v [(Vec<Pattern>, Verdict)],
        rule: &Rule,
    ) -> Option<&'v Verdict> {
        for (patterns, verdict) in cases {
            match any(patterns, field, self.packet) {
                Some(true) => return Some(verdict),
                Some(false) => {}
                None => self.doubt(verdict, rule, 0),
            }
        }
        None
    }

    /// Remembers a rule that may have let the packet pass, or that may have led it past what drops it
    /// in this chain.
    fn doubt(&mut self, verdict: &Verdict, rule: &Rule, depth: usize) {
        let mut passes = *verdict == Verdict::Return && depth > 1;
        let mut seen = Vec::new();
        self.may_accept(verdict, depth, &mut seen, &mut passes);
        if passes && self.unless.is_none() {
            self.unless = Some(rule.text.clone());
        }
    }

    fn may_accept(
        &self,
        verdict: &Verdict,
        depth: usize,
        seen: &mut Vec<String>,
        passes: &mut bool,
    ) {
        match verdict {
            Verdict::Accept | Verdict::Unknown => *passes = true,
            Verdict::Jump(target) | Verdict::Goto(target) => {
                if (self.ours)(target) == Some(Ours::Accept) {
                    *passes = true;
                }
                if depth > DEEPEST || *passes || seen.contains(target) {
                    return;
                }
                seen.push(target.clone());
                let rules =
                    self.table.chains.get(target).into_iter().flat_map(|chain| &chain.rules);
                for rule in rules {
                    let never = |c: &Condition| c.holds(self.packet) == Some(false);
                    if !rule.conditions.iter().any(never) {
                        self.may_accept(&rule.verdict, depth + 1, seen, passes);
                    }
                }
            }
            Verdict::Map(_, cases) => {
                for (_, verdict) in cases {
                    self.may_accept(verdict, depth + 1, seen, passes);
                }
            }
            Verdict::Drop | Verdict::Return | Verdict::Continue => {}
        }
    }
}

#[cfg(test)]
mod tests;
