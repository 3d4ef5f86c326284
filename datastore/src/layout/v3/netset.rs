//! NetworkSet and GlobalNetworkSet.

use serde::Deserialize;

use super::error::{At, FieldError};
use super::net;
use super::rule::NAMESPACE;
use super::wire::{Text, each, resource};
use crate::model::{Name, NetworkSet, NetworkSetId};

#[derive(Debug, Default, Deserialize)]
struct NetworkSetSpec<'a> {
    #[serde(borrow, default)]
    nets: Option<Vec<Text<'a>>>,
}

/// A set in a namespace gets its label from the key and inherits from the namespace's profile. A
/// global one that claims a namespace would slip into selectors meant for that namespace only.
pub(super) fn decode(id: &NetworkSetId, value: &[u8]) -> Result<NetworkSet, FieldError> {
    let (metadata, spec) = resource::<NetworkSetSpec<'_>>(value)?;
    let (labels, profiles) = match &id.namespace {
        Some(namespace) => {
            let own = [(NAMESPACE, namespace.as_str())];
            // The last of two equal keys counts.
            let labels = metadata.labels().chain(own).collect();
            (labels, vec![Name::from(format!("kns.{namespace}"))])
        }
        None if metadata.label(NAMESPACE).is_some() => {
            let reason = format_args!("{NAMESPACE} is reserved for sets in a namespace");
            return Err(FieldError::of("metadata.labels", reason));
        }
        None => (metadata.to_labels(), Vec::new()),
    };
    let nets = each("nets", &spec.nets, net::cidr).at("spec")?;
    Ok(NetworkSet { nets, labels, profiles })
}
