//! Something is done while packets flow, and not one of them may be wrong.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Flow, Flows};
use crate::cluster::Cluster;
use crate::wait;

/// How long packets flow before the change and after it.
const WARM: Duration = Duration::from_millis(500);

/// Does `change` while `flows` run, and for a moment before and after it.
///
/// # Errors
/// When the change fails, a packet was lost or came where none may, or hardly any was sent.
pub fn during(
    cluster: &mut Cluster,
    flows: &[Flow],
    change: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let names: Vec<String> = cluster.sites().into_iter().map(|site| site.name).collect();
    names.iter().for_each(|name| cluster.stop_server(name));
    // A program that another test starts just now may still hold the sockets that were closed.
    let running = wait::until("free ports", Duration::from_secs(5), || {
        Flows::start(flows, &cluster.sites()).map(Some)
    })?;
    std::thread::sleep(WARM);
    change()?;
    std::thread::sleep(WARM);
    let tallies = running.finish()?;
    let wrong: Vec<String> =
        tallies.iter().filter(|tally| tally.wrong() > 0).map(ToString::to_string).collect();
    ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), cluster.logs());
    ensure!(tallies.iter().all(|tally| tally.sent >= 10), "hardly anything was sent: {tallies:?}");
    names.iter().try_for_each(|name| cluster.start_server(name)).context("servers")
}
