//! Everything that is known about this host, put together for whoever asks.

mod document;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use calico_datastore::model::WorkloadEndpointId;
use imbl::{OrdMap, OrdSet};
use tokio::sync::watch;

use crate::collector::CollectorState;
use crate::denied::Book;
use crate::desired::{DesiredState, Externals};
use crate::exec::Exec;
use crate::felix::tally::Tally;
use crate::reconcile::{EndpointState, HostStates, Problem, Report};
use crate::status::combine::worst;
use crate::status::document::{HangingLoop, Overall};
use crate::status::watchdog::Silence;
use crate::stored::describe;

/// What the reading of the datastore has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncState {
    /// What is waited for.
    pub waiting: Option<String>,
    /// The last revision.
    pub revision: i64,
    /// A complete snapshot was read at least once.
    pub complete: bool,
    /// Refused keys, and why. There may be many, and every reader has a copy.
    pub rejected: OrdMap<String, String>,
    /// Those of them whose last version is in force. The others count as absent; what counts in the
    /// place of a file stands in its reason.
    pub kept: OrdSet<String>,
    /// Kinds not supported yet, and kinds of staged policies.
    pub unsupported: BTreeMap<String, usize>,
    /// Settings that were refused.
    pub settings: Vec<Problem>,
    /// Whose names and order of policies hold, and who says so. Empty before the first complete
    /// snapshot.
    pub policy_order: String,
}

impl SyncState {
    /// True when a complete snapshot was read and nothing is waited for.
    pub fn is_in_sync(&self) -> bool {
        self.complete && self.waiting.is_none()
    }
}

/// A part of the dataplane and what it said last.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Its last report.
    pub report: watch::Receiver<Option<Report>>,
    /// True: the host is not ready before this part is. BIRD's absence never holds up the rest.
    pub required: bool,
}

/// What the registration of this host has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// In words.
    pub text: String,
    /// It is done; else it is under way or tried again.
    pub done: bool,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl Registration {
    fn is_clean(&self) -> bool {
        self.done && self.problems.is_empty()
    }
}

impl Default for Registration {
    fn default() -> Self {
        Self { text: "not registered yet".to_owned(), done: false, problems: Vec::new() }
    }
}

/// The sources of the overview; each holds its newest value.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Which datastore it is, and where.
    pub location: String,
    /// This host's name.
    pub node: String,
    /// When the agent started.
    pub started: Instant,
    /// The datastore.
    pub sync: watch::Receiver<SyncState>,
    /// What the registration has come to.
    pub registration: watch::Receiver<Registration>,
    /// The desired state.
    pub desired: watch::Receiver<Option<Arc<DesiredState>>>,
    /// The parts of the dataplane.
    pub parts: Vec<Part>,
    /// A desired state was completely in force once.
    pub ready: watch::Receiver<bool>,
    /// Files that cannot be written.
    pub files: watch::Receiver<Vec<Problem>>,
    /// Loops that give no sign of life.
    pub silent: watch::Receiver<Vec<Silence>>,
    /// The policy on disk cannot be read or written.
    pub kept: watch::Receiver<Vec<Problem>>,
    /// The file with the MTU of pods is not as it should be.
    pub mtu: watch::Receiver<Vec<Problem>>,
    /// Denied packets cannot be told.
    pub denied: watch::Receiver<Vec<Problem>>,
    /// Rules of others drop what policy accepts.
    pub beside: watch::Receiver<Vec<Problem>>,
    /// The last denied packets.
    pub book: Book,
    /// What the collector has come to.
    pub collector: watch::Receiver<CollectorState>,
    /// BIRD's control socket.
    pub bird_socket: PathBuf,
    /// Starts what reads the ports that others forward; `None`: they are not looked at.
    pub programs: Option<Exec>,
    /// Reads what was counted for endpoints; `None`: that is not looked at.
    pub tally: Option<Tally>,
}

impl Overview {
    /// In one word.
    pub fn overall(&self) -> Overall {
        let sync = self.sync.borrow().clone();
        self.overall_with(&sync)
    }

    fn overall_with(&self, sync: &SyncState) -> Overall {
        // What failed later leaves in force what was: that is not the beginning again.
        let desired = self.desired.borrow().clone();
        let Some(desired) = desired.filter(|_| *self.ready.borrow()) else {
            return Overall::Starting;
        };
        let reports = self.reports();
        let in_force = reports.iter().all(|(_, report)| {
            report
                .as_ref()
                .is_some_and(|report| report.problems.is_empty() && report.applied.is_some())
        });
        let clean = in_force
            && self.silent.borrow().is_empty()
            && sync.waiting.is_none()
            && sync.rejected.is_empty()
            && sync.settings.is_empty()
            && self.files.borrow().is_empty()
            && self.kept.borrow().is_empty()
            && self.mtu.borrow().is_empty()
            && self.denied.borrow().is_empty()
            && self.beside.borrow().is_empty()
            && self.collector.borrow().problems.is_empty()
            && desired.notices.is_empty()
            && self.registration.borrow().is_clean();
        if clean { Overall::Ready } else { Overall::Degraded }
    }

    /// True when the newest desired state is in force in every required part. A policy from disk
    /// does not count: it may be old.
    pub fn complete(&self) -> bool {
        let Some(desired) = self.desired.borrow().clone() else { return false };
        if desired.origin.is_stored() {
            return false;
        }
        self.reports().iter().filter(|(part, _)| part.required).all(|(_, report)| {
            report.as_ref().is_some_and(|report| report.applied >= Some(desired.generation))
        })
    }

    /// The loops that give no sign of life.
    pub fn hanging(&self) -> Vec<HangingLoop> {
        let silent = self.silent.borrow();
        let hanging = silent.iter().map(|silence| HangingLoop {
            name: silence.name.to_owned(),
            seconds: silence.since.elapsed().as_secs(),
        });
        hanging.collect()
    }

    /// Why nothing is told of denied packets; `None` when they are.
    pub fn denied_unread(&self) -> Option<String> {
        let on = |desired: &Arc<DesiredState>| desired.settings.denied_log;
        if !self.desired.borrow().as_ref().is_some_and(on) {
            let how = "denied packets are not reported: set DeniedLog (`denied_log = true` in \
                       agent.toml, then `systemctl reload calico-agent`)";
            return Some(how.to_owned());
        }
        self.denied.borrow().first().map(|problem| problem.message.clone())
    }

    /// Returns when nothing is told of denied packets any more.
    pub async fn denied_unread_from_now_on(&self) {
        let (mut desired, mut problems) = (self.desired.clone(), self.denied.clone());
        while self.denied_unread().is_none() {
            let ended = tokio::select! {
                changed = desired.changed() => changed.is_err(),
                changed = problems.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    /// One line for `systemctl status`.
    pub fn summary(&self) -> String {
        let hanging = self.hanging();
        if !hanging.is_empty() {
            let names: Vec<_> = hanging.into_iter().map(|hanging| hanging.name).collect();
            return format!("no sign of life from {}", names.join(", "));
        }
        // Cloned: a second borrow of the same channel while the first is held waits for a writer
        // that came between the two, and the writer waits for the first.
        let sync = self.sync.borrow().clone();
        let desired = self.desired.borrow().clone();
        let stored =
            desired.as_ref().and_then(|desired| describe(desired.origin, SystemTime::now()));
        if let Some(stored) = stored {
            return match &sync.waiting {
                Some(reason) => format!("{stored}, waiting for the datastore: {reason}"),
                None => format!("{stored}, waiting for the datastore"),
            };
        }
        let endpoints = desired.map_or(0, |desired| desired.endpoints.len());
        match (&sync.waiting, sync.complete) {
            (Some(reason), false) => format!("waiting for the datastore: {reason}"),
            (Some(reason), true) => {
                format!("{endpoints} endpoints in force; waiting for the datastore: {reason}")
            }
            (None, false) => "reading the datastore".to_owned(),
            (None, true) => match self.overall_with(&sync) {
                Overall::Starting => format!("programming {endpoints} endpoints"),
                Overall::Ready => format!("{endpoints} endpoints in force"),
                Overall::Degraded => {
                    format!("{endpoints} endpoints in force; degraded: see calico-agent status")
                }
            },
        }
    }

    fn reports(&self) -> Vec<(&Part, Option<Report>)> {
        self.parts.iter().map(|part| (part, part.report.borrow().clone())).collect()
    }

    /// The state of one endpoint over all parts that care for endpoints.
    pub fn endpoint_state(&self, id: &WorkloadEndpointId) -> EndpointState {
        let states = self.parts.iter().filter(|part| part.required).map(|part| {
            let report = part.report.borrow();
            let said = report.as_ref().and_then(|report| report.endpoints.get(id).cloned());
            said.unwrap_or_else(|| EndpointState::Down(format!("waiting for {}", part.name)))
        });
        states.reduce(worst).unwrap_or(EndpointState::Up)
    }

    /// Where external addresses lead; `None`: no part has said so.
    pub fn externals(&self) -> Option<Arc<Externals>> {
        self.parts.iter().find_map(|part| part.report.borrow().as_ref()?.externals.clone())
    }

    /// What became of the host endpoints.
    fn host_states(&self) -> HostStates {
        let reports = self.reports().into_iter().filter_map(|(_, report)| report);
        reports.flat_map(|report| report.hosts).collect()
    }
}

#[cfg(test)]
mod tests;
