//! What an iptables ruleset does with a packet: an interpreter, for tests.
//!
//! Text in (as the agent renders it, as `iptables-save` and `ipset save` print it), verdict out. It
//! knows nothing of policy and shares no line with the agent, so a test can hold what the agent
//! *writes* against what its policy *means* without a kernel, thousands of times. That the kernel
//! understands the same text in the same way is shown by tests of the agent that send packets.
//!
//! ```
//! use calico_ruleset::{Family, Fate, Host, Packet, Ruleset};
//!
//! let tables = "*filter\n:FORWARD ACCEPT\n-A FORWARD -p tcp -m tcp --dport 22 -j DROP\nCOMMIT\n";
//! let ruleset = Ruleset::parse(Family::V4, tables, "")?;
//! let mut host = Host::default();
//! host.route("10.0.0.0/8", "eth1")?;
//! let ssh = Packet::tcp("192.0.2.7".parse()?, "10.0.0.1".parse()?, 40_000, 22).into_interface("eth0");
//! let outcome = ruleset.walk(&host, &ssh)?;
//! assert_eq!(outcome.fate, Fate::Dropped);
//! assert_eq!(outcome.decided(&ruleset), "filter FORWARD 1: -p tcp -m tcp --dport 22 -j DROP");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it does not know is an error that names the rule, never a guess: a ruleset that parses is
//! understood in full. Not modelled, because no rule of ours asks for it: fragments other than by
//! leaving ports away, IPv6 extension headers, what the kernel drops by itself (martians, bad
//! checksums), the translation of packets that are not the first of their connection.

mod chain;
mod flight;
mod hook;
mod host;
mod net;
mod packet;
mod parse;
mod rule;
mod set;
mod tables;
mod target;
mod values;
mod walk;
mod words;

pub use hook::{Hook, Table};
pub use host::{Hop, Host};
pub use net::{Family, NetError};
pub use packet::{Origin, Packet, State};
pub use set::SetError;
pub use tables::{ParseError, RuleAt, Ruleset, Strictness};
pub use walk::{By, End, Fate, Outcome, WalkError};
