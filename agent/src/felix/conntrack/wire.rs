//! Connections as netlink says them: pure. What is not understood as a whole where it matters is an error,
//! never a guess.

use std::net::IpAddr;

use calico_datastore::model::Family;

use super::entry::{BadEntry, Connection, ICMP, Tuple, WITH_PORTS, Zones};
use crate::netlink::build::Message;
use crate::netlink::{DUMP, REQUEST, attribute, be32};

/// `NFNL_SUBSYS_CTNETLINK` in the upper byte of a message's type, and `IPCTNL_MSG_CT_…`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const STATISTICS: u16 = 1 << 8 | 5;
/// `IPS_SEEN_REPLY`.
const SEEN_REPLY: u32 = 1 << 1;
/// `nfgenmsg`.
const HEAD: usize = 4;

/// `CTA_…` (linux/netfilter/nfnetlink_conntrack.h).
mod attr {
    pub(super) const ORIGINAL: u16 = 1;
    pub(super) const REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const ID: u16 = 12;
    pub(super) const ZONE: u16 = 18;
    pub(super) const FILTER: u16 = 25;
    /// `CTA_STATS_GLOBAL_ENTRIES`, of the statistics.
    pub(super) const ENTRIES: u16 = 1;
    /// Of `CTA_FILTER`: which parts of a tuple have to be as it says.
    pub(super) const FILTER_ORIGINAL: u16 = 1;
    pub(super) const FILTER_REPLY: u16 = 2;
}

/// `CTA_…` of one direction.
mod half {
    pub(super) const ADDRESSES: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ZONE: u16 = 3;
    /// `CTA_PROTO_…`.
    pub(super) const NUMBER: u16 = 1;
    pub(super) const PORTS: (u16, u16) = (2, 3);
    /// Identifier, type, code.
    pub(super) const ICMP: (u16, u16, u16) = (4, 5, 6);
    pub(super) const ICMPV6: (u16, u16, u16) = (7, 8, 9);
}

/// Which address of a connection is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// Who opened it.
    Opener,
    /// Who it was opened to.
    Asked,
    /// Who answers.
    Answerer,
}

impl Side {
    /// The address of a connection.
    pub(super) fn of(self, one: &Connection) -> IpAddr {
        match self {
            Self::Opener => one.original.source,
            Self::Asked => one.original.destination,
            Self::Answerer => one.reply.source,
        }
    }
}

fn head(family: Option<Family>) -> [u8; HEAD] {
    let number = match family {
        None => 0,
        Some(Family::V4) => 2,
        Some(Family::V6) => 10,
    };
    [number, 0, 0, 0]
}

/// `CTA_IP_V4_…` and `CTA_IP_V6_…`: (source, destination).
fn addresses(family: Family) -> (u16, u16) {
    match family {
        Family::V4 => (1, 2),
        Family::V6 => (3, 4),
    }
}

/// Asks how many connections there are: whether the kernel knows of any at all.
pub(super) fn statistics() -> Vec<u8> {
    Message::new(STATISTICS, REQUEST, &head(None)).finish()
}

/// How many connections the namespace has, in the answer to [`statistics`].
pub(super) fn count(body: &[u8]) -> Option<u32> {
    attribute(body.get(HEAD..)?, attr::ENTRIES).and_then(be32)
}

/// Asks for all connections of both families.
pub(super) fn list_all() -> Vec<u8> {
    Message::new(GET, REQUEST | DUMP, &head(None)).finish()
}

/// Asks for all connections of a family; those with that address, where the kernel (5.8) leaves out the
/// others.
pub(super) fn list(family: Family, wanted: Option<(Side, IpAddr)>) -> Vec<u8> {
    let mut message = Message::new(GET, REQUEST | DUMP, &head(Some(family)));
    if let Some((side, address)) = wanted {
        let direction = if side == Side::Answerer { attr::REPLY } else { attr::ORIGINAL };
        let (source, destination) = addresses(family);
        // `CTA_FILTER_F_…` of a source is the lowest bit, of a destination the next.
        let (kind, bit) = if side == Side::Asked { (destination, 2) } else { (source, 1) };
        let tuple = message.nest(direction);
        let both = message.nest(half::ADDRESSES);
        put_address(&mut message, kind, address);
        message.close(both);
        message.close(tuple);
        let filter = message.nest(attr::FILTER);
        let bits = |is: bool| if is { bit } else { 0_u32 };
        message.put(attr::FILTER_ORIGINAL, &bits(side != Side::Answerer).to_ne_bytes());
        message.put(attr::FILTER_REPLY, &bits(side == Side::Answerer).to_ne_bytes());
        message.close(filter);
    }
    message.finish()
}

/// Deletes exactly that connection, if it is still there. Without the direction in it this would mean all
/// connections of the kernel, so it is always in it.
pub(super) fn delete(one: &Connection) -> Vec<u8> {
    let family = one.family();
    let mut message = Message::new(DELETE, REQUEST, &head(Some(family)));
    put_tuple(&mut message, attr::ORIGINAL, one);
    if one.zones.both != 0 {
        message.put(attr::ZONE, &one.zones.both.to_be_bytes());
    }
    if let Some(id) = one.id {
        message.put(attr::ID, &id.to_be_bytes());
    }
    message.finish()
}

fn put_address(message: &mut Message, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => message.put(kind, &address.octets()),
        IpAddr::V6(address) => message.put(kind, &address.octets()),
    }
}

/// The original direction.
fn put_tuple(message: &mut Message, kind: u16, one: &Connection) {
    let Tuple { source, destination, ports, icmp, also } = one.original;
    let tuple = message.nest(kind);
    let both = message.nest(half::ADDRESSES);
    let (from, to) = addresses(one.family());
    put_address(message, from, source);
    put_address(message, to, destination);
    message.close(both);
    let protocol = message.nest(half::PROTOCOL);
    message.put(half::NUMBER, &[one.protocol]);
    if let Some((kind, code)) = icmp {
        let (id, kinds, codes) = icmp_attributes(one.protocol);
        message.put(id, &also.map_or(0, |(id, _)| id).to_be_bytes());
        message.put(kinds, &[kind]);
        message.put(codes, &[code]);
    } else if let Some((from, to)) = ports.or(also) {
        message.put(half::PORTS.0, &from.to_be_bytes());
        message.put(half::PORTS.1, &to.to_be_bytes());
    }
    message.close(protocol);
    if one.zones.original != 0 {
        message.put(half::ZONE, &one.zones.original.to_be_bytes());
    }
    message.close(tuple);
}

fn icmp_attributes(protocol: u8) -> (u16, u16, u16) {
    if protocol == 1 { half::ICMP } else { half::ICMPV6 }
}

/// Reads a connection in a message of a list.
///
/// # Errors
/// When it is not one, or not completely told.
pub(super) fn connection(body: &[u8]) -> Result<Connection, BadEntry> {
    read(body).map_err(|what| BadEntry { what })
}

fn read(body: &[u8]) -> Result<Connection, &'static str> {
    let family = match body.first() {
        Some(2) => Family::V4,
        Some(10) => Family::V6,
        _ => return Err("no family"),
    };
    let body = body.get(HEAD..).ok_or("it ends in its head")?;
    let original = attribute(body, attr::ORIGINAL).ok_or("the original direction is missing")?;
    let reply = attribute(body, attr::REPLY).ok_or("the reply is missing")?;
    let (protocol, original, from) = tuple(original, family)?;
    let (_, reply, back) = tuple(reply, family)?;
    let both =
        attribute(body, attr::ZONE).map(be16).unwrap_or(Some(0)).ok_or("a zone is not readable")?;
    let zones = Zones { both, original: from, reply: back };
    let status = attribute(body, attr::STATUS).and_then(be32).ok_or("its state is missing")?;
    let id = attribute(body, attr::ID).and_then(be32);
    Ok(Connection { protocol, original, reply, zones, replied: status & SEEN_REPLY != 0, id })
}

/// The protocol, the tuple and the zone of one direction.
fn tuple(bytes: &[u8], family: Family) -> Result<(u8, Tuple, u16), &'static str> {
    let both = attribute(bytes, half::ADDRESSES).ok_or("the addresses are missing")?;
    let (from, to) = addresses(family);
    let address = |kind| attribute(both, kind).and_then(address).ok_or("an address is missing");
    let (source, destination) = (address(from)?, address(to)?);
    let said = attribute(bytes, half::PROTOCOL).ok_or("the protocol is missing")?;
    let octet = |kind| attribute(said, kind).and_then(|value| value.first().copied());
    let number = |kind| attribute(said, kind).and_then(be16);
    let protocol = octet(half::NUMBER).ok_or("no protocol number")?;
    let pair = number(half::PORTS.0).zip(number(half::PORTS.1));
    let has_ports = WITH_PORTS.contains(&protocol);
    let (id, kind, code) = icmp_attributes(protocol);
    let icmp = ICMP.contains(&protocol);
    let tuple = Tuple {
        source,
        destination,
        ports: pair.filter(|_| has_ports),
        icmp: octet(kind).zip(octet(code)).filter(|_| icmp),
        also: if icmp { number(id).map(|id| (id, 0)) } else { pair.filter(|_| !has_ports) },
    };
    let zone = attribute(bytes, half::ZONE).map(be16).unwrap_or(Some(0));
    Ok((protocol, tuple.checked(protocol, family)?, zone.ok_or("a zone is not readable")?))
}

fn be16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(<[u8; 4]>::try_from(value).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(value).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
