//! Our table in the kernel: one socket, changes in transactions, a read-back. Plain calls: reading waits for
//! who writes, and whoever calls decides about threads.

mod send;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;

use self::send::Sender;
use super::commands::commands;
use super::contents::Contents;
use super::depth;
use super::encode::Encoder;
use super::mirror::{Held, Mirror};
use super::object::{Change, Name};
use super::plan::{Plan, Step, plan};
use super::read::{self, Found};
use super::socket::Channel;
use super::subject::Subject;
use crate::felix::counters::Counters;

/// A transaction with more bytes of elements in new sets than this makes those sets beforehand, in
/// batches of about this size. Nothing can see them before the rules come that name them.
const EARLY_BYTES: usize = 4 << 20;
/// How often a list is asked for that changes while it is read.
const TRIES: usize = 5;
/// How long is waited before it is asked for again; the next time twice as long. Each transaction of anybody, in
/// whichever table, is a change, and a firewall that starts writes many in a row.
const PAUSE: Duration = Duration::from_millis(5);

/// The socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open a netlink socket for nftables")]
pub struct OpenError(#[source] io::Error);

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Batches; 0 when everything was there already.
    pub batches: u64,
    /// Messages in them.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Changes that are not in force: none of them is.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The kernel refused the transaction.
    #[error("nftables: the kernel refused {subject}{}", in_brackets(.said.as_ref()))]
    Refused {
        /// What it refused.
        subject: Subject,
        /// What it or we have to say about it.
        said: Option<String>,
        /// The error.
        #[source]
        source: io::Error,
        /// How many messages were refused; the first is what is told.
        count: usize,
    },
    /// The batch could not be sent.
    #[error("nftables: cannot send a transaction of {bytes} bytes")]
    Send {
        /// Its size.
        bytes: usize,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// No answer came: all of it is in force, or nothing.
    #[error("nftables: the kernel's answer was lost")]
    Unknown,
}

fn in_brackets(said: Option<&String>) -> String {
    said.map(|said| format!(" ({said})")).unwrap_or_default()
}

impl WriteError {
    /// What was refused, when it was one object.
    pub fn subject(&self) -> Option<&Subject> {
        match self {
            Self::Refused { subject, .. } => Some(subject),
            _ => None,
        }
    }

    /// Whether the table holds something else than was thought: it has to be read again.
    pub fn needs_resync(&self) -> bool {
        match self {
            Self::Refused { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::EEXIST | libc::ENOENT | libc::EBUSY))
            }
            Self::Send { .. } => false,
            Self::Unknown => true,
        }
    }

    /// Whether it says nothing of what was to be written: the kernel had no memory or no time, or this process may
    /// not write the table.
    pub fn is_circumstance(&self) -> bool {
        match self {
            Self::Refused { source, .. } => matches!(
                source.raw_os_error(),
                Some(
                    libc::EPERM
                        | libc::EACCES
                        | libc::ENOMEM
                        | libc::ENOBUFS
                        | libc::EINTR
                        | libc::EAGAIN
                )
            ),
            Self::Send { .. } | Self::Unknown => true,
        }
    }
}

/// The table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The kernel refused.
    #[error("nftables: cannot list {what}")]
    List {
        /// What was asked for.
        what: String,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// It changed each time while it was read.
    #[error("nftables: the table changed {TRIES} times while it was read")]
    Restless,
}

/// Our table.
#[derive(Debug)]
pub struct Table {
    name: String,
    channel: Channel,
    mirror: Mirror,
    /// Whether the table is known to be there.
    exists: bool,
    /// Whether somebody made it dormant.
    asleep: bool,
    counters: Counters,
}

impl Table {
    /// A socket in the network namespace of the calling thread for the table `inet name`. Touches
    /// nothing; what the table holds is not known before it was [read](Table::read).
    ///
    /// # Errors
    /// When there is no such socket: the kernel has no nf_tables, or this process may not.
    pub fn open(name: &str, counters: Counters) -> Result<Self, OpenError> {
        let channel = Channel::open().map_err(OpenError)?;
        let mirror = Mirror::default();
        Ok(Self { name: name.to_owned(), channel, mirror, exists: false, asleep: false, counters })
    }

    /// By which the kernel's events name what this value wrote (`nlmsg_pid`).
    pub fn port(&self) -> u32 {
        self.channel.port()
    }

    /// Does all of `changes` in one transaction, or nothing. Makes the table when it is not there.
    ///
    /// # Errors
    /// When the kernel refuses something. Nothing of it is in force then.
    pub fn write(&mut self, changes: &[Change]) -> Result<Written, WriteError> {
        let plan = plan(&self.mirror, changes);
        let mut written = Written::default();
        if plan.steps.is_empty() && self.exists && !self.asleep {
            return Ok(written);
        }
        let Plan { steps, unseen } = plan;
        let unseen =
            if elements(&steps, &unseen) > EARLY_BYTES { unseen } else { Default::default() };
        let (early, main): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(|step| matches!(step, Step::MakeSet(name, _) | Step::Insert(name, _) if unseen.contains(name)));
        let made: Vec<Name> = unseen.into_iter().cloned().collect();
        let mirror = &self.mirror;
        let kind = |name: &Name| {
            let held = mirror.sets.get(name).and_then(|set| set.spec);
            let new = || {
                changes.iter().find_map(|change| match change {
                    Change::CreateSet(created, spec) if created == name => Some(*spec),
                    _ => None,
                })
            };
            held.or_else(new).map(|spec| spec.kind)
        };
        let mut sender = Sender {
            table: &self.name,
            channel: &mut self.channel,
            counters: &self.counters,
            written: &mut written,
            exists: self.exists,
        };
        // The kernel does not like hooks to come and go while it wakes a table.
        let awake = if self.asleep { sender.wake() } else { Ok(()) };
        let result = awake
            .and_then(|()| sender.early(early, &kind))
            .and_then(|()| sender.batch(&main, &kind));
        if let Err(error) = result {
            if !made.is_empty() {
                // Unused sets are no harm, but they would be in the way of the next try.
                sender.discard(&made);
            }
            let mut after = self.mirror.clone();
            after.apply(changes);
            return Err(explained(error, &after));
        }
        (self.exists, self.asleep) = (true, false);
        self.mirror.apply(changes);
        Ok(written)
    }

    /// Asks whether the kernel would take changes of a table that is not there: makes it, without hooks that any
    /// packet comes to, and deletes it, in one transaction. Nobody ever sees it.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn rehearse(&mut self, changes: &[Change]) -> Result<(), WriteError> {
        let nothing = Mirror::default();
        let mut written = Written::default();
        let mut sender = Sender {
            table: &self.name,
            channel: &mut self.channel,
            counters: &self.counters,
            written: &mut written,
            exists: false,
        };
        let mut encoder = sender.encoder();
        encoder.make_dormant_table();
        plan(&nothing, changes).steps.iter().for_each(|step| encoder.step(step));
        encoder.drop_table();
        sender.send(&encoder.batch.finish(), &|_| None)?;
        self.exists = false;
        Ok(())
    }

    /// The bytes of the one batch that does all of `changes`, for whoever sends them himself: what the
    /// kernel takes for them is what [`Table::write`] cannot be faster than. Sends nothing. Empty when
    /// there is nothing to do.
    pub fn batch(&self, changes: &[Change]) -> Vec<u8> {
        let mut encoder = Encoder::new(&self.name, self.channel.next());
        if !self.exists {
            encoder.make_table();
        }
        plan(&self.mirror, changes).steps.iter().for_each(|step| encoder.step(step));
        if encoder.batch.len() == 0 { Vec::new() } else { encoder.batch.finish().bytes }
    }

    /// Whether the table is there and dormant: packets pass it by.
    pub fn is_asleep(&self) -> bool {
        self.exists && self.asleep
    }

    /// What [`Table::write`] would do for these lists of changes, one after the other: each as the
    /// commands that `nft -f` takes for it. A dormant table is woken by the first. Sends nothing.
    pub fn commands(&self, transactions: &[&[Change]]) -> Vec<Vec<String>> {
        let mut mirror = self.mirror.clone();
        let mut wake = self.is_asleep().then(|| format!("add table inet {}", self.name));
        let all = transactions.iter().map(|changes| {
            let lines = commands(&self.name, &mirror, changes);
            mirror.apply(changes);
            wake.take().into_iter().chain(lines).collect()
        });
        all.collect()
    }

    /// Deletes the table with all that it holds; it may be gone already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self) -> Result<Written, WriteError> {
        let mut written = Written::default();
        let mut sender = Sender {
            table: &self.name,
            channel: &mut self.channel,
            counters: &self.counters,
            written: &mut written,
            exists: false,
        };
        // Made first, so that it need not be there.
        let mut encoder = sender.encoder();
        encoder.make_table();
        encoder.drop_table();
        sender.send(&encoder.batch.finish(), &|_| None)?;
        (self.exists, self.asleep) = (false, false);
        self.mirror = Mirror::default();
        Ok(written)
    }

    /// Reads the table: chains, rules, sets and all elements. `None` = there is none. From now on
    /// [`Table::write`] goes by what was found. Waits for who writes just then.
    ///
    /// # Errors
    /// When the kernel refuses, or does not stop changing.
    pub fn read(&mut self) -> Result<Option<Found>, ReadError> {
        let found = until_steady(|| read::table(&mut self.channel, &self.name))?;
        self.exists = found.is_some();
        self.asleep = found.as_ref().is_some_and(|found| found.asleep);
        self.mirror = found.as_ref().map(Found::mirror).unwrap_or_default();
        Ok(found)
    }

    /// Chains that were found as `wanted` says are known from now on: writing them again is no change.
    pub fn agree(&mut self, found: &Found, wanted: &Contents) {
        for (name, chain) in &wanted.chains {
            if found.holds(name, chain) {
                self.mirror.chains.insert(name.clone(), Held::Known(Arc::clone(chain)));
            }
        }
    }
}

/// Reads until nothing changes meanwhile (`None`).
fn until_steady<T>(mut read: impl FnMut() -> Result<Option<T>, ReadError>) -> Result<T, ReadError> {
    let pauses = std::iter::successors(Some(PAUSE), |pause| Some(*pause * 2)).take(TRIES - 1);
    for pause in std::iter::once(Duration::ZERO).chain(pauses) {
        std::thread::sleep(pause);
        if let Some(found) = read()? {
            return Ok(found);
        }
    }
    Err(ReadError::Restless)
}

/// About how many bytes the elements of sets that nothing sees take.
fn elements(steps: &[Step<'_>], unseen: &std::collections::BTreeSet<&Name>) -> usize {
    let counts = steps.iter().map(|step| match step {
        Step::Insert(name, elements) if unseen.contains(*name) => elements.len() * 48,
        _ => 0,
    });
    counts.sum()
}

/// What the kernel finds when it follows the ways of packets, in words and with the rule that it
/// means: older kernels name none.
fn explained(error: WriteError, after: &Mirror) -> WriteError {
    match error {
        WriteError::Refused { subject, said: None, source, count }
            if matches!(
                source.raw_os_error(),
                Some(libc::EMLINK | libc::ELOOP | libc::EOPNOTSUPP | libc::EINVAL)
            ) =>
        {
            match depth::fault(after) {
                Some(fault) => {
                    let said = Some(fault.said);
                    WriteError::Refused { subject: fault.subject, said, source, count }
                }
                None => WriteError::Refused { subject, said: None, source, count },
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn who_writes_many_transactions_in_a_row_is_waited_for() {
        let begin = Instant::now();
        let quiet_after = |time: Duration| move || Ok((begin.elapsed() > time).then_some(()));
        assert!(until_steady(quiet_after(Duration::from_millis(50))).is_ok());
        let mut tries = 0;
        let never = until_steady(|| {
            tries += 1;
            Ok(None::<()>)
        });
        assert!(matches!(never, Err(ReadError::Restless)));
        assert_eq!(tries, TRIES);
    }
}
