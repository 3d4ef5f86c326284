//! The v3 layout: Calico's resources as JSON documents in an etcd v3 keyspace.
//!
//! ```text
//! /calico/resources/v3/projectcalico.org/<plural>/[<namespace>/]<name>   resources
//! /calico/ipam/v2/...                                                    address allocation
//! /calico/felix/...                                                      status, written by the agent
//! ```
//!
//! Owns the keys ([`keys`]) and the translation of each kind into the model. It reads with private
//! wire structs that tolerate what writers of ten years have stored (`null` anywhere, missing and
//! unknown fields, numbers as strings), and then converts them strictly: an error names the field.
//! Names come from the key, never from the document. It must not do I/O and must not remember
//! anything between two values. What the agent writes is made in [`mod@write`].

pub(super) mod bgp;
mod cluster;
pub(super) mod endpoint;
pub(super) mod error;
mod felix;
mod ipam;
pub mod keys;
pub mod manifest;
pub(super) mod net;
mod netset;
mod node;
mod policy;
mod pool;
pub(super) mod port;
mod profile;
pub(super) mod rule;
#[cfg(test)]
mod tests;
pub(super) mod wire;
pub mod write;

use std::sync::Arc;

use super::{Decoded, Layout, Rejection};
use crate::model::{Cidr, IpamConfig, ResourceId, Update};
use error::FieldError;
use keys::Key;
pub use keys::{IPAM_PREFIX, READY_KEY, RESOURCES_PREFIX};

/// The layout as a store follows it: allocation and resources. Between the two prefixes no agent
/// writes reports.
pub const LAYOUT: Layout =
    Layout { prefixes: &[IPAM_PREFIX, RESOURCES_PREFIX], ready_key: READY_KEY, decode, id_of };

/// The object that a key stands for; `None` when it stands for none that this agent knows, or when
/// it is malformed. The same id that [`decode`] gives for the key, so that a deletion finds it.
pub fn id_of(key: &str) -> Option<ResourceId> {
    match keys::parse(key) {
        Key::Object(id) => Some(id),
        Key::Unsupported(_) | Key::Ignored | Key::Invalid(_) => None,
    }
}

/// Reads one key and its value. Never panics, whatever the bytes.
///
/// [`Decoded::Object`] may carry an update *without* a value: the document is well-formed but says
/// that there is no such object (a workload endpoint without addresses, a deleted block). It
/// counts as gone and is not an error. A resource that is `null` as a whole is refused: the key
/// says that there is an object, nobody deletes one like this, and a policy must not vanish
/// without an alarm.
pub fn decode(key: &str, value: &[u8]) -> Decoded {
    let refuse = |id, reason| {
        Decoded::Rejected(Rejection { key: key.to_owned(), id, reason: shortened(reason) })
    };
    match keys::parse(key) {
        Key::Ignored => Decoded::Ignored,
        Key::Unsupported(kind) => Decoded::Unsupported { kind },
        Key::Invalid(reason) => refuse(None, reason),
        Key::Object(id) => match object(&id, value) {
            Ok(update) => Decoded::Object(update),
            Err(error) => refuse(Some(id), error.to_string()),
        },
    }
}

/// How addresses are allocated, from the value of [`keys::IPAM_CONFIG_KEY`] if it is stored.
///
/// # Errors
/// When it is malformed.
pub fn ipam_config(stored: Option<&[u8]>) -> Result<IpamConfig, write::Malformed> {
    let malformed = |error: FieldError| write::Malformed {
        key: keys::IPAM_CONFIG_KEY.to_owned(),
        reason: shortened(error.to_string()),
    };
    stored.map_or(Ok(IpamConfig::default()), |value| ipam::decode_config(value).map_err(malformed))
}

/// The addresses that an IPReservation keeps from being given out.
///
/// # Errors
/// When it is malformed.
pub fn reserved_cidrs(key: &str, value: &[u8]) -> Result<Vec<Cidr>, write::Malformed> {
    ipam::decode_reservation(value).map_err(|error| write::Malformed {
        key: key.to_owned(),
        reason: shortened(error.to_string()),
    })
}

/// The longest reason of a rejection, in bytes. Reasons quote values, which may be as long as etcd
/// takes them, and are kept, logged and shown.
const REASON_MAX: usize = 1000;

pub(super) fn shortened(mut reason: String) -> String {
    if let Some(end) = (0..=REASON_MAX).rev().find(|at| reason.is_char_boundary(*at))
        && end < reason.len()
    {
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

fn object(id: &ResourceId, value: &[u8]) -> Result<Update, FieldError> {
    Ok(match id {
        ResourceId::ClusterInformation => {
            Update::ClusterInformation(Some(Arc::new(cluster::decode(value)?)))
        }
        ResourceId::FelixConfiguration(name) => {
            Update::FelixConfiguration(name.clone(), Some(Arc::new(felix::decode(value)?)))
        }
        ResourceId::BgpConfiguration(name) => {
            Update::BgpConfiguration(name.clone(), Some(Arc::new(bgp::decode(value)?)))
        }
        ResourceId::Node(name) => Update::Node(name.clone(), Some(Arc::new(node::decode(value)?))),
        ResourceId::Pool(name) => Update::Pool(name.clone(), Some(Arc::new(pool::decode(value)?))),
        ResourceId::Tier(name) => {
            Update::Tier(name.clone(), Some(Arc::new(policy::decode_tier(value)?)))
        }
        ResourceId::Profile(name) => {
            Update::Profile(name.clone(), Some(Arc::new(profile::decode(value)?)))
        }
        ResourceId::Policy(id) => {
            Update::Policy(id.clone(), Some(Arc::new(policy::decode(id, value)?)))
        }
        ResourceId::NetworkSet(id) => {
            Update::NetworkSet(id.clone(), Some(Arc::new(netset::decode(id, value)?)))
        }
        ResourceId::HostEndpoint(id) => {
            Update::HostEndpoint(id.clone(), Some(Arc::new(endpoint::decode_host(value)?)))
        }
        ResourceId::WorkloadEndpoint(id) => {
            Update::WorkloadEndpoint(id.clone(), endpoint::decode_workload(value)?.map(Arc::new))
        }
        ResourceId::Block(cidr) => {
            Update::Block(*cidr, ipam::decode_block(*cidr, value)?.map(Arc::new))
        }
        ResourceId::Affinity(id) => {
            Update::Affinity(id.clone(), ipam::decode_affinity(value)?.map(Arc::new))
        }
    })
}
