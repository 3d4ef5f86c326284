//! What decoding folds into selectors, or leaves out.

use calico_datastore::layout::{Decoded, v3};
use serde_json::{Value, json};

use super::Feature;
use crate::world::World;

pub(super) const FEATURES: &[Feature] = &[
    Feature::stored("namespaceSelector of a rule", 35, |w| {
        each_side(w, |side| drop(side.remove("namespaceSelector")));
    }),
    Feature::stored("serviceAccounts of a rule", 60, |w| {
        each_side(w, |side| drop(side.remove("serviceAccounts")));
    }),
    Feature::stored("namespaceSelector of a policy", 75, |w| {
        each_policy(w, |_, spec| drop(spec.remove("namespaceSelector")));
    }),
    Feature::stored("serviceAccountSelector of a policy", 85, |w| {
        each_policy(w, |_, spec| drop(spec.remove("serviceAccountSelector")));
    }),
    Feature::stored("a rule's own namespace", 9, |w| {
        // A policy of no namespace means everybody.
        each_policy(w, |key, spec| {
            if !key.contains("/globalnetworkpolicies/") {
                for direction in ["ingress", "egress"] {
                    rules(spec, direction, |side| {
                        if side.contains_key("selector") && !side.contains_key("namespaceSelector")
                        {
                            side.insert("namespaceSelector".into(), json!("all()"));
                        }
                    });
                }
            }
        });
    }),
    Feature::stored("staged policies", 95, |w| {
        let all = std::mem::take(&mut w.objects);
        w.objects = all.into_iter().map(|(k, v)| (k.replace("/staged", "/"), v)).collect();
    }),
    // Under another name it would count.
    Feature::stored("a stored projectcalico-default-allow counts for nothing", 35, |w| {
        let key = |name: &str| format!("/calico/resources/v3/projectcalico.org/profiles/{name}");
        let Some(stored) = w.objects.remove(&key("projectcalico-default-allow")) else { return };
        w.objects.insert(key("other-allow"), stored);
        let endpoints = w.objects.iter_mut().filter(|(key, _)| key.contains("/workloadendpoints/"));
        for (_, value) in endpoints {
            for name in value["spec"]["profiles"].as_array_mut().into_iter().flatten() {
                if *name == "projectcalico-default-allow" {
                    *name = json!("other-allow");
                }
            }
        }
    }),
    Feature::stored("policies that do not parse", 90, |w| {
        for (key, value) in &mut w.objects {
            let refused = |value: &Value| {
                matches!(v3::decode(key, value.to_string().as_bytes()), Decoded::Rejected(_))
            };
            if key.contains("networkpolicies/") && refused(value) {
                value["spec"]["ingress"] = json!([{ "action": "Allow" }]);
                if refused(value) {
                    value["spec"]["selector"] = json!("all()");
                }
            }
        }
    }),
];

type Fields = serde_json::Map<String, Value>;

fn each_policy(world: &mut World, mut change: impl FnMut(&str, &mut Fields)) {
    for (key, value) in &mut world.objects {
        let policy = key.contains("/globalnetworkpolicies/") || key.contains("/networkpolicies/");
        if let Some(spec) = value["spec"].as_object_mut().filter(|_| policy) {
            change(key, spec);
        }
    }
}

fn rules(spec: &mut Fields, direction: &str, mut change: impl FnMut(&mut Fields)) {
    let Some(rules) = spec.get_mut(direction).and_then(Value::as_array_mut) else { return };
    for rule in rules {
        for side in ["source", "destination"] {
            if let Some(side) = rule.get_mut(side).and_then(Value::as_object_mut) {
                change(side);
            }
        }
    }
}

fn each_side(world: &mut World, mut change: impl FnMut(&mut Fields)) {
    for (key, value) in &mut world.objects {
        let has_rules = key.contains("policies/") || key.contains("/profiles/");
        if let Some(spec) = value["spec"].as_object_mut().filter(|_| has_rules) {
            for direction in ["ingress", "egress"] {
                rules(spec, direction, &mut change);
            }
        }
    }
}
