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

/// The sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    /// `None` while a thread has it, and when that panicked.
    table: Option<Table>,
    /// The groups of interfaces.
    pub(super) groups: Groups,
}

/// The thread that had the socket is gone, and with it the socket.
fn lost() -> io::Error {
    io::Error::other("the thread that wrote to nf_tables panicked")
}

impl Sockets {
    pub(super) fn new(table: Table, groups: Groups) -> Self {
        Self { table: Some(table), groups }
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
        let (table, changes, written) = if is_small(&changes) {
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
        let reading = spawn_blocking(move || {
            let found = table.read();
            (table, found)
        });
        let (table, found) = reading.await.map_err(|_| error())?;
        self.table = Some(table);
        found
    }

    /// The table, to tell it what was read.
    pub(super) fn table(&mut self) -> Option<&mut Table> {
        self.table.as_mut()
    }
}

fn is_small(changes: &[Change]) -> bool {
    let mut size = 0;
    changes.iter().all(|change| {
        size += match change {
            Change::PutChain(_, chain) => chain.rules.len().max(1),
            _ => 1,
        };
        size <= SMALL
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::felix::nftables::object::Chain;
    use crate::felix::nftables::render::names;

    #[test]
    fn what_is_large_by_its_changes_or_by_its_rules_is_not_small() {
        let set = |n: usize| vec![Change::DeleteSet(names::FROM.into()); n];
        assert!(is_small(&set(SMALL)) && !is_small(&set(SMALL + 1)));
        let rule = super::super::super::object::Rule {
            matches: Vec::new(),
            statements: Vec::new(),
            comment: None,
        };
        let chain = |n: usize| Arc::new(Chain { base: None, rules: vec![rule.clone(); n] });
        let put = |n: usize| vec![Change::PutChain("chain".into(), chain(n))];
        assert!(is_small(&put(SMALL)) && !is_small(&put(SMALL + 1)));
    }
}
