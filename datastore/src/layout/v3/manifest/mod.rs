//! Manifests: resources as people write them for `calicoctl`, made into what it would store.
//!
//! A text holds YAML documents (or JSON); each is a resource, a `List`, or a `<Kind>List`. A
//! resource becomes a key and a value as in etcd: a policy's name gets its tier in front, `types`
//! is filled from the rules that there are, a namespaced kind is in `default` unless it says
//! otherwise, a label's value may be written without quotes. Nothing else is changed. A field that
//! there is not is a mistake, as it is for `calicoctl` (`fields.rs`); nothing else is checked
//! that the decoder checks: its verdict is asked at once, so that a mistake is told with its place
//! in the text.

mod fields;
mod kinds;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use self::kinds::Kind;
use super::keys::{RESOURCES_PREFIX, check_name};
use super::shortened;
use crate::layout::Decoded;
use crate::model::Update;

/// The only version there is.
const API_VERSION: &str = "projectcalico.org/v3";

/// Where something stands in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The document, from 1. Documents that hold only comments count.
    pub document: usize,
    /// The item of a list, from 1.
    pub item: Option<usize>,
    /// The line where the document begins, or where the mistake is; from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    /// `document 2, item 3 (line 14)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.document)?;
        if let Some(item) = self.item {
            write!(f, ", item {item}")?;
        }
        write!(f, " (line {})", self.line)
    }
}

/// A resource as it would be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Where it stands.
    pub place: Place,
    /// Its key.
    pub key: String,
    /// Its value: JSON.
    pub value: Arc<[u8]>,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct Mistake {
    /// Where it stands.
    pub place: Place,
    /// What is wrong with it.
    pub reason: String,
}

/// What a text holds: what is good of it, and what is not. Behind a mistake in the syntax nothing
/// is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifests {
    /// The resources, in the order of the text.
    pub good: Vec<Manifest>,
    /// What is wrong, in the order of the text.
    pub mistakes: Vec<Mistake>,
    /// Nothing stands there, or only comments. An empty list is something: it says that there is
    /// nothing.
    pub blank: bool,
}

/// Reads a text. Never panics, whatever the bytes.
pub fn read(text: &[u8]) -> Manifests {
    let mut found = Manifests::default();
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let before = text.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let place = Place { document: 1, item: None, line };
            found.mistakes.push(Mistake { place, reason: "not UTF-8".to_owned() });
            return found;
        }
    };
    let (documents, error) = yaml::read(text);
    let count = documents.len();
    found.blank = error.is_none() && documents.iter().all(|document| document.value.is_null());
    let mut seen = BTreeMap::new();
    for (index, document) in documents.into_iter().enumerate() {
        let place = Place { document: index + 1, item: None, line: document.line };
        for (place, resource) in resources(place, document.value) {
            match resource.and_then(|resource| stored(place, resource)) {
                Ok(manifest) => match seen.get(&manifest.key) {
                    Some(first) => {
                        let reason = format!("{} is in {first} already", name_of(&manifest.key));
                        found.mistakes.push(Mistake { place, reason });
                    }
                    None => {
                        seen.insert(manifest.key.clone(), place);
                        found.good.push(manifest);
                    }
                },
                Err(reason) => found.mistakes.push(Mistake { place, reason: shortened(reason) }),
            }
        }
    }
    if let Some(error) = error {
        let place = Place { document: count + 1, item: None, line: error.line };
        found.mistakes.push(Mistake { place, reason: shortened(error.reason) });
    }
    found
}

/// How people name the object of a key: `globalnetworkpolicies/default.x`.
pub fn name_of(key: &str) -> &str {
    key.strip_prefix(RESOURCES_PREFIX).unwrap_or(key)
}

/// A resource that is not looked at yet, or why it is none, and where it stands.
type Placed = (Place, Result<Map<String, Value>, String>);

/// The resources of a document: none, itself, or the items of a list.
fn resources(place: Place, document: Value) -> Vec<Placed> {
    let mut fields = match document {
        Value::Null => return Vec::new(),
        Value::Object(fields) => fields,
        _ => return vec![(place, Err("is no object".to_owned()))],
    };
    // `kind: List`, `kind: IPPoolList`; no kind of a resource ends so.
    let Some(of) = text(&fields, "kind").and_then(|kind| kind.strip_suffix("List")) else {
        return vec![(place, Ok(fields))];
    };
    let of = of.to_owned();
    let items = match fields.remove("items") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => return vec![(place, Err("items: is no list".to_owned()))],
    };
    let version = fields.remove("apiVersion");
    let item = |(index, item)| {
        let place = Place { item: Some(index + 1), ..place };
        let Value::Object(mut fields) = item else { return (place, Err("is no object".into())) };
        // The items of a list of one kind may leave it out.
        if !of.is_empty() {
            fields.entry("kind").or_insert_with(|| json!(of));
            if let Some(version) = &version {
                fields.entry("apiVersion").or_insert_with(|| version.clone());
            }
        }
        (place, Ok(fields))
    };
    items.into_iter().enumerate().map(item).collect()
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// The same, told apart from what is there and is no text: YAML makes a number of `5`, and somebody
/// who wrote it would look in vain for what is missing.
fn told<'a>(
    fields: &'a Map<String, Value>,
    path: &str,
    name: &str,
) -> Result<Option<&'a str>, String> {
    match fields.get(name) {
        None | Some(Value::Null | Value::String(_)) => Ok(text(fields, name)),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => {
            Err(format!("{path}{name}: must be a string: \"{value}\", in quotes, is one"))
        }
        Some(Value::Array(_) | Value::Object(_)) => Err(format!("{path}{name}: must be a string")),
    }
}

/// What would be stored of a resource.
fn stored(place: Place, mut fields: Map<String, Value>) -> Result<Manifest, String> {
    let kind = told(&fields, "", "kind")?.ok_or("kind: is missing")?;
    let version = told(&fields, "", "apiVersion")?;
    let version = version.ok_or("apiVersion: is missing")?;
    if version != API_VERSION {
        return Err(format!("apiVersion: {version:?} is not {API_VERSION}"));
    }
    let kind = Kind::find(kind).ok_or_else(|| format!("kind: {kind:?} is not known"))?;
    let Some(Value::Object(mut metadata)) = fields.remove("metadata") else {
        return Err("metadata: is missing, or no object".to_owned());
    };
    let given = told(&metadata, "metadata.", "name")?;
    let given = given.ok_or("metadata.name: is missing")?.to_owned();
    // A policy without rules still governs something: `types` has to stand somewhere.
    if kind.is_policy() && fields.get("spec").is_none_or(Value::is_null) {
        fields.insert("spec".to_owned(), json!({}));
    }
    let spec = match fields.get_mut("spec") {
        Some(Value::Object(spec)) => Some(spec),
        None | Some(Value::Null) => None,
        Some(_) => return Err("spec: is no object".to_owned()),
    };
    let (mut name, mut orchestrator) = (given.clone(), None);
    if let Some(spec) = &spec {
        orchestrator = told(spec, "spec.", "orchestrator")?.map(str::to_owned);
    }
    if kind.is_policy() {
        let tier = spec.as_ref().map(|spec| told(spec, "spec.", "tier")).transpose()?.flatten();
        name = policy_name(&given, tier);
        if let Some(spec) = spec {
            fill_types(spec);
        }
    }
    for pairs in ["labels", "annotations"] {
        quote(&mut metadata, pairs);
    }
    if let Some(Value::Object(spec)) = fields.get_mut("spec") {
        quote(spec, "labelsToApply");
    }
    let namespace = namespace(kind, &metadata)?;
    check_name(&name).map_err(|reason| format!("metadata.name: {reason}"))?;
    metadata.insert("name".to_owned(), json!(name));
    // Never stored: the one is the store's own number, the other an address of an API.
    metadata.shift_remove("resourceVersion");
    metadata.shift_remove("selfLink");
    let path = match &namespace {
        Some(namespace) => {
            check_name(namespace).map_err(|reason| format!("metadata.namespace: {reason}"))?;
            metadata.insert("namespace".to_owned(), json!(namespace));
            format!("{namespace}/{name}")
        }
        None => name,
    };
    if let (true, Some(namespace)) = (kind.is_workload_endpoint(), &namespace) {
        label(&mut metadata, "projectcalico.org/namespace", namespace)?;
        if let Some(orchestrator) = orchestrator {
            label(&mut metadata, "projectcalico.org/orchestrator", &orchestrator)?;
        }
    }
    fields.insert("metadata".to_owned(), Value::Object(metadata));
    fields::check(kind, &fields)?;
    let key = format!("{RESOURCES_PREFIX}{}/{path}", kind.plural);
    let value: Arc<[u8]> = Value::Object(fields).to_string().into_bytes().into();
    match super::decode(&key, &value) {
        Decoded::Rejected(rejection) => Err(rejection.reason),
        // In a store the rest of it counts; here its writer can mend it.
        Decoded::Object(Update::HostEndpoint(_, Some(endpoint))) if endpoint.left_out.is_some() => {
            Err(endpoint.left_out.clone().unwrap_or_default())
        }
        _ => Ok(Manifest { place, key, value }),
    }
}

fn namespace(kind: &Kind, metadata: &Map<String, Value>) -> Result<Option<String>, String> {
    let given = told(metadata, "metadata.", "namespace")?;
    match (kind.namespaced, given) {
        (true, given) => Ok(Some(given.unwrap_or("default").to_owned())),
        (false, None) => Ok(None),
        (false, Some(_)) => Err(format!("metadata.namespace: a {} has none", kind.name)),
    }
}

/// The stored name of a policy begins with its tier. Copies of policies of other systems carry a
/// prefix of their own in the default tier.
fn policy_name(name: &str, tier: Option<&str>) -> String {
    const COPIES: [&str; 2] = ["knp.", "ossg."];
    let tier = tier.unwrap_or("default");
    let has = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    let copied = tier == "default" && COPIES.iter().any(|prefix| name.starts_with(prefix))
        || tier == "adminnetworkpolicy" && name.starts_with("kanp.adminnetworkpolicy.");
    if has(tier) || copied { name.to_owned() } else { format!("{tier}.{name}") }
}

/// A policy without `types` governs the directions that it has rules for, and ingress when it has
/// none at all.
fn fill_types(spec: &mut Map<String, Value>) {
    let empty = |field: &str| match spec.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    };
    if !empty("types") {
        return;
    }
    let types = match (empty("ingress"), empty("egress")) {
        (_, true) => json!(["Ingress"]),
        (true, false) => json!(["Egress"]),
        (false, false) => json!(["Ingress", "Egress"]),
    };
    spec.insert("types".to_owned(), types);
}

/// Whole numbers and truth values of labels become texts, as `calicoctl` makes them. Other numbers
/// do not: `1.10` would become `1.1`.
fn quote(fields: &mut Map<String, Value>, pairs: &str) {
    let Some(Value::Object(pairs)) = fields.get_mut(pairs) else { return };
    for value in pairs.values_mut() {
        match value {
            Value::Number(number) if !number.is_f64() => *value = json!(number.to_string()),
            Value::Bool(yes) => *value = json!(yes.to_string()),
            _ => {}
        }
    }
}

/// Labels that the client library writes, whatever somebody else says.
fn label(metadata: &mut Map<String, Value>, name: &str, value: &str) -> Result<(), String> {
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if labels.is_null() {
        *labels = json!({});
    }
    let labels = labels.as_object_mut().ok_or("metadata.labels: is no object")?;
    labels.insert(name.to_owned(), json!(value));
    Ok(())
}
