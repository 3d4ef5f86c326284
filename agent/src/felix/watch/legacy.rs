//! Legacy tables tell nobody when they change: a digest of what concerns us is compared each second, and their
//! sizes whenever somebody gave back the tools' lock.
//!
//! The digest is over the rules of our chains and of the kernel's own, without counters. A rule
//! that somebody modified is noticed although the table is as large as before; what others do in
//! chains of their own is not, although it moves all the rest: jumps count by the name of their
//! target. Values that the kernel keeps behind a match or target for itself are not handed out
//! (4.11 and later); in older kernels they stay the same as long as nobody writes the table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash as _, Hasher};
use std::io;

use calico_datastore::model::Family;
use tokio::time::Instant;
use tracing::debug;

use super::budget::{Budget, cpu_time};
use super::nft::concerns;
use super::sockopt::{Info, Xtables};
use crate::felix::iptables::names::owns_chain;
use crate::felix::iptables::save::Table;

/// Where the fields of an entry are: `struct ipt_entry`, `struct ip6t_entry`.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Bytes of the conditions, and `nfcache`.
    conditions: usize,
    /// All of it before the matches.
    size: usize,
}

impl Layout {
    fn of(family: Family) -> Self {
        let conditions: usize = match family {
            // `struct ipt_ip` and `struct ip6t_ip6`, each with `nfcache`.
            Family::V4 => 84 + 4,
            Family::V6 => 136 + 4,
        };
        // Two offsets, `comefrom`, and two counters of 64 bits.
        let size = (conditions + 8).next_multiple_of(align_of::<u64>()) + 16;
        Self { conditions, size }
    }
}

/// One part in so many of a core goes into reading one table. There are eight, which two look at.
const SHARE: u32 = 16_000;
/// `struct xt_entry_target` before its data: size, name, revision.
const TARGET: usize = 32;
/// The kernel's chains, by hook.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// One entry, as far as it has to be understood.
struct Entry<'a> {
    /// Where it begins, and where the next one does.
    at: usize,
    next: usize,
    conditions: &'a [u8],
    matches: &'a [u8],
    /// The name of its target: empty for a verdict or a jump.
    target: &'a [u8],
    /// What stands behind the target's head.
    data: &'a [u8],
    head: &'a [u8],
}

impl Entry<'_> {
    /// Begins a chain: its name.
    fn chain(&self) -> Option<&str> {
        (self.target == b"ERROR").then(|| name(self.data))
    }

    /// Is what the kernel puts behind the last rule of a chain: it returns, whatever the packet is.
    fn ends_chain(&self) -> bool {
        const RETURN: i32 = -5;
        let verdict = self.data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        self.target.is_empty()
            && verdict == Some(RETURN)
            && self.matches.is_empty()
            && self.conditions.iter().all(|byte| *byte == 0)
    }

    /// Where it jumps to, if anywhere.
    fn jump(&self) -> Option<usize> {
        let verdict = i32::from_ne_bytes(*self.data.first_chunk()?);
        self.target.is_empty().then(|| usize::try_from(verdict).ok()).flatten()
    }
}

/// Up to the first NUL.
fn name(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

/// The entries one after the other; ends where the bytes make no sense.
fn entries(bytes: &[u8], layout: Layout) -> impl Iterator<Item = Entry<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let entry = bytes.get(at..)?;
        let offset = |index: usize| {
            let bytes = entry.get(layout.conditions + 2 * index..)?.first_chunk()?;
            Some(usize::from(u16::from_ne_bytes(*bytes)))
        };
        let (target, length) = (offset(0)?, offset(1)?);
        let head = entry.get(target..target + TARGET)?;
        let one = Entry {
            at,
            next: at + length,
            conditions: entry.get(..layout.conditions)?,
            matches: entry.get(layout.size..target)?,
            target: name(&head[2..TARGET - 1]).as_bytes(),
            data: entry.get(target + TARGET..length)?,
            head,
        };
        at = one.next;
        Some(one)
    })
}

/// Some gigabytes a second, where the standard library's hash does one: a table of thousands of
/// rules is megabytes. Each step can be turned round, so one word that differs is always seen; who
/// can write the tables need not be kept from making two look the same.
struct Mix(u64);

impl Mix {
    fn new() -> Self {
        Self(0)
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.word(word.try_into().map_or(0, u64::from_ne_bytes));
        }
        let rest = words.remainder();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_ne_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn finish(&self) -> u64 {
        // Digests of chains are added up: all bits must have had their say.
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest {
    /// Equal for equal rules in the chains that concern us, wherever they lie.
    sum: u64,
    /// Chains of ours have rules.
    ours: bool,
}

/// The digest of a table.
fn digest(
    bytes: &[u8],
    hooks: &[Option<u32>; 5],
    family: Family,
    concerns: fn(&str) -> bool,
) -> Digest {
    let layout = Layout::of(family);
    let begins: BTreeMap<usize, &str> = hooks
        .iter()
        .zip(HOOKS)
        .filter_map(|(at, name)| Some((usize::try_from((*at)?).ok()?, name)))
        .collect();
    // The kernel keeps a chain as the place behind its name.
    let chains: HashMap<usize, &str> = entries(bytes, layout)
        .filter_map(|entry| match entry.target {
            b"ERROR" => Some((entry.next, name(entry.data))),
            _ => None,
        })
        .collect();
    let mut sum = 0_u64;
    let (mut ours, mut own) = (false, false);
    let mut current: Option<Mix> = None;
    let mut finish = |chain: Option<Mix>| {
        sum = sum.wrapping_add(chain.map_or(0, |hasher| hasher.finish()));
    };
    for entry in entries(bytes, layout) {
        if let Some(chain) = begins.get(&entry.at).copied().or_else(|| entry.chain()) {
            finish(current.take());
            own = owns_chain(chain);
            current = concerns(chain).then(|| {
                let mut hasher = Mix::new();
                chain.hash(&mut hasher);
                hasher
            });
            if entry.target == b"ERROR" {
                continue;
            }
        }
        // Every chain ends in a rule of the kernel's own that returns, with nothing else in it.
        ours |= own && !entry.ends_chain();
        let Some(hasher) = &mut current else { continue };
        hasher.write(entry.conditions);
        hasher.write(entry.matches);
        hasher.write(entry.head);
        match entry.jump() {
            // To the next rule: what iptables makes of a rule without a target.
            Some(to) if to == entry.next => hasher.write_u8(0),
            Some(to) => chains.get(&to).hash(hasher),
            None => hasher.write(entry.data),
        }
    }
    finish(current);
    Digest { sum, ours }
}

/// Why tables are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is time: tables that are as large as before are put off.
    Clock,
    /// Somebody may have written them: it is put off for moments only, and never forgotten.
    Unlocked,
    /// The reconciler has: nothing is put off.
    Wrote,
}

/// What was last seen of a table.
#[derive(Debug, Default)]
struct Seen {
    info: Option<Info>,
    digest: Option<Digest>,
    /// When its entries are due.
    budget: Budget,
    /// Somebody may have written it after it was last read, and it was too soon to read it again.
    owed: bool,
}

/// The tables of one family.
#[derive(Debug)]
pub(super) struct Legacy {
    family: Family,
    /// Chains whose rules count.
    concerns: fn(&str) -> bool,
    socket: Option<Xtables>,
    seen: BTreeMap<Table, Seen>,
    /// A table that should hold rules of ours held none at the last look.
    bare: bool,
}

impl Legacy {
    /// Of what concerns us.
    pub(super) fn new(family: Family) -> Self {
        Self::of(family, concerns)
    }

    /// Of the chains with such names.
    pub(super) fn of(family: Family, concerns: fn(&str) -> bool) -> Self {
        Self { family, concerns, socket: None, seen: BTreeMap::new(), bare: false }
    }

    /// True when all rules of ours were gone, at the last look, from a table that we left with some. So whoever
    /// wrote it last was somebody else.
    pub(super) fn is_bare(&self) -> bool {
        self.bare
    }

    /// When a look is due that was put off although somebody may have written.
    pub(super) fn owed(&self) -> Option<Instant> {
        self.seen.values().filter(|seen| seen.owed).filter_map(|seen| seen.budget.soon()).min()
    }

    /// Looks at the tables that are there. True when one is not as it was when last seen, or is gone;
    /// what is seen for the first time is no change. `filled`: those that we left with rules of ours.
    pub(super) fn poll(&mut self, now: Instant, why: Why, filled: &BTreeSet<Table>) -> bool {
        let mut changed = false;
        if let Err(error) = self.look(now, why, filled, &mut changed) {
            debug!(family = %self.family, %error, "cannot look at the legacy tables");
            self.socket = None;
            // At the next tick, whatever the last look cost.
            for seen in self.seen.values_mut() {
                (seen.budget, seen.owed) = (Budget::default(), false);
            }
        }
        changed
    }

    /// Sets `changed` when something has; that counts although another table cannot be looked at.
    fn look(
        &mut self,
        now: Instant,
        why: Why,
        filled: &BTreeSet<Table>,
        changed: &mut bool,
    ) -> io::Result<()> {
        let present = present(self.family)?;
        self.seen.retain(|table, _| {
            *changed |= !present.contains(table);
            present.contains(table)
        });
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(Xtables::open(self.family)?),
        };
        for table in present {
            let begin = cpu_time();
            let info = socket.info(table.name())?;
            let fresh = !self.seen.contains_key(&table);
            let seen = self.seen.entry(table).or_default();
            let same = seen.info.as_ref() == Some(&info);
            seen.owed |= why == Why::Unlocked;
            let due = match why {
                Why::Wrote => true,
                Why::Clock | Why::Unlocked if seen.owed => seen.budget.is_worth_it(now),
                Why::Clock | Why::Unlocked => seen.budget.is_due(now),
            };
            if same && !due {
                continue;
            }
            let digest = match socket.entries(table.name(), &info) {
                Ok(bytes) => digest(bytes, &info.hooks, self.family, self.concerns),
                // Written just now: the next look will see.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            *changed |= !fresh && seen.digest != Some(digest);
            (seen.info, seen.digest, seen.owed) = (Some(info), Some(digest), false);
            seen.budget.spent(cpu_time().saturating_sub(begin), SHARE, now);
        }
        let bare = |seen: &Seen| seen.digest.is_some_and(|digest| !digest.ours);
        self.bare = self.seen.iter().any(|(table, seen)| filled.contains(table) && bare(seen));
        Ok(())
    }
}

/// The tables of ours that the kernel has made. It lists them without making any; of the calling
/// thread's network namespace.
pub(super) fn present(family: Family) -> io::Result<BTreeSet<Table>> {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let names = match std::fs::read_to_string(file) {
        Ok(names) => names,
        // A kernel without them, or with none so far.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    Ok(Table::ALL.into_iter().filter(|t| names.lines().any(|line| line == t.name())).collect())
}

#[cfg(test)]
#[path = "legacy/tests.rs"]
mod tests;
