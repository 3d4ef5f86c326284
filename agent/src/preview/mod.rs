//! `calico-agent plan`: what the agent would write now.
//!
//! It reads the configuration, one snapshot of the datastore and the kernel as `run` does when it
//! starts, makes the same plans with the same functions, and prints them instead of carrying them
//! out. It takes no lock, so it works beside a running agent, whose plans are empty when everything
//! is as it should be. What the agent writes to the datastore is not shown.

mod diff;
pub mod render;
pub mod snapshot;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::exec::Exec;
use crate::felix::preview::{FelixPreview, GroupChange, SysctlChange, TableChange};
use crate::node::name::{self, NameError};
use crate::reconcile::{Problem, World};
use crate::routes::bird::{self, BirdPreview};
use crate::routes::monitor::{Monitor, MonitorError};
use crate::routes::preview::RouteChange;
use crate::startup::Startup;
use crate::status::document::Instead;
use crate::status::systemd::Heartbeat;
use crate::{felix, routes};
use snapshot::{Snapshot, SnapshotError};

/// The longest that the datastore is waited for.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(10);

/// What would be written. Empty lists: nothing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// The host that it is for.
    pub node: String,
    /// The revision of the datastore that it was made from.
    pub revision: i64,
    /// The dataplane that would be used, and why.
    pub dataplane: String,
    /// What our own table of nf_tables would be told in one transaction, as `nft -f` takes it.
    pub nftables: Vec<String>,
    /// Interfaces that come into other groups after that.
    pub groups: Vec<GroupChange>,
    /// And in another transaction, after that.
    pub nftables_after: Vec<String>,
    /// Address sets before the tables are written, as `ipset restore` takes them.
    pub sets_before: Vec<String>,
    /// What goes to `iptables-restore --noflush`.
    pub tables: Vec<TableChange>,
    /// And after that.
    pub sets_after: Vec<String>,
    /// Kernel parameters.
    pub sysctls: Vec<SysctlChange>,
    /// Routes and neighbours.
    pub routes: Vec<RouteChange>,
    /// BIRD's configuration: a unified diff.
    pub bird: Option<String>,
    /// What is in the datastore or the kernel and keeps the host from being as it should be,
    /// whatever is written.
    pub problems: Vec<Problem>,
}

impl Plan {
    /// True when there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.nftables.is_empty()
            && self.groups.is_empty()
            && self.nftables_after.is_empty()
            && self.sets_before.is_empty()
            && self.tables.is_empty()
            && self.sets_after.is_empty()
            && self.sysctls.is_empty()
            && self.routes.is_empty()
            && self.bird.is_none()
    }
}

/// It could not be told.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// This host has no usable name.
    #[error("cannot tell this host's name")]
    Name(#[source] NameError),
    /// The datastore could not be read.
    #[error("cannot read what should be")]
    Snapshot(#[source] SnapshotError),
    /// The links could not be read.
    #[error("cannot list the interfaces")]
    Links(#[source] MonitorError),
    /// Tables, sets or parameters could not be read.
    #[error("cannot read what is there of policy")]
    Felix(#[source] felix::preview::PreviewError),
    /// Routes or neighbours could not be read.
    #[error("cannot read the routes")]
    Routes(#[source] routes::kernel::KernelError),
    /// BIRD's file could not be read.
    #[error("cannot read BIRD's configuration")]
    Bird(#[source] bird::FileError),
}

/// Makes the plan.
///
/// # Errors
/// When anything that it depends on cannot be read.
pub async fn preview(startup: Startup) -> Result<Plan, PlanError> {
    let Startup { paths, local, layers, .. } = startup;
    let (node, _) = name::determine(&local.node, &paths.nodename()).map_err(PlanError::Name)?;
    let location = local.datastore.below(&paths.state_dir);
    let Snapshot { desired, sync } =
        snapshot::read(&location, node.clone(), layers, SNAPSHOT_LIMIT)
            .await
            .map_err(PlanError::Snapshot)?;
    let prefixes = desired.settings.interface_prefixes.clone();
    let (monitor, _task) =
        Monitor::start(prefixes, Heartbeat::unasked()).await.map_err(PlanError::Links)?;
    let links = monitor.links.borrow().clone();
    let world = World { desired, links };

    let exec = Exec::default();
    let config = paths.bird_config();
    let (policy, routes, bird) = tokio::join!(
        felix::preview::preview(&exec, PathBuf::from("/proc/sys"), &world),
        routes::preview::preview(&world),
        bird::preview(&config, &world),
    );
    let FelixPreview {
        dataplane,
        nftables,
        groups,
        nftables_after,
        before,
        tables,
        after,
        sysctls,
        mut problems,
    } = policy.map_err(PlanError::Felix)?;
    let (routes, conflicts) = routes.map_err(PlanError::Routes)?;
    problems.extend(conflicts);
    let bird = match bird.map_err(PlanError::Bird)? {
        BirdPreview::Change { from, to } => {
            Some(diff::unified(&config.display().to_string(), &from, &to))
        }
        BirdPreview::Same => None,
        BirdPreview::None(problem) => {
            problems.push(problem);
            None
        }
    };
    let rejected = sync.rejected.iter();
    problems.extend(rejected.map(|(key, reason)| Problem {
        subject: key.to_string(),
        message: match Instead::of(key, sync.kept.contains(key)).said() {
            Some(instead) => format!("refused, {instead}: {reason}"),
            None => format!("refused: {reason}"),
        },
    }));
    problems.extend(sync.settings.iter().cloned());
    Ok(Plan {
        node: node.to_string(),
        revision: world.desired.revision,
        dataplane,
        nftables,
        groups,
        nftables_after,
        sets_before: before.iter().map(ToString::to_string).collect(),
        tables,
        sets_after: after.iter().map(ToString::to_string).collect(),
        sysctls,
        routes,
        bird,
        problems,
    })
}
