//! Objects that are spread over several keys: one part a key, and how parts are put together.

use std::sync::Arc;

use super::keys::{Ip, Piece};
use super::node::NodePart;
use super::profile::ProfilePart;
use super::v3::error::FieldError;
use super::{bgp, node, profile};
use crate::model::{
    AsNumber, BgpConfiguration, FelixConfiguration, Name, Node, Profile, ResourceId, Update,
};

/// What one key says of an object that several keys describe together.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    id: ResourceId,
    value: Value,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Profile(ProfilePart),
    Setting(Name, Arc<str>),
    Node(NodePart),
    AsNumber(Option<AsNumber>),
    Mesh(bool),
    LogLevel(String),
}

impl Part {
    /// Reads a value.
    pub(super) fn decode(id: ResourceId, piece: Piece, value: &[u8]) -> Result<Self, FieldError> {
        let cluster = matches!(id, ResourceId::BgpConfiguration(_));
        let value = match piece {
            Piece::Tags => Value::Profile(profile::decode_tags(value)?),
            Piece::Labels => Value::Profile(profile::decode_labels(value)?),
            Piece::Rules => Value::Profile(profile::decode_rules(value)?),
            Piece::Setting(name) => Value::Setting(name, raw(value)?.into()),
            Piece::Metadata => Value::Node(NodePart::Known),
            Piece::BirdIp => Value::Node(NodePart::BirdIp(node::v4(raw(value)?)?)),
            Piece::TunnelAddress => Value::Node(NodePart::Tunnel(node::v4(raw(value)?)?)),
            Piece::BgpAddress(Ip::V4) => Value::Node(NodePart::Address4(node::v4(raw(value)?)?)),
            Piece::BgpAddress(Ip::V6) => Value::Node(NodePart::Address6(node::v6(raw(value)?)?)),
            Piece::BgpNetwork(ip) => {
                Value::Node(NodePart::Network(node::network(raw(value)?, ip)?))
            }
            Piece::AsNumber if cluster => Value::AsNumber(bgp::as_number(raw(value)?)?),
            Piece::AsNumber => Value::Node(NodePart::AsNumber(bgp::as_number(raw(value)?)?)),
            Piece::Mesh => Value::Mesh(bgp::mesh(value)?),
            Piece::LogLevel => Value::LogLevel(raw(value)?.to_owned()),
        };
        Ok(Self { id, value })
    }

    /// The object that it is a part of.
    pub fn id(&self) -> &ResourceId {
        &self.id
    }

    /// The object as its parts say together, whatever their order; `None` when these are no parts
    /// of such an object, or none at all.
    pub(crate) fn assemble<'p>(
        id: &ResourceId,
        parts: impl IntoIterator<Item = &'p Self>,
    ) -> Option<Update> {
        let mut parts = parts.into_iter().map(|part| &part.value).peekable();
        parts.peek()?;
        Some(match id {
            ResourceId::Profile(name) => {
                Update::Profile(name.clone(), Some(Arc::new(profile(parts))))
            }
            ResourceId::Node(name) => Update::Node(name.clone(), Some(Arc::new(node(parts)))),
            ResourceId::FelixConfiguration(name) => {
                Update::FelixConfiguration(name.clone(), Some(Arc::new(settings(parts))))
            }
            ResourceId::BgpConfiguration(name) => {
                Update::BgpConfiguration(name.clone(), Some(Arc::new(bgp(parts))))
            }
            _ => return None,
        })
    }
}

/// A value that is no JSON. White space around it is nobody's intention.
fn raw(value: &[u8]) -> Result<&str, FieldError> {
    std::str::from_utf8(value).map(str::trim).map_err(|_| FieldError::new("is not UTF-8"))
}

fn profile<'p>(parts: impl Iterator<Item = &'p Value>) -> Profile {
    profile::assemble(parts.filter_map(|part| match part {
        Value::Profile(part) => Some(part),
        _ => None,
    }))
}

fn node<'p>(parts: impl Iterator<Item = &'p Value>) -> Node {
    node::assemble(parts.filter_map(|part| match part {
        Value::Node(part) => Some(part),
        _ => None,
    }))
}

/// Names are told apart without case, and parts come in the order of their keys: of two spellings the
/// last one counts.
fn settings<'p>(parts: impl Iterator<Item = &'p Value>) -> FelixConfiguration {
    let mut felix = FelixConfiguration::default();
    for part in parts {
        let Value::Setting(name, value) = part else { continue };
        felix.parameters.retain(|given, _| !given.eq_ignore_ascii_case(name.as_str()));
        felix.parameters.insert(Arc::from(name.as_str()), Arc::clone(value));
    }
    felix
}

fn bgp<'p>(parts: impl Iterator<Item = &'p Value>) -> BgpConfiguration {
    let mut bgp = BgpConfiguration {
        as_number: None,
        node_to_node_mesh: true,
        listen_port: None,
        log_severity: None,
    };
    for part in parts {
        match part {
            Value::AsNumber(number) => bgp.as_number = *number,
            Value::Mesh(enabled) => bgp.node_to_node_mesh = *enabled,
            Value::LogLevel(level) => {
                bgp.log_severity = Some(level.clone()).filter(|level| !level.is_empty());
            }
            _ => {}
        }
    }
    bgp
}
