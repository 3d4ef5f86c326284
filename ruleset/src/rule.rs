//! A rule: what it asks of a packet, and what it does with it.

use std::net::IpAddr;

use crate::net::Net;
use crate::packet::State;

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// One criterion; a rule matches when all of its criteria do.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    pub(crate) not: bool,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A name, and whether longer names match too.
    In(String, bool),
    Out(String, bool),
    Net(Side, Net),
    Protocol(u8),
    /// One of the ranges holds the port; a packet without ports matches neither so nor negated.
    Ports(Vec<Side>, Vec<(u16, u16)>),
    /// Type and codes; type 255 is every type. Neither so nor negated for what is not ICMP.
    Icmp(u8, (u8, u8)),
    /// The set by its place.
    Set(usize, Vec<Side>),
    Mark(u32, u32),
    State(States),
    Mac([u8; 6]),
    AddressType(Side, AddressType),
    Limit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressType {
    Local,
    Multicast,
    Broadcast,
}

/// States of connections, those of translation among them.
#[derive(Clone, Debug, Default)]
pub(crate) struct States {
    pub(crate) states: Vec<State>,
    pub(crate) source_translated: bool,
    pub(crate) destination_translated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Only counts.
    None,
    Accept,
    Drop,
    Reject,
    Return,
    /// LOG, NFLOG, SET: the packet goes on as it is.
    Note,
    /// Keep what the mask leaves, then flip the bits.
    Mark {
        keep: u32,
        flip: u32,
    },
    NoTrack,
    DestinationNat {
        address: Option<IpAddr>,
        port: Option<u16>,
    },
    SourceNat {
        address: IpAddr,
    },
    Masquerade,
    /// A chain by its place.
    Jump(usize),
    Goto(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) target: Target,
    pub(crate) text: String,
}
