//! What an administrator changes with `calicoctl` while everything runs.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Cluster;
use crate::world::RESOURCES;

impl Cluster {
    /// Sets fields of the Felix configuration of all hosts (`default`) or of one (`node.<name>`), and
    /// waits until every agent has them in force. Other fields stay; `null` takes one away.
    ///
    /// # Errors
    /// When etcd does not take it, or an agent does not come that far.
    pub fn configure(&self, name: &str, fields: &Value) -> Result<()> {
        let key = format!("{RESOURCES}/felixconfigurations/{name}");
        let stored = self.etcd.get(&key)?.map(|text| serde_json::from_str(&text)).transpose()?;
        let mut object: Value = stored.unwrap_or_else(|| {
            json!({
                "kind": "FelixConfiguration",
                "apiVersion": "projectcalico.org/v3",
                "metadata": { "name": name },
                "spec": {},
            })
        });
        merge(&mut object["spec"], fields)?;
        self.put_and_wait(&[(key, object.to_string())])
    }

    /// Sets fields of a pod's endpoint in the same way.
    ///
    /// # Errors
    /// When there is no such endpoint, or as [`Cluster::configure`].
    pub fn change_endpoint(&self, pod: &str, fields: &Value) -> Result<()> {
        let (key, _) = self.pod(pod)?.spec.endpoint().pair();
        let stored = self.etcd.get(&key)?.with_context(|| format!("no {key}"))?;
        let mut object: Value = serde_json::from_str(&stored)?;
        merge(&mut object["spec"], fields)?;
        self.put_and_wait(&[(key, object.to_string())])
    }
}

fn merge(spec: &mut Value, fields: &Value) -> Result<()> {
    let spec = spec.as_object_mut().context("a spec is no object")?;
    for (name, value) in fields.as_object().context("fields are no object")? {
        if value.is_null() {
            spec.remove(name);
        } else {
            spec.insert(name.clone(), value.clone());
        }
    }
    Ok(())
}
