//! The iptables dataplane: neutral rules become chains of the tables raw, filter and nat.
//!
//! [`chains`], [`rules`] and [`mac`] make text, [`plan`] compares it by hash with what
//! [`save`] read, [`tables`] keeps both and drives [`driver`]. [`probe`] says which iptables.

pub mod chain;
pub mod chains;
mod delta;
pub mod driver;
pub mod hash;
pub mod mac;
pub mod marks;
pub mod names;
pub mod plan;
pub mod probe;
pub mod render;
pub mod rules;
pub mod save;
pub mod tables;
#[cfg(test)]
mod tests;
