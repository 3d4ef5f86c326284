//! Address allocation: blocks, claims on them, and how they are given out.

use super::{Cidr, Name};

/// An allocation block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The addresses of the block.
    pub cidr: Cidr,
    /// The host it belongs to.
    pub host: Option<Name>,
}

/// A claim of a host on a block: (host, block).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffinityId {
    /// The claiming host.
    pub host: Name,
    /// The block.
    pub block: Cidr,
}

/// How far a claim has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffinityState {
    /// The block belongs to the host; also what old writers mean by no state.
    Confirmed,
    /// Being claimed: not to be routed yet.
    Pending,
    /// Being given up.
    PendingDeletion,
}

/// The value of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Its state.
    pub state: AffinityState,
}

/// How addresses are allocated, in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpamConfig {
    /// Hosts take addresses from their own blocks only.
    pub strict_affinity: bool,
    /// Hosts claim a block when they need one.
    pub auto_allocate_blocks: bool,
    /// How many blocks of a family a host may have.
    pub max_blocks_per_host: u32,
}

impl Default for IpamConfig {
    /// What counts when nothing is stored.
    fn default() -> Self {
        Self { strict_affinity: false, auto_allocate_blocks: true, max_blocks_per_host: 20 }
    }
}
