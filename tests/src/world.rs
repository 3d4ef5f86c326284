//! Keys and values of the v3 layout, byte for byte as today's calicoctl and CNI plugin store them:
//! Go's field order, empty `source` and `destination`, `&`, `<` and `>` escaped.
//!
//! Builders only; what to build is the caller's. [`crate::tutorial`] has the rkt tutorial's world.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

mod ipam;
mod spec;

pub use ipam::{Assigned, Block, affinity, handle};
pub use spec::*;

/// Where the objects of the v3 API are.
pub const RESOURCES: &str = "/calico/resources/v3/projectcalico.org";

/// A key and its value.
pub type Pair = (String, String);

/// An object of the v3 API.
#[derive(Clone, Debug, Serialize)]
pub struct Resource<S> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Metadata,
    spec: S,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<BTreeMap<String, String>>,
    #[serde(skip)]
    plural: &'static str,
}

/// An object's name and what else is known of it. Fields in the order of Go's `ObjectMeta`.
#[derive(Clone, Debug, Default, Serialize)]
struct Metadata {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    uid: String,
    #[serde(rename = "creationTimestamp")]
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// What a kind of object is called in keys and values.
pub trait Spec: Serialize {
    /// `WorkloadEndpoint`.
    const KIND: &'static str;
    /// `workloadendpoints`.
    const PLURAL: &'static str;
    /// Nodes have a `status`, always empty.
    const HAS_STATUS: bool = false;
}

impl<S: Spec> Resource<S> {
    /// An object without namespace.
    pub fn new(name: impl Into<String>, spec: S) -> Self {
        let name = name.into();
        let metadata = Metadata {
            uid: uid(S::PLURAL, &name),
            name,
            created: "2024-11-05T10:00:00Z".to_owned(),
            ..Metadata::default()
        };
        let status = S::HAS_STATUS.then(BTreeMap::new);
        let api_version = "projectcalico.org/v3";
        Self { kind: S::KIND, api_version, metadata, spec, status, plural: S::PLURAL }
    }

    /// The same in a namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.metadata.namespace = Some(namespace.to_owned());
        self
    }

    /// With one more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.metadata.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this id, which the API server of a real cluster makes at random.
    #[must_use]
    pub fn uid(mut self, uid: &str) -> Self {
        uid.clone_into(&mut self.metadata.uid);
        self
    }

    /// Its key.
    pub fn key(&self) -> String {
        let Self { plural, metadata: Metadata { name, namespace, .. }, .. } = self;
        match namespace {
            Some(namespace) => format!("{RESOURCES}/{plural}/{namespace}/{name}"),
            None => format!("{RESOURCES}/{plural}/{name}"),
        }
    }

    /// Key and value.
    pub fn pair(&self) -> Pair {
        (self.key(), go_json(self))
    }
}

/// JSON as Go's encoder writes it.
pub fn go_json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_else(|_| Value::Null.to_string());
    text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// A stable id per object, so that two runs write the same bytes.
fn uid(plural: &str, name: &str) -> String {
    // FNV-1a: any spread will do.
    let hash = plural
        .bytes()
        .chain([b'/'])
        .chain(name.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("00000000-0000-4000-8000-{:012x}", hash & 0xffff_ffff_ffff)
}

/// A pod's endpoint as the CNI plugin writes it for a runtime that is not Kubernetes.
pub fn workload_endpoint(spec: WorkloadEndpoint) -> Resource<WorkloadEndpoint> {
    let dashes = |segment: &str| segment.replace('-', "--");
    let name = [&spec.node, &spec.orchestrator, &spec.container_id, &spec.endpoint];
    let name = name.map(|segment| dashes(segment)).join("-");
    let orchestrator = spec.orchestrator.clone();
    Resource::new(name, spec)
        .namespace("default")
        .label("projectcalico.org/namespace", "default")
        .label("projectcalico.org/orchestrator", &orchestrator)
}

/// The profile of a CNI network: its own members may come in, everything may go out.
pub fn network_profile(network: &str) -> Resource<Profile> {
    let members = Entity { selector: Some(format!("has({network})")), ..Entity::default() };
    let spec = Profile {
        ingress: vec![Rule::new("Allow").from(members)],
        egress: vec![Rule::new("Allow")],
        labels_to_apply: BTreeMap::from([(network.to_owned(), String::new())]),
    };
    Resource::new(network, spec)
}

#[cfg(test)]
mod tests;
