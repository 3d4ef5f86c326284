//! Keeps the file with the MTU of pods.
//!
//! It is written when the datastore has been read, and again when interfaces of the host, default
//! routes, pools or settings change. Until then the file of the earlier run stays: it knew which
//! overlays there are.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::model::Cidr;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::{among, for_pods, is_pods, matching};
use crate::atomic_file;
use crate::config::Settings;
use crate::desired::{DesiredState, Overlay};
use crate::reconcile::Problem;
use crate::routes::defaults::{self, DefaultsError};
use crate::routes::monitor::Links;
use crate::status::systemd::Heartbeat;
use crate::telemetry::chain;

/// How soon what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the task looks at.
#[derive(Debug)]
pub struct Inputs {
    /// The pools and the settings.
    pub desired: watch::Receiver<Option<Arc<DesiredState>>>,
    /// The interfaces.
    pub links: watch::Receiver<Links>,
    /// Woken when default routes may have changed.
    pub default_routes: Arc<Notify>,
    /// The watchdog's question.
    pub heartbeat: Heartbeat,
}

/// The file is not as it should be.
#[derive(Debug, thiserror::Error)]
enum MtuError {
    #[error("cannot tell which interfaces lead to other hosts")]
    Routes(#[source] DefaultsError),
    #[error("cannot {operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the thread that writes the file ended early")]
    Thread(#[source] tokio::task::JoinError),
}

/// Keeps the file at `path` until an input ends. `problems`: what is wrong with it.
pub async fn run(path: PathBuf, mut inputs: Inputs, problems: watch::Sender<Vec<Problem>>) {
    let mut settled: Option<Basis> = None;
    let mut retry = None;
    loop {
        let basis = inputs.basis();
        if let Some(basis) = basis.filter(|basis| !basis.is_as(settled.as_ref())) {
            let result = {
                let mut work = pin!(settle(&path, &basis));
                loop {
                    tokio::select! {
                        // The work is pinned outside and polled to its end.
                        result = &mut work => break result,
                        () = inputs.heartbeat.beat() => {}
                    }
                }
            };
            retry = result.is_err().then(|| Instant::now() + RETRY);
            tell(&problems, result.err());
            settled = Some(basis);
        }
        let again = async {
            match retry {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Every arm only waits and is cancel-safe.
            changed = inputs.desired.changed() => if changed.is_err() { return },
            changed = inputs.links.changed() => if changed.is_err() { return },
            () = inputs.default_routes.notified() => settled = None,
            () = again => (settled, retry) = (None, None),
            () = inputs.heartbeat.beat() => {}
        }
    }
}

impl Inputs {
    /// What the choice is made from; `None` until the datastore has been read.
    fn basis(&mut self) -> Option<Basis> {
        let links = self.links.borrow_and_update().clone();
        let desired = self.desired.borrow_and_update().clone();
        let desired = desired.filter(|desired| !desired.origin.is_stored())?;
        let settings = Arc::clone(&desired.settings);
        Some(Basis { links, settings, overlays: desired.overlays.clone() })
    }
}

/// What the choice is made from, default routes aside.
#[derive(Debug)]
struct Basis {
    links: Links,
    settings: Arc<Settings>,
    overlays: OrdMap<Cidr, Overlay>,
}

impl Basis {
    /// True when the choice must be the same. Costs what differs: interfaces of pods come and go all
    /// the time, and do not count.
    fn is_as(&self, other: Option<&Self>) -> bool {
        let Some(other) = other else { return false };
        (Arc::ptr_eq(&self.settings, &other.settings) || self.settings == other.settings)
            && self.overlays == other.overlays
            && other.links.diff(&self.links).all(|item| {
                let (DiffItem::Add(name, _)
                | DiffItem::Remove(name, _)
                | DiffItem::Update { new: (name, _), .. }) = item;
                is_pods(name, &self.settings)
            })
    }
}

/// Chooses, and makes the file say so.
async fn settle(path: &Path, basis: &Basis) -> Result<(), MtuError> {
    let Basis { links, settings, overlays } = basis;
    let host = match matching(links, settings) {
        Some(found) => Some(found),
        None => {
            let indexes = defaults::interfaces().await.map_err(MtuError::Routes)?;
            among(links, settings, &indexes)
        }
    };
    let mtu = host.as_ref().and_then(|host| for_pods(host.mtu, overlays));
    let owned = path.to_owned();
    // A disk that hangs holds up a thread of its own.
    let job = tokio::task::spawn_blocking(move || bring(&owned, mtu));
    let changed = job.await.map_err(MtuError::Thread)??;
    match (mtu, host) {
        (Some(mtu), Some(host)) if changed => {
            tracing::info!(mtu, interface = %host.interface, host = host.mtu, "pods get this MTU");
        }
        (None, _) if changed => {
            tracing::info!("no interface says which MTU pods get: the CNI plugin decides");
        }
        _ => {}
    }
    Ok(())
}

/// Makes the file hold `mtu`, or go. True when it was otherwise.
fn bring(path: &Path, mtu: Option<u32>) -> Result<bool, MtuError> {
    let failed =
        |operation| move |source| MtuError::File { operation, path: path.to_owned(), source };
    let held = match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(failed("read")(error)),
    };
    let wanted = mtu.map(|mtu| mtu.to_string().into_bytes());
    if held == wanted {
        return Ok(false);
    }
    match wanted {
        Some(text) => atomic_file::replace(path, 0o644, |file| file.write_all(&text))
            .map_err(failed("write"))?,
        None => fs::remove_file(path).map_err(failed("remove"))?,
    }
    Ok(true)
}

/// Passes on what is wrong, and says it once.
fn tell(problems: &watch::Sender<Vec<Problem>>, error: Option<MtuError>) {
    let problem = |error| Problem { subject: "MTU of pods".to_owned(), message: chain(&error) };
    let now: Vec<Problem> = error.map(problem).into_iter().collect();
    problems.send_if_modified(|before| {
        let changed = *before != now;
        if changed {
            match now.first() {
                Some(problem) => tracing::warn!(subject = problem.subject, "{}", problem.message),
                None => tracing::info!("the MTU of pods is on disk again"),
            }
            *before = now;
        }
        changed
    });
}

#[cfg(test)]
mod tests;
