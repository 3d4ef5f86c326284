//! The nftables dataplane: one `inet` table, written over netlink.
//!
//! Everything here speaks of the objects of that table ([`object`]), which are plain values: what
//! renders them knows no byte of netlink, and what writes them knows nothing of policy.
//!
//! The way of a [`object::Change`] to the kernel: `plan` puts changes into an order that the kernel
//! takes in one batch, `lower` makes expressions of rules, `encode` and `wire` make bytes, and
//! [`table`] sends them. The way back: [`read`], and [`compare`] with what should be there.

pub(in crate::felix) mod backend;
mod commands;
pub mod compare;
pub mod contents;
pub(in crate::felix) mod counted;
mod depth;
mod encode;
pub(in crate::felix) mod entangled;
mod expr;
pub(in crate::felix) mod groups;
mod lower;
mod mirror;
pub mod object;
mod plan;
mod ranges;
pub mod read;
pub mod render;
mod socket;
pub mod subject;
pub mod table;
pub mod text;
mod torn;
pub mod trial;
mod wire;

/// The name of our table, of the family `inet`.
pub const TABLE: &str = "calico";

#[cfg(test)]
mod strategies;
