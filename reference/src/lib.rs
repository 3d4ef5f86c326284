//! What Calico's policy says of a packet: a second writing of the rules, to hold the agent against.
//!
//! It takes the objects of a datastore as values of [`calico_datastore::model`] and shares nothing
//! else with the agent; a test looks at what it imports. It even reads selectors by itself, from
//! their text, so that an error in the agent's own evaluation is found. Every question walks
//! through every object: it is written for being compared with the documentation line by line.
//!
//! What it leaves out on purpose: connection tracking (who asks says what it knows of a packet),
//! routing, and whatever is not policy (tunnels of the host). What an endpoint may send from, and by
//! which other addresses it is reached, is in.
//!
//! ```
//! use calico_reference::{Direction, Packet, Reference};
//!
//! let reference = Reference::new(&[]);
//! assert!(reference.workloads().next().is_none());
//! # let _ = (Direction::Ingress, Packet::tcp([10, 0, 0, 1].into(), 40_000, [10, 0, 0, 2].into(), 80));
//! ```

mod account;
mod ask;
mod extras;
mod host;
mod member;
mod net;
mod packet;
mod path;
mod rule;
mod selector;
mod store;
mod tier;
mod verdict;

pub use account::{Account, Told};
pub use extras::Owner;
pub use host::{Failsafe, Hook, Interface};
pub use packet::{Direction, Packet};
pub use path::{Host, Known, Passage, Place, Step, Subject, Walk};
pub use store::Reference;
pub use verdict::{Reason, Verdict};
