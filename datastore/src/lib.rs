//! Calico's data model and the stores it is read from.
//!
//! * [`model`]: what the objects *mean*. Typed, validated, no I/O, no JSON, no keys.
//! * [`layout`]: how the objects are *written down*: key ↔ id, value → model. The only code in the
//!   project that knows etcd keys and JSON.
//! * [`backend`]: where they are *kept*: a complete snapshot first, ordered updates after it.
//! * [`ipam`]: whose each address is: blocks, affinities, handles.
//! * [`location`]: which store a host uses, from what agent.toml and environment say.
//! * [`store`]: the narrow view through which we write: get, list, compare-and-swap.
//! * [`timestamp`]: points in time as they are written down.
//!
//! The model is Calico's v1 semantics plus tiers, network sets and named ports; each layout
//! decodes into it, so that nothing behind this crate knows which layout a host uses.

pub mod backend;
pub mod ipam;
pub mod layout;
pub mod location;
pub mod model;
pub mod store;
pub mod timestamp;
