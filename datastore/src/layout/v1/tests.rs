//! One test per pitfall of the stored data; replays of whole stores are in the crate's `tests/`.

mod endpoints;
mod keys;
mod parts;
mod policies;
mod robustness;
mod rules;

use super::{Decoded, decode, id_of};
use crate::model::Update;

/// The update of a key that must be accepted.
#[track_caller]
fn accepted(key: &str, value: &str) -> Update {
    match decode(key, value.as_bytes()) {
        Decoded::Object(update) => {
            assert_eq!(Some(update.id()), id_of(key), "{key}");
            update
        }
        other => panic!("{key}: {other:?}"),
    }
}

/// The reason of a value that must be refused.
#[track_caller]
fn rejected(key: &str, value: &str) -> String {
    match decode(key, value.as_bytes()) {
        Decoded::Rejected(rejection) => {
            assert_eq!((rejection.key.as_str(), &rejection.id), (key, &id_of(key)));
            assert!(rejection.id.is_some(), "{key}");
            rejection.reason
        }
        other => panic!("{key} was accepted: {other:?}"),
    }
}
