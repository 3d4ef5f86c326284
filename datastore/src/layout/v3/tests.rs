//! One test per pitfall of the stored data; replays of whole stores are in the crate's `tests/`.

mod allocation;
mod endpoints;
mod keys;
mod policies;
mod resources;
mod robustness;
mod rules;

use super::{Decoded, decode, id_of};
use crate::model::Update;

/// Decodes a resource with this path below the prefix and this JSON.
fn resource(path: &str, json: &str) -> Decoded {
    let key = format!("{}{path}", super::RESOURCES_PREFIX);
    let decoded = decode(&key, json.as_bytes());
    match &decoded {
        Decoded::Object(update) => assert_eq!(Some(update.id()), id_of(&key), "{key}"),
        Decoded::Rejected(rejection) => {
            assert_eq!(rejection.key, key);
            assert_eq!(rejection.id, id_of(&key), "{key}");
        }
        Decoded::Ignored | Decoded::Unsupported { .. } | Decoded::Part(_) => {
            assert_eq!(id_of(&key), None, "{key}")
        }
    }
    decoded
}

/// The update of a resource that must be accepted.
#[track_caller]
fn accepted(path: &str, json: &str) -> Update {
    match resource(path, json) {
        Decoded::Object(update) => update,
        other => panic!("{path}: {other:?}"),
    }
}

/// The reason of a resource that must be refused.
#[track_caller]
fn rejected(path: &str, json: &str) -> String {
    match resource(path, json) {
        Decoded::Rejected(rejection) => rejection.reason,
        other => panic!("{path} was accepted: {other:?}"),
    }
}
