//! A packet as rules see it.

use std::net::IpAddr;

/// What connection tracking says of a packet once it has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// The first of its connection: only such packets are asked of the table `nat`.
    New,
    /// Of a connection that was answered.
    Established,
    /// Belongs to another connection.
    Related,
    /// Belongs to nothing.
    Invalid,
    /// Nobody tracks it.
    Untracked,
}

/// Where a packet comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In through an interface.
    Interface(String),
    /// From a process of this host.
    Host,
}

/// A packet. All that is not here no rule can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its source.
    pub source: IpAddr,
    /// Its destination, of the same family.
    pub destination: IpAddr,
    /// Its protocol by number.
    pub protocol: u8,
    /// The ports of source and destination; `None` = the protocol has none, or a later fragment.
    pub ports: Option<(u16, u16)>,
    /// Type and code of an ICMP or ICMPv6 message.
    pub icmp: Option<(u8, u8)>,
    /// Where it comes from.
    pub origin: Origin,
    /// The source of its frame; `None` = it came in no Ethernet frame.
    pub mac: Option<[u8; 6]>,
    /// What connection tracking will say.
    pub state: State,
    /// The mark that it has at the beginning.
    pub mark: u32,
}

/// Protocol numbers by name.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const DCCP: u8 = 33;
pub(crate) const SCTP: u8 = 132;
pub(crate) const UDPLITE: u8 = 136;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

impl Packet {
    /// The first packet of a connection, from a process of this host, of a protocol without ports.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            ports: None,
            icmp: None,
            origin: Origin::Host,
            mac: None,
            state: State::New,
            mark: 0,
        }
    }

    /// The same of TCP.
    pub fn tcp(source: IpAddr, destination: IpAddr, from: u16, to: u16) -> Self {
        Self { ports: Some((from, to)), ..Self::new(source, destination, TCP) }
    }

    /// The same of UDP.
    pub fn udp(source: IpAddr, destination: IpAddr, from: u16, to: u16) -> Self {
        Self { ports: Some((from, to)), ..Self::new(source, destination, UDP) }
    }

    /// The same of the family's ICMP.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8) -> Self {
        let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
        Self { icmp: Some((kind, code)), ..Self::new(source, destination, protocol) }
    }

    /// The same through an interface.
    #[must_use]
    pub fn into_interface(self, interface: &str) -> Self {
        Self { origin: Origin::Interface(interface.to_owned()), ..self }
    }

    /// The same in a frame from this address.
    #[must_use]
    pub fn with_mac(self, mac: [u8; 6]) -> Self {
        Self { mac: Some(mac), ..self }
    }

    /// The same as part of a connection.
    #[must_use]
    pub fn with_state(self, state: State) -> Self {
        Self { state, ..self }
    }
}
