//! What speaks to the kernel, and where it waits for it.
//!
//! The kernel does a transaction within the call that sends it. A small one takes less than it takes to
//! hand it to another thread, so it is done where we are; a large one, or a list of all that is there, would keep
//! everything else on this thread waiting for seconds, so a thread that may block does it. The sockets are
//! of the network namespace of the thread that opened them, whichever thread uses them.

use std::io;

use tokio::task::spawn_blocking;

use crate::felix::nftables::groups::Groups;
use crate::felix::nftables::object::Change;
use crate::felix::nftables::read::Found;
use crate::felix::nftables::table::{ReadError, Table, WriteError};

/// Up to how many rules and elements a transaction is a small one: about a millisecond.
const SMALL: usize = 256;
/// Up to how many chains, rules and elements a table is read where we are: some milliseconds.
const SMALL_TABLE: usize = 2000;

/// The sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    /// `None` while a thread has it, and when that panicked.
    table: Option<Table>,
    /// How much the table holds at most, once that is known.
    holds: Option<usize>,
    /// The groups of interfaces.
    pub(super) groups: Groups,
}

/// The thread that had the socket is gone, and with it the socket.
fn lost() -> io::Error {
    io::Error::other("the thread that wrote to nf_tables panicked")
}

impl Sockets {
    pub(super) fn new(table: Table, groups: Groups) -> Self {
        Self { table: Some(table), holds: None, groups }
    }

    /// Writes changes, all or nothing, and gives them back.
    pub(super) async fn write(
        &mut self,
        changes: Vec<Change>,
    ) -> (Vec<Change>, Result<(), WriteError>) {
        let write = |mut table: Table, changes: Vec<Change>| {
            let written = table.write(&changes).map(drop);
            (table, changes, written)
        };
        let send = |source| WriteError::Send { bytes: 0, source };
        let Some(table) = self.table.take() else { return (changes, Err(send(lost()))) };
        let size = size(&changes);
        self.holds = self.holds.map(|holds| holds.saturating_add(size));
        let (table, changes, written) = if size <= SMALL {
            write(table, changes)
        } else {
            match spawn_blocking(move || write(table, changes)).await {
                Ok(done) => done,
                Err(_) => return (Vec::new(), Err(send(lost()))),
            }
        };
        self.table = Some(table);
        (changes, written)
    }

    /// Reads what is there.
    pub(super) async fn read(&mut self) -> Result<Option<Found>, ReadError> {
        let error = || ReadError::List { what: "the table".to_owned(), source: lost() };
        let mut table = self.table.take().ok_or_else(error)?;
        let small = self.holds.is_some_and(|holds| holds <= SMALL_TABLE);
        let read = move || {
            let found = table.read();
            (table, found)
        };
        let (table, found) = match small {
            true => read(),
            false => spawn_blocking(read).await.map_err(|_| error())?,
        };
        self.table = Some(table);
        self.holds = found.as_ref().ok().map(|found| found.as_ref().map_or(0, Found::size));
        found
    }

    /// As when a thread that had the table panicked.
    #[cfg(test)]
    pub(super) fn lose(&mut self) {
        self.table = None;
    }

    /// The table, to tell it what was read.
    pub(super) fn table(&mut self) -> Option<&mut Table> {
        self.table.as_mut()
    }
}

/// How many rules and elements come and go.
fn size(changes: &[Change]) -> usize {
    let of = |change: &Change| match change {
        Change::PutChain(_, chain) => chain.rules.len().max(1),
        _ => 1,
    };
    changes.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::felix::nftables::object::Chain;
    use crate::felix::nftables::render::names;

    #[test]
    fn changes_count_by_their_rules() {
        let set = |n: usize| vec![Change::DeleteSet(names::FROM.into()); n];
        assert_eq!(size(&set(SMALL)), SMALL);
        let rule = super::super::super::object::Rule {
            matches: Vec::new(),
            statements: Vec::new(),
            comment: None,
        };
        let chain = |n: usize| Arc::new(Chain { base: None, rules: vec![rule.clone(); n] });
        let put = |n: usize| vec![Change::PutChain("chain".into(), chain(n))];
        assert_eq!((size(&put(SMALL)), size(&put(0))), (SMALL, 1));
    }
}
