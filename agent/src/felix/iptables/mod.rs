//! The iptables dataplane: neutral rules become chains of the tables raw, filter and nat.
//!
//! [`chains`], [`rules`] and [`mac`] make text, [`plan`] compares it with what [`save`] read and
//! [`spelling`] recognised, [`tables`] keeps both and drives [`driver`]. `compare` says what others
//! changed, [`probe`] which iptables. `sets` and `members` say which address sets there should be;
//! `backend` is the reconciler's side of all that.

pub(in crate::felix) mod backend;
pub mod chain;
pub mod chains;
mod compare;
mod delta;
pub mod driver;
pub mod forwarded;
pub mod hash;
pub(in crate::felix) mod lock;
pub mod mac;
pub mod marks;
mod members;
pub mod names;
pub mod plan;
pub mod probe;
pub mod render;
pub mod rules;
pub mod save;
pub(in crate::felix) mod sets;
pub mod spelling;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod uses;
