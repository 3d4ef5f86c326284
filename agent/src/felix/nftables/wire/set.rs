//! Sets without their elements, both ways.

use calico_datastore::model::Family;

use super::super::expr::{Anonymous, KeyType};
use super::super::lower::address_type;
use super::super::object::{SetKind, SetSpec};
use super::attributes::Writer;
use super::expression::ANONYMOUS;
use crate::netlink::{attribute, be32, text};

/// `NFT_SET_…`.
const ANONYMOUS_FLAG: u32 = 1;
const CONSTANT: u32 = 2;
pub(in crate::felix::nftables) const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const CONCATENATION: u32 = 0x80;
/// `NFT_DATA_VERDICT`.
const VERDICTS: u32 = 0xffff_ff00;
/// `NFTA_SET_…`.
const NAME: u16 = 2;
const FLAGS: u16 = 3;
const KEY_TYPE: u16 = 4;
const KEY_LEN: u16 = 5;
const DATA_TYPE: u16 = 6;
const DATA_LEN: u16 = 7;
const DESCRIPTION: u16 = 9;
const ID: u16 = 10;
const USERDATA: u16 = 13;
const EXPRESSION: u16 = 17;
const EXPRESSIONS: u16 = 18;

/// Every kind of set.
pub(in crate::felix::nftables) const KINDS: [SetKind; 14] = [
    SetKind::Address(Family::V4),
    SetKind::Address(Family::V6),
    SetKind::Interval(Family::V4),
    SetKind::Interval(Family::V6),
    SetKind::AddressPort(Family::V4),
    SetKind::AddressPort(Family::V6),
    SetKind::InterfaceAddress(Family::V4),
    SetKind::InterfaceAddress(Family::V6),
    SetKind::InterfaceNet(Family::V4),
    SetKind::InterfaceNet(Family::V6),
    SetKind::Interface,
    SetKind::InterfaceMac,
    SetKind::VerdictsByGroup,
    SetKind::VerdictsByName,
];

/// What is looked up in a set of a kind, and the flags of the set.
fn shape(kind: SetKind) -> (KeyType, u32) {
    let name_and = |other| KeyType::IFNAME.then(other);
    match kind {
        SetKind::Address(family) => (address_type(family), 0),
        SetKind::Interval(family) => (address_type(family), INTERVAL),
        SetKind::AddressPort(family) => {
            (address_type(family).then(KeyType::PROTOCOL).then(KeyType::SERVICE), 0)
        }
        SetKind::InterfaceAddress(family) => (name_and(address_type(family)), 0),
        SetKind::InterfaceNet(family) => (name_and(address_type(family)), INTERVAL | CONCATENATION),
        SetKind::Interface => (KeyType::IFNAME, 0),
        SetKind::InterfaceMac => (name_and(KeyType::ETHER), 0),
        SetKind::VerdictsByGroup => (KeyType::DEVGROUP, MAP),
        SetKind::VerdictsByName => (KeyType::IFNAME, MAP),
    }
}

/// Whether a set is a map to verdicts.
pub(in crate::felix::nftables) fn is_map(kind: SetKind) -> bool {
    shape(kind).1 & MAP != 0
}

/// nft's notes to itself: numbers by type.
fn userdata(entries: &[(u8, u32)]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|(kind, value)| [*kind, 4].into_iter().chain(value.to_ne_bytes()))
        .collect()
}

/// Which byte order keys and data have (`NFTNL_UDATA_SET_KEYBYTEORDER`, `…_DATABYTEORDER`).
const KEY_ORDER: u8 = 0;
const DATA_ORDER: u8 = 1;
/// `NFTNL_UDATA_SET_MERGE_ELEMENTS`.
const MERGE: u8 = 2;

/// Writes what a set is. `id` is a number within the batch.
pub(in crate::felix::nftables) fn set(w: &mut Writer<'_>, name: &str, spec: SetSpec, id: u32) {
    let (key, flags) = shape(spec.kind);
    let map = flags & MAP != 0;
    w.text(NAME, name);
    w.be32(FLAGS, flags);
    w.be32(KEY_TYPE, key.number);
    w.be32(KEY_LEN, key.len);
    if map {
        w.be32(DATA_TYPE, VERDICTS);
        w.be32(DATA_LEN, 0);
    }
    w.be32(ID, id);
    if flags & CONCATENATION != 0 {
        // NFTA_SET_DESC_CONCAT: how long each part is.
        let first = KeyType::IFNAME.len;
        w.nest(DESCRIPTION, |w| {
            w.nest(2, |w| {
                for len in [first, key.len - first] {
                    w.nest(1, |w| w.be32(1, len));
                }
            });
        });
    }
    let order = (KEY_ORDER, key.order);
    w.bytes(USERDATA, &if map { userdata(&[order, (DATA_ORDER, 0)]) } else { userdata(&[order]) });
    if spec.counters {
        w.nest(EXPRESSION, |w| {
            w.text(1, "counter");
            w.nest(2, |_| ());
        });
    }
}

/// Writes what a set of one rule is.
pub(in crate::felix::nftables) fn anonymous(w: &mut Writer<'_>, set: &Anonymous, id: u32) {
    let interval = set.is_interval();
    let flags = ANONYMOUS_FLAG | CONSTANT | if interval { INTERVAL } else { 0 };
    // Each range has two ends.
    let size = set.ranges.len() * if interval { 2 } else { 1 };
    w.text(NAME, ANONYMOUS);
    w.be32(FLAGS, flags);
    w.be32(KEY_TYPE, set.key.number);
    w.be32(KEY_LEN, set.key.len);
    w.be32(ID, id);
    w.nest(DESCRIPTION, |w| w.be32(1, u32::try_from(size).unwrap_or(u32::MAX)));
    let order = (KEY_ORDER, set.key.order);
    let merge = (MERGE, u32::from(interval));
    w.bytes(USERDATA, &userdata(&[order, merge]));
}

/// A set as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::felix::nftables) struct Listed {
    /// The name, which the kernel makes up for a set of one rule.
    pub(in crate::felix::nftables) name: String,
    /// Whether it belongs to a rule.
    pub(in crate::felix::nftables) anonymous: bool,
    /// What it is, when it is of a kind of ours.
    pub(in crate::felix::nftables) spec: Option<SetSpec>,
    /// What is looked up; the byte order is not listed.
    pub(in crate::felix::nftables) key: KeyType,
    /// Whether its elements are ends of ranges.
    pub(in crate::felix::nftables) interval: bool,
}

/// Reads what a set is.
pub(in crate::felix::nftables) fn read(body: &[u8]) -> Option<Listed> {
    let number = |kind| attribute(body, kind).and_then(be32);
    let flags = number(FLAGS).unwrap_or(0);
    let key = KeyType { number: number(KEY_TYPE)?, len: number(KEY_LEN)?, order: 0 };
    let counters = [EXPRESSION, EXPRESSIONS].map(|kind| attribute(body, kind));
    let found = |kind: &&SetKind| {
        let (shape, shape_flags) = shape(**kind);
        (shape.number, shape.len, shape_flags) == (key.number, key.len, flags)
            && (shape_flags & MAP == 0 || number(DATA_TYPE) == Some(VERDICTS))
    };
    let spec = KINDS
        .iter()
        .find(found)
        .map(|kind| SetSpec { kind: *kind, counters: counters.iter().any(Option::is_some) });
    Some(Listed {
        name: attribute(body, NAME).and_then(text)?.to_owned(),
        anonymous: flags & ANONYMOUS_FLAG != 0,
        spec,
        key,
        interval: flags & INTERVAL != 0 && flags & CONCATENATION == 0,
    })
}
