//! Chains, address sets, sysctls and conntrack: what decides about packets.
//!
//! [`Felix`] is the reconciler. It takes a [`crate::desired::DesiredState`] and makes the kernel
//! equal to it, at the cost of what changed:
//!
//! * [`ruleset`] takes the rules of one address family out of a policy: what every backend needs;
//! * [`pick`] says which dataplane this host gets;
//! * [`iptables`] makes chains of them, compares by hash with what the kernel holds, and writes the
//!   difference in one transaction per table;
//! * [`ipset`] does the same for address sets;
//! * [`nftables`] makes a table of our own of them instead;
//! * [`endpoints`] knows what an endpoint is to the kernel: members of sets, and a MAC rule;
//! * [`hosts`] knows which interface a host endpoint is about;
//! * [`scene`] is what chains and sets are made from, and what changed of it;
//! * [`tally`] reads what the kernel counted for each endpoint, when somebody asks;
//! * [`sysctl`] and [`conntrack`] are what their names say;
//! * [`rendered`] shows all of it as text, for those who ask what it means;
//! * [`preview`] makes the plans of a first run and carries none out;
//! * [`watch`] notices what others change of all that.
//!
//! Nothing here touches routes, and nothing touches what does not carry our name or hash.

pub mod conntrack;
pub mod counters;
pub mod endpoints;
pub mod hosts;
pub mod ipset;
pub mod iptables;
pub mod leftovers;
pub mod nftables;
pub mod pick;
pub mod preview;
mod reconciler;
pub mod rendered;
pub mod ruleset;
pub mod scene;
pub mod sysctl;
pub mod tally;
pub mod watch;

pub use iptables::probe::{Dataplane, Flavour, ProbeError, Probed, probe, survey};
pub use reconciler::Felix;
