//! IPPool of a network that names its subnet.

use serde_json::json;

use super::{Birth, Document};
use crate::layout::v3::keys;
use crate::model::{Cidr, Family, Name};

/// What a pool for these addresses is called: `192-168-0-0-16`.
pub fn name_of(cidr: &Cidr) -> Name {
    Name::from(cidr.to_string().replace(['.', ':', '/'], "-"))
}

/// The length of its blocks: 26 or 122, or its own length where it is smaller than one block.
pub fn block_size(cidr: &Cidr) -> u8 {
    let usual = match cidr.family() {
        Family::V4 => 26,
        Family::V6 => 122,
    };
    usual.max(cidr.prefix_len())
}

/// A plain pool, as calico-rkt made it: no encapsulation, no masquerade, for pods of every node.
pub fn create(cidr: &Cidr, birth: &Birth) -> Vec<u8> {
    let spec = json!({
        "cidr": cidr.to_string(),
        "vxlanMode": "Never",
        "ipipMode": "Never",
        "blockSize": block_size(cidr),
        "nodeSelector": "all()",
        "allowedUses": ["Workload", "Tunnel"],
    });
    let name = name_of(cidr);
    let document = Document::create(keys::pool(&name), "IPPool", name.as_str(), birth, spec);
    // Nothing is stored that it could be equal to.
    document.finish().unwrap_or_default()
}
