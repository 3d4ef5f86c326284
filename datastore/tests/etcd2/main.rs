//! The source of etcd's v2 API against the real etcd, in the v1 layout.
//!
//! Each test starts an etcd of its own on loopback, with its v2 API, and kills it when it is done,
//! also when it fails. Without the `etcd` binary the tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test crate: helpers outside test functions fail like the tests do"
)]

#[path = "../etcd/support.rs"]
#[allow(dead_code, reason = "the process is shared, its v3 reader is not")]
mod process;
#[path = "../shared/mod.rs"]
mod shared;
mod support;

mod access;
mod basics;
mod history;
mod latency;
mod outages;
mod recorded;
mod stalls;
mod writes;
