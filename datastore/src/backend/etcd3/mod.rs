//! etcd's v3 API: a client with bounded calls, and the source that follows a store.
//!
//! # What is guaranteed
//! * The snapshot is one revision over all prefixes, however many pages it takes.
//! * The watch covers **one contiguous span**, from the first prefix to the end of the last.
//!   etcd sends all events of a revision that concern one watch in one message (fragments stay
//!   off), so a transaction over several prefixes is applied as a whole, with no waiting and no
//!   guessing. Two watches could not give that: nothing in the first one's message tells whether
//!   the second will have a part of the same revision, and a progress request is no barrier
//!   (before 3.4.25 and 3.5.8 its answer may overtake events). Between `/calico/ipam/v2/` and
//!   `/calico/resources/v3/projectcalico.org/` there are no keys of the agents' own reports
//!   (`/calico/felix/` sorts before both). With etcd's access control the user needs read access
//!   to that span: a role over the prefix `/calico/`, as Calico documents it, has it.
//! * Nothing is handed out while the store says that it is not ready, and nothing that happened
//!   after it stopped being ready, until a new listing after it is ready again.
//! * A broken stream is taken up at the revision after the last one applied, if the store still
//!   has the same history; else everything is listed again, and only differences are handed out.
//!   What "same history" means: the cluster id, the ready key as it was at that revision, and the
//!   newest change known: a key that was written, or one that was there before a revision and
//!   not after it. A store that was wiped or restored can carry the same cluster id and a higher
//!   revision, so these two alone prove nothing.

pub(super) mod backoff;
mod client;
mod config;
mod error;
mod history;
mod list;
mod member;
mod session;
pub(super) mod source;
mod watch;

pub use client::{Etcd3, Versioned};
pub use config::{
    BACKOFF_CAP, BACKOFF_FIRST, CALL_TIMEOUT, CONNECT_TIMEOUT, Etcd3Config, KEEPALIVE_INTERVAL,
    KEEPALIVE_TIMEOUT, MAX_MESSAGE_BYTES, PAGE_KEYS,
};
pub use error::EtcdError;
pub use source::{Etcd3Source, SourceStatus};
