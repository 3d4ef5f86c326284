//! What a host is to a packet: its own addresses, and the way to others.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::net::{Family, Net, NetError, number};

/// Addresses and routes of a host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    addresses: HashSet<IpAddr>,
    routes: Vec<(Net, String)>,
    limits_match: bool,
}

/// The way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop<'a> {
    /// To a process of this host.
    Local,
    /// Out through an interface.
    Out(&'a str),
    /// There is none.
    None,
}

impl Host {
    /// The host has this address.
    pub fn address(&mut self, address: IpAddr) -> &mut Self {
        self.addresses.insert(address);
        self
    }

    /// What is in `net` (`address/length`) is behind `interface`; the longest prefix counts, of
    /// equal ones the first.
    ///
    /// # Errors
    /// When `net` is none.
    pub fn route(&mut self, net: &str, interface: &str) -> Result<&mut Self, NetError> {
        let net = Net::parse(net)?;
        let at = self.routes.partition_point(|(other, _)| other.len >= net.len);
        self.routes.insert(at, (net, interface.to_owned()));
        Ok(self)
    }

    /// Whether a rule with a rate limit matches: with `true` every packet is within it, with `false`
    /// none.
    pub fn limits_match(&mut self, matches: bool) -> &mut Self {
        self.limits_match = matches;
        self
    }

    /// The way to a destination.
    pub fn hop(&self, to: IpAddr) -> Hop<'_> {
        if self.is_local(to) || is_many(to) {
            return Hop::Local;
        }
        let family = Family::of(to);
        let route =
            self.routes.iter().find(|(net, _)| net.family == family && net.contains(number(to)));
        route.map_or(Hop::None, |(_, interface)| Hop::Out(interface))
    }

    /// Is it an address of this host?
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    pub(crate) fn within_limits(&self) -> bool {
        self.limits_match
    }
}

/// For more than one: multicast and the broadcast address.
fn is_many(address: IpAddr) -> bool {
    address.is_multicast() || is_broadcast(address)
}

pub(crate) fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}
