//! WorkloadEndpoint of a container, as the CNI plugin keeps it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Birth, Change, Document, Malformed};
use crate::layout::v3::keys;
use crate::model::{Cidr, InterfaceName, Mac, Name, ResourceId, WorkloadEndpointId};

/// The orchestrator of endpoints that a CNI plugin made, outside of Kubernetes.
pub const ORCHESTRATOR: &str = "cni";

/// The namespace of such endpoints.
pub const NAMESPACE: &str = "default";

/// What an endpoint is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointEdit {
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its profiles, in the order they are asked.
    pub profiles: Vec<Name>,
    /// The host side of its veth pair.
    pub interface: InterfaceName,
    /// The pod side's Ethernet address.
    pub mac: Mac,
    /// Its own labels. Those that say what it is (`projectcalico.org/…`) are added here.
    pub labels: BTreeMap<String, String>,
}

/// What the endpoint of an interface of a container is called.
pub fn id(node: &Name, container_id: &str, ifname: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: node.clone(),
        orchestrator: ORCHESTRATOR.into(),
        workload: format!("{NAMESPACE}/{container_id}").into(),
        endpoint: ifname.into(),
    }
}

/// Whether an endpoint of that name can be stored.
///
/// # Errors
/// When it cannot: a part of the name is empty, begins or ends with a dash, or has a character that
/// no name has.
pub fn check(id: &WorkloadEndpointId) -> Result<(), Malformed> {
    place(id).map(drop)
}

/// The endpoint `id` with this content, in place of whatever was stored under its name; only when
/// it was made, and annotations, are kept. `None`: what is stored says the same.
///
/// # Errors
/// When its name cannot be stored: see [`check`].
pub fn write(
    id: &WorkloadEndpointId,
    edit: &EndpointEdit,
    stored: Option<&[u8]>,
    birth: &Birth,
) -> Result<Change, Malformed> {
    let (key, namespace, name) = place(id)?;
    let container = id.workload.as_str().rsplit_once('/').map_or("", |(_, container)| container);
    let nets: Vec<String> = edit.addresses.iter().map(|a| Cidr::host(*a).to_string()).collect();
    let profiles: Vec<&str> = edit.profiles.iter().map(Name::as_str).collect();
    let spec = json!({
        "orchestrator": id.orchestrator.as_str(),
        "node": id.node.as_str(),
        "containerID": container,
        "endpoint": id.endpoint.as_str(),
        "ipNetworks": nets,
        "profiles": profiles,
        "interfaceName": edit.interface.as_str(),
        "mac": edit.mac.to_string(),
    });
    let mut new = Document::create(key, "WorkloadEndpoint", &name, birth, spec);
    let before = stored.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let before = |field: &str| Some(before.as_ref()?.get("metadata")?.get(field)?.clone());
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("namespace".to_owned(), json!(namespace));
    for (field, made) in [("uid", &birth.uid), ("creationTimestamp", &birth.timestamp)] {
        metadata.insert(field.to_owned(), before(field).unwrap_or_else(|| json!(made)));
    }
    metadata.insert("labels".to_owned(), labels(id, &namespace, &edit.labels));
    if let Some(annotations) = before("annotations") {
        metadata.insert("annotations".to_owned(), annotations);
    }
    new.fields.insert("metadata".to_owned(), Value::Object(metadata));
    new.stored = stored;
    Ok(new.finish())
}

/// The endpoint as it is stored, with one more profile behind those that it lists. `None`: it lists
/// that one already.
///
/// # Errors
/// When what is stored under `id` is no endpoint.
pub fn with_profile(
    id: &WorkloadEndpointId,
    profile: &Name,
    stored: &[u8],
) -> Result<Change, Malformed> {
    let (key, ..) = place(id)?;
    let mut document = Document::open(key.clone(), stored)?;
    let profiles = document.spec()?.entry("profiles").or_insert_with(|| json!([]));
    if profiles.is_null() {
        *profiles = json!([]);
    }
    let Value::Array(profiles) = profiles else {
        return Err(Malformed { key, reason: "profiles is not a list".to_owned() });
    };
    if !profiles.iter().any(|listed| listed == profile.as_str()) {
        profiles.push(json!(profile.as_str()));
    }
    Ok(document.finish())
}

/// In order of their keys, as Go writes maps.
fn labels(id: &WorkloadEndpointId, namespace: &str, own: &BTreeMap<String, String>) -> Value {
    let mut labels: BTreeMap<&str, &str> =
        own.iter().map(|(key, value)| (&**key, &**value)).collect();
    labels.insert("projectcalico.org/namespace", namespace);
    labels.insert("projectcalico.org/orchestrator", id.orchestrator.as_str());
    json!(labels)
}

/// Key, namespace and name, for an id that reads back from its key.
fn place(id: &WorkloadEndpointId) -> Result<(String, String, String), Malformed> {
    let resource = ResourceId::WorkloadEndpoint(id.clone());
    let bad = |reason: &str| Malformed {
        key: format!("the endpoint {id}"),
        reason: format!("it cannot be stored: {reason}"),
    };
    let key = keys::key_of(&resource).ok_or_else(|| bad("it has no namespace"))?;
    if crate::layout::v3::id_of(&key).as_ref() != Some(&resource) {
        return Err(bad("a part of its name is empty, has a dash at an end, or an odd character"));
    }
    let mut parts = key.rsplit('/');
    let (name, namespace) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (name, namespace) = (name.to_owned(), namespace.to_owned());
    Ok((key, namespace, name))
}

/// What a stored endpoint holds that has to be given back when it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The host side of its veth pair.
    pub interface: Option<InterfaceName>,
    /// The pod side's Ethernet address.
    pub mac: Option<Mac>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its profiles: for an endpoint of the CNI plugin the name of its network.
    pub profiles: Vec<Name>,
}

/// Reads what an endpoint holds. Lenient: one that is refused for another field holds its interface
/// and its addresses all the same, and what cannot be read holds nothing.
pub fn holdings(stored: &[u8]) -> Holdings {
    let Ok(document) = serde_json::from_slice::<Value>(stored) else { return Holdings::default() };
    let spec = &document["spec"];
    let texts = |field: &str| {
        let list = spec[field].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str)
    };
    let address = |text: &str| text.parse::<Cidr>().ok().filter(Cidr::is_host);
    Holdings {
        interface: spec["interfaceName"].as_str().and_then(|name| name.parse().ok()),
        mac: spec["mac"].as_str().and_then(|mac| mac.parse().ok()),
        addresses: texts("ipNetworks").filter_map(address).map(|c| c.address()).collect(),
        profiles: texts("profiles").map(Name::from).collect(),
    }
}
