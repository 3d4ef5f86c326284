//! Layouts: how objects are written down in a store.
//!
//! The only code in the project that knows keys and JSON. A value that does not parse becomes a
//! typed [`Rejection`] and counts as absent.

pub mod v3;

use crate::model::{ResourceId, Update};

/// A key whose value was refused. The object counts as absent until the key changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The key as stored.
    pub key: String,
    /// The object, when the key itself could be read.
    pub id: Option<ResourceId>,
    /// What is wrong, naming the field.
    pub reason: String,
}

/// What a key and its value turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// An object.
    Object(Update),
    /// An object of a kind that is known but not supported yet; counted, not an error.
    Unsupported {
        /// The kind's plural, as in the key: `bgppeers`.
        kind: String,
    },
    /// Nothing that concerns this agent.
    Ignored,
    /// An object that does not parse: it counts as absent.
    Rejected(Rejection),
}
