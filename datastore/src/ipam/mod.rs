//! Address management: allocation blocks, their affinity to hosts, and handles.
//!
//! IPAM v2 as the original CNI plugin and `calicoctl` speak it, over any [`Store`]: many writers on
//! many hosts, each write a compare-and-swap, no address ever given twice.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::{Cidr, Name};
use crate::store::Store;

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

/// Why addresses cannot be had or given back. (The owner of this module refines the variants.)
#[derive(Debug, thiserror::Error)]
#[error("not yet")]
pub struct IpamError;

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

    /// Gives the owner as many addresses as wanted, or none: IPv4 first.
    ///
    /// # Errors
    /// When there are not as many, or the store does not answer.
    pub async fn assign(&self, _: &Owner, _: &Request) -> Result<Vec<Assigned>, IpamError> {
        let _ = (&self.store, &self.host);
        todo!()
    }

    /// Gives the owner exactly these addresses, or none.
    ///
    /// # Errors
    /// When one is taken, reserved or outside every pool that this host may use.
    pub async fn assign_exactly(
        &self,
        _: &Owner,
        _: &[IpAddr],
    ) -> Result<Vec<Assigned>, IpamError> {
        todo!()
    }

    /// Takes back everything that a handle has, also what an interrupted assignment left. A handle
    /// that has nothing is a success.
    ///
    /// # Errors
    /// When the store does not answer; what was taken back until then stays so.
    pub async fn release_handle(&self, _handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        todo!()
    }

    /// Takes back one address if the handle still has it. False: it has not.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn release(&self, _address: IpAddr, _handle: &str) -> Result<bool, IpamError> {
        todo!()
    }

    /// What a handle has.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn of_handle(&self, _handle: &str) -> Result<Vec<Allocation>, IpamError> {
        todo!()
    }

    /// Every address that pods of this host have: in its own blocks, and borrowed (attribute
    /// `node`) in those of others.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn of_host(&self) -> Result<Vec<Allocation>, IpamError> {
        todo!()
    }

    /// Every handle that begins with `prefix`: for `GC` and the collector.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn handles(&self, _prefix: &str) -> Result<Vec<String>, IpamError> {
        todo!()
    }
}
