//! What a plugin answers when it succeeds.

pub(super) mod json;

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family};
use serde_json::Value;

use super::{InvalidField, Version};

/// The result of ADD, in no version's shape.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Success {
    /// The host side first, then the pod's.
    pub interfaces: Vec<Interface>,
    /// Addresses, IPv4 first.
    pub ips: Vec<Ip>,
    /// Routes.
    pub routes: Vec<Route>,
    /// The pod's resolver.
    pub dns: Dns,
}

/// An interface that was made.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: String,
    /// MTU, bytes (1.1.0).
    pub mtu: Option<u32>,
    /// The pod's namespace; none: the host's.
    pub sandbox: Option<String>,
}

/// An address of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// The address, with the length that the interface has (/32, /128); a foreign plugin's own.
    pub address: (IpAddr, u8),
    /// Which to say as gateway.
    pub gateway: Option<IpAddr>,
    /// Index into `interfaces`.
    pub interface: Option<usize>,
}

impl Ip {
    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        Family::of(self.address.0)
    }
}

/// A route of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub dst: Cidr,
    /// Via.
    pub gw: Option<IpAddr>,
}

/// `dns`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Dns {
    /// Addresses of servers.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: Option<String>,
    /// Search list.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Dns {
    /// True when it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Success {
    /// The document in the shape of a version: 0.1.0 and 0.2.0 have `ip4` and `ip6`, later ones
    /// `ips`.
    ///
    /// What a shape has no room for is left out. Before 0.3.0 that is everything about interfaces
    /// and all but the first address of each family; before 1.1.0 it is the MTU.
    pub fn to_json(&self, version: Version) -> Value {
        json::write(self, version)
    }

    /// Reads a result of any version, whoever printed it: by the fields that it has, and where
    /// these leave a choice by its `cniVersion`.
    ///
    /// An `interface` that points to no interface is dropped: plugins for address management know
    /// none, and old ones say 0 all the same.
    ///
    /// # Errors
    /// When a field does not hold what the specification says, or its version is unknown.
    pub fn from_json(value: &Value) -> Result<Self, InvalidField> {
        json::read(value, "result")
    }

    /// The same for the field `prevResult` of a configuration.
    pub(super) fn from_previous(value: &Value) -> Result<Self, InvalidField> {
        json::read(value, "prevResult")
    }
}

#[cfg(test)]
mod tests;
