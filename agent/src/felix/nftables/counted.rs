//! What the elements of sets have counted that stand for endpoints.

use std::io;
use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, InterfaceName};

use super::TABLE;
use super::render::names::{OfPods, of_pods};
use super::socket::Channel;
use super::wire::message::{BODY, dump, kind};
use crate::felix::ipset::Counts;
use crate::netlink::{attribute, attributes, text};

/// `NFTA_SET_ELEM_LIST_ELEMENTS`.
const ELEMENTS: u16 = 3;
/// `NFTA_SET_ELEM_KEY`, `NFTA_SET_ELEM_EXPR`, `NFTA_SET_ELEM_KEY_END`.
const KEY: u16 = 1;
const EXPRESSION: u16 = 7;
const KEY_END: u16 = 10;
/// `NFTA_DATA_VALUE`.
const VALUE: u16 = 1;
/// `NFTA_EXPR_DATA`.
const DATA: u16 = 2;
/// `NFTA_COUNTER_BYTES`, `NFTA_COUNTER_PACKETS`.
const BYTES: u16 = 1;
const PACKETS: u16 = 2;
/// Size of an interface's name in a key (`IFNAMSIZ`).
const NAME: usize = 16;

/// What an element has counted: of an interface, packets with an address of this prefix.
pub(in crate::felix) type Counted = (InterfaceName, Cidr, Counts);

/// Reads the sets of endpoints that count.
#[derive(Debug)]
pub(in crate::felix) struct Counting {
    channel: Channel,
}

impl Counting {
    /// In the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub(in crate::felix) fn open() -> io::Result<Self> {
        Ok(Self { channel: Channel::open()? })
    }

    /// What one of the sets has counted. One that is not there has counted nothing.
    ///
    /// # Errors
    /// When the kernel does not list it.
    pub(in crate::felix) fn read(
        &mut self,
        set: OfPods,
        family: Family,
    ) -> io::Result<Vec<Counted>> {
        let mut found = Vec::new();
        for nets in [false, true] {
            let name = of_pods(set, family, nets);
            let request = dump(kind::GET_ELEMENTS, |w| {
                w.text(1, TABLE);
                w.text(2, &name);
            });
            let listed = self.channel.list(request, |body| {
                let list = body.get(BODY..).and_then(|body| attribute(body, ELEMENTS));
                let all = list.into_iter().flat_map(attributes);
                found.extend(all.filter_map(|(_, element)| counted(element, family)));
            });
            match listed {
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
                other => drop(other?),
            }
            // Those of listed prefixes have one name.
            if set.is_spoofed() {
                break;
            }
        }
        Ok(found)
    }
}

fn counted(element: &[u8], family: Family) -> Option<Counted> {
    let part = |kind| attribute(attribute(element, kind)?, VALUE);
    let key = part(KEY)?;
    let (name, first) = (text(key.get(..NAME)?)?.parse().ok()?, address(key, family)?);
    let last = part(KEY_END).and_then(|key| address(key, family)).unwrap_or(first);
    let counter = attribute(attribute(element, EXPRESSION)?, DATA)?;
    let number = |kind| Some(u64::from_be_bytes(attribute(counter, kind)?.try_into().ok()?));
    let counts = Counts { packets: number(PACKETS)?, bytes: number(BYTES)? };
    Some((name, between(first, last)?, counts))
}

fn address(key: &[u8], family: Family) -> Option<IpAddr> {
    let bytes = key.get(NAME..)?;
    match family {
        Family::V4 => <[u8; 4]>::try_from(bytes.get(..4)?).ok().map(IpAddr::from),
        Family::V6 => <[u8; 16]>::try_from(bytes.get(..16)?).ok().map(IpAddr::from),
    }
}

/// The prefix from its first to its last address.
fn between(first: IpAddr, last: IpAddr) -> Option<Cidr> {
    let length = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            (u32::from(first) ^ u32::from(last)).leading_zeros()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            (u128::from(first) ^ u128::from(last)).leading_zeros()
        }
        _ => return None,
    };
    Cidr::new(first, u8::try_from(length).ok()?).ok()
}
