//! The table of the nftables dataplane on a real kernel: what is written is what `nft` lists, loads
//! and lists again; what is read back is what was written; what is refused is named; and packets see
//! what the rules say. Each test has network namespaces of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod counting;
mod criteria;
mod errors;
mod every;
mod large;
mod listing;
#[path = "../felix/netns.rs"]
mod netns;
mod packets;
mod support;
mod tampering;
mod wire;
