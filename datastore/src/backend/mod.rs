//! Stores: a complete snapshot first, ordered updates after it.
//!
//! * [`Syncer`] turns listings and events of any store into [`Batch`]es. It is pure: no I/O, no
//!   clock, no tokio.
//! * [`etcd3`] is the only code that talks to etcd's v3 API.
//! * [`etcd2`] is the only code that talks to its v2 API, where Calico up to 2.6 keeps its data.
//! * [`directory`] keeps objects in files of one host.
//! * [`AnySource`] follows whichever store a host was told to use.
//!
//! No store knows what a key or a value means: a [`Layout`] tells it.

mod any;
pub mod directory;
pub mod etcd2;
pub mod etcd3;
pub mod syncer;

pub use any::AnySource;
pub use syncer::{Entry, Event, Syncer};

pub use crate::layout::Layout;
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
