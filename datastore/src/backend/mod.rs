//! Stores: a complete snapshot first, ordered updates after it.
//!
//! * [`Syncer`] turns listings and events of any store into [`Batch`]es. It is pure: no I/O, no
//!   clock, no tokio.
//! * [`etcd3`] is the only code that talks to etcd's v3 API.
//!
//! No store knows what a key or a value means: a [`Layout`] tells it.

pub mod etcd3;
pub mod syncer;

pub use syncer::{Entry, Event, Syncer};

use crate::layout::{Decoded, Rejection};
use crate::model::{ResourceId, Update};

/// What a store has to know of the layout that its objects are written in.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Every key of the layout begins with one of these. Ascending, disjoint, each ending in `/`.
    /// They must lie so that no key which is rewritten all the time (status, under
    /// `/calico/felix/`) sorts between the first and the last: etcd watches the whole span.
    pub prefixes: &'static [&'static str],
    /// The key of the object that says whether the store is ready. It decodes to
    /// [`Update::ClusterInformation`].
    pub ready_key: &'static str,
    /// What a key and its value are. A pure function: equal values of a key decode equally.
    pub decode: fn(&str, &[u8]) -> Decoded,
    /// The object that a key describes, without looking at its value.
    pub id_of: fn(&str) -> Option<ResourceId>,
}

impl Layout {
    /// Whether this value of [`Layout::ready_key`] says that the store is ready. Absent, malformed
    /// or anything else means no.
    pub fn is_ready(&self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return false };
        match (self.decode)(self.ready_key, value) {
            Decoded::Object(Update::ClusterInformation(Some(info))) => info.datastore_ready,
            _ => false,
        }
    }

    /// Whether a key belongs to the layout.
    pub fn contains(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}

/// What a store tells its reader, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum SyncEvent {
    /// Nothing can be read right now: the store cannot be reached, or says that it is not ready.
    /// What was read before stays true until a [`SyncEvent::Changes`] says otherwise.
    Waiting {
        /// Why, for the log and `status`.
        reason: String,
    },
    /// Changes to apply together. Ends a [`SyncEvent::Waiting`]: when nothing changed while the
    /// store was away, the batch is empty.
    Changes(Batch),
}

/// Changes that belong together: a whole snapshot, or every event of one revision. A reader that
/// is slower than the store gets several whole revisions as one batch, never a part of one.
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
