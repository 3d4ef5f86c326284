//! What our table holds in the kernel, read in lists.

use std::collections::{BTreeMap, HashMap};
use std::io;

use super::contents::{Contents, Set};
use super::expr::{Anonymous, Expr, SetRef};
use super::lower::{comment, lower};
use super::mirror::{Held, HeldSet, Key, Mirror};
use super::object::{Chain, Element, Name, Rule, SetKind, SetSpec};
use super::socket::Channel;
use super::table::ReadError;
use super::torn::{Told, until_whole};
use super::wire::element::{AnonymousReader, Reader};
use super::wire::message::{BODY, dump, kind};
use super::wire::read::{ListedBase, ListedRule, read_chain, read_rule};
use super::wire::set;
use crate::netlink::{attribute, be32, text};

/// `NFTA_TABLE_FLAGS`, `NFT_TABLE_F_DORMANT`.
const TABLE_FLAGS: u16 = 2;
const DORMANT: u32 = 1;

/// A table in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The table is dormant: it has no hooks, so packets pass it by.
    pub(super) asleep: bool,
    pub(super) chains: BTreeMap<Name, FoundChain>,
    pub(super) sets: BTreeMap<Name, FoundSet>,
}

/// A chain in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FoundChain {
    pub(super) base: Option<ListedBase>,
    pub(super) rules: Vec<FoundRule>,
}

/// A rule in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundRule {
    pub(super) exprs: Vec<Expr>,
    pub(super) comment: Option<String>,
}

/// A set in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FoundSet {
    /// `None` when it is of no kind that we make.
    pub(super) spec: Option<SetSpec>,
    pub(super) elements: Vec<Element>,
    /// Elements that are none of that kind.
    pub(super) strange: Vec<String>,
}

impl FoundRule {
    /// Whether it is what this rule is written as.
    pub(super) fn is(&self, rule: &Rule) -> bool {
        self.comment == rule.comment.as_deref().map(comment) && self.exprs == lower(rule)
    }
}

impl FoundSet {
    /// Whether it holds exactly what this set should.
    pub(super) fn holds(&self, set: &Set) -> bool {
        self.strange.is_empty()
            && self.elements.len() == set.elements.len()
            && self.elements.iter().all(|element| set.elements.contains(element))
    }
}

impl Found {
    /// Whether a chain is there exactly so.
    pub(super) fn holds(&self, name: &Name, chain: &Chain) -> bool {
        self.chains.get(name).is_some_and(|found| {
            found.base == chain.base.map(ListedBase::from)
                && found.rules.len() == chain.rules.len()
                && found.rules.iter().zip(&chain.rules).all(|(found, rule)| found.is(rule))
        })
    }

    /// The sets with their elements. Of chains only what is in [`Contents::chains`] by name: rules
    /// cannot be turned back, so every chain is empty there.
    pub fn contents(&self) -> Contents {
        let chains = self.chains.keys().map(|name| (name.clone(), Default::default()));
        let sets = self.sets.iter().filter_map(|(name, set)| {
            let elements = set.elements.iter().cloned().collect();
            Some((name.clone(), Set { spec: set.spec?, elements }))
        });
        Contents { chains: chains.collect(), sets: sets.collect() }
    }

    /// What a plan has to know.
    pub(super) fn mirror(&self) -> Mirror {
        let chains = self.chains.iter();
        let chains = chains.map(|(name, chain)| (name.clone(), Held::Foreign(chain.base.clone())));
        let sets = self.sets.iter().map(|(name, set)| {
            let keys = set.elements.iter().filter_map(Key::of);
            let verdicts = keys.map(|(key, verdict)| (key, verdict.clone())).collect();
            (name.clone(), HeldSet { spec: set.spec, verdicts })
        });
        Mirror { chains: chains.collect(), sets: sets.collect() }
    }
}

/// Reads a table. The outer `None` = it changed meanwhile.
pub(super) fn table(channel: &mut Channel, name: &str) -> Result<Option<Option<Found>>, ReadError> {
    let mut lists = Lists { channel, table: name, steady: true };
    let (mut there, mut asleep) = (false, false);
    lists.of(kind::GET_TABLE, None, "the tables", |body| {
        there = true;
        asleep = attribute(body, TABLE_FLAGS).and_then(be32).unwrap_or(0) & DORMANT != 0;
    })?;
    if !there {
        return Ok(lists.steady.then_some(None));
    }
    let mut found = Found { asleep, ..Found::default() };
    lists.of(kind::GET_CHAIN, None, "the chains", |body| {
        if let Some(chain) = read_chain(body) {
            let entry = FoundChain { base: chain.base, rules: Vec::new() };
            found.chains.insert(chain.name.into(), entry);
        }
    })?;
    let anonymous = lists.sets(&mut found)?;
    let mut rules: Vec<ListedRule> = Vec::new();
    lists.of(kind::GET_RULE, None, "the rules", |body| rules.extend(read_rule(body)))?;
    for rule in rules {
        let exprs = rule.exprs.into_iter().map(|expr| with_content(expr, &anonymous)).collect();
        let entry = FoundRule { exprs, comment: rule.comment };
        if let Some(chain) = found.chains.get_mut(rule.chain.as_str()) {
            chain.rules.push(entry);
        }
    }
    Ok(lists.steady.then_some(Some(found)))
}

/// Puts the content of a set of one rule in the place of the name that the kernel gave it.
fn with_content(expr: Expr, anonymous: &HashMap<String, Anonymous>) -> Expr {
    match expr {
        Expr::Lookup { set: SetRef::Named(name), reg, not, verdict } => {
            let set = match anonymous.get(&name) {
                Some(set) => SetRef::Anonymous(set.clone()),
                None => SetRef::Named(name),
            };
            Expr::Lookup { set, reg, not, verdict }
        }
        other => other,
    }
}

/// Asks for lists of one table.
struct Lists<'a> {
    channel: &'a mut Channel,
    table: &'a str,
    /// Nothing changed so far while it was listed.
    steady: bool,
}

impl Lists<'_> {
    /// What the kernel has of one kind in our table; of `set` where that is the kind.
    fn of(
        &mut self,
        kind: u16,
        set: Option<&str>,
        what: &str,
        mut read: impl FnMut(&[u8]),
    ) -> Result<(), ReadError> {
        let table = self.table;
        let request = dump(kind, |w| {
            w.text(1, table);
            if let Some(set) = set {
                w.text(2, set);
            }
        });
        let listed = self.channel.list(request, |body| {
            // The kernel does not always look at the name that it is told.
            let body = body.get(BODY..).unwrap_or_default();
            if attribute(body, 1).and_then(text) == Some(table) {
                read(body);
            }
        });
        match listed {
            Ok(steady) => self.steady &= steady,
            // It went meanwhile.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => self.steady = false,
            Err(source) => return Err(list_error(what, set, source)),
        }
        Ok(())
    }

    /// The elements of a set; again when not all were told.
    fn elements(&mut self, set: &str, of: SetKind) -> Result<Reader, ReadError> {
        let told = until_whole(|| {
            let mut reader = Reader::new(of);
            self.of(kind::GET_ELEMENTS, Some(set), "elements of", |body| reader.read(body))?;
            Ok(if reader.is_whole() { Told::Whole(reader) } else { Told::Torn(reader) })
        })?;
        Ok(match told {
            Told::Whole(reader) => reader,
            Told::Torn(reader) => {
                // That is not taken for what there is.
                self.steady = false;
                reader
            }
        })
    }

    /// All sets with their elements; those of rules apart, by the kernel's name.
    fn sets(&mut self, found: &mut Found) -> Result<HashMap<String, Anonymous>, ReadError> {
        let mut listed = Vec::new();
        self.of(kind::GET_SET, None, "the sets", |body| listed.extend(set::read(body)))?;
        let mut anonymous = HashMap::new();
        for set in listed {
            let name = set.name.as_str();
            if set.anonymous {
                let mut reader = AnonymousReader::new(set.interval);
                self.of(kind::GET_ELEMENTS, Some(name), "elements of", |body| reader.read(body))?;
                // One that is none of ours keeps its name, which no rule of ours has.
                if let Some(ranges) = reader.finish() {
                    anonymous.insert(set.name, Anonymous { key: set.key, ranges });
                }
                continue;
            }
            let mut entry = FoundSet { spec: set.spec, ..FoundSet::default() };
            if let Some(spec) = set.spec {
                (entry.elements, entry.strange) = self.elements(name, spec.kind)?.finish();
            }
            found.sets.insert(name.into(), entry);
        }
        Ok(anonymous)
    }
}

fn list_error(what: &str, set: Option<&str>, source: io::Error) -> ReadError {
    let what = set.map_or_else(|| what.to_owned(), |set| format!("{what} {set}"));
    ReadError::List { what, source }
}
