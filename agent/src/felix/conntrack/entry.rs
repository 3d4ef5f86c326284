//! Connections as the kernel knows them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use calico_datastore::model::{Family, Protocol};

use crate::desired::verdict::Flow;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// Ports of source and destination, where the protocol has them.
    pub ports: Option<(u16, u16)>,
    /// Type and code of ICMP.
    pub icmp: Option<(u8, u8)>,
    /// What else the kernel knows the packets by: the identifier of ICMP, or the two keys of GRE. Policy
    /// asks for none of it.
    pub also: Option<(u16, u16)>,
}

/// The zone of a connection, or of one direction of it; 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zones {
    /// Of both.
    pub both: u16,
    /// Of the original direction alone.
    pub original: u16,
    /// Of the reply alone.
    pub reply: u16,
}

/// A connection as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    /// The protocol's number.
    pub protocol: u8,
    /// Its first packet, as it came in.
    pub original: Tuple,
    /// The answer, as it comes in: behind address translation it comes from the real destination.
    pub reply: Tuple,
    /// Its zones.
    pub zones: Zones,
    /// Something came back.
    pub replied: bool,
    /// The kernel's number of it, which the next connection with the same addresses and ports does not
    /// get.
    pub id: Option<u32>,
}

impl Connection {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.original.source)
    }

    /// Its first packet as policy saw it: its destination was translated already, and its source
    /// not yet.
    pub fn flow(&self) -> Flow {
        let ports = self.original.ports.zip(self.reply.ports);
        Flow {
            source: self.original.source,
            destination: self.reply.source,
            protocol: Protocol::from_number(self.protocol),
            ports: ports.map(|((from, _), (to, _))| (from, to)),
            icmp: self.original.icmp,
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flow = self.flow();
        match flow.protocol {
            Some(protocol) => write!(f, "{protocol} ")?,
            None => f.write_str("protocol 0 ")?,
        }
        match flow.ports {
            Some((from, to)) => {
                let ends =
                    (SocketAddr::new(flow.source, from), SocketAddr::new(flow.destination, to));
                write!(f, "{} → {}", ends.0, ends.1)
            }
            None => write!(f, "{} → {}", flow.source, flow.destination),
        }
    }
}

/// What the kernel lists is no connection that we understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read a connection that the kernel lists: {what}")]
pub struct BadEntry {
    /// What is wrong with it.
    pub what: &'static str,
}

/// The protocols whose connections have ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
pub(super) const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
/// ICMP and ICMPv6.
pub(super) const ICMP: [u8; 2] = [1, 58];

impl Tuple {
    /// What is there of the tuple of a protocol is all that has to be there.
    pub(super) fn checked(self, protocol: u8, family: Family) -> Result<Self, &'static str> {
        if [self.source, self.destination].iter().any(|address| Family::of(*address) != family) {
            return Err("an address is of another family");
        }
        if WITH_PORTS.contains(&protocol) && self.ports.is_none() {
            return Err("a port is missing");
        }
        if ICMP.contains(&protocol) && self.icmp.is_none() {
            return Err("type or code is missing");
        }
        Ok(self)
    }
}
