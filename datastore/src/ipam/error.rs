//! Why addresses cannot be had or given back.

use std::fmt;
use std::net::IpAddr;

use super::PoolChoice;
use crate::layout::v3::write::Malformed;
use crate::model::{Cidr, Family, Name};
use crate::store::StoreError;

/// Why addresses cannot be had or given back.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// There are not as many addresses as wanted.
    #[error("no {family} address is left{}: {why}", in_pools(pools))]
    NoAddress {
        /// IPv4 or IPv6.
        family: Family,
        /// The pools that were looked at.
        pools: Vec<Name>,
        /// Why there are no more.
        why: Shortage,
    },
    /// Another owner has the address.
    #[error("{address} is taken{}", by_handle(handle))]
    Taken {
        /// The address.
        address: IpAddr,
        /// Its owner.
        handle: Option<String>,
    },
    /// The address is in a block of another host, and hosts may not borrow.
    #[error("{address} is in block {block}, which is not of this host, and affinity is strict")]
    Strict {
        /// The address.
        address: IpAddr,
        /// Its block.
        block: Cidr,
    },
    /// The address is in no block, and none can be made for it: a block of another size, from
    /// before its pool was changed, shares addresses with the one that it would be in. Or it is in
    /// two such blocks.
    #[error("{address} belongs in block {block}, which shares addresses with block {other}")]
    Overlap {
        /// The address.
        address: IpAddr,
        /// The block that the address is or would be in.
        block: Cidr,
        /// The other one, which is there.
        other: Cidr,
    },
    /// No pool that this host may use has the address.
    #[error("{address} is in no IPPool that this host may use{}", in_unusable(pool))]
    OutsidePools {
        /// The address.
        address: IpAddr,
        /// The pool that has it, and what is against that one.
        pool: Option<(Name, Unusable)>,
    },
    /// A pool was named from which this host can have no addresses.
    #[error("IPPool {choice} {why}")]
    Pool {
        /// The pool as it was named.
        choice: PoolChoice,
        /// What is against it.
        why: Unusable,
    },
    /// The text cannot be a handle.
    #[error("{handle:?} cannot be a handle")]
    InvalidHandle {
        /// The text.
        handle: String,
    },
    /// What is stored is malformed; names the key.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The store did not answer, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Others wrote the key each time before we could.
    #[error("gave up on {key} after {tries} conflicts")]
    Conflicts {
        /// The key.
        key: String,
        /// How often it was tried.
        tries: u32,
    },
}

/// Why there are not as many addresses as wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// This host may use no pool of the family.
    NoPool,
    /// Every address is taken or reserved.
    Full,
    /// The blocks of this host are full, it has as many as a host may have, and what others have
    /// free may not be borrowed or is not there.
    BlockLimit(u32),
    /// The blocks of this host are full, and the configuration lets no host claim one.
    NoAutoAllocate,
    /// The blocks of this host are full, no block is free to be claimed, and affinity is strict.
    Strict,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => f.write_str("there is no IPPool that this host may use"),
            Self::Full => f.write_str("every address is taken or reserved"),
            Self::BlockLimit(max) => {
                write!(f, "the blocks of this host are full, and it may have no more than {max}")
            }
            Self::NoAutoAllocate => {
                f.write_str("the blocks of this host are full, and autoAllocateBlocks is off")
            }
            Self::Strict => f.write_str(
                "the blocks of this host are full, no block is free, and affinity is strict",
            ),
        }
    }
}

/// What is against the use of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// There is none like that, or it is malformed.
    Missing,
    /// It is disabled.
    Disabled,
    /// Its `nodeSelector` does not match the labels of this host's Node.
    NotForNode,
    /// Its `allowedUses` have no `Workload`.
    NotForWorkloads,
    /// Addresses of the other family were wanted of it.
    OtherFamily,
    /// Its addresses are all in this pool too, which goes before it.
    Shadowed(Name),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist"),
            Self::Disabled => f.write_str("is disabled"),
            Self::NotForNode => f.write_str("is not for this node (nodeSelector)"),
            Self::NotForWorkloads => f.write_str("is not for workloads (allowedUses)"),
            Self::OtherFamily => f.write_str("is of the other address family"),
            Self::Shadowed(other) => write!(f, "has the addresses of IPPool {other}"),
        }
    }
}

fn in_pools(pools: &[Name]) -> String {
    let names: Vec<&str> = pools.iter().map(Name::as_str).collect();
    if names.is_empty() { String::new() } else { format!(" in {}", names.join(", ")) }
}

fn by_handle(handle: &Option<String>) -> String {
    handle.as_ref().map(|handle| format!(" by {handle}")).unwrap_or_default()
}

fn in_unusable(pool: &Option<(Name, Unusable)>) -> String {
    pool.as_ref().map(|(name, why)| format!(" (IPPool {name} {why})")).unwrap_or_default()
}
