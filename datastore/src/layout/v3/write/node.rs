//! Node.

use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Birth, Change, Document, Malformed};
use crate::layout::v3::keys;
use crate::model::{AsNumber, Family, Name};

const IPV4: &str = "ipv4Address";
const IPV6: &str = "ipv6Address";

/// What is to become of one of a Node's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressEdit {
    /// It stays as it is stored.
    #[default]
    Keep,
    /// It goes.
    Remove,
    /// It becomes this one. Without the length of its network's prefix it keeps the stored one's
    /// when that is the same address, else it is a network of its own (`/32`, `/128`).
    Set(IpAddr, Option<u8>),
}

/// What is to become of a Node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeEdit {
    /// Its AS number; `None`: as stored.
    pub as_number: Option<AsNumber>,
    /// Its IPv4 address.
    pub ipv4: AddressEdit,
    /// Its IPv6 address.
    pub ipv6: AddressEdit,
}

/// An address as a Node holds it: `172.18.18.101/24`, also without a prefix length. May be
/// something else altogether when it was stored by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAddress(String);

impl StoredAddress {
    /// The address itself; `None` when it is none.
    pub fn address(&self) -> Option<IpAddr> {
        address_of(&self.0)
    }
}

impl fmt::Display for StoredAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address before and after an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressChange {
    /// As it was stored.
    pub before: Option<StoredAddress>,
    /// As it is to be stored.
    pub after: Option<StoredAddress>,
}

impl AddressChange {
    /// The address after the edit.
    pub fn address(&self) -> Option<IpAddr> {
        self.after.as_ref().and_then(StoredAddress::address)
    }

    /// The stored address when it was another one, not just the same with another prefix length.
    pub fn moved_from(&self) -> Option<&StoredAddress> {
        self.before.as_ref().filter(|before| before.address() != self.address())
    }
}

/// A Node after an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeWrite {
    /// The new value.
    pub change: Change,
    /// Its IPv4 address.
    pub ipv4: AddressChange,
    /// Its IPv6 address.
    pub ipv6: AddressChange,
}

/// Edits the Node called `name`, or makes it where none is stored.
///
/// # Errors
/// When the stored object is malformed.
pub fn edit(
    name: &Name,
    edit: &NodeEdit,
    stored: Option<&[u8]>,
    birth: &Birth,
) -> Result<NodeWrite, Malformed> {
    let key = keys::node(name);
    let mut node = match stored {
        Some(bytes) => Document::open(key, bytes)?,
        None => {
            let mut node = Document::create(key, "Node", name.as_str(), birth, json!({}));
            node.fields.insert("status".to_owned(), json!({}));
            node
        }
    };
    let stored_bgp = node.section("bgp")?;
    let mut bgp = stored_bgp.clone();
    set_as_number(&mut bgp, edit.as_number);
    let ipv4 = set_address(&mut bgp, IPV4, edit.ipv4);
    let ipv6 = set_address(&mut bgp, IPV6, edit.ipv6);
    if stored.is_some() && bgp == stored_bgp {
        return Ok(NodeWrite { change: None, ipv4, ipv6 });
    }
    let spec = node.spec()?;
    follow(spec, &ipv4);
    follow(spec, &ipv6);
    if bgp.is_empty() {
        spec.shift_remove("bgp");
    } else if spec.contains_key("bgp") {
        spec.insert("bgp".to_owned(), Value::Object(bgp));
    } else {
        spec.shift_insert(0, "bgp".to_owned(), Value::Object(bgp));
    }
    Ok(NodeWrite { change: node.finish(), ipv4, ipv6 })
}

/// The addresses that a stored Node claims for BGP, to find two nodes with one address. Lenient: a
/// Node that is refused for another field claims its addresses all the same, and what cannot be
/// read claims nothing.
pub fn claimed_addresses(stored: &[u8]) -> Vec<IpAddr> {
    let Ok(node) = serde_json::from_slice::<Value>(stored) else { return Vec::new() };
    let claim = |field| node["spec"]["bgp"][field].as_str().and_then(address_of);
    [IPV4, IPV6].into_iter().filter_map(claim).collect()
}

/// Puts a configured AS number into `bgp`, in front as calico/node does; a field that is there
/// keeps its place, and its form when it says the same.
fn set_as_number(bgp: &mut Map<String, Value>, number: Option<AsNumber>) {
    const FIELD: &str = "asNumber";
    let Some(number) = number else { return };
    match bgp.get_mut(FIELD) {
        Some(stored) if as_number_of(stored) == Some(number) => {}
        Some(stored) => *stored = json!(number.0),
        None => {
            bgp.shift_insert(0, FIELD.to_owned(), json!(number.0));
        }
    }
}

fn set_address(bgp: &mut Map<String, Value>, field: &str, edit: AddressEdit) -> AddressChange {
    let before = bgp.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let before = before.map(|text| StoredAddress(text.to_owned()));
    let after = match edit {
        AddressEdit::Keep => before.clone(),
        AddressEdit::Remove => None,
        AddressEdit::Set(address, prefix) => Some(match (prefix, &before) {
            (Some(prefix), _) => StoredAddress(format!("{address}/{prefix}")),
            (None, Some(before)) if before.address() == Some(address) => before.clone(),
            (None, _) => StoredAddress(format!("{address}/{}", Family::of(address).host_len())),
        }),
    };
    if before != after {
        match &after {
            Some(after) => bgp.insert(field.to_owned(), json!(after.0)),
            None => bgp.shift_remove(field),
        };
    }
    AddressChange { before, after }
}

/// `spec.addresses` repeats the addresses for other readers: those that were the old one follow.
fn follow(spec: &mut Map<String, Value>, change: &AddressChange) {
    let Some(before) = change.before.as_ref().filter(|_| change.before != change.after) else {
        return;
    };
    let Some(list) = spec.get_mut("addresses").and_then(Value::as_array_mut) else { return };
    let own = |entry: &Value| {
        entry.get("type").is_some_and(|kind| kind == "CalicoNodeIP")
            && entry.get("address").is_some_and(|text| *text == before.0)
    };
    match &change.after {
        Some(after) => {
            for entry in list.iter_mut().filter(|entry| own(entry)) {
                entry["address"] = json!(after.0);
            }
        }
        None => list.retain(|entry| !own(entry)),
    }
}

/// The address of `address` or `address/prefix`.
fn address_of(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// A JSON number, or a string plain or dotted: clients wrote both.
fn as_number_of(value: &Value) -> Option<AsNumber> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|n| u32::try_from(n).ok()).map(AsNumber),
    }
}
