//! The kernel's own way to list sets: requests and names of attributes of netlink's ipset protocol.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::felix::watch::Dialogue;
use crate::netlink::{DUMP, NET_BYTE_ORDER, REQUEST, attribute, request};

/// `NFNL_SUBSYS_IPSET` in the upper byte of a message's type.
const SUBSYS: u16 = 6 << 8;
/// `IPSET_CMD_PROTOCOL`.
const PROTOCOL: u16 = SUBSYS | 1;
/// `IPSET_CMD_LIST`.
pub(in crate::felix) const LIST: u16 = SUBSYS | 7;
/// The newest protocol that we know, and the oldest (`IPSET_PROTOCOL_MIN`).
const VERSIONS: (u8, u8) = (7, 6);
/// `IPSET_FLAG_LIST_HEADER`.
const HEADER_ONLY: u32 = 1 << 2;
/// `nfgenmsg`: the family is not looked at.
pub(in crate::felix) const NFGENMSG: [u8; 4] = [2, 0, 0, 0];

/// `IPSET_ATTR_…` of a command (linux/netfilter/ipset/ip_set.h).
pub(in crate::felix) mod attr {
    pub(in crate::felix) const PROTOCOL: u16 = 1;
    pub(in crate::felix) const NAME: u16 = 2;
    pub(in crate::felix) const TYPE: u16 = 3;
    pub(in crate::felix) const FAMILY: u16 = 5;
    pub(in crate::felix) const FLAGS: u16 = 6;
    pub(in crate::felix) const DATA: u16 = 7;
    pub(in crate::felix) const MEMBERS: u16 = 8;
    /// `IPSET_ATTR_HASHSIZE`, of a set's data: grows by itself.
    pub(in crate::felix) const HASH_SIZE: u16 = 18;
    pub(in crate::felix) const ELEMENTS: u16 = 24;
    /// `IPSET_ATTR_REFERENCES`: how many rules name it.
    pub(in crate::felix) const REFERENCES: u16 = 25;
    pub(in crate::felix) const MEMORY: u16 = 26;
}

/// `IPSET_ATTR_…` of a member.
pub(in crate::felix) mod member {
    pub(in crate::felix) const INTERFACE: u16 = 23;
    pub(in crate::felix) const BYTES: u16 = 24;
    pub(in crate::felix) const PACKETS: u16 = 25;
    pub(in crate::felix) const ADDRESS: u16 = 1;
    pub(in crate::felix) const LENGTH: u16 = 3;
}

/// The attributes behind what every message begins with.
pub(in crate::felix) fn behind_head(body: &[u8]) -> Option<&[u8]> {
    body.get(NFGENMSG.len()..)
}

/// A socket in the network namespace of the calling thread, and the protocol that the kernel wants.
pub(in crate::felix) fn open() -> io::Result<(Dialogue, u8)> {
    let mut socket = Dialogue::open(NETLINK_NETFILTER)?;
    let mut kernel = VERSIONS.1;
    let ask = request(PROTOCOL, REQUEST, &NFGENMSG, &[(attr::PROTOCOL, &[VERSIONS.1])]);
    socket.ask(&ask, |body| {
        let said = behind_head(body).and_then(|body| attribute(body, attr::PROTOCOL));
        kernel = said.and_then(|value| value.first().copied()).unwrap_or(kernel);
    })?;
    Ok((socket, kernel.clamp(VERSIONS.1, VERSIONS.0)))
}

/// Asks for the heads of all sets, or for one set with its members.
pub(in crate::felix) fn list(version: u8, name: Option<&str>) -> Vec<u8> {
    let version = [version];
    let name = name.map(|name| format!("{name}\0"));
    let second = match &name {
        Some(name) => (attr::NAME, name.as_bytes()),
        None => (attr::FLAGS | NET_BYTE_ORDER, &HEADER_ONLY.to_be_bytes()[..]),
    };
    request(LIST, REQUEST | DUMP, &NFGENMSG, &[(attr::PROTOCOL, &version), second])
}
