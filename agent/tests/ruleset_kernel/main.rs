//! The interpreter of rulesets against the kernel: rulesets at random are loaded, packets are sent,
//! and every rule must have counted the packets that the interpreter says it matches. Then the tables
//! of a running Felix: what the tools print of them means what was rendered. And what is rendered for the
//! host endpoints of random worlds, rule by rule.
//!
//! `CALICO_RULESETS` = how many rulesets of each family and flavour (20).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]
#![allow(dead_code, reason = "a part of what the tests of Felix share")]

mod draw;
#[path = "../felix/host.rs"]
mod host;
mod hosts;
mod live;
#[path = "../felix/machines.rs"]
mod machines;
#[path = "../felix/netns.rs"]
mod netns;
mod random;
mod wire;
#[path = "../felix/world.rs"]
mod world;

/// Numbers that look random and are the same each time (SplitMix64).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    pub(crate) fn one<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// Once in `n` times.
    pub(crate) fn in_(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
