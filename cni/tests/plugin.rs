//! The plugin's own binary, called as rkt calls it: on a host that is a namespace, with a real etcd
//! in it, and pods that are namespaces. There is no agent here, so nobody waits for one unless a test
//! is about that.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::needless_pass_by_value,
    reason = "a test crate: helpers outside test functions fail like the tests do"
)]

#[path = "plugin/world.rs"]
mod world;

#[path = "plugin/commands.rs"]
mod commands;
#[path = "plugin/delegated.rs"]
mod delegated;
#[path = "plugin/disconnected.rs"]
mod disconnected;
#[path = "plugin/failures.rs"]
mod failures;
#[path = "plugin/kills.rs"]
mod kills;
#[path = "plugin/protected.rs"]
mod protected;
#[path = "plugin/races.rs"]
mod races;
#[path = "plugin/stored.rs"]
mod stored;
