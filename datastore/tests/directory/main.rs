//! The store for one host, with real files, processes and inotify.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test crate: helpers outside test functions fail like the tests do"
)]

#[path = "../shared/contract.rs"]
mod contract;
mod latency;
mod source;
mod source_trouble;
mod store;
mod support;
