//! The task that keeps the file up to date.
//!
//! What is kept is what was really in force: a state is put on disk about a second after every
//! required part of the dataplane has run with it and nothing newer came. One refused object, which
//! may stand for weeks, does not keep it from the disk: everything else of it is in force, and after
//! a boot an older state would let pass again what was closed since. The state is an immutable
//! value, so holding it costs nothing; the text is made and written on a thread of its own, which
//! nobody waits for but this task. Where policy changes all the time the file lags behind: the time
//! that is spent on it, and what goes to the disk, are small shares of the whole. At the end of the
//! agent what is in force is written at once.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_datastore::model::Name;
use futures::FutureExt as _;
use futures::future::select_all;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::StoreSettings;
use super::file::{self, FileError};
use super::format::Draft;
use super::start::problem;
use crate::desired::{DesiredState, Origin};
use crate::reconcile::{Problem, Report};
use crate::status::overview::SyncState;
use crate::status::systemd::Heartbeat;
use crate::telemetry::chain;

/// Nothing has to have changed for this long: what comes in a burst is written once.
const QUIET: Duration = Duration::from_secs(1);
/// Where something changes all the time: this long after the first change at the latest.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pause of this many times what the last write took.
const PAUSE_FACTOR: u32 = 50;
/// In the long run not more than this many bytes a second.
const BYTES_PER_SECOND: u64 = 1 << 20;
/// When a write failed.
const RETRY: Duration = Duration::from_secs(10);
/// So many of the last states are remembered until they are in force: where something changes all
/// the time there is nearly always a newer one.
const REMEMBERED: usize = 16;
/// While the datastore is followed and says nothing new, the time in the file is brought up to date
/// this often: its age is how long ago it was known to be right.
const REFRESH: Duration = Duration::from_secs(3600);

/// Which file, and what is written into it besides the policy.
#[derive(Clone, Debug)]
pub struct Place {
    /// [`crate::paths::Paths::stored_policy`].
    pub file: PathBuf,
    /// [`crate::paths::Paths::policy_marker`].
    pub marker: PathBuf,
    /// This host.
    pub node: Name,
    /// This boot; when it is empty nothing is kept.
    pub boot: String,
}

/// What the keeper follows.
#[derive(Debug)]
pub struct Inputs {
    /// The desired state.
    pub desired: watch::Receiver<Option<Arc<DesiredState>>>,
    /// What the datastore says about settings.
    pub settings: watch::Receiver<StoreSettings>,
    /// What the reading of the datastore has come to.
    pub sync: watch::Receiver<SyncState>,
    /// The required parts of the dataplane.
    pub reports: Vec<watch::Receiver<Option<Report>>>,
    /// Wants to be told when everything that is in force is on disk: the agent is about to end.
    pub flush: mpsc::Receiver<oneshot::Sender<()>>,
    /// The watchdog's question.
    pub heartbeat: Heartbeat,
}

/// What is to be kept.
#[derive(Clone, Debug)]
struct Snapshot {
    state: Arc<DesiredState>,
    settings: StoreSettings,
}

impl Snapshot {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state) && self.settings == other.settings
    }
}

/// Keeps the file until an input ends. `problems`: what is wrong with it.
pub async fn run(place: Place, mut inputs: Inputs, problems: watch::Sender<Vec<Problem>>) {
    let mut schedule = Schedule::default();
    let mut recent = VecDeque::new();
    let mut marked = place.boot.is_empty();
    let mut asked: Option<oneshot::Sender<()>> = None;
    loop {
        if !marked && inputs.follows_datastore() {
            marked = true;
            mark(&place);
        }
        inputs.remember(&mut recent);
        if let Some(snapshot) = inputs.in_force(&recent).filter(|_| !place.boot.is_empty()) {
            schedule.see(snapshot, Instant::now());
        }
        if let Some(done) = asked.take() {
            if schedule.unwritten.is_some() {
                schedule.write(&place, &mut inputs.heartbeat, &problems).await;
            }
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
        let in_sync = inputs.sync.borrow().is_in_sync();
        let due = async {
            match schedule.due(in_sync) {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let reports = select_all(inputs.reports.iter_mut().map(|report| report.changed().boxed()));
        tokio::select! {
            // Every arm only waits and is cancel-safe.
            changed = inputs.desired.changed() => if changed.is_err() { return },
            changed = inputs.settings.changed() => if changed.is_err() { return },
            changed = inputs.sync.changed() => if changed.is_err() { return },
            (changed, _, _) = reports => if changed.is_err() { return },
            () = inputs.heartbeat.beat() => {}
            () = due => schedule.write(&place, &mut inputs.heartbeat, &problems).await,
            // Answered above: something may have come with the question.
            Some(done) = inputs.flush.recv() => asked = Some(done),
        }
    }
}

impl Inputs {
    /// True when the kernel is given what the datastore says.
    fn follows_datastore(&self) -> bool {
        self.desired.borrow().as_ref().is_some_and(|state| state.origin == Origin::Datastore)
    }

    /// Adds the newest state to the last ones.
    fn remember(&self, recent: &mut VecDeque<Arc<DesiredState>>) {
        let Some(state) = self.desired.borrow().clone() else { return };
        if state.origin.is_stored() || recent.back().is_some_and(|last| Arc::ptr_eq(last, &state)) {
            return;
        }
        recent.push_back(state);
        if recent.len() > REMEMBERED {
            recent.pop_front();
        }
    }

    /// The newest of the last states that every required part has put in force, as far as it goes.
    fn in_force(&self, recent: &VecDeque<Arc<DesiredState>>) -> Option<Snapshot> {
        let given = |report: &watch::Receiver<Option<Report>>| {
            report.borrow().as_ref().and_then(|report| report.applied.max(report.given))
        };
        let given = self.reports.iter().map(given).min().flatten()?;
        let state = recent.iter().rev().find(|state| state.generation <= given)?;
        Some(Snapshot { state: Arc::clone(state), settings: self.settings.borrow().clone() })
    }
}

/// When to write what; pure but for [`Schedule::write`].
#[derive(Debug, Default)]
struct Schedule {
    /// What was in force last.
    newest: Option<Snapshot>,
    /// What is on disk, and since when.
    written: Option<(Snapshot, Instant)>,
    /// Since when something else than that was in force, and since when this is.
    unwritten: Option<(Instant, Instant)>,
    /// Not before.
    pause: Option<Instant>,
}

impl Schedule {
    /// `snapshot` is in force.
    fn see(&mut self, snapshot: Snapshot, now: Instant) {
        if self.newest.as_ref().is_some_and(|newest| newest.is(&snapshot)) {
            return;
        }
        let first = self.unwritten.map_or(now, |(first, _)| first);
        self.unwritten = Some((first, now));
        self.newest = Some(snapshot);
    }

    /// When `newest` is to be written.
    fn due(&self, in_sync: bool) -> Option<Instant> {
        let due = match (self.unwritten, &self.written) {
            (Some((first, last)), _) => (last + QUIET).min(first + PATIENCE),
            (None, Some((_, at))) if in_sync => *at + REFRESH,
            _ => return None,
        };
        Some(self.pause.map_or(due, |pause| pause.max(due)))
    }

    /// Writes the newest.
    async fn write(
        &mut self,
        place: &Place,
        heartbeat: &mut Heartbeat,
        problems: &watch::Sender<Vec<Problem>>,
    ) {
        let Some(snapshot) = self.newest.clone() else { return };
        let result = write(place, snapshot.clone(), heartbeat).await;
        tell(problems, result.as_ref().err());
        self.wrote(snapshot, result.ok(), Instant::now());
    }

    /// A write has ended: `done` when it succeeded.
    fn wrote(&mut self, snapshot: Snapshot, done: Option<Done>, now: Instant) {
        let Some(Done { bytes, took }) = done else {
            self.unwritten.get_or_insert((now, now));
            self.pause = Some(now + RETRY);
            return;
        };
        let volume = Duration::from_secs(bytes / BYTES_PER_SECOND);
        self.pause = Some(now + QUIET.max(took * PAUSE_FACTOR).max(volume));
        // Nothing was seen while it was written.
        self.unwritten = None;
        self.written = Some((snapshot, now));
    }
}

/// A write that succeeded.
#[derive(Clone, Copy, Debug)]
struct Done {
    bytes: u64,
    took: Duration,
}

/// Writes on a thread of its own. A disk that hangs holds up this task and nothing else; the
/// watchdog is answered meanwhile.
async fn write(
    place: &Place,
    snapshot: Snapshot,
    heartbeat: &mut Heartbeat,
) -> Result<Done, FileError> {
    let Snapshot { state, settings } = snapshot;
    let (generation, path) = (state.generation, place.file.clone());
    let (node, boot) = (place.node.clone(), place.boot.clone());
    let draft = Draft { node, boot, written: SystemTime::now(), state, settings };
    let begin = Instant::now();
    let mut job = tokio::task::spawn_blocking(move || file::replace(&path, &draft));
    let result = loop {
        tokio::select! {
            // The job is held outside and goes on when this is dropped; an unanswered question
            // stays.
            result = &mut job => break result,
            () = heartbeat.beat() => {}
        }
    };
    let lost =
        |error| FileError::Write { path: place.file.clone(), source: std::io::Error::other(error) };
    let bytes = result.map_err(lost)??;
    let took = begin.elapsed();
    tracing::debug!(generation, bytes, ?took, "the policy in force was put on disk");
    Ok(Done { bytes, took })
}

/// From here on the kernel may hold something newer than the file.
fn mark(place: &Place) {
    // In memory: this waits for no disk.
    if let Err(error) = std::fs::write(&place.marker, format!("{}\n", place.boot)) {
        let path = place.marker.display();
        tracing::warn!(%path, %error, "cannot note that the policy on disk may be older");
    }
}

/// Passes on what is wrong, and says it once.
fn tell(problems: &watch::Sender<Vec<Problem>>, error: Option<&FileError>) {
    let now: Vec<Problem> = error.map(|error| problem(chain(error))).into_iter().collect();
    problems.send_if_modified(|before| {
        let changed = *before != now;
        if changed {
            match now.first() {
                Some(problem) => tracing::warn!(subject = problem.subject, "{}", problem.message),
                None => tracing::info!("the policy in force is on disk again"),
            }
            *before = now;
        }
        changed
    });
}

#[cfg(test)]
mod tests;
