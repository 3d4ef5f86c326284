//! Routes and neighbours as values.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, Mac};

/// The protocol number of Calico's own routes (`RTPROT_STATIC` … are others'); blackholes always
/// have it.
pub const CALICO_PROTOCOL: u8 = 80;
/// `RTPROT_BOOT`: what the original CNI plugin, and `ip route` by default, write.
pub const BOOT_PROTOCOL: u8 = 3;
/// `RT_SCOPE_LINK`: the destination is on the wire itself.
const LINK_SCOPE: u8 = 253;
/// `RTPROT_STATIC`: up to here a number says nothing about the program that wrote the route.
pub(super) const LAST_COMMON_PROTOCOL: u8 = 4;

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Drops it.
    Blackhole,
    /// Anything else, by the kernel's number (`RTN_…`).
    Other(u8),
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: Cidr,
    /// The metric as the kernel shows it: 0 is IPv4's default, 1024 IPv6's.
    pub metric: u32,
    /// The type of service it is for; ours: 0.
    pub tos: u8,
    /// How far away the destination is (`RT_SCOPE_…`); IPv6 has none: 0.
    pub scope: u8,
    /// What it does.
    pub kind: RouteKind,
    /// The interface; none for blackholes and routes over several.
    pub device: Option<u32>,
    /// Not directly: over a gateway or several next hops.
    pub indirect: bool,
    /// Who wrote it.
    pub protocol: u8,
    /// The preferred source address.
    pub source: Option<IpAddr>,
}

impl Route {
    /// The metric that the kernel gives a route without one.
    pub fn default_metric(family: Family) -> u32 {
        match family {
            Family::V4 => 0,
            Family::V6 => 1024,
        }
    }

    /// The scope of a route to a pod.
    pub fn pod_scope(family: Family) -> u8 {
        match family {
            Family::V4 => LINK_SCOPE,
            Family::V6 => 0,
        }
    }

    /// Two routes with the same key replace each other.
    pub fn key(&self) -> (Cidr, u8, u32) {
        (self.destination, self.tos, self.metric)
    }
}

/// A permanent neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The interface.
    pub device: u32,
    /// The address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Carries our protocol number (`NDA_PROTOCOL`; kernels before 5.2 do not keep it).
    pub marked: bool,
}

/// Link-local and multicast: the kernel's own business on every interface.
pub(crate) fn is_link_scope(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    }
}
