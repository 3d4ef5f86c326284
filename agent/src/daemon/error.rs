//! Why the daemon ends.

use std::path::PathBuf;

use calico_datastore::location::OpenError;

use crate::api::server::ServerError;
use crate::felix;
use crate::lock::LockError;
use crate::node::name::NameError;
use crate::routes::monitor::MonitorError;

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
    /// This host has no usable name.
    #[error("cannot tell this host's name")]
    Name(#[source] NameError),
    /// The run directory is another agent's.
    #[error("cannot have the run directory")]
    Lock(#[source] LockError),
    /// The kernel does not tell its links and routes.
    #[error("cannot follow the kernel's interfaces")]
    Monitor(#[source] MonitorError),
    /// No dataplane can be programmed.
    #[error("this host cannot enforce policy")]
    Dataplane(#[source] felix::pick::PickError),
    /// etcd's configuration cannot work.
    #[error("cannot use the datastore configuration")]
    Datastore(#[source] OpenError),
    /// The socket cannot be opened.
    #[error("cannot answer questions")]
    Server(#[source] ServerError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
    /// The watchdog's thread cannot be made.
    #[error("cannot watch over the agent's loops")]
    Watchdog(#[source] std::io::Error),
    /// A task ended although nobody stopped it.
    #[error("the {0} task ended unexpectedly")]
    TaskEnded(&'static str),
}
