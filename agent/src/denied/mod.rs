//! Packets that policy denied: what the kernel reports of them, put into words.
//!
//! The rules that drop report each packet to a netlink socket (NFLOG), at most so many a second, with
//! the tag of the place that drops ([`crate::felix::ruleset::deny`]). Endpoints share their rules, so
//! which of them it was is told by the interface and the direction. A packet becomes one line in the
//! journal, and one [`Denied`] for those who read along; equal ones that follow are counted instead.

mod book;
mod document;
mod message;
mod packet;
mod reader;
mod repeats;
mod socket;
mod task;

pub use self::book::{Book, Follow};
pub use self::document::Denied;
pub use self::reader::{Reader, ReaderError};
pub use self::task::{Inputs, run};

/// What stands before the tag in the prefix of a reporting rule, so that what another program logs to
/// the same group is not taken for ours.
pub const PREFIX: &str = "cali:";
