//! Staged policies: each of them would deny everything before anything else is asked, the control
//! policy too. One that were enforced would fail every question.

use serde_json::{Map, Value, json};

use crate::chance::Chance;
use crate::object::object;

/// A staged policy.
pub(crate) fn staged(c: &mut Chance, number: usize, tiers: bool) -> (String, String) {
    let tier = if tiers { *c.one(&["control", "alpha"]) } else { "default" };
    let deny = json!([{ "action": "Deny" }]);
    let mut spec = json!({
        "stagedAction": c.one(&["Set", "Delete", "Learn"]), "tier": tier, "order": -2_000_000,
        "selector": "all()", "types": ["Ingress", "Egress"], "ingress": deny, "egress": deny,
    });
    if c.percent(10) {
        // Nobody minds what is never looked at.
        spec["order"] = Value::from("first");
    }
    let name = format!("{tier}.staged{number}");
    match c.below(3) {
        0 => object("stagedglobalnetworkpolicies", None, &name, Map::new(), &spec),
        1 => object("stagednetworkpolicies", Some("default"), &name, Map::new(), &spec),
        _ => object("stagedkubernetesnetworkpolicies", Some("shop"), &name, Map::new(), &spec),
    }
}
