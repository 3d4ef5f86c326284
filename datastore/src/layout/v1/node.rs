//! Hosts: what their many keys say of a node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::keys::Ip;
use super::v3::error::FieldError;
use super::v3::net;
use crate::model::{AsNumber, Cidr, Family, Node};

/// What one key says of a node. Writers store an empty text for what there is not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum NodePart {
    /// That it exists.
    Known,
    /// Where other hosts reach it, whether it speaks BGP or not.
    BirdIp(Option<Ipv4Addr>),
    /// Its tunnel's address.
    Tunnel(Option<Ipv4Addr>),
    /// Where it speaks BGP.
    Address4(Option<Ipv4Addr>),
    /// Where it speaks BGP.
    Address6(Option<Ipv6Addr>),
    /// What this address is in.
    Network(Option<Cidr>),
    /// Its own AS number.
    AsNumber(Option<AsNumber>),
}

/// The address at which it speaks BGP goes before `bird_ip`, which any Felix writes; almost always
/// they are one. A node takes part in BGP when it has such an address.
pub(super) fn assemble<'p>(parts: impl Iterator<Item = &'p NodePart>) -> Node {
    let mut node = Node::default();
    let (mut bird_ip, mut networks) = (None, Vec::new());
    for part in parts {
        match *part {
            NodePart::Known => {}
            NodePart::BirdIp(address) => bird_ip = address,
            NodePart::Tunnel(address) => node.ipip_tunnel = address,
            NodePart::Address4(address) => node.ipv4 = address,
            NodePart::Address6(address) => node.ipv6 = address,
            NodePart::Network(network) => networks.extend(network),
            NodePart::AsNumber(number) => node.as_number = number,
        }
    }
    node.bgp = node.ipv4.is_some() || node.ipv6.is_some();
    if node.ipv4.is_none() {
        (node.ipv4, node.ipv4_is_fallback) = (bird_ip, bird_ip.is_some());
    }
    // Without a network of its own, or with one that it is not in, an address is alone.
    let network_of = |address: IpAddr| {
        let within = networks.iter().find(|network| network.contains(address));
        within.copied().unwrap_or_else(|| Cidr::host(address))
    };
    node.ipv4_network = node.ipv4.map(|address| network_of(address.into()));
    node.ipv6_network = node.ipv6.map(|address| network_of(address.into()));
    node
}

/// An address or nothing.
pub(super) fn v4(text: &str) -> Result<Option<Ipv4Addr>, FieldError> {
    (!text.is_empty()).then(|| net::v4(text)).transpose()
}

/// An address or nothing.
pub(super) fn v6(text: &str) -> Result<Option<Ipv6Addr>, FieldError> {
    let bad = |_| FieldError::new(format_args!("{text:?} is not an IPv6 address"));
    (!text.is_empty()).then(|| text.parse().map_err(bad)).transpose()
}

/// A network or nothing.
pub(super) fn network(text: &str, ip: Ip) -> Result<Option<Cidr>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    let cidr: Cidr = text.parse().map_err(FieldError::new)?;
    let family = match ip {
        Ip::V4 => Family::V4,
        Ip::V6 => Family::V6,
    };
    if cidr.family() == family {
        Ok(Some(cidr))
    } else {
        Err(FieldError::new(format_args!("{text:?} is not of {family}")))
    }
}
