//! Address blocks, who has them, and which addresses of them are given out.

use std::net::IpAddr;

use serde::Serialize;

use super::{Pair, go_json};

const ROOT: &str = "/calico/ipam/v2";
/// Both default block sizes, /26 and /122.
const ADDRESSES: u32 = 64;

/// A block of 64 addresses that belongs to a host.
#[derive(Clone, Debug)]
pub struct Block {
    /// The first address.
    pub base: IpAddr,
    /// The host.
    pub node: String,
    /// What is given out, first address first.
    pub assigned: Vec<Assigned>,
}

/// An address that is given out.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// `<network>.<container id>`.
    pub handle: String,
    /// Go's print of the time.
    pub timestamp: String,
}

#[derive(Serialize)]
struct Value {
    cidr: String,
    affinity: String,
    allocations: Vec<Option<u32>>,
    unallocated: Vec<u32>,
    attributes: Vec<Attribute>,
    #[serde(rename = "sequenceNumber")]
    sequence: u32,
    #[serde(rename = "sequenceNumberForAllocation")]
    sequences: serde_json::Map<String, serde_json::Value>,
    deleted: bool,
}

#[derive(Serialize)]
struct Attribute {
    handle_id: String,
    secondary: Secondary,
}

#[derive(Serialize)]
struct Secondary {
    node: String,
    timestamp: String,
}

impl Block {
    fn length(&self) -> u8 {
        if self.base.is_ipv4() { 26 } else { 122 }
    }

    /// `192.168.0.0/26`.
    pub fn cidr(&self) -> String {
        format!("{}/{}", self.base, self.length())
    }

    /// Key and value.
    pub fn pair(&self) -> Pair {
        let given = u32::try_from(self.assigned.len()).unwrap_or(ADDRESSES).min(ADDRESSES);
        let value = Value {
            cidr: self.cidr(),
            affinity: format!("host:{}", self.node),
            allocations: (0..ADDRESSES).map(|n| (n < given).then_some(n)).collect(),
            unallocated: (given..ADDRESSES).collect(),
            attributes: self
                .assigned
                .iter()
                .map(|Assigned { handle, timestamp }| Attribute {
                    handle_id: handle.clone(),
                    secondary: Secondary { node: self.node.clone(), timestamp: timestamp.clone() },
                })
                .collect(),
            sequence: given,
            sequences: (0..given).map(|n| (n.to_string(), n.into())).collect(),
            deleted: false,
        };
        (
            format!("{ROOT}/assignment/{}/block/{}", family(self.base), self.in_key()),
            go_json(&value),
        )
    }

    fn in_key(&self) -> String {
        self.cidr().replacen('/', "-", 1)
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

/// The mark that a block belongs to its host.
pub fn affinity(block: &Block) -> Pair {
    let key = format!("{ROOT}/host/{}/{}/block/{}", block.node, family(block.base), block.in_key());
    (key, r#"{"state":"confirmed","deleted":false}"#.to_owned())
}

/// Where one handle has addresses: one in each of `blocks`.
pub fn handle(name: &str, blocks: &[&Block]) -> Pair {
    let counts: serde_json::Map<_, _> = blocks.iter().map(|b| (b.cidr(), 1.into())).collect();
    let value = serde_json::json!({ "block": counts, "deleted": false });
    (format!("{ROOT}/handle/{name}"), go_json(&value))
}
