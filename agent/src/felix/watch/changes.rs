//! What others touched of ours since the reconciler last looked: the channel from the watch to the
//! reconciler, and what the watch has to know of the reconciler.
//!
//! It holds places, not contents: what was seen may be older than what was read in the meantime, so
//! the reconciler never believes it and reads the place instead. It does no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calico_datastore::model::{Family, InterfaceName};
use imbl::OrdMap;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::Instant;

use crate::felix::iptables::probe::Flavour;
use crate::felix::iptables::save::Table;

/// Where the rules are that the reconciler keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// In tables of iptables.
    Iptables(Flavour),
    /// In a table of our own of nf_tables, and in the groups of interfaces.
    Nftables,
}

/// The interfaces that the reconciler put into groups, by index.
pub type Placed = OrdMap<u32, (InterfaceName, u32)>;

/// Places that are to be read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Tables of these families: rules in our chains or in the kernel's own.
    pub tables: BTreeSet<Family>,
    /// Our own table of nf_tables, or anything in it.
    pub table: bool,
    /// The groups of these interfaces.
    pub groups: BTreeSet<InterfaceName>,
    /// Address sets of ours, by name.
    pub sets: BTreeSet<String>,
    /// Parameters of these interfaces.
    pub sysctls: BTreeSet<InterfaceName>,
    /// Forwarding as a whole.
    pub forwarding: bool,
    /// Somebody deleted whole chains or tables of ours: of iptables.
    pub torn: bool,
    /// Who changed the tables last, where the kernel tells: `nft (process 4711)`.
    pub by: Option<String>,
}

impl Touched {
    /// True when nothing was touched.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `other` holds.
    pub fn merge(&mut self, other: Self) {
        self.tables.extend(other.tables);
        self.table |= other.table;
        self.groups.extend(other.groups);
        self.sets.extend(other.sets);
        self.sysctls.extend(other.sysctls);
        self.forwarding |= other.forwarding;
        self.torn |= other.torn;
        self.by = other.by.or(self.by.take());
    }
}

/// Kernel parameters that the reconciler has set, and wants to stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Interfaces by index.
    pub interfaces: OrdMap<u32, InterfaceName>,
    /// Those whose sources are not checked against routes.
    pub lenient: BTreeSet<InterfaceName>,
    /// The families that are set on them.
    pub families: Vec<Family>,
    /// Forwarding is switched on.
    pub forwarding: bool,
}

/// When the reconciler last wrote what is polled, and the watch has not looked since.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wrote {
    pub(super) tables: Option<Instant>,
    pub(super) sets: Option<Instant>,
}

/// What the reconciler wrote to sets, by name: by how many members a set has grown, or `None` where
/// that cannot be told (it is new, is another one, or the kernel refused something).
pub type Grown = BTreeMap<String, Option<i64>>;

/// The tables of iptables that hold rules of ours, as far as the reconciler knows.
pub type Filled = BTreeMap<Family, BTreeSet<Table>>;

#[derive(Debug, Default)]
struct Inner {
    touched: Touched,
    grown: Grown,
    rules: Option<Rules>,
    filled: Filled,
    /// The ports of the sockets that write our table.
    ports: BTreeSet<u32>,
    placed: Placed,
    kept: Kept,
    wrote: Wrote,
    /// The watch wanted its turn while it was the reconciler's.
    refused: bool,
    hears: bool,
}

/// The channel. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    inner: Arc<Mutex<Inner>>,
    reconciler: Arc<Notify>,
    watch: Arc<Notify>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// While it lives, the watch polls nothing: the kernel refuses to swap or destroy a set that is
/// being listed, and what is half written would look like the work of somebody else.
#[derive(Debug)]
pub struct Turn {
    changes: Changes,
    held: Option<OwnedMutexGuard<()>>,
    wrote: Wrote,
}

impl Turn {
    /// The reconciler has written tables, or sets: what is found next is its own work.
    pub fn wrote(&mut self, tables: bool, sets: bool) {
        let now = Instant::now();
        let Wrote { tables: before, sets: sets_before } = self.wrote;
        self.wrote = Wrote {
            tables: tables.then_some(now).or(before),
            sets: sets.then_some(now).or(sets_before),
        };
    }
}

impl Drop for Turn {
    /// The watch looks as soon as it can, at what was written in this turn or in one before that left it
    /// no time, and at what it was refused a turn for.
    fn drop(&mut self) {
        {
            let mut inner = self.changes.lock();
            inner.wrote.tables = self.wrote.tables.or(inner.wrote.tables);
            inner.wrote.sets = self.wrote.sets.or(inner.wrote.sets);
        }
        drop(self.held.take());
        // Asked behind that: who is refused just before has said so by now.
        let due = {
            let mut inner = self.changes.lock();
            let refused = std::mem::take(&mut inner.refused);
            refused || inner.wrote.tables.is_some() || inner.wrote.sets.is_some()
        };
        if due {
            self.changes.watch.notify_one();
        }
    }
}

impl Changes {
    /// Wakes the reconciler.
    pub fn notify(&self) -> Arc<Notify> {
        Arc::clone(&self.reconciler)
    }

    /// Records a place and wakes the reconciler.
    pub fn touch(&self, record: impl FnOnce(&mut Touched)) {
        record(&mut self.lock().touched);
        self.reconciler.notify_one();
    }

    /// Takes what was touched since the last call.
    pub fn take(&self) -> Touched {
        std::mem::take(&mut self.lock().touched)
    }

    /// The reconciler's turn. The watch's own lasts some milliseconds.
    pub async fn turn(&self) -> Turn {
        let held = Some(Arc::clone(&self.turn).lock_owned().await);
        Turn { changes: self.clone(), held, wrote: Wrote::default() }
    }

    /// The watch's turn, when it is not the reconciler's; otherwise the end of that is news.
    pub(super) fn try_turn(&self) -> Option<OwnedMutexGuard<()>> {
        // Said before: the other turn may end in between.
        self.lock().refused = true;
        let turn = Arc::clone(&self.turn).try_lock_owned().ok()?;
        self.lock().refused = false;
        Some(turn)
    }

    /// Says where the rules are; the watch looks nowhere else. The first look at them is the one after
    /// this run.
    pub fn set_rules(&self, rules: Rules, turn: &mut Turn) {
        if self.lock().rules.replace(rules) != Some(rules) {
            turn.wrote(true, true);
        }
    }

    /// What the socket with that port writes to our table is our own work.
    pub fn is_us(&self, port: u32) {
        self.lock().ports.insert(port);
    }

    /// True when the socket with that port is ours.
    pub(super) fn is_ours(&self, port: u32) -> bool {
        self.lock().ports.contains(&port)
    }

    /// Says which interfaces should stay in their groups.
    pub fn place(&self, placed: Placed) {
        self.lock().placed = placed;
    }

    /// Which interfaces should stay in their groups.
    pub(super) fn placed(&self) -> Placed {
        self.lock().placed.clone()
    }

    /// The reconciler has written these sets, in its turn. Whatever else the watch finds was
    /// somebody else.
    pub fn grew(&self, grown: Grown) {
        let mut inner = self.lock();
        for (set, by) in grown {
            let sum = inner.grown.entry(set).or_insert(Some(0));
            *sum = sum.zip(by).and_then(|(sum, by)| sum.checked_add(by));
        }
    }

    /// What the reconciler wrote to sets since the last call.
    pub(super) fn take_grown(&self) -> Grown {
        std::mem::take(&mut self.lock().grown)
    }

    /// Says which tables hold rules of ours, at the end of the reconciler's turn: one that holds none
    /// although it is among them somebody else has emptied.
    pub fn fill(&self, filled: Filled) {
        self.lock().filled = filled;
    }

    /// Which tables hold rules of ours.
    pub(super) fn filled(&self) -> Filled {
        self.lock().filled.clone()
    }

    /// Where the rules are, once that is known.
    pub(in crate::felix) fn rules(&self) -> Option<Rules> {
        self.lock().rules
    }

    /// The iptables that holds our chains; `None` before the first run, and where they are in none.
    pub fn in_use(&self) -> Option<Flavour> {
        match self.rules() {
            Some(Rules::Iptables(flavour)) => Some(flavour),
            Some(Rules::Nftables) | None => None,
        }
    }

    /// Says which parameters should stay as they are.
    pub fn keep(&self, kept: Kept) {
        self.lock().kept = kept;
    }

    /// Which parameters should stay as they are.
    pub(super) fn kept(&self) -> Kept {
        self.lock().kept.clone()
    }

    /// Says that every foreign write of the tables is heard of.
    pub(super) fn set_hears(&self, hears: bool) {
        self.lock().hears = hears;
    }

    /// True when every foreign write of the tables is heard of, so that nobody has to look.
    pub fn hears(&self) -> bool {
        let inner = self.lock();
        inner.hears && inner.rules.is_some_and(|rules| rules != Rules::Iptables(Flavour::Legacy))
    }

    /// Own writes to tables since the last call.
    pub(super) fn take_wrote_tables(&self) -> Option<Instant> {
        self.lock().wrote.tables.take()
    }

    /// Own writes to sets since the last call.
    pub(super) fn take_wrote_sets(&self) -> Option<Instant> {
        self.lock().wrote.sets.take()
    }

    /// Waits for news of the reconciler. Cancel-safe: a call that nobody waited for is kept.
    pub(super) async fn news(&self) {
        self.watch.notified().await;
    }

    /// Nothing inside can be left half-changed, so a panic elsewhere does not matter here.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_gather_until_they_are_taken() {
        let changes = Changes::default();
        changes.touch(|t| {
            t.tables.insert(Family::V4);
            t.by = Some("nft (process 1)".to_owned());
        });
        changes.touch(|t| t.sets.extend(["cali40x".to_owned()]));
        // Does not wait: it was woken before.
        changes.notify().notified().await;
        let mut first = changes.take();
        assert!(first.tables.contains(&Family::V4) && first.sets.contains("cali40x"));
        assert!(changes.take().is_empty());
        first.merge(Touched { forwarding: true, ..Touched::default() });
        assert_eq!(first.by.as_deref(), Some("nft (process 1)"));
        assert!(first.forwarding);
    }

    #[tokio::test]
    async fn while_the_reconciler_writes_nobody_polls() {
        let changes = Changes::default();
        let mut turn = changes.turn().await;
        turn.wrote(true, false);
        assert!(changes.try_turn().is_none() && changes.take_wrote_tables().is_none());
        drop(turn);
        assert!(changes.try_turn().is_some());
        // Does not wait: it was woken before.
        changes.news().await;
        assert!(changes.take_wrote_tables().is_some() && changes.take_wrote_sets().is_none());
        assert!(changes.take_wrote_tables().is_none());
    }

    /// A start that finds all as it should be writes nothing; the first look is due all the same, or
    /// what somebody changes within the next second would be what the watch sees first.
    #[tokio::test]
    async fn a_look_that_somebody_was_in_the_way_of_comes_behind_them() {
        let changes = Changes::default();
        let mut turn = changes.turn().await;
        turn.wrote(true, false);
        drop(turn);
        // Somebody who only reads has the next turn before the watch comes to look.
        let reader = changes.turn().await;
        changes.news().await;
        assert!(changes.try_turn().is_none());
        drop(reader);
        let soon = std::time::Duration::from_secs(5);
        assert!(tokio::time::timeout(soon, changes.news()).await.is_ok());
        assert!(changes.take_wrote_tables().is_some());
        // Nothing is due now, so nobody is woken.
        drop(changes.turn().await);
        let short = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(short, changes.news()).await.is_err());
    }

    #[tokio::test]
    async fn who_was_refused_a_turn_is_woken_at_its_end() {
        let changes = Changes::default();
        let turn = changes.turn().await;
        assert!(changes.try_turn().is_none());
        // Nothing was written.
        drop(turn);
        let soon = std::time::Duration::from_secs(5);
        assert!(tokio::time::timeout(soon, changes.news()).await.is_ok());
        // Who had it since waits for nothing.
        assert!(changes.try_turn().is_some());
        drop(changes.turn().await);
        let short = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(short, changes.news()).await.is_err());
    }

    #[tokio::test]
    async fn the_first_look_is_due_although_nothing_was_written() {
        let changes = Changes::default();
        let mut turn = changes.turn().await;
        changes.set_rules(Rules::Iptables(Flavour::Legacy), &mut turn);
        turn.wrote(false, false);
        drop(turn);
        assert!(changes.take_wrote_tables().is_some() && changes.take_wrote_sets().is_some());
        let mut turn = changes.turn().await;
        changes.set_rules(Rules::Iptables(Flavour::Legacy), &mut turn);
        turn.wrote(false, false);
        drop(turn);
        assert!(changes.take_wrote_tables().is_none() && changes.take_wrote_sets().is_none());
    }
}
