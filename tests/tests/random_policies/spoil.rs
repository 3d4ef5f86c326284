//! Values that are no objects any more.

use serde_json::{Value, json};

use crate::chance::Chance;

/// Makes a value malformed; true when it must be cut off besides.
pub(crate) fn spoil(c: &mut Chance, spec: &mut Value) -> bool {
    let rule = match c.below(12) {
        0 => return true,
        1 => {
            spec["selector"] = json!("role == ");
            spec["ingress"] = json!([{ "action": "Deny", "source": { "selector": "a = 'b'" } }]);
            return false;
        }
        2 => json!({ "action": "Reject" }),
        3 => json!({ "action": "Allow", "source": { "nets": ["192.168.0.0/33"] } }),
        4 => json!({ "action": "Allow", "source": { "notNets": ["office"] } }),
        5 => json!({ "action": "Allow", "protocol": "TCP", "destination": { "ports": [65536] } }),
        6 => json!({ "action": "Allow", "protocol": "TCP", "destination": { "ports": ["9:8"] } }),
        7 => json!({ "action": "Allow", "destination": { "ports": [80] } }),
        8 => json!({ "action": "Allow", "protocol": "ICMP", "icmp": { "code": 0 } }),
        9 => json!({ "action": "Allow", "protocol": "ICMP", "ipVersion": 6 }),
        10 => json!({ "action": "Allow", "ipVersion": 5 }),
        _ => json!({ "action": "Allow", "source": { "selector": "has (role)" } }),
    };
    spec["ingress"] = json!([{ "action": "Allow" }, rule]);
    false
}
