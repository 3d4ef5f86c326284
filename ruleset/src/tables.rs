//! Tables and their chains, from what `iptables-save` prints or `iptables-restore` takes.

use std::collections::{HashMap, HashSet};

use crate::hook::{Hook, Table};
use crate::net::Family;
use crate::parse::{self, Names};
use crate::rule::{Rule, Target, What};
use crate::set::{self, Set, SetError};
use crate::words::words;

/// How exact a ruleset has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// As the kernel takes it.
    Kernel,
    /// Criteria of ports and of ICMP types may stand without their protocol: then they ask for any
    /// that has them. For rules that were recorded so.
    Fragments,
}

/// A ruleset is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A line that is no rule, chain or table.
    #[error("no rule, chain or table: {0}")]
    Line(String),
    /// A rule that is not understood.
    #[error("{reason}, in table {table}: {rule}")]
    Rule {
        /// Its table.
        table: &'static str,
        /// Its line.
        rule: String,
        /// What is not understood.
        reason: String,
    },
    /// A chain comes back to itself.
    #[error("the chain {chain} of the table {table} leads to itself")]
    Loop {
        /// The table.
        table: &'static str,
        /// The chain.
        chain: String,
    },
    /// A rule changes a set that another asks.
    #[error("a rule changes the members of a set that is asked: {0}")]
    Changes(String),
    /// The sets are not understood.
    #[error("the sets are not understood")]
    Sets(#[from] SetError),
}

/// The place of a rule in a ruleset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleAt {
    /// Its table.
    pub table: Table,
    pub(crate) chain: u32,
    pub(crate) rule: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) name: String,
    /// What becomes of a packet at the end of a chain of the kernel: true = dropped.
    pub(crate) drops: bool,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Chains {
    pub(crate) chains: Vec<Chain>,
    places: HashMap<String, usize>,
    pub(crate) hooks: [Option<usize>; 5],
}

/// The rules and sets of one family.
#[derive(Clone, Debug)]
pub struct Ruleset {
    pub(crate) family: Family,
    pub(crate) tables: [Chains; 4],
    pub(crate) sets: Vec<Set>,
}

impl Ruleset {
    /// Reads tables (as `iptables-save` prints and `iptables-restore` takes them, with or without
    /// counters) and sets (as `ipset save` prints them).
    ///
    /// # Errors
    /// When anything is not understood in full.
    pub fn parse(family: Family, tables: &str, sets: &str) -> Result<Self, ParseError> {
        Self::parse_with(Strictness::Kernel, family, tables, sets)
    }

    /// The same, less exact.
    ///
    /// # Errors
    /// When anything is not understood in full.
    pub fn parse_with(
        strictness: Strictness,
        family: Family,
        tables: &str,
        sets: &str,
    ) -> Result<Self, ParseError> {
        let sets = set::parse(sets)?;
        let mut names: HashMap<String, usize> = HashMap::with_capacity(sets.len());
        names.extend(sets.iter().enumerate().map(|(at, set)| (set.name.clone(), at)));
        let mut ruleset = Self { family, tables: Default::default(), sets };
        let lines = ruleset.declare(tables)?;
        let mut scope = Scope {
            family,
            strict: strictness == Strictness::Kernel,
            sets: &ruleset.sets,
            names: &names,
            places: &HashMap::new(),
            changed: HashSet::new(),
        };
        let mut rules: [Vec<(usize, Rule)>; 4] = Default::default();
        for (table, line) in lines {
            let chains = &ruleset.tables[table as usize];
            scope.places = &chains.places;
            let rule = |reason: String| ParseError::Rule {
                table: table.name(),
                rule: line.to_owned(),
                reason,
            };
            let words = words(line).ok_or_else(|| rule("an open quote".to_owned()))?;
            let [_, chain, rest @ ..] = words.as_slice() else {
                return Err(ParseError::Line(line.to_owned()));
            };
            let Some(chain) = chains.places.get(chain.as_ref()) else {
                return Err(rule(format!("no such chain: {chain}")));
            };
            let parsed = parse::rule(rest, &mut scope).map_err(rule)?;
            if parsed.target == Target::NoTrack && table != Table::Raw {
                return Err(rule("tracking is switched off only in raw".to_owned()));
            }
            if parsed.target.translates() && table != Table::Nat {
                return Err(rule("addresses are translated only in nat".to_owned()));
            }
            let text = line.trim_start_matches("-A ");
            let text = text.split_once(' ').map_or("", |(_, rest)| rest).to_owned();
            let one = Rule { matches: parsed.matches, target: parsed.target, text };
            rules[table as usize].push((*chain, one));
        }
        let changed = |at: usize| scope.changed.contains(&ruleset.sets[at].name);
        let all = rules.iter().flatten();
        if let Some(at) = all.flat_map(|(_, rule)| asked(rule)).find(|at| changed(*at)) {
            return Err(ParseError::Changes(ruleset.sets[at].name.clone()));
        }
        for (table, rules) in rules.into_iter().enumerate() {
            for (chain, rule) in rules {
                ruleset.tables[table].chains[chain].rules.push(rule);
            }
        }
        ruleset.refuse_loops()?;
        Ok(ruleset)
    }

    /// The chains, and the lines that are rules.
    fn declare<'t>(&mut self, text: &'t str) -> Result<Vec<(Table, &'t str)>, ParseError> {
        let mut lines = Vec::new();
        let mut table = None;
        for table in Table::ALL {
            for hook in table.hooks() {
                self.tables[table as usize].chain(hook.name());
            }
        }
        for line in text.lines().map(str::trim) {
            let bad = || ParseError::Line(line.to_owned());
            // With counters.
            let rule = match line.strip_prefix('[') {
                Some(rest) => rest.split_once("] ").ok_or_else(bad)?.1,
                None => line,
            };
            match (rule.as_bytes().first(), table) {
                (None | Some(b'#'), _) => {}
                (Some(b'*'), _) => {
                    let found = Table::ALL.into_iter().find(|table| table.name() == &rule[1..]);
                    table = Some(found.ok_or_else(bad)?);
                }
                (Some(b'C'), Some(_)) if rule == "COMMIT" => table = None,
                (Some(b':'), Some(table)) => {
                    let mut words = rule[1..].split_ascii_whitespace();
                    let (name, policy) = (words.next().ok_or_else(bad)?, words.next());
                    let chains = &mut self.tables[table as usize];
                    let at = chains.chain(name);
                    match (policy, chains.hooks.contains(&Some(at))) {
                        (Some("DROP"), true) => chains.chains[at].drops = true,
                        (Some("ACCEPT"), true) => chains.chains[at].drops = false,
                        (Some("-") | None, _) => {}
                        _ => return Err(bad()),
                    }
                }
                (Some(b'-'), Some(table)) if rule.starts_with("-A ") => lines.push((table, rule)),
                _ => return Err(bad()),
            }
        }
        Ok(lines)
    }

    fn refuse_loops(&self) -> Result<(), ParseError> {
        for table in Table::ALL {
            let chains = &self.tables[table as usize].chains;
            // 0 = not seen, 1 = on the way, 2 = done.
            let mut seen = vec![0u8; chains.len()];
            for start in 0..chains.len() {
                if let Some(chain) = leads_to_itself(chains, start, &mut seen) {
                    let chain = chains[chain].name.clone();
                    return Err(ParseError::Loop { table: table.name(), chain });
                }
            }
        }
        Ok(())
    }

    /// How many rules.
    pub fn len(&self) -> usize {
        self.tables.iter().flat_map(|table| &table.chains).map(|chain| chain.rules.len()).sum()
    }

    /// True when there is no rule.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A rule as it was written, and where: `filter FORWARD 1: -j DROP`.
    pub fn text(&self, at: RuleAt) -> String {
        let chain = self.tables[at.table as usize].chains.get(at.chain as usize);
        let rule = chain.and_then(|chain| Some((chain, chain.rules.get(at.rule as usize)?)));
        rule.map_or_else(String::new, |(chain, rule)| {
            format!("{} {} {}: {}", at.table.name(), chain.name, at.rule + 1, rule.text)
        })
    }

    /// Where a rule stands: its chain, and its place there counted from 0.
    pub fn place(&self, at: RuleAt) -> (&str, usize) {
        let chain = self.tables[at.table as usize].chains.get(at.chain as usize);
        (chain.map_or("", |chain| &chain.name), at.rule as usize)
    }

    pub(crate) fn chain_named(&self, table: Table, name: &str) -> Option<usize> {
        self.tables[table as usize].places.get(name).copied()
    }
}

impl Target {
    fn translates(&self) -> bool {
        matches!(self, Self::DestinationNat { .. } | Self::SourceNat { .. } | Self::Masquerade)
    }
}

/// A chain that can be come back to from `at`.
fn leads_to_itself(chains: &[Chain], at: usize, seen: &mut [u8]) -> Option<usize> {
    match seen[at] {
        1 => return Some(at),
        2 => return None,
        _ => seen[at] = 1,
    }
    for rule in &chains[at].rules {
        if let Target::Jump(to) | Target::Goto(to) = rule.target
            && let Some(found) = leads_to_itself(chains, to, seen)
        {
            return Some(found);
        }
    }
    seen[at] = 2;
    None
}

impl Chains {
    /// The place of a chain, which is made when it is not there.
    fn chain(&mut self, name: &str) -> usize {
        if let Some(at) = self.places.get(name) {
            return *at;
        }
        let at = self.chains.len();
        self.chains.push(Chain { name: name.to_owned(), drops: false, rules: Vec::new() });
        self.places.insert(name.to_owned(), at);
        if let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.name() == name) {
            self.hooks[hook as usize] = Some(at);
        }
        at
    }
}

/// What the rules of a table can name.
struct Scope<'a> {
    family: Family,
    strict: bool,
    sets: &'a [Set],
    names: &'a HashMap<String, usize>,
    places: &'a HashMap<String, usize>,
    changed: HashSet<String>,
}

impl Names for Scope<'_> {
    fn family(&self) -> Family {
        self.family
    }

    fn strict(&self) -> bool {
        self.strict
    }

    fn chain(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    fn set(&mut self, name: &str) -> Result<(usize, usize), String> {
        let at = self.names.get(name).ok_or_else(|| format!("no such set: {name}"))?;
        let set = &self.sets[*at];
        if set.family != self.family {
            return Err(format!("a set of the other family: {name}"));
        }
        Ok((*at, set.kind.dimensions()))
    }

    fn set_changes(&mut self, name: &str) {
        self.changed.insert(name.to_owned());
    }
}

/// The sets that a rule asks.
fn asked(rule: &Rule) -> impl Iterator<Item = usize> + '_ {
    rule.matches.iter().filter_map(|one| match one.what {
        What::Set(at, _) => Some(at),
        _ => None,
    })
}
