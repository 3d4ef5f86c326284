//! What a plugin answers when it succeeds.

use std::net::IpAddr;

use calico_datastore::model::Cidr;
use serde_json::Value;

use super::Version;

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

impl Success {
    /// The document in the shape of a version: 0.1.0 and 0.2.0 have `ip4` and `ip6`, later ones
    /// `ips`.
    pub fn to_json(&self, _version: Version) -> Value {
        todo!()
    }
}
