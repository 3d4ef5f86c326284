//! What this host writes into the datastore when it starts. Pure: values in, values out.
//!
//! Objects are changed, not replaced: every field that we do not know stays where and as it is.
//! Shapes and the order of fields are those that `calicoctl` and calico/node store.

use std::net::IpAddr;

use calico_datastore::model::{AsNumber, Family, Name};
use serde_json::{Map, Value, json};

use super::addresses::HostAddress;
use crate::config::{AddressChoice, NodeConfig};
use crate::reconcile::Problem;

const PREFIX: &str = "/calico/resources/v3/projectcalico.org";

/// Every Node lies under this prefix.
pub const NODES_PREFIX: &str = "/calico/resources/v3/projectcalico.org/nodes/";

/// The key of a Node.
pub fn node_key(name: &Name) -> String {
    format!("{NODES_PREFIX}{name}")
}

/// The key of ClusterInformation `default`.
pub fn cluster_key() -> String {
    format!("{PREFIX}/clusterinformations/default")
}

/// The key of the FelixConfiguration of a node.
pub fn felix_key(name: &Name) -> String {
    format!("{PREFIX}/felixconfigurations/node.{name}")
}

/// What a new object needs and a pure function cannot make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// A random UUID (version 4).
    pub uid: String,
    /// Now, RFC 3339.
    pub timestamp: String,
}

/// Who this host is and what it was told about itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub name: Name,
    /// What was said about its IPv4 address.
    pub ip: AddressChoice,
    /// What was said about its IPv6 address.
    pub ip6: AddressChoice,
    /// Its AS number, when one was said.
    pub as_number: Option<AsNumber>,
    /// Do not look whether another node has the address.
    pub skip_address_check: bool,
    /// `clusterType` of a cluster that is not there yet.
    pub cluster_type: String,
    /// `DefaultEndpointToHostAction` is set on this host, so that the datastore has no say.
    pub host_action_overridden: bool,
}

impl Identity {
    /// The host of this name as it was configured.
    pub fn new(name: Name, config: &NodeConfig, host_action_overridden: bool) -> Self {
        Self {
            name,
            ip: config.ip,
            ip6: config.ip6,
            as_number: config.as_number,
            skip_address_check: config.skip_address_check,
            cluster_type: config.cluster_type.clone().unwrap_or_else(|| "bgp".to_owned()),
            host_action_overridden,
        }
    }
}

/// What is stored cannot be built on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The value is not a JSON object of the shape it should have.
    #[error("{key} is malformed ({reason}); repair or delete it")]
    Malformed {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Two hosts with one address: routes to one of them would be lost.
    #[error(
        "node {other} has the address {address} too: set another IP, delete that node if it is \
         gone, or set DISABLE_NODE_IP_CHECK=true"
    )]
    AddressInUse {
        /// The other node.
        other: String,
        /// The address.
        address: IpAddr,
    },
}

/// What to write for one object: `None` = it is as it should be.
pub type Change = Option<Vec<u8>>;

/// The Node, and what people should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// The new value.
    pub change: Change,
    /// Standing conditions for `status`.
    pub problems: Vec<Problem>,
    /// What is worth a warning once.
    pub notes: Vec<String>,
    /// Its addresses after the change, for the log.
    pub addresses: Vec<IpAddr>,
}

/// Plans the Node of this host.
///
/// `others` are the Nodes as stored (this host's own is skipped); one that does not parse cannot
/// be in conflict. `interfaces` are the addresses of this host: an address given without a prefix
/// length takes that of the interface that has it.
///
/// # Errors
/// When the stored Node is malformed or another node has the address.
pub fn plan_node(
    identity: &Identity,
    stored: Option<&[u8]>,
    others: &[(String, Vec<u8>)],
    interfaces: &[HostAddress],
    birth: &Birth,
) -> Result<NodePlan, PlanError> {
    let key = node_key(&identity.name);
    let name = &identity.name;
    let mut problems = vec![];
    let mut node = match stored {
        Some(bytes) => parse(&key, bytes)?,
        None => {
            let mut node = envelope("Node", name.as_str(), birth, json!({}));
            node.insert("status".to_owned(), json!({}));
            node
        }
    };
    let stored_bgp = take_object(&key, object_of(&key, &mut node, "spec")?, "bgp")?;
    let mut bgp = stored_bgp.clone();
    set_as_number(&mut bgp, identity.as_number);
    let mut notes = vec![];
    let mut moved = vec![];
    let mut addresses = vec![];
    for (field, choice) in [("ipv4Address", identity.ip), ("ipv6Address", identity.ip6)] {
        let before = bgp.get(field).and_then(Value::as_str).map(str::to_owned);
        let before = before.filter(|text| !text.is_empty());
        let after = match choice {
            AddressChoice::Fixed(address, prefix) => {
                Some(with_prefix(address, prefix, before.as_deref(), interfaces, &mut problems))
            }
            AddressChoice::Absent => None,
            AddressChoice::Detect => {
                problems.push(problem(
                    field,
                    "the address cannot be detected yet: what is stored stays; set IP / IP6",
                ));
                before.clone()
            }
            AddressChoice::Stored => before.clone(),
        };
        if before != after {
            match &after {
                Some(text) => bgp.insert(field.to_owned(), json!(text)),
                None => bgp.shift_remove(field),
            };
            if let Some(before) = before {
                if address_of(&before) != after.as_deref().and_then(address_of) {
                    let now = after.as_deref().unwrap_or("none");
                    notes.push(format!("this node was stored with address {before}, now {now}"));
                }
                moved.push((before, after.clone()));
            }
        }
        addresses.extend(after.as_deref().and_then(address_of));
    }
    if !identity.skip_address_check {
        check_conflicts(name, &addresses, others)?;
    }
    if addresses.is_empty() {
        problems.push(problem(
            "IP",
            "this node has no address, so BGP is off and other hosts cannot reach its pods: set \
             IP=<address>[/<prefix>] or --ip",
        ));
    }
    if stored.is_some() && bgp == stored_bgp {
        return Ok(NodePlan { change: None, problems, notes, addresses });
    }
    let spec = object_of(&key, &mut node, "spec")?;
    follow(spec, &moved);
    if bgp.is_empty() {
        spec.shift_remove("bgp");
    } else if spec.contains_key("bgp") {
        spec.insert("bgp".to_owned(), Value::Object(bgp));
    } else {
        spec.shift_insert(0, "bgp".to_owned(), Value::Object(bgp));
    }
    Ok(NodePlan { change: changed(node, stored), problems, notes, addresses })
}

/// Plans ClusterInformation: made where there is none and left alone where there is one, ready or
/// not — an administrator may have taken the datastore out of service.
///
/// It gets no `calicoVersion`: calicoctl refuses to work with a version that is not its own and
/// works where there is none.
pub fn plan_cluster(stored: Option<&[u8]>, guid: &str, kind: &str, birth: &Birth) -> Change {
    if stored.is_some() {
        return None;
    }
    let spec = json!({"clusterGUID": guid, "clusterType": kind, "datastoreReady": true});
    changed(envelope("ClusterInformation", "default", birth, spec), None)
}

/// Plans the FelixConfiguration of this node: packets from pods to their host are left to the
/// host's own rules unless somebody said otherwise, as calico/node does.
///
/// # Errors
/// When the stored object is malformed.
pub fn plan_felix(
    identity: &Identity,
    stored: Option<&[u8]>,
    birth: &Birth,
) -> Result<Change, PlanError> {
    const FIELD: &str = "defaultEndpointToHostAction";
    if identity.host_action_overridden {
        return Ok(None);
    }
    let key = felix_key(&identity.name);
    let Some(bytes) = stored else {
        // `bpfLogLevel` is there in everything that a client since 3.13 writes.
        let spec = json!({FIELD: "Return", "bpfLogLevel": ""});
        let name = format!("node.{}", identity.name);
        return Ok(changed(envelope("FelixConfiguration", &name, birth, spec), None));
    };
    let mut object = parse(&key, bytes)?;
    // The annotation is how a parameter is set by Felix's own name.
    let annotation = object
        .get("metadata")
        .and_then(|metadata| metadata.get("annotations"))
        .and_then(|all| all.get("config.projectcalico.org/DefaultEndpointToHostAction"));
    if annotation.is_some() {
        return Ok(None);
    }
    let spec = object_of(&key, &mut object, "spec")?;
    if spec.get(FIELD).is_some_and(|value| !value.is_null() && value != "") {
        return Ok(None);
    }
    spec.insert(FIELD.to_owned(), json!("Return"));
    Ok(changed(object, stored))
}

/// Puts a configured AS number into `bgp`, in front as calico/node does; a field that is there
/// keeps its place, and its form when it says the same.
fn set_as_number(bgp: &mut Map<String, Value>, number: Option<AsNumber>) {
    const FIELD: &str = "asNumber";
    let Some(number) = number else { return };
    match bgp.get_mut(FIELD) {
        Some(stored) if as_number_of(stored) == Some(number) => {}
        Some(stored) => *stored = json!(number.0),
        None => {
            bgp.shift_insert(0, FIELD.to_owned(), json!(number.0));
        }
    }
}

/// The text of an address: with the prefix that was given, else that of the interface that has it,
/// else the stored one's, else that of a single host.
fn with_prefix(
    address: IpAddr,
    prefix: Option<u8>,
    stored: Option<&str>,
    interfaces: &[HostAddress],
    problems: &mut Vec<Problem>,
) -> String {
    let of_interface = interfaces.iter().find(|i| i.address == address).map(|i| i.prefix_len);
    if of_interface.is_none() {
        problems.push(problem(
            &address.to_string(),
            "no interface of this host has the node's address (wrong IP, or not up yet)",
        ));
    }
    if let Some(prefix) = prefix.or(of_interface) {
        return format!("{address}/{prefix}");
    }
    match stored {
        Some(stored) if address_of(stored) == Some(address) => stored.to_owned(),
        _ => format!("{address}/{}", Family::of(address).host_len()),
    }
}

/// `spec.addresses` repeats the addresses for other readers: those that were the old one follow.
fn follow(spec: &mut Map<String, Value>, moved: &[(String, Option<String>)]) {
    let Some(list) = spec.get_mut("addresses").and_then(Value::as_array_mut) else { return };
    for (before, after) in moved {
        let own = |entry: &Value| {
            entry.get("type").is_some_and(|kind| kind == "CalicoNodeIP")
                && entry.get("address").is_some_and(|text| text == before)
        };
        match after {
            Some(after) => {
                for entry in list.iter_mut().filter(|entry| own(entry)) {
                    entry["address"] = json!(after);
                }
            }
            None => list.retain(|entry| !own(entry)),
        }
    }
}

fn check_conflicts(
    own: &Name,
    addresses: &[IpAddr],
    others: &[(String, Vec<u8>)],
) -> Result<(), PlanError> {
    for (key, value) in others {
        let other = key.strip_prefix(NODES_PREFIX).unwrap_or(key);
        let Ok(node) = serde_json::from_slice::<Value>(value) else { continue };
        if *own == *other {
            continue;
        }
        for field in ["ipv4Address", "ipv6Address"] {
            let theirs = node["spec"]["bgp"][field].as_str().and_then(address_of);
            if let Some(address) = theirs.filter(|theirs| addresses.contains(theirs)) {
                return Err(PlanError::AddressInUse { other: other.to_owned(), address });
            }
        }
    }
    Ok(())
}

/// The address of `address` or `address/prefix`.
fn address_of(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// A JSON number, or a string plain or dotted: clients wrote both.
fn as_number_of(value: &Value) -> Option<AsNumber> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|n| u32::try_from(n).ok()).map(AsNumber),
    }
}

fn problem(subject: &str, message: &str) -> Problem {
    Problem { subject: subject.to_owned(), message: message.to_owned() }
}

fn envelope(kind: &str, name: &str, birth: &Birth, spec: Value) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("kind".to_owned(), json!(kind));
    object.insert("apiVersion".to_owned(), json!("projectcalico.org/v3"));
    let metadata = json!({"name": name, "uid": birth.uid, "creationTimestamp": birth.timestamp});
    object.insert("metadata".to_owned(), metadata);
    object.insert("spec".to_owned(), spec);
    object
}

fn parse(key: &str, bytes: &[u8]) -> Result<Map<String, Value>, PlanError> {
    serde_json::from_slice(bytes)
        .map_err(|e| PlanError::Malformed { key: key.to_owned(), reason: e.to_string() })
}

/// The object in `field`, made when it is missing or null.
fn object_of<'a>(
    key: &str,
    parent: &'a mut Map<String, Value>,
    field: &str,
) -> Result<&'a mut Map<String, Value>, PlanError> {
    let value = parent.entry(field).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or_else(|| PlanError::Malformed {
        key: key.to_owned(),
        reason: format!("{field} is not an object"),
    })
}

/// A copy of the object in `field`; empty when it is missing or null.
fn take_object(
    key: &str,
    parent: &Map<String, Value>,
    field: &str,
) -> Result<Map<String, Value>, PlanError> {
    match parent.get(field) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object.clone()),
        Some(_) => Err(PlanError::Malformed {
            key: key.to_owned(),
            reason: format!("{field} is not an object"),
        }),
    }
}

/// The bytes to write when `object` says something else than what is stored.
fn changed(object: Map<String, Value>, stored: Option<&[u8]>) -> Change {
    let object = Value::Object(object);
    // Compared as values: spaces and escapes of another writer are no difference.
    let same = stored.is_some_and(|bytes| {
        serde_json::from_slice::<Value>(bytes).is_ok_and(|before| before == object)
    });
    (!same).then(|| object.to_string().into_bytes())
}

#[cfg(test)]
mod tests;
