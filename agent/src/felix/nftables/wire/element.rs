//! Elements of sets, both ways. A range is two elements: where it begins, and what comes behind it.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Mac};

use super::super::expr::{Anonymous, Data};
use super::super::lower::interface;
use super::super::object::{Element, SetKind, Verdict};
use super::super::ranges;
use super::attributes::Writer;
use super::expression::{LIST_ELEMENT, data, read_verdict, verdict};
use crate::netlink::{attribute, attributes, be32, text};

/// `NFTA_SET_ELEM_LIST_ELEMENTS`.
pub(in crate::felix::nftables) const ELEMENTS: u16 = 3;
/// The most that an element takes within a list: two names and addresses of IPv6 with what is around.
pub(in crate::felix::nftables) const LARGEST: usize = 360;
/// `NFTA_SET_ELEM_…`.
const KEY: u16 = 1;
const DATA: u16 = 2;
const FLAGS: u16 = 3;
const KEY_END: u16 = 10;
/// `NFT_SET_ELEM_INTERVAL_END`.
const END: u32 = 1;
/// `NFT_SET_ELEM_CATCHALL`: every key that no other element has.
const CATCH_ALL: u32 = 2;

/// A key: at most a name and an address.
struct Key {
    bytes: [u8; 36],
    len: usize,
}

impl Key {
    fn new() -> Self {
        Self { bytes: [0; 36], len: 0 }
    }

    /// Appends a part, which takes a multiple of four.
    fn then(mut self, part: &[u8]) -> Self {
        let end = self.len + part.len();
        if let Some(place) = self.bytes.get_mut(self.len..end) {
            place.copy_from_slice(part);
            self.len = end.next_multiple_of(4);
        }
        self
    }

    fn named(name: &str) -> Self {
        Self::new().then(interface(name).bytes())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Writes an element into a list.
pub(in crate::felix::nftables) fn element(w: &mut Writer<'_>, element: &Element) {
    let address = |address: &IpAddr| ranges::address(*address);
    match element {
        Element::Address(ip) => plain(w, address(ip).bytes()),
        Element::Range(first, last) => range(w, address(first), address(last)),
        Element::AddressPort(ip, protocol, port) => {
            let key = Key::new().then(address(ip).bytes()).then(&[*protocol]);
            plain(w, key.then(&port.to_be_bytes()).bytes());
        }
        Element::InterfaceAddress(name, ip) => {
            plain(w, Key::named(name.as_str()).then(address(ip).bytes()).bytes());
        }
        Element::InterfaceNet(name, net) => {
            let bound = |ip| Key::named(name.as_str()).then(ranges::address(ip).bytes());
            w.nest(LIST_ELEMENT, |w| {
                data(w, KEY, bound(net.address()).bytes());
                data(w, KEY_END, bound(ranges::last(net)).bytes());
            });
        }
        Element::Interface(name) => plain(w, interface(name.as_str()).bytes()),
        Element::InterfaceMac(name, mac) => {
            plain(w, Key::named(name.as_str()).then(&mac.bytes()).bytes());
        }
        Element::Group(group, to) => mapped(w, &group.to_ne_bytes(), Some(to)),
        Element::Named(name, to) => mapped(w, interface(name.as_str()).bytes(), Some(to)),
    }
}

/// Writes the key of an element that goes.
pub(in crate::felix::nftables) fn gone(w: &mut Writer<'_>, gone: &Element) {
    match gone {
        Element::Group(group, _) => mapped(w, &group.to_ne_bytes(), None),
        Element::Named(name, _) => mapped(w, interface(name.as_str()).bytes(), None),
        _ => element(w, gone),
    }
}

/// Writes elements of a set of one rule, which keeps ranges or not.
pub(in crate::felix::nftables) fn anonymous(w: &mut Writer<'_>, set: &Anonymous, interval: bool) {
    for (first, last) in &set.ranges {
        if interval {
            range(w, *first, *last);
        } else {
            plain(w, first.bytes());
        }
    }
}

fn plain(w: &mut Writer<'_>, key: &[u8]) {
    w.nest(LIST_ELEMENT, |w| data(w, KEY, key));
}

fn range(w: &mut Writer<'_>, first: Data, last: Data) {
    plain(w, first.bytes());
    // Nothing comes behind the highest.
    if let Some(behind) = last.next() {
        w.nest(LIST_ELEMENT, |w| {
            w.be32(FLAGS, END);
            data(w, KEY, behind.bytes());
        });
    }
}

fn mapped(w: &mut Writer<'_>, key: &[u8], to: Option<&Verdict>) {
    w.nest(LIST_ELEMENT, |w| {
        data(w, KEY, key);
        if let Some(to) = to {
            verdict(w, DATA, to);
        }
    });
}

/// Reads the elements of a set, message by message.
#[derive(Debug)]
pub(in crate::felix::nftables) struct Reader {
    kind: SetKind,
    elements: Vec<Element>,
    ends: Ends,
    /// What is no element of this kind, as bytes.
    strange: Vec<String>,
    messages: usize,
}

impl Reader {
    /// Reads elements of a set of `kind`.
    pub(in crate::felix::nftables) fn new(kind: SetKind) -> Self {
        let (elements, strange) = (Vec::new(), Vec::new());
        Self { kind, elements, ends: Ends::default(), strange, messages: 0 }
    }

    /// Reads the attributes of one message.
    pub(in crate::felix::nftables) fn read(&mut self, body: &[u8]) {
        let Some(list) = attribute(body, ELEMENTS) else { return };
        self.messages += 1;
        for (_, raw) in attributes(list) {
            let read = match self.kind {
                SetKind::Interval(_) => self.ends.read(raw),
                kind => one(kind, raw).map(|element| self.elements.push(element)),
            };
            if read.is_none() {
                self.strange.push(strange(raw));
            }
        }
    }

    /// False when some were told twice, and so others were not (`torn`).
    pub(in crate::felix::nftables) fn is_whole(&mut self) -> bool {
        if self.messages < 2 {
            return true;
        }
        self.elements.sort_unstable();
        self.elements.windows(2).all(|two| two[0] != two[1])
    }

    /// The elements in no order, and what is none.
    pub(in crate::felix::nftables) fn finish(self) -> (Vec<Element>, Vec<String>) {
        let Self { mut elements, mut strange, ends, .. } = self;
        for (first, last) in ends.ranges() {
            match (ip(first.bytes()), ip(last.bytes())) {
                (Some(first), Some(last)) => elements.push(Element::Range(first, last)),
                _ => strange.push(format!("{first:?}-{last:?}")),
            }
        }
        (elements, strange)
    }
}

/// The ends of ranges.
#[derive(Debug, Default)]
struct Ends(Vec<(Data, bool)>);

impl Ends {
    /// `None` when it is no end: what matches everything that nothing else does has no key.
    fn read(&mut self, raw: &[u8]) -> Option<()> {
        let flags = flags(raw);
        let key = key(raw, KEY).filter(|_| flags & !END == 0)?;
        // Of the same place, the end of one range comes before the beginning of the next.
        self.0.push((Data::new(key), flags & END == 0));
        Some(())
    }

    fn ranges(mut self) -> Vec<(Data, Data)> {
        self.0.sort_unstable();
        let mut out = Vec::with_capacity(self.0.len() / 2);
        let mut open: Option<Data> = None;
        for (place, begins) in self.0 {
            // What ends nothing is nft's note that the lowest part is in no range.
            if let Some((first, last)) = open.take().zip(place.previous()) {
                out.push((first, last));
            }
            open = begins.then_some(place);
        }
        out.extend(open.map(|first| (first, first.highest())));
        out
    }
}

/// Reads the ranges of a set of one rule, from all messages of its list.
#[derive(Debug, Default)]
pub(in crate::felix::nftables) struct AnonymousReader {
    ends: Ends,
    interval: bool,
    /// Something in it is of no kind that we make.
    strange: bool,
}

impl AnonymousReader {
    /// Of a set whose elements are ends of ranges, or not.
    pub(in crate::felix::nftables) fn new(interval: bool) -> Self {
        Self { interval, ..Self::default() }
    }

    /// Reads the attributes of one message.
    pub(in crate::felix::nftables) fn read(&mut self, body: &[u8]) {
        let list = attribute(body, ELEMENTS).unwrap_or_default();
        for (_, raw) in attributes(list) {
            self.strange |= self.ends.read(raw).is_none();
        }
    }

    /// The ranges in order; `None` when it holds something that is none.
    pub(in crate::felix::nftables) fn finish(mut self) -> Option<Vec<(Data, Data)>> {
        if self.strange {
            return None;
        }
        if self.interval {
            return Some(self.ends.ranges());
        }
        self.ends.0.sort_unstable();
        Some(self.ends.0.into_iter().map(|(key, _)| (key, key)).collect())
    }
}

fn flags(raw: &[u8]) -> u32 {
    attribute(raw, FLAGS).and_then(be32).unwrap_or(0)
}

/// What is no element of ours, in words: as nft writes it, or its key as bytes.
fn strange(raw: &[u8]) -> String {
    match key(raw, KEY) {
        None if flags(raw) & CATCH_ALL != 0 => "*".to_owned(),
        key => format!("{:02x?}", key.unwrap_or_default()),
    }
}

fn key(raw: &[u8], kind: u16) -> Option<&[u8]> {
    attribute(attribute(raw, kind)?, 1)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// The name at the beginning of a key, and the rest.
fn named<T: std::str::FromStr>(key: &[u8]) -> Option<(T, &[u8])> {
    let (name, rest) = key.split_at_checked(16)?;
    Some((text(name)?.parse().ok()?, rest))
}

fn one(kind: SetKind, raw: &[u8]) -> Option<Element> {
    let bytes = key(raw, KEY).filter(|_| flags(raw) == 0)?;
    let verdict = || attribute(raw, DATA).and_then(read_verdict);
    match kind {
        SetKind::Address(_) => ip(bytes).map(Element::Address),
        SetKind::Interval(_) => None,
        SetKind::AddressPort(_) => {
            let (address, rest) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
            let port = u16::from_be_bytes([rest[4], rest[5]]);
            Some(Element::AddressPort(ip(address)?, rest[0], port))
        }
        SetKind::InterfaceAddress(_) => {
            let (name, rest) = named(bytes)?;
            Some(Element::InterfaceAddress(name, ip(rest)?))
        }
        SetKind::InterfaceNet(_) => {
            let (name, first) = named(bytes)?;
            let (_, last) = key(raw, KEY_END)?.split_at_checked(16)?;
            let bits = ranges::prefix_len(Data::new(first), Data::new(last))?;
            (first.len() == last.len()).then_some(())?;
            Some(Element::InterfaceNet(name, Cidr::new(ip(first)?, bits).ok()?))
        }
        SetKind::Interface => Some(Element::Interface(named(bytes)?.0)),
        SetKind::InterfaceMac => {
            let (name, rest) = named(bytes)?;
            let mac = rest.get(..6)?.try_into().ok()?;
            Some(Element::InterfaceMac(name, Mac::new(mac)))
        }
        SetKind::VerdictsByGroup => {
            let group = u32::from_ne_bytes(bytes.try_into().ok()?);
            Some(Element::Group(group, verdict()?))
        }
        SetKind::VerdictsByName => Some(Element::Named(named(bytes)?.0, verdict()?)),
    }
}

/// Which element of a list an offset into it lies in, counted from 0.
pub(in crate::felix::nftables) fn at(body: &[u8], offset: usize) -> Option<&[u8]> {
    let list = attribute(body, ELEMENTS)?;
    let base = list.as_ptr() as usize - body.as_ptr() as usize;
    let mut place = base;
    attributes(list).map(|(_, raw)| raw).find(|raw| {
        place += 4 + raw.len().next_multiple_of(4);
        offset < place
    })
}

/// An element of a list in words.
pub(in crate::felix::nftables) fn describe(kind: Option<SetKind>, raw: &[u8]) -> String {
    let element = kind.and_then(|kind| match kind {
        SetKind::Interval(_) => key(raw, KEY).and_then(ip).map(Element::Address),
        SetKind::VerdictsByGroup | SetKind::VerdictsByName if attribute(raw, DATA).is_none() => {
            None
        }
        _ => one(kind, raw),
    });
    match element {
        Some(element) => element.to_string(),
        None => format!("{:02x?}", key(raw, KEY).unwrap_or_default()),
    }
}
