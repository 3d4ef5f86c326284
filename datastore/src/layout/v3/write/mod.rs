//! What we write ourselves. The agent: its Node, ClusterInformation, its FelixConfiguration, and
//! status. Address management: blocks, affinities and handles. The CNI plugin: endpoints, the
//! profile and the pool of a network.
//!
//! Pure functions from typed arguments and the stored bytes to the new bytes, `None` where what is
//! stored says the same. Objects are changed, not replaced: every field that is not known here
//! stays where and as it is. Shapes and the order of fields are those that `calicoctl` and
//! calico/node store. *Whether* something should be written, and whose address counts, is the
//! agent's decision and not made here; keys are in [`keys`](super::keys).

pub mod affinity;
mod birth;
pub mod block;
pub mod cluster;
pub mod endpoint;
pub mod felix;
pub mod handle;
pub mod node;
pub mod pool;
pub mod profile;
pub mod status;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

pub use birth::Birth;

/// The bytes to write for one object; `None`: what is stored says the same.
pub type Change = Option<Vec<u8>>;

/// A stored value is not a JSON object of the shape it should have, so nothing can be changed in
/// it without losing what somebody meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is malformed ({reason}); repair or delete it")]
pub struct Malformed {
    /// The key.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

/// A document that is being changed.
#[derive(Debug)]
struct Document<'a> {
    key: String,
    stored: Option<&'a [u8]>,
    fields: Map<String, Value>,
}

impl<'a> Document<'a> {
    /// The stored one.
    fn open(key: String, stored: &'a [u8]) -> Result<Self, Malformed> {
        match serde_json::from_slice(stored) {
            Ok(fields) => Ok(Self { key, stored: Some(stored), fields }),
            Err(error) => Err(Malformed { key, reason: error.to_string() }),
        }
    }

    /// One that is not stored yet.
    fn create(key: String, kind: &str, name: &str, birth: &Birth, spec: Value) -> Self {
        let mut fields = Map::new();
        fields.insert("kind".to_owned(), json!(kind));
        fields.insert("apiVersion".to_owned(), json!("projectcalico.org/v3"));
        let metadata =
            json!({"name": name, "uid": birth.uid, "creationTimestamp": birth.timestamp});
        fields.insert("metadata".to_owned(), metadata);
        fields.insert("spec".to_owned(), spec);
        Self { key, stored: None, fields }
    }

    /// The spec, made when it is missing or null.
    fn spec(&mut self) -> Result<&mut Map<String, Value>, Malformed> {
        let value = self.fields.entry("spec").or_insert_with(|| json!({}));
        if value.is_null() {
            *value = json!({});
        }
        value.as_object_mut().ok_or_else(|| not_an_object(&self.key, "spec"))
    }

    /// A copy of the object in a field of the spec; empty when it is missing or null.
    fn section(&mut self, field: &str) -> Result<Map<String, Value>, Malformed> {
        match self.spec()?.get(field) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(object)) => Ok(object.clone()),
            Some(_) => Err(not_an_object(&self.key, field)),
        }
    }

    fn annotation(&self, name: &str) -> Option<&Value> {
        self.fields.get("metadata")?.get("annotations")?.get(name)
    }

    /// The bytes to write.
    fn finish(self) -> Change {
        let now = Value::Object(self.fields);
        // Compared as values: spaces and escapes of another writer are no difference.
        let same = self.stored.is_some_and(|bytes| {
            serde_json::from_slice::<Value>(bytes).is_ok_and(|before| before == now)
        });
        (!same).then(|| now.to_string().into_bytes())
    }
}

fn not_an_object(key: &str, field: &str) -> Malformed {
    Malformed { key: key.to_owned(), reason: format!("{field} is not an object") }
}
