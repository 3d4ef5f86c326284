//! The first packet of a connection, as policy sees it.

use std::net::IpAddr;

use calico_datastore::model::Family;

/// As seen from the endpoint that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To it.
    Ingress,
    /// From it.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// A packet. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes to.
    pub destination: IpAddr,
    /// The number in its IP header, 0–255.
    pub protocol: u8,
    /// Ports of source and destination, where the protocol has them.
    pub ports: Option<(u16, u16)>,
    /// Type and code of a message of the family's ICMP.
    pub icmp: Option<(u8, u8)>,
}

impl Packet {
    /// A TCP packet.
    pub fn tcp(source: IpAddr, from: u16, destination: IpAddr, to: u16) -> Self {
        Self { source, destination, protocol: 6, ports: Some((from, to)), icmp: None }
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// The address at the endpoint's own end.
    pub fn near(&self, direction: Direction) -> IpAddr {
        match direction {
            Direction::Ingress => self.destination,
            Direction::Egress => self.source,
        }
    }
}
