//! Address allocation as far as routing needs it.

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
