//! Reads what `iptables-save` prints, as far as we need to know it: the rules in our own chains, and
//! where our rules stand in the kernel's. Rules of others are only counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::chain::Chain;
use super::hash::RuleHash;
use super::names::owns_chain;
use super::plan::Jump;
use super::spelling::Spellings;

/// The tables that we look after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Before connection tracking: who a packet says it is.
    Raw,
    /// Policies of host endpoints: before a destination is translated, and after that of the host's own
    /// packets.
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

/// A rule in a chain of ours, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The hash in its comment: which rule it was once.
    pub hash: Option<RuleHash>,
    /// It still is that rule.
    pub proven: bool,
    /// All of it behind `-A CHAIN `, as the kernel's tool prints it.
    pub text: String,
}

/// What a chain of ours holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// These rules: we wrote them, or they are as they should be.
    Known(Arc<Chain>),
    /// Something else.
    Other(Vec<Found>),
}

impl Held {
    /// How many rules.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Known(chain) => chain.lines.len(),
            Self::Other(found) => found.len(),
        }
    }

    /// The rules in their order: the hash of one that is as it was written, and a text by which the
    /// kernel's tool finds it.
    pub(super) fn rules(&self) -> Vec<(Option<RuleHash>, String)> {
        match self {
            Self::Known(chain) => {
                let hashes = chain.hashes.iter().copied().map(Some);
                hashes.zip((0..chain.lines.len()).map(|at| chain.rule(at))).collect()
            }
            Self::Other(found) => found
                .iter()
                .map(|rule| (rule.hash.filter(|_| rule.proven), rule.text.clone()))
                .collect(),
        }
    }
}

/// What a table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActualTable {
    /// Our chains.
    pub chains: BTreeMap<String, Held>,
    /// Chains of others that hold rules.
    pub foreign: BTreeMap<String, ForeignChain>,
    /// Those of our chains that rules of others lead to, and from where.
    pub entered: BTreeMap<String, String>,
}

impl ActualTable {
    /// Compares what was read with `chains`, rule by rule, and notes what is the same.
    pub fn recognise<'a>(
        &mut self,
        chains: impl Iterator<Item = (&'a String, &'a Arc<Chain>)>,
        spellings: &mut Spellings,
    ) {
        for (name, chain) in chains {
            let Some(held) = self.chains.get_mut(name) else { continue };
            let Held::Other(found) = held else { continue };
            for (place, rule) in found.iter_mut().enumerate() {
                let Some(hash) = rule.hash.filter(|_| !rule.proven) else { continue };
                // Mostly it is where it should be.
                let at = match chain.hashes.get(place) {
                    Some(here) if *here == hash => Some(place),
                    _ => chain.hashes.iter().position(|one| *one == hash),
                };
                rule.proven =
                    at.is_some_and(|at| spellings.is(hash, || chain.rule(at), &rule.text));
            }
            if chain.is(found) {
                *held = Held::Known(Arc::clone(chain));
            }
        }
    }

    /// The chains of which every rule is known.
    pub(super) fn known(&self) -> impl Iterator<Item = (&String, &Arc<Chain>)> {
        self.chains.iter().filter_map(|(name, held)| match held {
            Held::Known(chain) => Some((name, chain)),
            Held::Other(_) => None,
        })
    }

    /// Rules in our chains that are not known to be ours.
    pub(super) fn unproven(&self) -> impl Iterator<Item = (&String, &Found)> {
        let others = self.chains.iter().filter_map(|(name, held)| match held {
            Held::Known(_) => None,
            Held::Other(found) => Some(found.iter().map(move |rule| (name, rule))),
        });
        others.flatten().filter(|(_, rule)| !rule.proven)
    }

    /// The hashes of all rules in our chains.
    pub(super) fn hashes(&self) -> impl Iterator<Item = RuleHash> {
        self.chains.values().flat_map(|held| match held {
            Held::Known(chain) => chain.hashes.clone(),
            Held::Other(found) => found.iter().filter_map(|rule| rule.hash).collect(),
        })
    }

    /// How many rules are there that are not ours.
    pub fn foreign_rules(&self) -> usize {
        self.foreign.values().map(|chain| chain.len - chain.own.len()).sum()
    }

    /// True when the jump is there, however it is written, and leads to rules. Its place is another
    /// question.
    pub fn is_entered(&self, jump: &Jump) -> bool {
        let from = self.foreign.get(jump.from);
        let leads = |own: &OwnRule| target(&own.text) == Some(jump.to);
        from.is_some_and(|chain| chain.own.iter().any(leads))
            && self.chains.get(jump.to).is_some_and(|chain| chain.count() > 0)
    }

    /// True when chains of ours that hold rules are there.
    pub(super) fn holds_rules(&self) -> bool {
        self.chains.values().any(|chain| chain.count() > 0)
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
                table.chains.entry(name.to_owned()).or_insert(Held::Other(Vec::new()));
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
            let hash = comment(text).and_then(RuleHash::of_comment);
            if owns_chain(chain) {
                let held = table.chains.entry(chain.to_owned()).or_insert(Held::Other(Vec::new()));
                if let Held::Other(found) = held {
                    found.push(Found { hash, proven: false, text: text.to_owned() });
                }
                continue;
            }
            let foreign = table.foreign.entry(chain.to_owned()).or_default();
            // The first Felix put no hash on its rules.
            let ours = hash.is_some() || is_of_first_felix(chain, text);
            let target = target(text).filter(|target| owns_chain(target));
            if let Some(target) = target.filter(|_| !ours) {
                table.entered.insert(target.to_owned(), chain.to_owned());
            }
            if ours {
                foreign.own.push(OwnRule { index: foreign.len, hash, text: text.to_owned() });
            }
            foreign.len += 1;
        }
    }
    tables
}

/// True for a rule of Felix before 2.1 in a chain of the kernel. It put no hash on its rules; they
/// are told by the chain or the set that they name, or by being, word for word, the one rule that
/// names neither.
fn is_of_first_felix(chain: &str, rule: &str) -> bool {
    let masquerade = chain == "POSTROUTING" && rule.ends_with("-j MASQUERADE");
    let jump = BUILT_IN.contains(&chain) && target(rule).is_some_and(|t| t.starts_with("felix-"));
    jump || masquerade && (rule.contains(" felix-masq-ipam-pools src ") || rule == OLD_TUNNEL_RULE)
}

/// The kernel's own chains. What jumps from another one is somebody else's rule.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// What Felix before 2.1 put into POSTROUTING for packets of the host into the tunnel, as the
/// kernel's tools print it.
const OLD_TUNNEL_RULE: &str = "-o tunl0 -m addrtype ! --src-type LOCAL --limit-iface-out \
                               -m addrtype --src-type LOCAL -j MASQUERADE";

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
-A DOCKER -s 10.0.0.0/8 -j cali-FORWARD
-A cali-FORWARD -m comment --comment cali:ABCDEFGHIJKLMNOP -j ACCEPT
-A cali-FORWARD -j DROP
COMMIT
";

    #[test]
    fn own_rules_are_told_from_others() {
        let tables = parse(SAVED);
        assert_eq!(tables.keys().copied().collect::<Vec<_>>(), [Table::Filter]);
        let table = &tables[&Table::Filter];
        assert_eq!(table.chains["cali-empty"], Held::Other(Vec::new()));
        let Held::Other(found) = &table.chains["cali-FORWARD"] else { panic!("never compared") };
        assert_eq!(found[0].hash.unwrap().to_string(), "ABCDEFGHIJKLMNOP");
        assert_eq!((found[1].hash, found[1].text.as_str()), (None, "-j DROP"));
        assert_eq!(table.entered["cali-FORWARD"], "DOCKER");
        let forward = &table.foreign["FORWARD"];
        assert_eq!(forward.len, 3);
        assert_eq!(forward.own.iter().map(|r| r.index).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(table.foreign_rules(), 2);
        assert!(table.holds_ours());
    }

    #[test]
    fn what_the_first_felix_left_without_a_hash_is_known() {
        let rules = [
            (
                "POSTROUTING",
                "-m set --match-set felix-masq-ipam-pools src -m set ! --match-set felix-all-ipam-pools dst -j MASQUERADE",
            ),
            ("POSTROUTING", OLD_TUNNEL_RULE),
            ("PREROUTING", "-j felix-PREROUTING"),
            ("INPUT", "-i cali+ -g felix-FROM-ENDPOINT"),
        ];
        assert!(rules.iter().all(|(chain, rule)| is_of_first_felix(chain, rule)));
        let foreign = [
            // Somebody else's, although it names our set; and not quite the rule.
            ("FORWARD", "-m set --match-set felix-masq-ipam-pools src -j DROP"),
            ("POSTROUTING", "-m set --match-set felix-masq-ipam-pools src -j LOG"),
            ("POSTROUTING", "-o tunl0 -m addrtype --src-type LOCAL -j MASQUERADE"),
            ("INPUT", "-j felix"),
            ("FOREIGN", "-j felix-INPUT"),
        ];
        assert!(!foreign.iter().any(|(chain, rule)| is_of_first_felix(chain, rule)));
    }
}
