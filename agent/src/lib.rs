//! calico-agent: the host network agent.
//!
//! One way through the house; arrows never turn back:
//!
//! ```text
//! etcd ──► datastore ──► acl ──► desired ──► felix   (chains, sets, sysctls, conntrack)
//!           typed,       pure,   an          routes  (host routes, neighbours, BIRD)
//!           validated    incre-  immutable      │
//!                        mental  value          ▼
//! etcd ◄───────────────────────────────────  status  (what was really programmed)
//! ```
//!
//! [`acl`] and [`desired`] do no I/O and know no clock. [`felix`] and [`routes`] are reconcilers:
//! read actual, plan (pure), apply (dull), verify, report. [`daemon`] composes them.

pub mod acl;
pub mod age;
pub mod api;
pub mod atomic_file;
pub mod beside;
pub mod calculation;
pub mod check;
pub mod cli;
pub mod collector;
pub mod config;
pub mod daemon;
pub mod denied;
pub mod desired;
pub mod drift;
pub mod exec;
pub mod explain;
pub mod felix;
pub mod lock;
mod netlink;
pub mod node;
pub mod paths;
pub mod preview;
pub mod reconcile;
pub mod reload;
pub mod reset;
pub mod routes;
pub mod signals;
pub mod startup;
pub mod status;
pub mod stored;
pub mod telemetry;
pub mod terminal;
pub mod verbs;
