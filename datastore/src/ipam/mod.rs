//! Address management: allocation blocks, their affinity to hosts, and handles.
//!
//! IPAM v2 as the original CNI plugin and `calicoctl` speak it, over any [`Store`]: many writers on
//! many hosts, each write a compare-and-swap, no address ever given twice.
//!
//! The order of writes is what keeps addresses from being lost: the handle first, then the block;
//! on the way back the block first, then the handle. Whoever is killed in between leaves a handle
//! that [`Ipam::release_handle`] follows. Documents and keys are the layout's
//! ([`write`](mod@crate::layout::v3::write)); here is only what is decided and when it is written.

mod assign;
mod claim;
mod error;
mod exact;
mod handle;
mod inspect;
mod occupied;
mod pools;
mod release;
mod retry;
mod take;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::model::{Cidr, Name};
use crate::store::Store;
pub use error::{IpamError, Shortage, Unusable};

/// Whose addresses they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Finds them again: `<network>.<container id>`.
    pub handle: String,
    /// Stored with each: `node`, `timestamp`, for pods `pod` and `namespace`.
    pub attributes: BTreeMap<String, String>,
}

/// A pool that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolChoice {
    /// By its name.
    Name(Name),
    /// By its addresses.
    Cidr(Cidr),
}

impl fmt::Display for PoolChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Cidr(cidr) => cidr.fmt(f),
        }
    }
}

/// Which addresses are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// How many of IPv4.
    pub v4: usize,
    /// How many of IPv6.
    pub v6: usize,
    /// Only from these IPv4 pools, in this order of preference; empty: any that this host may use.
    pub pools_v4: Vec<PoolChoice>,
    /// The same for IPv6.
    pub pools_v6: Vec<PoolChoice>,
}

/// An address that now belongs to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The address.
    pub address: IpAddr,
    /// The pool that it is from.
    pub pool: Cidr,
}

/// An address as the blocks have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The address.
    pub address: IpAddr,
    /// Its block.
    pub block: Cidr,
    /// Its owner's handle.
    pub handle: Option<String>,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

/// Address management of one host.
#[derive(Debug)]
pub struct Ipam<S> {
    store: S,
    host: Name,
}

impl<S: Store> Ipam<S> {
    /// Addresses for pods of `host`.
    pub fn new(store: S, host: Name) -> Self {
        Self { store, host }
    }

    /// Gives the owner as many addresses as wanted, or none: IPv4 first. What the owner has
    /// already does not count.
    ///
    /// # Errors
    /// When there are not as many, or the store does not answer. What could not be given back then
    /// is found by [`Self::release_handle`].
    pub async fn assign(
        &self,
        owner: &Owner,
        request: &Request,
    ) -> Result<Vec<Assigned>, IpamError> {
        self.assign_any(owner, request).await
    }

    /// Gives the owner exactly these addresses, or none. One that it has already is a success.
    /// A reserved address can be asked for, and one of a pool that gives out none by itself.
    ///
    /// # Errors
    /// When one is taken or outside every pool that this host may use, or when it is in a block of
    /// another host and affinity is strict.
    pub async fn assign_exactly(
        &self,
        owner: &Owner,
        addresses: &[IpAddr],
    ) -> Result<Vec<Assigned>, IpamError> {
        self.assign_these(owner, addresses).await
    }

    /// Takes back everything that a handle has, also what an interrupted assignment left. A handle
    /// that has nothing is a success.
    ///
    /// # Errors
    /// When the store does not answer; what was taken back until then stays so.
    pub async fn release_handle(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        self.release_all(handle).await
    }

    /// Takes back one address if the handle still has it. False: it has not.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn release(&self, address: IpAddr, handle: &str) -> Result<bool, IpamError> {
        self.release_one(address, handle).await
    }

    /// What a handle has.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn of_handle(&self, handle: &str) -> Result<Vec<Allocation>, IpamError> {
        self.allocations_of(handle).await
    }

    /// Every address that this host has (attribute `node`): in its own blocks, and borrowed in
    /// those of others. Its tunnels' addresses are among them (attribute `type`).
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn of_host(&self) -> Result<Vec<Allocation>, IpamError> {
        self.allocations_here().await
    }

    /// Every handle that begins with `prefix`: for `GC` and the collector.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn handles(&self, prefix: &str) -> Result<Vec<String>, IpamError> {
        self.handles_with(prefix).await
    }
}
