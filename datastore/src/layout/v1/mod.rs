//! The v1 layout: what Calico kept in etcd's v2 API up to its version 2.6, rkt's first years among
//! them.
//!
//! ```text
//! /calico/v1/Ready                                             may anything be programmed
//! /calico/v1/config/<name>, /calico/v1/host/<h>/config/<name>  settings, a key each
//! /calico/v1/host/<h>/...                                      endpoints, and what a host is
//! /calico/v1/policy/...                                        profiles, tiers, policies
//! /calico/v1/ipam/v4|v6/pool/<cidr>                            pools
//! /calico/bgp/v1/...                                           what BIRD is told
//! /calico/ipam/v2/...                                          address allocation, as in v3
//! /calico/felix/v1/...                                         status, written by the agent
//! ```
//!
//! Owns the keys ([`keys`]) and the translation into the model. Two things are different from v3:
//!
//! * **Objects in parts.** A profile is three keys, a node and the settings of a host are many, and
//!   none of them is written together with another. Each such key is decoded by itself into a
//!   [`Part`]; a part that does not parse counts as absent and leaves the others in force. A
//!   profile whose rules are missing or refused drops everything, and lends its labels all the same.
//! * **Tags.** A tag of a profile is a label without a value, and `src_tag` means `has(tag)`, as for
//!   the original from its version 2.1 on. Where a profile has a tag and a label of one name, the
//!   label's value counts.
//!
//! What writers of three years have stored is tolerated (`null` anywhere, unknown fields, numbers as
//! strings, the older `profile_id`); anything else is refused, naming the field.

mod bgp;
mod endpoint;
pub mod keys;
mod node;
mod part;
mod policy;
mod pool;
mod profile;
mod rule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::keys::Key;
pub use self::part::Part;
use super::v3::error::FieldError;
use super::v3::{self, IPAM_PREFIX, shortened};
use super::{Decoded, Layout, Rejection};
use crate::model::{ClusterInformation, ResourceId, Update};
pub use keys::{BGP_PREFIX, READY_KEY, V1_PREFIX};

/// The layout as a store follows it: BGP, allocation, and everything else. `/calico/felix/`, where
/// agents report, is none of it.
pub const LAYOUT: Layout =
    Layout { prefixes: &[BGP_PREFIX, IPAM_PREFIX, V1_PREFIX], ready_key: READY_KEY, decode, id_of };

/// The object that a key stands for, or is a part of; `None` when it stands for none that this
/// agent knows, or when it is malformed.
pub fn id_of(key: &str) -> Option<ResourceId> {
    match keys::parse(key) {
        Key::Object(id) | Key::Part(id, _) => Some(id),
        Key::Unsupported(_) | Key::Ignored | Key::Invalid(_) => None,
    }
}

/// Reads one key and its value. Never panics, whatever the bytes.
pub fn decode(key: &str, value: &[u8]) -> Decoded {
    let refuse = |id, reason| {
        Decoded::Rejected(Rejection { key: key.to_owned(), id, reason: shortened(reason) })
    };
    match keys::parse(key) {
        // Blocks and affinities are what they are in v3, but for forms that v3 reads as well.
        Key::Object(ResourceId::Block(_) | ResourceId::Affinity(_)) => v3::decode(key, value),
        Key::Ignored => Decoded::Ignored,
        Key::Unsupported(kind) => Decoded::Unsupported { kind: kind.to_owned() },
        Key::Invalid(reason) => refuse(None, reason),
        Key::Object(id) => match object(&id, key, value) {
            Ok(update) => Decoded::Object(update),
            Err(error) => refuse(Some(id), error.to_string()),
        },
        Key::Part(id, piece) => match Part::decode(id.clone(), piece, value) {
            Ok(part) => Decoded::Part(part),
            Err(error) => refuse(Some(id), error.to_string()),
        },
    }
}

fn object(id: &ResourceId, key: &str, value: &[u8]) -> Result<Update, FieldError> {
    Ok(match id {
        ResourceId::ClusterInformation => {
            // Raw: exactly `true` is true.
            let information =
                ClusterInformation { datastore_ready: value == b"true", ..Default::default() };
            Update::ClusterInformation(Some(Arc::new(information)))
        }
        ResourceId::Pool(name) => {
            Update::Pool(name.clone(), Some(Arc::new(pool::decode(key, value)?)))
        }
        ResourceId::Tier(name) => {
            Update::Tier(name.clone(), Some(Arc::new(policy::decode_tier(value)?)))
        }
        ResourceId::Policy(id) => {
            let tier = keys::tier_of(key);
            Update::Policy(id.clone(), Some(Arc::new(policy::decode(tier, value)?)))
        }
        ResourceId::HostEndpoint(id) => {
            let node = keys::host_of(key);
            Update::HostEndpoint(id.clone(), Some(Arc::new(endpoint::decode_host(node, value)?)))
        }
        ResourceId::WorkloadEndpoint(id) => {
            Update::WorkloadEndpoint(id.clone(), endpoint::decode_workload(value)?.map(Arc::new))
        }
        other => return Err(FieldError::new(format_args!("{other} is not of this layout"))),
    })
}

/// What a whole store means, without following it: the objects, and what was refused. Where two keys
/// describe one object, the one that sorts first counts; a reader that follows a store asks which
/// is older.
pub fn decode_all<'a>(
    store: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> (BTreeMap<ResourceId, Update>, Vec<Rejection>) {
    use crate::backend::{Entry, Syncer};
    let mut syncer = Syncer::new(LAYOUT);
    syncer.begin_listing();
    for (key, value) in store {
        syncer.list(Entry { key, value, mod_revision: 1, create_revision: 1 });
    }
    syncer.finish_listing(1);
    let batch = syncer.take().unwrap_or_default();
    let objects = batch.updates.into_iter().map(|update| (update.id(), update));
    // A document may say that there is no such object.
    let objects = objects.filter(|(id, update)| *update != Update::deleted(id.clone()));
    (objects.collect(), batch.rejections)
}
