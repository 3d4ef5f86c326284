//! nf_tables' messages as bytes (`linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`):
//! encoding what we write and decoding what a dump tells. Pure.

pub(super) mod attributes;
pub(super) mod element;
pub(super) mod expression;
pub(super) mod message;
pub(super) mod read;
pub(super) mod set;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
