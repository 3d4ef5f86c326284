//! The etcd source against the real etcd.
//!
//! Each test starts an etcd of its own on loopback with its own ports and directory, and kills it
//! when it is done, also when it fails. Without the `etcd` binary the tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test crate: helpers outside test functions fail like the tests do"
)]

#[path = "../shared/contract.rs"]
mod contract;
mod support;

mod bad_input;
mod basics;
mod cluster;
mod history;
mod latency;
mod outages;
mod readiness;
mod slow;
mod tls;
mod writes;
