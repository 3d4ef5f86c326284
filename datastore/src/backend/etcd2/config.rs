//! How long anything may take. How etcd is reached is said as for its v3 API.

use std::time::Duration;

/// How long a long poll may be silent. Its answer begins at once, so this is also how soon a member
/// that vanished without a word is noticed, and a cluster that was rebuilt.
pub const IDLE_POLL: Duration = Duration::from_secs(10);

/// How far the store may be ahead of a poll that brings nothing, in events, before anything follows
/// from that: until then the same index is asked for again. etcd remembers 1000.
pub(super) const AHEAD: i64 = 100;

/// How long the first of two polls may be silent that are to say the same. What is in the history
/// comes at once, and the history must not be over before the second one.
pub(super) const FIRST_SILENCE: Duration = Duration::from_secs(1);

/// How often a store is asked that says it is not ready.
pub const READY_POLL: Duration = Duration::from_secs(1);

/// The largest answer that is read. A snapshot has no pages: 100,000 endpoints are some 60 MiB.
pub const MAX_ANSWER_BYTES: usize = 512 << 20;

/// Everything that is read and watched lies below it.
pub(super) const ROOT: &str = "/calico";
