//! What the elements of sets have counted that stand for endpoints.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, InterfaceName};

use super::TABLE;
use super::render::names::{OfPods, of_pods};
use super::socket::Channel;
use super::torn::{Told, until_whole};
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
    /// When the kernel does not list it; `Interrupted` when it does not list it whole.
    pub(in crate::felix) fn read(
        &mut self,
        set: OfPods,
        family: Family,
    ) -> io::Result<Vec<Counted>> {
        let mut found = Vec::new();
        for nets in [false, true] {
            let name = of_pods(set, family, nets);
            match until_whole(|| self.list(&name, family)) {
                Ok(Told::Whole(all)) => {
                    found.extend(all.into_iter().map(|((name, net), counts)| (name, net, counts)));
                }
                Ok(Told::Torn(_)) => return Err(io::ErrorKind::Interrupted.into()),
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
            // Those of listed prefixes have one name.
            if set.is_spoofed() {
                break;
            }
        }
        Ok(found)
    }

    fn list(&mut self, set: &str, family: Family) -> io::Result<Told<Members>> {
        let request = dump(kind::GET_ELEMENTS, |w| {
            w.text(1, TABLE);
            w.text(2, set);
        });
        let mut reader = Reader::default();
        let steady = self.channel.list(request, |body| {
            reader.read(body.get(BODY..).unwrap_or_default(), family);
        })?;
        let Reader { members, twice } = reader;
        Ok(if steady && !twice { Told::Whole(members) } else { Told::Torn(members) })
    }
}

/// What the elements of a set have counted.
type Members = BTreeMap<(InterfaceName, Cidr), Counts>;

/// Reads the elements of one set, message by message.
#[derive(Debug, Default)]
struct Reader {
    members: Members,
    /// One was told twice. That is no reason to count it twice.
    twice: bool,
}

impl Reader {
    /// Reads the attributes of one message.
    fn read(&mut self, body: &[u8], family: Family) {
        let all = attribute(body, ELEMENTS).into_iter().flat_map(attributes);
        for (name, net, counts) in all.filter_map(|(_, element)| counted(element, family)) {
            self.twice |= self.members.insert((name, net), counts).is_some();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::felix::nftables::wire::attributes::Writer;

    /// The attributes of a message with these addresses of `cali1`, and how many packets each has counted.
    fn message(elements: &[([u8; 4], u64)]) -> Vec<u8> {
        let mut body = Vec::new();
        Writer(&mut body).nest(ELEMENTS, |w| {
            for (address, packets) in elements {
                let key = [&b"cali1\0\0\0\0\0\0\0\0\0\0\0"[..], address].concat();
                w.nest(1, |w| {
                    w.nest(KEY, |w| w.bytes(VALUE, &key));
                    w.nest(EXPRESSION, |w| {
                        w.text(1, "counter");
                        w.nest(DATA, |w| {
                            w.be64(BYTES, packets * 100);
                            w.be64(PACKETS, *packets);
                        });
                    });
                });
            }
        });
        body
    }

    fn read(messages: &[Vec<u8>]) -> (Vec<(String, u64)>, bool) {
        let mut reader = Reader::default();
        messages.iter().for_each(|body| reader.read(body, Family::V4));
        let told = reader.members.into_iter();
        (told.map(|((_, net), counts)| (net.to_string(), counts.packets)).collect(), reader.twice)
    }

    #[test]
    fn what_is_told_twice_is_noticed_and_not_added_up() {
        let (one, two) = (([10, 0, 0, 1], 5), ([10, 0, 0, 2], 7));
        let both = vec![("10.0.0.1/32".to_owned(), 5), ("10.0.0.2/32".to_owned(), 7)];
        assert_eq!(read(&[message(&[one]), message(&[two])]), (both.clone(), false));
        // It counts while it is listed.
        assert_eq!(read(&[message(&[([10, 0, 0, 1], 4), two]), message(&[one])]), (both, true));
        let alone = vec![("10.0.0.1/32".to_owned(), 5)];
        assert_eq!(read(&[message(&[one, one])]), (alone, true), "in one message as well");
    }
}
