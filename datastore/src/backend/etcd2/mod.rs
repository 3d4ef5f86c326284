//! etcd's v2 API: HTTP and JSON, as etcd has it up to 3.3 and, with `--enable-v2`, up to 3.5.
//!
//! # What is guaranteed
//! * The snapshot is **one** recursive read of everything below `/calico`, answered through the
//!   cluster's log (`quorum`), so it is complete as of one index.
//! * The watch has begun before the snapshot is read. etcd remembers 1000 events of the whole store:
//!   a snapshot that takes longer than those would otherwise begin anew for ever. Events up to the
//!   snapshot's index are in it, and are left out.
//! * Events are applied in order, one a long poll. (`stream=true` would send more at once, but a
//!   stream that begins in the past ends silently after its first event.)
//! * A poll that brings nothing does not say that nothing happened: its head comes before its event,
//!   which may get stuck. So the position moves on without an event only when the store is far ahead
//!   and two polls on two connections were silent about the same index.
//! * A directory that is deleted is one event: the deletions of everything below it are made here
//!   ([`Tree`](tree::Tree)).
//! * What cannot be continued is listed anew, and only what differs is handed out: a history that was
//!   cleared, a broken connection, another cluster, an index that went back. A connection that breaks
//!   is no sign of another store, but the API tells an index nothing about its past, and one read of
//!   everything is cheaper than to be wrong.
//! * Nothing is handed out while the store says that it is not ready, and nothing that happened after
//!   it stopped being ready.
//!
//! Keys of reports (`/calico/felix/`) are read and left out: three narrower watches would see events
//! of one history at three times.

mod client;
mod config;
mod connection;
mod error;
mod members;
mod poll;
mod source;
pub mod tree;
pub mod wire;

pub use client::{Etcd2, Versioned};
pub use config::{IDLE_POLL, MAX_ANSWER_BYTES, READY_POLL};
pub use error::Etcd2Error;
pub use source::Etcd2Source;
