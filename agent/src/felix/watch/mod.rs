//! Notices that somebody else changed what is ours in the kernel: tables, address sets, parameters.
//!
//! It publishes places ([`Changes`]) and wakes the reconciler, which reads them and repairs what it
//! finds. It never writes to the kernel, starts no process, and decides nothing about contents.
//!
//! | what | how | within |
//! |---|---|---|
//! | nf_tables | the kernel tells each transaction (`nft`) | at once |
//! | groups of interfaces | the kernel tells each change (`groups`) | at once |
//! | legacy tables | somebody gives back the tools' lock (`lock`): `getsockopt(2)` and a digest (`legacy`) | at once |
//! | the same, written without that lock | their sizes, and the digest | 1 s; 16 s for thousands of rules |
//! | address sets | their heads, and the members of small ones (`sets`) | 1 s; 2 s |
//! | parameters | the kernel tells of most; the others in turn (`sysctls`) | 2 s up to 32 pods, a minute for 1,000 |
//!
//! What is polled is looked at less often when a look costs much (`budget`), so that it stays
//! below a thousandth of a core.

mod budget;
mod changes;
mod foreign;
mod groups;
mod legacy;
mod lock;
mod nft;
mod pace;
mod sets;
mod socket;
mod sockopt;
mod sysctls;

use std::time::Duration;

use calico_datastore::model::Family;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

pub use changes::{Changes, Filled, Grown, Kept, Placed, Rules, Touched};
pub(crate) use foreign::Foreign;
pub use pace::{GROUP, Kind, Pace, TABLE};
pub(super) use socket::{Answer, Dialogue};

use self::groups::{Groups, names};
use self::legacy::{Legacy, Why};
use self::lock::Lock;
use self::nft::Nft;
use self::sets::Sets;
use self::sysctls::Parameters;
use super::Felix;
use super::iptables::probe::Flavour;
use crate::exec::Children;
use crate::status::systemd::Heartbeat;

/// How often what has to be polled is.
const TICK: Duration = Duration::from_secs(1);
/// How soon the tables are looked at again that the reconciler was at work on.
const SOON: Duration = Duration::from_millis(10);
/// The pause between two looks at many parameters that the kernel told of: those of 1,000 pods are looked at
/// within half a second, and others have their turn.
const BREATH: Duration = Duration::from_millis(50);
/// A first look after an own write should come at once. If it comes later than this, the
/// reconciler may have read the same place in between, and somebody may have written it after that.
const PROMPT: Duration = Duration::from_millis(500);

/// Watches the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Watch {
    changes: Changes,
    children: Children,
    nft: Option<Nft>,
    groups: Option<Groups>,
    legacy: [Legacy; 2],
    /// The lock of the tools that write legacy tables.
    lock: Option<Lock>,
    /// It was given back, and nobody has looked since.
    unlocked: bool,
    sets: Sets,
    parameters: Parameters,
    /// Not all was looked at that the kernel told of.
    behind: bool,
    tick: Instant,
    /// A failure was said.
    deaf: bool,
}

impl Watch {
    /// Begins to listen for what `felix` keeps. Nothing is polled before its first run.
    pub fn open(felix: &Felix) -> Self {
        let mut watch = Self {
            changes: felix.changes(),
            children: felix.children(),
            nft: None,
            groups: None,
            legacy: Family::ALL.map(Legacy::new),
            lock: None,
            unlocked: false,
            sets: Sets::default(),
            parameters: Parameters::open(felix.sysctls()),
            behind: false,
            tick: Instant::now(),
            deaf: false,
        };
        watch.listen();
        watch.listen_to_interfaces();
        watch
    }

    /// Runs until it is dropped. Dropping it at any time is harmless.
    pub async fn run(&mut self, mut heartbeat: Heartbeat) {
        loop {
            self.step(Instant::now());
            let again = self.again(Instant::now());
            let nft = async {
                match &mut self.nft {
                    Some(nft) => nft.ready().await,
                    None => std::future::pending().await,
                }
            };
            let groups = async {
                match &mut self.groups {
                    Some(groups) => groups.ready().await,
                    None => std::future::pending().await,
                }
            };
            let lock = async {
                match &mut self.lock {
                    Some(lock) => lock.closed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // All are cancel-safe: what came stays in its socket, a notice is kept, an
                // unanswered token stays in its channel.
                () = nft => {}
                () = groups => {}
                closed = lock => {
                    self.unlocked = true;
                    if let Err(error) = closed {
                        debug!(%error, "the lock of legacy tables is another file");
                        self.lock = None;
                    }
                }
                () = self.parameters.ready() => {}
                () = self.changes.news() => {}
                () = sleep_until(again) => {}
                () = heartbeat.beat() => {}
            }
        }
    }

    /// When to go on if nothing happens: at the next tick, or sooner when somebody may have written
    /// legacy tables, or the kernel told of more parameters than one look takes.
    fn again(&self, now: Instant) -> Instant {
        let unlocked = self.unlocked.then_some(now);
        // While the reconciler is at work nobody looks.
        let owed = self.owed().into_iter().chain(unlocked).map(|at| at.max(now + SOON));
        let behind = self.behind.then_some(now + BREATH);
        owed.chain(behind).fold(self.tick, Instant::min)
    }

    /// When legacy tables are due that it was too soon to read when somebody may have written them.
    fn owed(&self) -> Option<Instant> {
        let legacy = self.changes.rules() == Some(Rules::Iptables(Flavour::Legacy));
        self.legacy.iter().filter(|_| legacy).filter_map(Legacy::owed).min()
    }

    /// Reads what has come, and polls what is due.
    fn step(&mut self, now: Instant) {
        self.hear();
        self.parameters.drain();
        let tick = now >= self.tick;
        let mut touched = Touched::default();
        self.behind = false;
        // While the reconciler is at work, the news of its end wakes us, whatever it wrote.
        if let Some(turn) = self.changes.try_turn() {
            touched.merge(self.poll(now, tick));
            // In its turn it says what it has set when all is: before that nobody knows whose work it is
            // what was heard.
            let kept = self.changes.kept();
            drop(turn);
            touched.merge(self.parameters.look_at_told(&kept));
            self.behind = self.parameters.has_more();
        }
        if tick {
            self.tick = now + TICK;
            touched.merge(self.parameters.round(&self.changes.kept()));
        }
        if !touched.is_empty() {
            debug!(?touched, "somebody touched what is ours");
            self.changes.touch(|all| all.merge(touched));
        }
    }

    /// Hears of transactions, when rules are made by them, and of the groups of interfaces.
    fn hear(&mut self) {
        let rules = self.changes.rules();
        if rules == Some(Rules::Iptables(Flavour::Legacy)) {
            self.nft = None;
            self.changes.set_hears(false);
            self.lock = self.lock.take().or_else(Lock::open);
        } else {
            (self.lock, self.unlocked) = (None, false);
            if let Some(rules) = rules.filter(|_| self.nft.is_none()) {
                self.listen();
                if self.nft.is_some() {
                    // What happened before is not known.
                    self.changes.touch(|touched| touched.merge(everything(rules)));
                }
            }
        }
        self.hear_nft();
        self.hear_groups(rules);
    }

    fn hear_nft(&mut self) {
        let Some(nft) = &mut self.nft else { return };
        match nft.drain() {
            Ok(mut touched) => {
                // As long as nothing is chosen, the reconciler has read nothing: asked after what came was
                // taken, or it may have chosen and read in between. What is left in other places of an
                // earlier run it has no more to do with.
                match self.changes.rules() {
                    Some(Rules::Iptables(_)) => touched.table = false,
                    Some(Rules::Nftables) => {
                        touched.tables.clear();
                        touched.torn = false;
                    }
                    None => return,
                }
                if touched.table || !touched.tables.is_empty() {
                    debug!(?touched, "somebody wrote our tables");
                    self.changes.touch(|all| all.merge(touched));
                }
            }
            Err(error) => {
                warn!(%error, "the socket for nf_tables broke");
                self.nft = None;
                self.changes.set_hears(false);
            }
        }
    }

    /// Listens to interfaces as long as nothing says that their groups do not matter.
    fn hear_groups(&mut self, rules: Option<Rules>) {
        if matches!(rules, Some(Rules::Iptables(_))) {
            self.groups = None;
            return;
        }
        let begins = self.groups.is_none();
        if begins {
            self.listen_to_interfaces();
        }
        let Some(groups) = &mut self.groups else { return };
        // Who is where is asked after what came was taken, or the move of one that is placed in between would be
        // nobody's. What was heard before it was placed costs a look.
        match groups.drain().map(|heard| (heard, self.changes.placed())) {
            Ok((heard, placed)) => {
                // What happened before is not known.
                let moved = if begins { names(&placed) } else { heard.elsewhere(&placed) };
                if moved.is_empty() {
                    return;
                }
                debug!(names = ?moved, "somebody changed groups of interfaces");
                self.changes.touch(|all| all.groups.extend(moved));
            }
            Err(error) => {
                warn!(%error, "the socket for interfaces broke");
                self.groups = None;
            }
        }
    }

    fn listen_to_interfaces(&mut self) {
        // The table is heard of by a socket of the same kind: that one says why it cannot be.
        let groups = Groups::open();
        let groups = groups.inspect_err(|error| debug!(%error, "cannot hear of interfaces"));
        self.groups = groups.ok();
    }

    fn listen(&mut self) {
        match Nft::open(self.children.clone(), self.changes.clone()) {
            Ok(nft) => {
                self.nft = Some(nft);
                self.deaf = false;
                self.changes.set_hears(true);
            }
            Err(error) if !self.deaf => {
                warn!(%error, "cannot hear of changes of nf_tables; trying again");
                self.deaf = true;
            }
            Err(_) => {}
        }
    }

    /// Compares with what was seen before. What the reconciler has written since is its own work. A
    /// foreign write of legacy tables that comes with it is found by the look that follows each write
    /// (`IptablesPostWriteCheckIntervalSecs`); sets tell it by their size.
    fn poll(&mut self, now: Instant, tick: bool) -> Touched {
        let mut touched = Touched::default();
        let Some(Rules::Iptables(flavour)) = self.changes.rules() else {
            // Of other rules all is heard: nobody has to be woken for a look at what was written.
            self.changes.take_wrote_tables();
            self.changes.take_wrote_sets();
            return touched;
        };
        let wrote = self.changes.take_wrote_tables();
        let unlocked = std::mem::take(&mut self.unlocked);
        let owed = self.owed().is_some_and(|at| at <= now);
        if flavour == Flavour::Legacy && (tick || unlocked || owed || wrote.is_some()) {
            let why = match (wrote, unlocked) {
                (Some(_), _) => Why::Wrote,
                (None, true) => Why::Unlocked,
                (None, false) => Why::Clock,
            };
            let filled = self.changes.filled();
            for (family, legacy) in Family::ALL.into_iter().zip(&mut self.legacy) {
                let ours = filled.get(&family).cloned().unwrap_or_default();
                let changed = legacy.poll(now, why, &ours);
                // A look that is late may have seen for the first time what somebody wrote meanwhile. And who
                // waited for the lock while we wrote had it next. What we emptied ourselves tells nothing.
                let theirs = wrote.is_some() && (!is_own(wrote, now) || legacy.is_bare());
                if theirs || (changed && wrote.is_none()) {
                    touched.tables.insert(family);
                    touched.torn |= legacy.is_bare();
                }
            }
        }
        let wrote = self.changes.take_wrote_sets();
        if tick || wrote.is_some() {
            let grown = self.changes.take_grown();
            let grown = if is_own(wrote, now) { grown } else { Grown::new() };
            touched.sets.extend(self.sets.poll(now, wrote.is_some(), &grown));
        }
        touched
    }
}

/// All that transactions may have changed.
fn everything(rules: Rules) -> Touched {
    match rules {
        Rules::Iptables(_) => Touched { tables: Family::ALL.into(), ..Touched::default() },
        Rules::Nftables => Touched { table: true, ..Touched::default() },
    }
}

/// True when a change that is seen now is our own.
fn is_own(wrote: Option<Instant>, now: Instant) -> bool {
    wrote.is_some_and(|at| now.saturating_duration_since(at) < PROMPT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::model::InterfaceName;

    use crate::exec::Exec;

    /// A start tells of all interfaces, and so does a script that sets them all.
    #[tokio::test]
    async fn told_parameters_wait_for_no_tick() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("net/ipv4/conf/cali300");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("rp_filter"), "2\n").unwrap();
        let felix = Felix::new(Exec::default(), root.path().to_owned());
        let mut watch = Watch::open(&felix);
        let name: InterfaceName = "cali300".parse().unwrap();
        let interfaces = [(300_u32, name)].into_iter().collect();
        watch.changes.keep(Kept { interfaces, families: vec![Family::V4], ..Kept::default() });
        watch.parameters.hear_only(1..=300);
        // Time stands still: the tick never comes.
        let now = Instant::now();
        watch.tick = now + TICK;

        // While it is somebody else's turn nobody looks, or asks again and again whether it is over.
        let turn = watch.changes.turn().await;
        watch.step(now);
        assert_eq!(watch.again(now), watch.tick);
        drop(turn);
        // Whatever was written.
        let soon = Duration::from_secs(5);
        assert!(tokio::time::timeout(soon, watch.changes.news()).await.is_ok());

        let looks = [(); 3].map(|()| {
            watch.step(now);
            let found = !watch.changes.take().sysctls.is_empty();
            (found, watch.again(now).saturating_duration_since(now))
        });
        assert_eq!(looks, [(false, BREATH), (false, BREATH), (true, TICK)]);
    }

    #[tokio::test]
    async fn where_all_is_heard_nobody_looks_at_what_was_written() {
        let felix = Felix::new(Exec::default(), "/nonexistent".into());
        let mut watch = Watch::open(&felix);
        watch.changes.set_rules(Rules::Nftables, &mut watch.changes.turn().await);
        watch.changes.news().await;
        watch.step(Instant::now());
        drop(watch.changes.turn().await);
        let short = Duration::from_millis(50);
        assert!(tokio::time::timeout(short, watch.changes.news()).await.is_err());
    }
}
