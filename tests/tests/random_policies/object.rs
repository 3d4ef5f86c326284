//! Objects as their writers store them.

use calico_e2e::world::{RESOURCES, go_json};
use serde_json::{Map, Value, json};

use crate::chance::Chance;

/// Labels of an object.
pub(crate) fn labels<const N: usize>(
    c: &mut Chance,
    all: &[(&str, [&str; N])],
    prefix: &str,
) -> Map<String, Value> {
    let mut labels = Map::new();
    for (key, values) in all {
        if c.percent(60) {
            labels.insert(format!("{prefix}{key}"), json!(c.one(values)));
        }
    }
    labels
}

/// Key and value of an object.
pub(crate) fn object(
    plural: &str,
    namespace: Option<&str>,
    name: &str,
    labels: Map<String, Value>,
    spec: &Value,
) -> (String, String) {
    let mut metadata = json!({ "name": name, "creationTimestamp": "2024-11-05T10:00:00Z" });
    if !labels.is_empty() {
        metadata["labels"] = labels.into();
    }
    let path = match namespace {
        Some(namespace) => {
            metadata["namespace"] = json!(namespace);
            format!("{namespace}/{name}")
        }
        None => name.to_owned(),
    };
    let value = json!({ "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec });
    (format!("{RESOURCES}/{plural}/{path}"), go_json(&value))
}
