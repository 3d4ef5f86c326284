//! The objects of nftables held against the reference, in the random worlds and those made by hand that
//! `ruleset_worlds` asks of iptables: the same questions, the same hosts. And broken objects are found.
//!
//! The variables are those of `ruleset_worlds`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod changes;
#[path = "../ruleset_worlds/crafted.rs"]
mod crafted;
mod equivalent;
#[path = "../ruleset_worlds/extras.rs"]
mod extras;
#[path = "../ruleset_worlds/frame.rs"]
mod frame;
mod golden;
#[path = "../ruleset_worlds/hosts.rs"]
mod hosts;
#[path = "../ruleset_worlds/hosts_crafted.rs"]
mod hosts_crafted;
#[path = "../ruleset_worlds/hosts_frame.rs"]
mod hosts_frame;
mod kernel;
mod kinds;
mod mutants;
#[path = "../felix/netns.rs"]
#[expect(dead_code, reason = "nothing is moved into a namespace")]
mod netns;
#[path = "../ruleset_worlds/pods.rs"]
mod pods;
#[path = "../ruleset_worlds/subject.rs"]
mod subject;
mod syntax;
mod words;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}
