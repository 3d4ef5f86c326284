//! The calculation: from objects of the datastore to the desired state, incrementally. Pure: no
//! I/O, no clock, no tasks; a test enforces it.
//!
//! ```text
//! Update ──► sets.rs      every endpoint and network set (item.rs): members of address sets
//!        │               (set_spec.rs)
//!        ├─► policies.rs  this host's endpoints against policies; tiers.rs orders them,
//!        │               as one version of Calico does (generation.rs)
//!        ├─► endpoints.rs this host's endpoints; who has which interface
//!        ├─► host.rs      this host's host endpoints, a part of the result by itself
//!        ├─► pools.rs, bgp.rs
//!        ▼
//! calculator.rs: endpoint → class (classes.rs) → policies and profiles in force (active.rs)
//!                → rules (rules.rs) → sets → DesiredState
//! ```
//!
//! `sets.rs` and `policies.rs` each have a match index of their own (matching.rs), made of a label
//! index (labels.rs) and of selectors filed by what they demand (anchor.rs). `oracle.rs` computes
//! the same from scratch, for tests only.

mod active;
mod addresses;
mod anchor;
mod bgp;
mod calculator;
mod classes;
mod endpoints;
mod generation;
mod host;
mod item;
mod labels;
mod matching;
mod notices;
#[cfg(test)]
mod oracle;
mod policies;
mod pools;
mod rules;
mod set_spec;
mod sets;
mod slots;
#[cfg(test)]
mod tests;
mod tiers;

pub use calculator::Calculator;
pub use generation::Generation;
