//! The CNI plugin: what it is told, what it does to a pod and to the datastore, what it answers.
//!
//! One binary answers as `calico` and as `calico-ipam`; the agent uses the parts that must do the
//! same (a collected pod is torn down by what `DEL` does).
//!
//! * [`protocol`]: environment and standard input in, JSON out; [`delegate`]: other plugins.
//! * [`network`], [`names`], [`mtu`]: the pod's interface.
//! * [`datastore`]: which one a call uses.
//! * [`attachment`]: what is remembered on this host; [`teardown`]: taking everything back.
//! * `add`, `del`, `check`, `gc`, `status`, `calico_ipam`: a command each; [`run`] chooses. ADD's steps
//!   are in `facts`, `profile`, `pool`, `addresses`, `interface`, `endpoint`, `waiting`, `gateway` and
//!   `answer`, in this order.

mod add;
mod addresses;
mod answer;
pub mod attachment;
mod birth;
mod calico_ipam;
mod check;
mod container;
pub mod datastore;
mod del;
pub mod delegate;
mod delegation;
mod directories;
mod endpoint;
mod facts;
mod failure;
mod gateway;
mod gc;
mod interface;
mod journal;
mod log;
pub mod mtu;
pub mod names;
pub mod network;
mod pool;
mod profile;
pub mod protocol;
pub mod run;
mod status;
pub mod teardown;
mod waiting;
