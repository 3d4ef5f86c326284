//! The CNI plugin: what it is told, what it does to a pod and to the datastore, what it answers.
//!
//! One binary answers as `calico` and as `calico-ipam`; the agent uses the parts that must do the
//! same (a collected pod is torn down by what `DEL` does).

pub mod attachment;
pub mod delegate;
pub mod mtu;
pub mod names;
pub mod network;
pub mod protocol;
