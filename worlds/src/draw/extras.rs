//! What endpoints may do beside policy: prefixes that they list, external addresses, and the settings
//! that give leave. Laid over a world, which stays as it is but for that.

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::world::World;

/// What is listed: nobody's, and endpoints'.
const PREFIXES: [&str; 7] = [
    "10.66.0.0/30",
    "10.66.0.2/32",
    "10.65.0.0/30",
    "203.0.113.8/29",
    "fd66::/126",
    "fd66::2/128",
    "fd65::/126",
];

/// Lays them over.
pub(crate) fn add(world: &mut World, seed: u64) {
    let mut chance = Chance::new(seed ^ 0x5eed_ca11_c0de_0001);
    let c = &mut chance;
    for (key, object) in &mut world.objects {
        if !key.contains("/workloadendpoints/") {
            continue;
        }
        let Some(spec) = object.get_mut("spec") else { continue };
        if c.percent(60) {
            spec["allowSpoofedSourcePrefixes"] = json!(c.some(&PREFIXES, 1, 4));
        }
        if c.percent(60) {
            spec["ipNATs"] = nats(c, spec);
        }
    }
    for (name, percent) in [("default", 85), ("node.near", 25)] {
        if !c.percent(percent) {
            continue;
        }
        let mut word = |yes: &str| if c.percent(75) { json!(yes) } else { json!("Disabled") };
        let spec = json!({ "workloadSourceSpoofing": word("Any"), "floatingIPs": word("Enabled") });
        let value = json!({ "metadata": { "name": name }, "spec": spec });
        let key = format!("/calico/resources/v3/projectcalico.org/felixconfigurations/{name}");
        world.objects.insert(key, value);
    }
}

/// External addresses, so few that endpoints ask for the same; some are an endpoint's own.
fn nats(c: &mut Chance, spec: &Value) -> Value {
    let networks = spec["ipNetworks"].as_array().into_iter().flatten();
    let own: Vec<&str> = networks.filter_map(Value::as_str).collect();
    let mut all = Vec::new();
    for network in own {
        let Some((internal, _)) = network.split_once('/') else { continue };
        for _ in 0..1 + c.below(2) {
            let number = 1 + c.below(6);
            let external = match (internal.contains(':'), c.percent(15)) {
                (false, false) => format!("203.0.113.{number}"),
                (false, true) => format!("10.65.0.{number}"),
                (true, false) => format!("2001:db8:f::{number}"),
                (true, true) => format!("fd65::{number}"),
            };
            all.push(json!({ "internalIP": internal, "externalIP": external }));
        }
    }
    json!(all)
}
