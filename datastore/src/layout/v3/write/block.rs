//! Allocation blocks: who has which address.
//!
//! `allocations` has one entry for each address of the block: null, or the index of its owner in
//! `attributes`. `unallocated` is the queue of free ordinals: taken from the front, given back to
//! the end, so that an address rests before it is used again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::Malformed;
use crate::layout::v3::keys;
use crate::model::{Cidr, Name};

/// The most addresses that a block may have: 2 to the 12th, as block sizes allow (/20, /116).
const MOST: u128 = 1 << 12;

/// To whom a block belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockOwner {
    /// To no one any more: its last addresses are given back, then it goes.
    Nobody,
    /// To a host.
    Host(Name),
    /// To something that is no host (`virtual:load-balancer`).
    Other,
}

/// An address that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// The handle of its owner.
    pub handle: Option<String>,
    /// Its attributes. A value that is no text is written as JSON.
    pub attributes: BTreeMap<String, String>,
}

/// A stored block, to be read and changed.
#[derive(Clone, Debug)]
pub struct BlockDocument {
    cidr: Cidr,
    fields: Map<String, Value>,
    allocations: Vec<Option<usize>>,
    unallocated: Vec<usize>,
    attributes: Vec<Value>,
}

/// The value of a new block without allocations. `sequence` must be higher than any number that an
/// earlier block of these addresses had: nanoseconds since 1970, as the original takes them.
pub fn create(cidr: Cidr, host: &Name, sequence: u64) -> Vec<u8> {
    let size = usize::try_from(cidr.size().min(MOST)).unwrap_or_default();
    let document = json!({
        "cidr": cidr.to_string(),
        "affinity": format!("host:{host}"),
        "allocations": vec![Value::Null; size],
        "unallocated": (0..size).collect::<Vec<_>>(),
        "attributes": [],
        "sequenceNumber": sequence,
        "sequenceNumberForAllocation": {},
        "deleted": false,
    });
    document.to_string().into_bytes()
}

impl BlockDocument {
    /// Reads the block `cidr`.
    ///
    /// A queue that is missing or does not say what the allocations say is made anew: the order of
    /// what is right in it stays.
    ///
    /// # Errors
    /// When it cannot be told who has which address.
    pub fn open(cidr: Cidr, stored: &[u8]) -> Result<Self, Malformed> {
        let malformed =
            |reason: &str| Malformed { key: keys::block(cidr), reason: reason.to_owned() };
        let mut fields: Map<String, Value> =
            serde_json::from_slice(stored).map_err(|error| malformed(&error.to_string()))?;
        match fields.get("cidr") {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.parse() == Ok(cidr) => {}
            Some(_) => return Err(malformed("cidr is not the one of the key")),
        }
        // The field keeps its place: it is filled again when the block is written.
        let attributes = match fields.get_mut("attributes").map(Value::take) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) if list.iter().all(Value::is_object) => list,
            Some(_) => return Err(malformed("attributes is not a list of objects")),
        };
        let Some(Value::Array(list)) = fields.get("allocations") else {
            return Err(malformed("allocations is not a list"));
        };
        if cidr.size() > MOST || list.len() as u128 != cidr.size() {
            return Err(malformed("allocations has not one entry for each address"));
        }
        let mut allocations = Vec::with_capacity(list.len());
        for entry in list {
            let index = entry.as_u64().and_then(|index| usize::try_from(index).ok());
            allocations.push(match index {
                Some(index) if index < attributes.len() => Some(index),
                None if entry.is_null() => None,
                _ => return Err(malformed("allocations names an owner that is not in attributes")),
            });
        }
        let unallocated = queue(fields.get("unallocated"), &allocations);
        Ok(Self { cidr, fields, allocations, unallocated, attributes })
    }

    /// Its addresses.
    pub fn cidr(&self) -> Cidr {
        self.cidr
    }

    /// Somebody is deleting it: it counts as gone.
    pub fn is_deleted(&self) -> bool {
        self.fields.get("deleted") == Some(&Value::Bool(true))
    }

    /// Nobody has an address of it.
    pub fn is_empty(&self) -> bool {
        self.allocations.iter().all(Option::is_none)
    }

    /// To whom it belongs. An owner that cannot be read is another one.
    pub fn owner(&self) -> BlockOwner {
        let text = |field| match self.fields.get(field) {
            None | Some(Value::Null) => Some(""),
            Some(value) => value.as_str(),
        };
        match (text("affinity"), text("hostAffinity")) {
            (Some(""), Some("")) => BlockOwner::Nobody,
            // Before `affinity` there was this, without a prefix.
            (Some(""), Some(host)) => BlockOwner::Host(host.into()),
            (Some(affinity), _) => match affinity.strip_prefix("host:") {
                Some(host) => BlockOwner::Host(host.into()),
                None => BlockOwner::Other,
            },
            _ => BlockOwner::Other,
        }
    }

    /// True when it belongs to this host.
    pub fn is_of(&self, host: &Name) -> bool {
        self.owner() == BlockOwner::Host(host.clone())
    }

    /// The free addresses in the order in which they are to be given out.
    pub fn free(&self) -> impl Iterator<Item = IpAddr> {
        self.unallocated.iter().filter_map(|ordinal| self.address(*ordinal))
    }

    /// The addresses that somebody has, in order.
    pub fn held(&self) -> impl Iterator<Item = Held> {
        let indexes = self.allocations.iter().enumerate();
        indexes.filter_map(|(ordinal, index)| {
            let attribute = self.attributes.get((*index)?)?;
            Some(Held {
                address: self.address(ordinal)?,
                handle: handle_of(attribute).map(str::to_owned),
                attributes: secondary_of(attribute),
            })
        })
    }

    /// The addresses of one handle, in order.
    pub fn held_by(&self, handle: &str) -> Vec<IpAddr> {
        let indexes = self.allocations.iter().enumerate();
        let held = indexes.filter(|(_, index)| self.is_by(**index, handle));
        held.filter_map(|(ordinal, _)| self.address(ordinal)).collect()
    }

    /// What is known of an address that somebody has; `None` when it is free or outside.
    pub fn holder(&self, address: IpAddr) -> Option<Held> {
        self.held().find(|held| held.address == address)
    }

    /// Gives addresses to a handle. Those that are not free or not in this block stay as they are;
    /// returns those that were given.
    pub fn assign(
        &mut self,
        addresses: &[IpAddr],
        handle: &str,
        attributes: &BTreeMap<String, String>,
    ) -> Vec<IpAddr> {
        let mut given = Vec::new();
        for address in addresses {
            let Some(ordinal) = self.ordinal(*address) else { continue };
            if self.allocations.get(ordinal) != Some(&None) {
                continue;
            }
            self.allocations[ordinal] = Some(self.attribute(handle, attributes));
            self.unallocated.retain(|free| *free != ordinal);
            self.number(ordinal);
            given.push(*address);
        }
        given
    }

    /// Takes addresses back from a handle. Those that it has not stay as they are; returns those
    /// that were taken.
    pub fn release(&mut self, addresses: &[IpAddr], handle: &str) -> Vec<IpAddr> {
        let before = self.referenced();
        let mut taken = Vec::new();
        for address in addresses {
            let Some(ordinal) = self.ordinal(*address) else { continue };
            if !self.allocations.get(ordinal).is_some_and(|index| self.is_by(*index, handle)) {
                continue;
            }
            self.allocations[ordinal] = None;
            self.unallocated.push(ordinal);
            if let Some(Value::Object(numbers)) = self.fields.get_mut(NUMBERS) {
                numbers.shift_remove(&ordinal.to_string());
            }
            taken.push(*address);
        }
        self.drop_unreferenced(&before);
        taken
    }

    /// The bytes to write. Every write has a sequence number of its own where the block has one.
    pub fn finish(mut self) -> Vec<u8> {
        let allocations = self.allocations.iter().map(|index| json!(index)).collect();
        self.fields.insert("allocations".to_owned(), Value::Array(allocations));
        self.fields.insert("unallocated".to_owned(), json!(self.unallocated));
        self.fields.insert("attributes".to_owned(), Value::Array(self.attributes));
        if let Some(number) = self.fields.get(NUMBER).and_then(Value::as_u64) {
            self.fields.insert(NUMBER.to_owned(), json!(number.saturating_add(1)));
        }
        Value::Object(self.fields).to_string().into_bytes()
    }

    fn address(&self, ordinal: usize) -> Option<IpAddr> {
        self.cidr.nth(ordinal as u128)
    }

    fn ordinal(&self, address: IpAddr) -> Option<usize> {
        usize::try_from(self.cidr.index_of(address)?).ok()
    }

    fn is_by(&self, index: Option<usize>, handle: &str) -> bool {
        let attribute = index.and_then(|index| self.attributes.get(index));
        attribute.and_then(handle_of) == Some(handle)
    }

    /// The index of an owner, who is there once however many addresses he has.
    fn attribute(&mut self, handle: &str, attributes: &BTreeMap<String, String>) -> usize {
        let same = |known: &Value| {
            // What a newer writer added is about that owner alone.
            let plain = known.as_object().is_some_and(|fields| {
                fields.iter().all(|(name, value)| {
                    matches!(name.as_str(), "handle_id" | "secondary") || value.is_null()
                })
            });
            plain && handle_of(known) == Some(handle) && secondary_of(known) == *attributes
        };
        if let Some(index) = self.attributes.iter().position(same) {
            return index;
        }
        self.attributes.push(json!({"handle_id": handle, "secondary": attributes}));
        self.attributes.len() - 1
    }

    /// Remembers at which write an address was given out, where the block has numbers.
    fn number(&mut self, ordinal: usize) {
        let Some(number) = self.fields.get(NUMBER).filter(|number| number.is_u64()).cloned() else {
            return;
        };
        let numbers = self.fields.entry(NUMBERS).or_insert_with(|| json!({}));
        if numbers.is_null() {
            *numbers = json!({});
        }
        if let Some(numbers) = numbers.as_object_mut() {
            numbers.insert(ordinal.to_string(), number);
        }
    }

    /// The indexes of the owners that have an address.
    fn referenced(&self) -> BTreeSet<usize> {
        self.allocations.iter().flatten().copied().collect()
    }

    /// Owners that lost their last address go, and those behind them move up.
    fn drop_unreferenced(&mut self, before: &BTreeSet<usize>) {
        let now = self.referenced();
        let gone: BTreeSet<usize> = before.difference(&now).copied().collect();
        let mut index = 0;
        self.attributes.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
        for entry in self.allocations.iter_mut().flatten() {
            *entry -= gone.range(..*entry).count();
        }
    }
}

const NUMBER: &str = "sequenceNumber";
const NUMBERS: &str = "sequenceNumberForAllocation";

/// The free ordinals: what is right in the stored queue, then what it lacks.
fn queue(stored: Option<&Value>, allocations: &[Option<usize>]) -> Vec<usize> {
    let mut seen = vec![false; allocations.len()];
    let stored = stored.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let told = stored.iter().filter_map(Value::as_u64).filter_map(|n| usize::try_from(n).ok());
    told.chain(0..allocations.len())
        .filter(|ordinal| {
            let free = allocations.get(*ordinal) == Some(&None);
            free && !std::mem::replace(&mut seen[*ordinal], true)
        })
        .collect()
}

/// Writers of a time store no handle, null or nothing.
fn handle_of(attribute: &Value) -> Option<&str> {
    attribute.get("handle_id")?.as_str().filter(|handle| !handle.is_empty())
}

fn secondary_of(attribute: &Value) -> BTreeMap<String, String> {
    let Some(Value::Object(fields)) = attribute.get("secondary") else { return BTreeMap::new() };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    fields.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}
