//! Thousands of random worlds: what the rendered ruleset does with a packet, rule by rule, is what
//! the reference says of it. And broken rulesets are found so. Worlds that failed once are kept in
//! `tests/worlds/`, and a new one is made small and written there.
//!
//! Hosts that police their own interfaces are in `hosts.rs` and the files named after it.
//!
//! `CALICO_RULESET_WORLDS` = how many worlds (2000), `CALICO_SEED` = the first one; `CALICO_MUTANTS` =
//! how many worlds are broken (60);
//! `CALICO_FRAMES` = in how many worlds everything around policy is asked (60).

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod crafted;
mod elements;
mod extras;
mod frame;
mod hosts;
mod hosts_crafted;
mod hosts_frame;
mod hosts_mutants;
mod kernel;
mod mutants;
mod pods;
mod subject;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}
