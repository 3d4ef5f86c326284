//! `calico-agent explain`: what policy says about a packet between two peers, and why.
//!
//! The answer is made of the same values that the dataplane is programmed from, by the same code
//! that decides which connections are cut ([`crate::desired::verdict`]): on a running agent of what
//! should be in force on its host, offline of one snapshot of the datastore, for every host that is
//! concerned, with changes that nobody has applied yet.
//!
//! It is about the first packet of a connection as policy sees it: answers of established
//! connections always pass, and what others translate or drop (`nat`, the host's own rules, routes
//! that are missing) is not known here. External addresses of endpoints are our own translation, and
//! are known. Between the pods stand the host endpoints that the packet passes.

mod answer;
mod conclusion;
mod directory;
pub mod document;
mod error;
mod external;
pub mod graph;
pub mod here;
mod network;
pub mod offline;
mod passing;
mod peers;
mod question;
pub mod render;
pub mod running;
mod stray;
#[cfg(test)]
mod tests;
mod uplink;
mod way;
mod words;
mod world;

pub use answer::explain;
pub use directory::{Directory, Known, Peer, PeerError};
pub use error::ExplainError;
pub use external::External;
pub use peers::Peers;
pub use question::{Question, QuestionError};
pub use uplink::Interfaces;
pub use world::{Place, World};
