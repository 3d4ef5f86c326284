//! Finds again what rkt leaves behind, and removes it: endpoints, interfaces and addresses of pods
//! that are gone.
//!
//! rkt sends a DEL once and forgets it when it fails; after a failed ADD, or a failed port forwarding,
//! it sends none. So an address is lost, a little more each day, until a pool is full.
//!
//! [`plan`] decides, and is pure. [`rkt`], [`inhabitants`] and [`run`](mod@run) only read, and do
//! what was decided by the function that the plugin's own DEL calls. A doubt is an acquittal: what
//! stays too long is an address, what goes too soon is a pod's network.

mod collect;
pub mod inhabitants;
pub mod plan;
pub mod rkt;
pub mod run;

use std::time::Instant;

use crate::reconcile::Problem;

/// What the collector has come to, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorState {
    /// It does look; false while it is switched off or the datastore is not in sync.
    pub looks: bool,
    /// How many pods rkt has; `None`: that is not known, so nothing is collected on its account.
    pub pods: Option<usize>,
    /// What looks left behind.
    pub suspected: Vec<Suspected>,
    /// How many things were collected since the agent started.
    pub collected: u64,
    /// What could not be read or removed.
    pub problems: Vec<Problem>,
}

/// Something that looks left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspected {
    /// `orchestrator/workload/endpoint`, or the handle of addresses.
    pub subject: String,
    /// What says so.
    pub why: String,
    /// Since when.
    pub since: Instant,
}
