//! The kernel's own way to talk about sets: names of netlink's ipset protocol, and a socket that speaks it.

use std::collections::BTreeMap;
use std::io;

use calico_datastore::model::Family;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::SetType;
use crate::felix::watch::{Answer, Dialogue};
use crate::netlink::build::Message;
use crate::netlink::{DUMP, NET_BYTE_ORDER, REQUEST, attribute, request};

/// `NFNL_SUBSYS_IPSET` in the upper byte of a message's type.
const SUBSYS: u16 = 6 << 8;
/// `IPSET_CMD_PROTOCOL`.
const PROTOCOL: u16 = SUBSYS | 1;
/// `IPSET_CMD_CREATE`.
pub(super) const CREATE: u16 = SUBSYS | 2;
/// `IPSET_CMD_DESTROY`.
pub(super) const DESTROY: u16 = SUBSYS | 3;
/// `IPSET_CMD_SWAP`.
pub(super) const SWAP: u16 = SUBSYS | 6;
/// `IPSET_CMD_LIST`.
pub(in crate::felix) const LIST: u16 = SUBSYS | 7;
/// `IPSET_CMD_ADD`.
pub(super) const ADD: u16 = SUBSYS | 9;
/// `IPSET_CMD_DEL`.
pub(super) const DELETE: u16 = SUBSYS | 10;
/// `IPSET_CMD_TYPE`.
const TYPE: u16 = SUBSYS | 13;
/// The newest protocol that we know, and the oldest (`IPSET_PROTOCOL_MIN`).
const VERSIONS: (u8, u8) = (7, 6);
/// `IPSET_FLAG_LIST_HEADER`.
const HEADER_ONLY: u32 = 1 << 2;
/// `nfgenmsg`: the family is not looked at.
pub(in crate::felix) const NFGENMSG: [u8; 4] = [2, 0, 0, 0];
/// How often a list is asked for again when it changes while it is read.
const LISTS: usize = 5;

/// `IPSET_ATTR_…` of a command (linux/netfilter/ipset/ip_set.h).
pub(in crate::felix) mod attr {
    pub(in crate::felix) const PROTOCOL: u16 = 1;
    pub(in crate::felix) const NAME: u16 = 2;
    pub(in crate::felix) const TYPE: u16 = 3;
    /// `IPSET_ATTR_SETNAME2`, of a swap.
    pub(in crate::felix) const OTHER_NAME: u16 = 3;
    pub(in crate::felix) const REVISION: u16 = 4;
    pub(in crate::felix) const FAMILY: u16 = 5;
    pub(in crate::felix) const FLAGS: u16 = 6;
    pub(in crate::felix) const DATA: u16 = 7;
    pub(in crate::felix) const MEMBERS: u16 = 8;
    /// `IPSET_ATTR_LINENO`, of a command and of a member: which one was refused.
    pub(in crate::felix) const LINE: u16 = 9;
    pub(in crate::felix) const OLDEST_REVISION: u16 = 10;
}

/// `IPSET_ATTR_…` of a set's data.
pub(in crate::felix) mod head {
    pub(in crate::felix) const TIMEOUT: u16 = 6;
    pub(in crate::felix) const FLAGS: u16 = 8;
    pub(in crate::felix) const BITMASK: u16 = 12;
    /// Grows by itself.
    pub(in crate::felix) const HASH_SIZE: u16 = 18;
    pub(in crate::felix) const MAX: u16 = 19;
    pub(in crate::felix) const NETMASK: u16 = 20;
    pub(in crate::felix) const ELEMENTS: u16 = 24;
    /// `IPSET_ATTR_REFERENCES`: how many rules name it.
    pub(in crate::felix) const REFERENCES: u16 = 25;
    pub(in crate::felix) const MEMORY: u16 = 26;
}

/// `IPSET_ATTR_…` of a member.
pub(in crate::felix) mod member {
    pub(in crate::felix) const ADDRESS: u16 = 1;
    pub(in crate::felix) const LENGTH: u16 = 3;
    pub(in crate::felix) const PORT: u16 = 4;
    pub(in crate::felix) const PROTOCOL: u16 = 7;
    pub(in crate::felix) const FLAGS: u16 = 8;
    pub(in crate::felix) const INTERFACE: u16 = 23;
    pub(in crate::felix) const BYTES: u16 = 24;
    pub(in crate::felix) const PACKETS: u16 = 25;
}

/// `IPSET_FLAG_…` of a set's data and of a member.
pub(super) mod flag {
    /// `IPSET_FLAG_PHYSDEV`: the port of a bridge is meant.
    pub(in crate::felix) const BRIDGE_PORT: u32 = 1 << 1;
    pub(in crate::felix) const NOMATCH: u32 = 1 << 2;
    pub(in crate::felix) const WITH_COUNTERS: u32 = 1 << 3;
    pub(in crate::felix) const WITH_FORCEADD: u32 = 1 << 5;
    /// `IPSET_FLAG_IFACE_WILDCARD`: all interfaces whose names begin so.
    pub(in crate::felix) const WILDCARD: u32 = 1 << 7;
}

/// Numbers of errors that only ipset has.
pub(super) mod code {
    pub(in crate::felix) const PROTOCOL: i32 = 4097;
    pub(in crate::felix) const NO_TYPE: i32 = 4098;
    pub(in crate::felix) const TOO_MANY_SETS: i32 = 4099;
    pub(in crate::felix) const BUSY: i32 = 4100;
    /// The second set of a swap is not there.
    pub(in crate::felix) const NO_OTHER_SET: i32 = 4101;
    pub(in crate::felix) const OTHER_TYPE: i32 = 4102;
    pub(in crate::felix) const PREFIX_LENGTH: i32 = 4104;
    pub(in crate::felix) const FAMILY: i32 = 4106;
    pub(in crate::felix) const REFERENCED: i32 = 4108;
    pub(in crate::felix) const NOT_V4: i32 = 4109;
    pub(in crate::felix) const NOT_V6: i32 = 4110;
    pub(in crate::felix) const NO_COUNTERS: i32 = 4111;
    /// The first of those that a type has for itself.
    pub(in crate::felix) const FULL: i32 = 4352;
    pub(in crate::felix) const NO_MEMBER: i32 = 4353;
    pub(in crate::felix) const NO_PORTS: i32 = 4354;
    pub(in crate::felix) const NO_PROTOCOL: i32 = 4355;
}

/// The attributes behind what every message begins with.
pub(in crate::felix) fn behind_head(body: &[u8]) -> Option<&[u8]> {
    body.get(NFGENMSG.len()..)
}

/// The first octet of an attribute.
pub(super) fn octet(body: &[u8], kind: u16) -> Option<u8> {
    attribute(body, kind)?.first().copied()
}

/// `NFPROTO_…`.
pub(super) fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The type's revision that we know and that has all we use; members look the same in each of them.
fn known_revision(kind: SetType) -> u8 {
    match kind {
        // `bucketsize` and `initval`, which makes one set known from another.
        SetType::Net => 7,
        SetType::Port => 6,
        SetType::NetIface => 8,
    }
}

/// How the kernel at hand wants to be spoken to.
#[derive(Clone, Debug)]
pub(super) struct Dialect {
    /// The protocol.
    pub(super) version: u8,
    /// In which revision a set of a type is made; `None`: a type that it does not have.
    pub(super) revisions: BTreeMap<(SetType, Family), Option<u8>>,
}

impl Dialect {
    /// A request that is answered, so far without anything but the protocol.
    pub(super) fn message(&self, kind: u16, flags: u16) -> Message {
        let mut message = Message::new(kind, REQUEST | flags, &NFGENMSG);
        message.put(attr::PROTOCOL, &[self.version]);
        message
    }

    fn list(&self, name: Option<&str>, head_only: bool) -> Vec<u8> {
        let mut message = self.message(LIST, DUMP);
        if let Some(name) = name {
            message.put_text(attr::NAME, name);
        }
        if head_only {
            message.put(attr::FLAGS | NET_BYTE_ORDER, &HEADER_ONLY.to_be_bytes());
        }
        message.finish()
    }
}

/// Speaks with the kernel about sets.
#[derive(Debug)]
pub(in crate::felix) struct Link {
    socket: Dialogue,
    pub(super) dialect: Dialect,
}

impl Link {
    /// A socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When we may not, or when the kernel has no sets.
    pub(in crate::felix) fn open() -> io::Result<Self> {
        let mut socket = Dialogue::open(NETLINK_NETFILTER)?;
        let mut kernel = VERSIONS.1;
        let ask = request(PROTOCOL, REQUEST, &NFGENMSG, &[(attr::PROTOCOL, &[VERSIONS.1])]);
        socket.ask(&ask, |body| {
            let said = behind_head(body).and_then(|body| octet(body, attr::PROTOCOL));
            kernel = said.unwrap_or(kernel);
        })?;
        let version = kernel.clamp(VERSIONS.1, VERSIONS.0);
        Ok(Self { socket, dialect: Dialect { version, revisions: BTreeMap::new() } })
    }

    /// Lists the heads of all sets, or one set with its members: puts together what `read` makes of each
    /// message. It begins again when the sets change in a way that would make the list wrong.
    pub(in crate::felix) fn list<T: Default>(
        &mut self,
        name: Option<&str>,
        read: impl FnMut(&mut T, &[u8]),
    ) -> io::Result<T> {
        let request = self.dialect.list(name, name.is_none());
        self.listed(&request, read)
    }

    /// The same of all sets with their members, whoever they belong to.
    pub(in crate::felix) fn list_whole<T: Default>(
        &mut self,
        read: impl FnMut(&mut T, &[u8]),
    ) -> io::Result<T> {
        let request = self.dialect.list(None, false);
        self.listed(&request, read)
    }

    fn listed<T: Default>(
        &mut self,
        request: &[u8],
        mut read: impl FnMut(&mut T, &[u8]),
    ) -> io::Result<T> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut whole = T::default();
            match self.socket.ask(request, |body| read(&mut whole, body)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted && tries < LISTS => {}
                other => return other.map(|()| whole),
            }
        }
    }

    /// The head of one set.
    pub(super) fn list_head(&mut self, name: &str, read: impl FnMut(&[u8])) -> io::Result<()> {
        let request = self.dialect.list(Some(name), true);
        self.socket.ask(&request, read)
    }

    /// Asks which revisions of a type this kernel has, and remembers the one that we know, or the next one
    /// that it has. The kernel may load a module for that.
    ///
    /// # Errors
    /// When it does not answer. That it does not have the type is an answer.
    pub(super) fn learn(&mut self, kind: SetType, family: Family) -> io::Result<()> {
        let key = (kind, family);
        if self.dialect.revisions.contains_key(&key) {
            return Ok(());
        }
        let mut message = self.dialect.message(TYPE, 0);
        message.put_text(attr::TYPE, kind.name());
        message.put(attr::FAMILY, &[family_number(family)]);
        let mut revision = known_revision(kind);
        let asked = self.socket.ask(&message.finish(), |body| {
            let Some(body) = behind_head(body) else { return };
            let newest = octet(body, attr::REVISION).unwrap_or(revision);
            let oldest = octet(body, attr::OLDEST_REVISION).unwrap_or(0);
            revision = revision.min(newest).max(oldest);
        });
        let known = match asked {
            Err(error) if error.raw_os_error() == Some(code::NO_TYPE) => None,
            other => other.map(|()| Some(revision))?,
        };
        self.dialect.revisions.insert(key, known);
        Ok(())
    }

    /// Sends requests, and says what became of each.
    pub(super) fn tell(&mut self, requests: &[Vec<u8>]) -> io::Result<Vec<Answer>> {
        self.socket.tell(requests)
    }
}
