//! From facts to findings: pure. One file an area, with the facts that it judges; [`super::probe`]
//! collects them. [`ruleset`] reads what `iptables-save` prints.

pub mod agents;
pub mod bird;
pub mod cni;
pub mod config;
pub mod directory;
pub mod etcd;
pub mod failsafe;
pub mod firewall;
pub mod interfaces;
pub mod kernel;
pub mod node;
pub mod programs;
pub mod rights;
pub mod ruleset;
pub mod sysctls;
pub mod systemd;
