//! Draws a world.

mod endpoints;
pub(crate) mod extras;
mod policies;
mod rules;
mod selectors;

use std::collections::BTreeMap;

use calico_datastore::model::Name;
use serde_json::{Map, Value, json};

use crate::chance::Chance;
use crate::world::World;

/// The node whose endpoints are asked, and the other one.
const NODES: [&str; 2] = ["near", "far"];
const NAMESPACES: [&str; 2] = ["default", "shop"];
const ACCOUNTS: [&str; 2] = ["ci", "ops"];
/// Profiles of endpoints; the last one is never stored.
const PROFILES: [&str; 4] = ["red", "green", "blue", "never-made"];
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// The world of a seed.
pub(crate) fn world(seed: u64) -> World {
    let mut drawing = Drawing { chance: Chance::new(seed), objects: BTreeMap::new() };
    drawing.outer_profiles();
    drawing.profiles();
    drawing.workloads();
    drawing.host_endpoints();
    drawing.sets();
    drawing.version();
    let has_tiers = drawing.chance.percent(80);
    if has_tiers {
        drawing.tiers();
    }
    // Most policies in one tier: otherwise hardly any has another before it.
    let tier = if has_tiers { *drawing.chance.one(&policies::TIERS) } else { policies::TIERS[0] };
    for number in 0..=drawing.chance.below(8) {
        let tier = match drawing.chance.below(2) {
            0 if has_tiers => *drawing.chance.one(&policies::TIERS),
            _ => tier,
        };
        drawing.policy(number, tier);
    }
    World { node: Name::from(NODES[0]), objects: drawing.objects }
}

/// A world in the making.
struct Drawing {
    chance: Chance,
    objects: BTreeMap<String, Value>,
}

impl Drawing {
    fn put(
        &mut self,
        plural: &str,
        namespace: Option<&str>,
        name: &str,
        labels: Map<String, Value>,
        spec: &Value,
    ) {
        let path = match namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        };
        let mut metadata = json!({ "name": name });
        if !labels.is_empty() {
            metadata["labels"] = labels.into();
        }
        let value = json!({ "metadata": metadata, "spec": spec });
        self.objects
            .insert(format!("/calico/resources/v3/projectcalico.org/{plural}/{path}"), value);
    }

    /// What endpoints inherit from their namespace and their service account.
    fn outer_profiles(&mut self) {
        for namespace in NAMESPACES {
            if self.chance.percent(85) {
                let labels = selectors::outer_labels(&mut self.chance, "pcns.");
                let spec = json!({ "labelsToApply": labels });
                self.put("profiles", None, &format!("kns.{namespace}"), Map::new(), &spec);
            }
        }
        for account in ACCOUNTS {
            if self.chance.percent(85) {
                let labels = selectors::outer_labels(&mut self.chance, "pcsa.");
                let spec = json!({ "labelsToApply": labels });
                self.put("profiles", None, &format!("ksa.default.{account}"), Map::new(), &spec);
            }
        }
    }

    /// The version decides about tiers and ties.
    fn version(&mut self) {
        if self.chance.percent(45) {
            let versions = ["v3.20.6", "v3.29.0", "v3.31.2", "v3.32.0", "v3.32.1", "next"];
            let spec = json!({
                "clusterGUID": "x", "datastoreReady": true,
                "calicoVersion": self.chance.one(&versions),
            });
            self.put("clusterinformations", None, "default", Map::new(), &spec);
        }
    }

    fn profiles(&mut self) {
        for name in &PROFILES[..3] {
            let c = &mut self.chance;
            if c.percent(10) {
                continue;
            }
            let labels = selectors::labels(c, 40);
            let ingress = rules::rules(c, None, 4);
            let egress = rules::rules(c, None, 4);
            let mut spec = json!({ "labelsToApply": labels, "ingress": ingress, "egress": egress });
            if c.percent(20) {
                spec["egress"] = json!([{ "action": "Allow", "source": {}, "destination": {} }]);
            }
            if c.percent(3) {
                spec["ingress"] = json!([{ "action": "Reject" }]);
            }
            self.put("profiles", None, name, Map::new(), &spec);
        }
        if self.chance.percent(10) {
            // It is built in, and whatever is stored under its name counts for nothing.
            let spec = json!({ "ingress": [{ "action": "Deny" }], "egress": [] });
            self.put("profiles", None, DEFAULT_ALLOW, Map::new(), &spec);
        }
    }

    fn sets(&mut self) {
        for number in 0..1 + self.chance.below(5) {
            let c = &mut self.chance;
            let spec = json!({ "nets": rules::nets(c, 1, 5) });
            let labels = selectors::labels(c, 60);
            let name = format!("set{number}");
            if c.percent(40) {
                self.put("globalnetworksets", None, &name, labels, &spec);
            } else {
                let namespace = *c.one(&NAMESPACES);
                self.put("networksets", Some(namespace), &name, labels, &spec);
            }
        }
    }
}
