//! A table in a namespace, and short ways to say what is in it.

use std::sync::Arc;

use calico_agent::felix::counters::Counters;
use calico_agent::felix::nftables::compare::{Difference, compare};
use calico_agent::felix::nftables::contents::{Contents, Set};
use calico_agent::felix::nftables::object::*;
use calico_agent::felix::nftables::table::{Table, WriteError, Written};
use calico_datastore::model::Family;

use crate::netns::Netns;

/// A namespace with a socket for the table `inet calico`.
pub(crate) struct Kernel {
    pub(crate) netns: Netns,
    table: Arc<std::sync::Mutex<Table>>,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        let netns = Netns::new();
        let table = netns.run(|| Table::open("calico", Counters::default()).unwrap());
        Self { netns, table: Arc::new(std::sync::Mutex::new(table)) }
    }

    /// The socket belongs to the namespace, whichever thread uses it.
    pub(crate) fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }

    /// The same, for a thread of the namespace.
    pub(crate) fn shared(&self) -> Arc<std::sync::Mutex<Table>> {
        Arc::clone(&self.table)
    }

    /// Forgets what is known of the table, as a restart does.
    pub(crate) fn restart(&self) {
        *self.table() = self.netns.run(|| Table::open("calico", Counters::default()).unwrap());
    }

    pub(crate) fn write(&self, changes: &[Change]) -> Result<Written, WriteError> {
        self.table().write(changes)
    }

    /// Everything at once, in an empty table.
    pub(crate) fn fill(&self, contents: &Contents) -> Written {
        self.write(&contents.as_changes()).unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// How the kernel differs.
    pub(crate) fn differs(&self, contents: &Contents) -> Difference {
        let mut table = self.table();
        let found = table.read().unwrap();
        if let Some(found) = &found {
            table.agree(found, contents);
        }
        compare(found.as_ref(), contents)
    }

    /// `nft list ruleset`.
    pub(crate) fn list(&self) -> String {
        self.netns.sh("nft list ruleset")
    }
}

/// A chain that no hook calls.
pub(crate) fn chain(rules: Vec<Rule>) -> Arc<Chain> {
    Arc::new(Chain { base: None, rules })
}

/// A chain of a hook.
pub(crate) fn base(kind: BaseKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Arc<Chain> {
    Arc::new(Chain { base: Some(Base { kind, hook, priority }), rules })
}

/// A rule without a comment.
pub(crate) fn rule(matches: Vec<Match>, statements: Vec<Statement>) -> Rule {
    Rule { matches, statements, comment: None }
}

/// Packets from IPv4 addresses of a set.
pub(crate) fn from(set: &str) -> Match {
    let (side, family) = (Side::Source, Family::V4);
    Match::AddressIn { side, family, set: set.into(), mask: None, not: false }
}

/// What drops all of that.
pub(crate) fn drops(matches: Vec<Match>) -> Rule {
    rule(matches, vec![Statement::Verdict(Verdict::Drop)])
}

pub(crate) fn jump(to: &str) -> Rule {
    rule(vec![], vec![Statement::Verdict(Verdict::Jump(to.into()))])
}

/// A set with elements.
pub(crate) fn set(kind: SetKind, elements: Vec<Element>) -> Set {
    let spec = SetSpec { kind, counters: false };
    Set { spec, elements: elements.into_iter().collect() }
}

/// Contents of chains and sets by name.
pub(crate) fn contents<const C: usize, const S: usize>(
    chains: [(&str, Arc<Chain>); C],
    sets: [(&str, Set); S],
) -> Contents {
    Contents {
        chains: chains.into_iter().map(|(name, chain)| (name.into(), chain)).collect(),
        sets: sets.into_iter().map(|(name, set)| (name.into(), set)).collect(),
    }
}
