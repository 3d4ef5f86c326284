//! The generic loop around a reconciler.
//!
//! A reconciler compares what is with what should be and changes the difference. The loop decides
//! *when*: at once after a change of the desired state or of the links, on a slow timer, and again
//! after a failure with back-off. It always hands over the newest state, so a slow reconciler
//! skips states instead of queueing them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::model::WorkloadEndpointId;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::desired::DesiredState;
use crate::routes::monitor::Links;

/// Why a reconciler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// For the first time: compare everything, remove leftovers.
    Start,
    /// The desired state changed.
    Desired,
    /// Interfaces came, went, or changed.
    Links,
    /// Something else in the kernel changed under us (routes, neighbours).
    Kernel,
    /// The time it asked for has come.
    Timer,
    /// The last run failed.
    Retry,
}

/// What a reconciler looks at: both are immutable snapshots.
#[derive(Clone, Debug)]
pub struct World {
    /// What should be.
    pub desired: Arc<DesiredState>,
    /// The interfaces that are.
    pub links: Links,
}

/// What became of one endpoint in one part of the dataplane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "reason")]
pub enum EndpointState {
    /// Programmed.
    Up,
    /// Not programmed for a reason that is no error: interface missing or down, endpoint inactive.
    Down(String),
    /// Could not be programmed.
    Error(String),
}

/// Something that keeps the host from being as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about: an endpoint, a policy, a program.
    pub subject: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// What a reconciler says after a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The generation of the desired state that is completely in force, when one is.
    pub applied: Option<u64>,
    /// The endpoints it cares for. Empty when it cares for none (BIRD).
    pub endpoints: OrdMap<WorkloadEndpointId, EndpointState>,
    /// What is wrong, sorted.
    pub problems: Vec<Problem>,
    /// What people should know: the dataplane in use and why, counters. Shown by `status`.
    pub facts: BTreeMap<String, String>,
    /// Run again after this time, even when nothing changes (refresh, a grace that ends).
    pub wake_after: Option<Duration>,
    /// True: what failed may work if tried again soon; the loop backs off.
    pub retry: bool,
}

/// Something that makes a part of the world equal to its part of the desired state.
pub trait Reconciler: Send {
    /// Its name in logs, `status` and the watchdog.
    const NAME: &'static str;

    /// Makes it so. Never fails as a whole: what could not be done is in the report.
    fn reconcile(&mut self, world: &World, wake: Wake) -> impl Future<Output = Report> + Send;
}
