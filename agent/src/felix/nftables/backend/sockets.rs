//! What speaks to the kernel, and where it waits for it.
//!
//! The kernel does a transaction within the call that sends it. A small one takes less than it takes to
//! hand it to another thread, so it is done where we are; a large one, or a list of all that is there, would keep
//! everything else on this thread waiting for seconds, so a thread that may block does it. A list of little as well:
//! it waits where the kernel is at work on what is listed. The sockets are of the network namespace of the
//! thread that opened them, whichever thread uses them.

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
    /// The table was read in this run.
    looked: bool,
    /// The groups of interfaces.
    pub(super) groups: Groups,
}

/// The thread that had the socket is gone, and with it the socket.
fn lost() -> io::Error {
    io::Error::other("the thread that spoke to nf_tables panicked")
}

/// Reads where that may wait. The sockets are opened before: in our network namespace.
///
/// # Errors
/// When `read` panicked.
pub(in crate::felix) async fn apart<T: Send + 'static>(
    read: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(read).await.map_err(|_| lost())
}

impl Sockets {
    pub(super) fn new(table: Table, groups: Groups) -> Self {
        Self { table: Some(table), looked: false, groups }
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
        let (table, changes, written) = if size(&changes) <= SMALL {
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
        let error = |source| ReadError::List { what: "the table".to_owned(), source };
        let mut table = self.table.take().ok_or_else(|| error(lost()))?;
        let read = move || {
            let found = table.read();
            (table, found)
        };
        let (table, found) = apart(read).await.map_err(error)?;
        self.table = Some(table);
        self.looked = found.is_ok();
        found
    }

    /// Another run begins, in which nothing was read yet.
    pub(super) fn begin(&mut self) {
        self.looked = false;
    }

    /// True when the table was read in this run: what is known of it is what the kernel has.
    pub(super) fn has_looked(&self) -> bool {
        self.looked
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
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::felix::counters::Counters;
    use crate::felix::nftables::backend::{Remains, is_there};
    use crate::felix::nftables::object::Chain;
    use crate::felix::nftables::render::names;
    use crate::felix::pick::usable;

    /// What `read` says; and while the one thread that may block does something else, it waits.
    async fn waits<T>(mut read: impl AsyncFnMut() -> T) -> T {
        let said = read().await;
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let busy = spawn_blocking(move || wait.recv());
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, read()).await.is_err());
        drop(done);
        let _ = busy.await.unwrap();
        said
    }

    /// A list waits for who changes what is listed. The runtime does not.
    #[test]
    fn reading_is_never_done_where_we_are() {
        if !nix::unistd::Uid::effective().is_root() {
            println!("skipped: needs root to list tables");
            return;
        }
        let inside = || {
            // Where nobody else changes anything.
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
            let table = Table::open("calico-sockets", Counters::default()).unwrap();
            let mut sockets = Sockets::new(table, Groups::open().unwrap());
            runtime.block_on(async {
                assert!(waits(async || sockets.read().await).await.unwrap().is_none());
                assert!(!waits(is_there).await);
                let remains = waits(Remains::find).await.unwrap();
                assert!(!remains.table && remains.links.is_empty(), "{remains:?}");
                waits(usable).await.unwrap();
            });
        };
        std::thread::spawn(inside).join().unwrap();
    }

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
