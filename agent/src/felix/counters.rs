//! How often the kernel was told and asked something, and how much.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(super) fn count(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What was sent to the kernel since the start. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Calls of `iptables-save`.
    pub iptables_saves: Counter,
    /// Calls of `iptables-restore`.
    pub iptables_restores: Counter,
    /// Bytes sent to `iptables-restore`.
    pub iptables_bytes: Counter,
    /// Chains declared or deleted, and rules written.
    pub iptables_lines: Counter,
    /// How often all sets were read.
    pub ipset_saves: Counter,
    /// Batches of commands for sets.
    pub ipset_restores: Counter,
    /// Commands in them: each a member or a set.
    pub ipset_lines: Counter,
    /// Bytes of them.
    pub ipset_bytes: Counter,
    /// Transactions of nf_tables.
    pub nftables_batches: Counter,
    /// Messages in them.
    pub nftables_messages: Counter,
    /// Bytes of them.
    pub nftables_bytes: Counter,
    /// How many times our table of nf_tables was read.
    pub nftables_reads: Counter,
    /// Interfaces that were put into another group.
    pub link_groups: Counter,
    /// Batches of connections to delete.
    pub conntrack_calls: Counter,
    /// Connections that were cut because policy denies them.
    pub connections_cut: Counter,
    /// Files under `/proc/sys` that were written.
    pub sysctl_writes: Counter,
}

impl Counters {
    /// The numbers by name.
    pub fn facts(&self) -> BTreeMap<String, String> {
        [
            ("iptables_saves", &self.iptables_saves),
            ("iptables_restores", &self.iptables_restores),
            ("iptables_bytes", &self.iptables_bytes),
            ("iptables_lines", &self.iptables_lines),
            ("ipset_saves", &self.ipset_saves),
            ("ipset_restores", &self.ipset_restores),
            ("ipset_lines", &self.ipset_lines),
            ("ipset_bytes", &self.ipset_bytes),
            ("nftables_batches", &self.nftables_batches),
            ("nftables_messages", &self.nftables_messages),
            ("nftables_bytes", &self.nftables_bytes),
            ("nftables_reads", &self.nftables_reads),
            ("link_groups", &self.link_groups),
            ("conntrack_calls", &self.conntrack_calls),
            ("connections_cut", &self.connections_cut),
            ("sysctl_writes", &self.sysctl_writes),
        ]
        .into_iter()
        .map(|(name, counter)| (name.to_owned(), counter.get().to_string()))
        .collect()
    }

    /// How many times the kernel was written to.
    pub fn writes(&self) -> u64 {
        self.iptables_restores.get()
            + self.ipset_restores.get()
            + self.nftables_batches.get()
            + self.link_groups.get()
            + self.conntrack_calls.get()
            + self.sysctl_writes.get()
    }
}
