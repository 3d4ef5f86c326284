//! Reads what `iptables-save` prints, as far as we need to know it: the hashes of the rules in our
//! own chains, and where our rules stand in the kernel's. Rules of others are only counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::chain::Chain;
use super::hash::RuleHash;
use super::names::owns_chain;

/// The tables that we look after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Before connection tracking: who a packet says it is.
    Raw,
    /// Nothing of ours; what Felix left there is removed.
    Mangle,
    /// Address translation.
    Nat,
    /// Policy.
    Filter,
}

impl Table {
    /// All, in the order in which they are written: nothing depends on it.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// A rule of ours in a chain that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRule {
    /// Its place, counted from 0 over all rules of the chain.
    pub index: usize,
    /// Its hash, when it carries one.
    pub hash: Option<RuleHash>,
    /// All of it behind `-A CHAIN `, as the kernel's tool prints it.
    pub text: String,
}

/// A chain that is not ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignChain {
    /// How many rules it has.
    pub len: usize,
    /// Those of them that are ours.
    pub own: Vec<OwnRule>,
}

/// What a table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActualTable {
    /// Our chains and the hashes of their rules; `None` for a rule that somebody else put there.
    pub chains: BTreeMap<String, Vec<Option<RuleHash>>>,
    /// Those of our chains whose text is known, because we wrote them or because they are as they
    /// should be. What is read back carries the kernel's own spelling, which is not compared.
    pub written: BTreeMap<String, Arc<Chain>>,
    /// Chains of others that hold rules.
    pub foreign: BTreeMap<String, ForeignChain>,
}

impl ActualTable {
    /// Notes which chains are as they should be, so that their text is known from then on.
    pub fn recognise(&mut self, desired: &BTreeMap<String, Arc<Chain>>) {
        for (name, chain) in desired {
            if self.chains.get(name).is_some_and(|hashes| chain.is(hashes)) {
                self.written.insert(name.clone(), Arc::clone(chain));
            }
        }
    }

    /// How many rules are there that are not ours.
    pub fn foreign_rules(&self) -> usize {
        self.foreign.values().map(|chain| chain.len - chain.own.len()).sum()
    }

    /// True when something of ours is there.
    pub fn holds_ours(&self) -> bool {
        !self.chains.is_empty() || self.foreign.values().any(|chain| !chain.own.is_empty())
    }
}

/// Reads the output of `iptables-save`. Tables that we do not look after are skipped.
pub fn parse(text: &str) -> BTreeMap<Table, ActualTable> {
    let mut tables: BTreeMap<Table, ActualTable> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            current = Table::ALL.into_iter().find(|table| table.name() == name);
            if let Some(table) = current {
                tables.entry(table).or_default();
            }
            continue;
        }
        let Some(table) = current.and_then(|table| tables.get_mut(&table)) else { continue };
        if let Some(declared) = line.strip_prefix(':') {
            let name = declared.split(' ').next().unwrap_or_default();
            if owns_chain(name) {
                table.chains.entry(name.to_owned()).or_default();
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
            let hash = comment(text).and_then(RuleHash::of_comment);
            if owns_chain(chain) {
                table.chains.entry(chain.to_owned()).or_default().push(hash);
                continue;
            }
            let foreign = table.foreign.entry(chain.to_owned()).or_default();
            // The first Felix put no hash on its jumps.
            let ours = hash.is_some() || target(text).is_some_and(|t| t.starts_with("felix-"));
            if ours {
                foreign.own.push(OwnRule { index: foreign.len, hash, text: text.to_owned() });
            }
            foreign.len += 1;
        }
    }
    tables
}

/// The comment of a rule, without quotes.
fn comment(rule: &str) -> Option<&str> {
    let (_, rest) = rule.split_once("--comment ")?;
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split(' ').next(),
    }
}

fn target(rule: &str) -> Option<&str> {
    let words: Vec<&str> = rule.split(' ').collect();
    words.windows(2).find(|pair| matches!(pair[0], "-j" | "-g")).map(|pair| pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save v1.8.9 on Sat Nov 21 00:28:13 2026
*security
:INPUT ACCEPT [0:0]
-A INPUT -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [7:420]
:DOCKER - [0:0]
:cali-FORWARD - [0:0]
:cali-empty - [0:0]
-A FORWARD -m comment --comment \"a note: cali:abcdefghijklmnop\" -j ACCEPT
-A FORWARD -m comment --comment \"cali:abcdefghijklmnop\" -j cali-FORWARD
-A FORWARD -j felix-FORWARD
-A DOCKER -s 10.0.0.0/8 -j RETURN
-A cali-FORWARD -m comment --comment cali:ABCDEFGHIJKLMNOP -j ACCEPT
-A cali-FORWARD -j DROP
COMMIT
";

    #[test]
    fn own_rules_are_told_from_others() {
        let tables = parse(SAVED);
        assert_eq!(tables.keys().copied().collect::<Vec<_>>(), [Table::Filter]);
        let table = &tables[&Table::Filter];
        assert_eq!(table.chains["cali-empty"], []);
        let hashes = &table.chains["cali-FORWARD"];
        assert_eq!(hashes[0].unwrap().to_string(), "ABCDEFGHIJKLMNOP");
        assert_eq!(hashes[1], None);
        let forward = &table.foreign["FORWARD"];
        assert_eq!(forward.len, 3);
        assert_eq!(forward.own.iter().map(|r| r.index).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(table.foreign_rules(), 2);
        assert!(table.holds_ours());
    }
}
