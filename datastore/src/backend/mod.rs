//! Stores: a complete snapshot first, ordered updates after it.

use crate::layout::Rejection;
use crate::model::Update;

/// What a store tells its reader, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum SyncEvent {
    /// Nothing can be read right now: the store cannot be reached, or says that it is not ready.
    /// What was read before stays true until a [`SyncEvent::Changes`] says otherwise.
    Waiting {
        /// Why, for the log and `status`.
        reason: String,
    },
    /// Changes to apply together.
    Changes(Batch),
}

/// Changes that belong together: a whole snapshot, or every event of one revision.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Batch {
    /// The revision of the store after the changes.
    pub revision: i64,
    /// The changes. After the first batch only what differs from before; an object that is gone
    /// or no longer parses has no value.
    pub updates: Vec<Update>,
    /// Keys refused by this batch.
    pub rejections: Vec<Rejection>,
    /// Keys refused earlier that are now gone or parse.
    pub accepted: Vec<String>,
    /// Keys that were understood but whose kind is not supported yet: (kind, how many there are
    /// now), complete for each kind mentioned.
    pub unsupported: Vec<(String, usize)>,
}
