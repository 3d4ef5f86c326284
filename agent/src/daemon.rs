//! The composition root: makes the parts, connects them, and waits for the end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_datastore::backend::etcd3::{Etcd3, Etcd3Error};
use calico_datastore::model::Name;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::api::server;
use crate::calculation::{self, Outputs};
use crate::config::{Layers, Local};
use crate::exec::Exec;
use crate::felix::Felix;
use crate::reconcile::{self, Inputs, Reconciler, Report};
use crate::routes::bird::Bird;
use crate::routes::monitor::Monitor;
use crate::routes::Routes;
use crate::status::overview::{Overview, Part, SyncState};
use crate::watchdog::Watchdog;

/// How many batches may wait between the datastore and the calculation.
const QUEUE: usize = 64;

/// Why the daemon cannot run, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A directory cannot be made.
    #[error("cannot make the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A task ended although nobody stopped it.
    #[error("the {0} task ended unexpectedly")]
    TaskEnded(&'static str),
}
