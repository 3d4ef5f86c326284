//! Nodes: the hosts of the cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{AsNumber, Cidr, Labels};

/// A host as the cluster sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its routable IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv4 subnet that address is in (/32 when none was given).
    pub ipv4_network: Option<Cidr>,
    /// Its routable IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The IPv6 subnet that address is in.
    pub ipv6_network: Option<Cidr>,
    /// True when it takes part in BGP (has a `bgp` section).
    pub bgp: bool,
    /// True when `ipv4` is not from that section: good for reaching the host, not for BGP.
    pub ipv4_is_fallback: bool,
    /// The same of `ipv6`.
    pub ipv6_is_fallback: bool,
    /// Its own AS number; `None` = the cluster's.
    pub as_number: Option<AsNumber>,
    /// Set on a route reflector: it then takes no part in the full mesh.
    pub route_reflector_cluster_id: Option<Ipv4Addr>,
    /// The address of its IPIP tunnel device.
    pub ipip_tunnel: Option<Ipv4Addr>,
    /// What node and peer selectors see.
    pub labels: Labels,
}

impl Node {
    /// The addresses at which it speaks BGP, IPv4 first; none when it takes no part.
    pub fn bgp_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.ipv4.filter(|_| self.bgp && !self.ipv4_is_fallback).map(IpAddr::V4);
        let ipv6 = self.ipv6.filter(|_| self.bgp && !self.ipv6_is_fallback).map(IpAddr::V6);
        ipv4.into_iter().chain(ipv6)
    }
}
