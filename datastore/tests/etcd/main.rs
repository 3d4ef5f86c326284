//! The etcd source against the real etcd.
//!
//! Each test starts an etcd of its own on loopback with its own ports and directory, and kills it
//! when it is done, also when it fails. Without the `etcd` binary the tests say so and pass.

mod support;

mod bad_input;
mod basics;
mod cluster;
mod latency;
mod outages;
mod readiness;
mod writes;
