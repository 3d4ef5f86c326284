//! Puts together what the parts of the dataplane report, and tells whoever waits for it: the CNI
//! plugin (files), the status keys (a channel), systemd (ready and the status line).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::model::WorkloadEndpointId;
use futures::FutureExt as _;
use futures::future::select_all;
use tokio::sync::watch;

use super::combine::{Combined, States};
use super::files::EndpointFiles;
use super::overview::Overview;
use super::systemd::{Heartbeat, Notifier};
use crate::config::Settings;
use crate::reconcile::{EndpointState, Problem};

/// How soon a file that could not be written is tried again.
const FILE_RETRY: Duration = Duration::from_secs(3);

/// Where the results go.
#[derive(Debug)]
pub struct Outputs {
    /// One state per endpoint; `None` until the first complete apply.
    pub states: watch::Sender<Option<States>>,
    /// The settings of the newest desired state.
    pub settings: watch::Sender<Arc<Settings>>,
    /// Files that cannot be written.
    pub problems: watch::Sender<Vec<Problem>>,
}

/// Runs until an input ends.
pub async fn run(
    overview: Arc<Overview>,
    outputs: Outputs,
    notifier: Notifier,
    mut heartbeat: Heartbeat,
) {
    let mut desired = overview.desired.clone();
    let mut sync = overview.sync.clone();
    let mut parts: Vec<_> = overview.parts.iter().map(|part| part.report.clone()).collect();
    let reporters: Vec<_> =
        overview.parts.iter().filter(|part| part.required).map(|part| part.name).collect();
    let mut aggregate = Aggregate {
        combined: Combined::new(&reporters),
        files: None,
        outputs,
        notifier,
        ready: false,
        overview: Arc::clone(&overview),
    };
    loop {
        aggregate.update();
        let reports = select_all(parts.iter_mut().map(|report| report.changed().boxed()));
        let retry = async {
            if aggregate.must_retry() {
                tokio::time::sleep(FILE_RETRY).await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            // Every arm only waits and is cancel-safe.
            changed = desired.changed() => if changed.is_err() { return },
            changed = sync.changed() => if changed.is_err() { return },
            (changed, _, _) = reports => if changed.is_err() { return },
            () = retry => {}
            () = heartbeat.beat() => {}
        }
    }
}

struct Aggregate {
    overview: Arc<Overview>,
    combined: Combined,
    files: Option<(PathBuf, EndpointFiles)>,
    outputs: Outputs,
    notifier: Notifier,
    ready: bool,
}

impl Aggregate {
    fn must_retry(&self) -> bool {
        self.files.as_ref().is_some_and(|(_, files)| files.has_pending())
            || !self.outputs.problems.borrow().is_empty()
    }

    fn update(&mut self) {
        self.notifier.status(&self.overview.summary());
        let Some(desired) = self.overview.desired.borrow().clone() else { return };
        self.outputs.settings.send_if_modified(|settings| {
            let changed = **settings != *desired.settings;
            if changed {
                *settings = Arc::clone(&desired.settings);
            }
            changed
        });
        let mut changed = Vec::new();
        for part in self.overview.parts.iter().filter(|part| part.required) {
            if let Some(report) = &*part.report.borrow() {
                changed.extend(self.combined.update(part.name, &report.endpoints));
            }
        }
        for id in &changed {
            say(id, self.combined.states().get(id));
        }
        let problems = self.update_files(desired.settings.endpoint_status_prefix.as_ref(), changed);
        self.outputs.problems.send_if_modified(|current| {
            let changed = *current != problems;
            if changed {
                for problem in problems.iter().filter(|problem| !current.contains(problem)) {
                    tracing::warn!(subject = problem.subject, "{}", problem.message);
                }
                *current = problems;
            }
            changed
        });
        if !self.ready && self.overview.complete() {
            self.ready = true;
            tracing::info!(
                endpoints = desired.endpoints.len(),
                generation = desired.generation,
                "ready: the desired state is in force"
            );
            self.notifier.ready();
        }
        if self.ready {
            self.outputs.states.send_replace(Some(self.combined.states().clone()));
        }
    }

    /// Keeps the directory of endpoint files; opens it (which empties it) when the setting changes.
    fn update_files(
        &mut self,
        prefix: Option<&PathBuf>,
        changed: Vec<WorkloadEndpointId>,
    ) -> Vec<Problem> {
        let is_up = |state: Option<&EndpointState>| state == Some(&EndpointState::Up);
        if self.files.as_ref().map(|(open, _)| open) != prefix {
            self.files = None;
        }
        let Some(prefix) = prefix else { return Vec::new() };
        let states = self.combined.states();
        if let Some((_, files)) = &mut self.files {
            return files.update(changed.into_iter().map(|id| {
                let up = is_up(states.get(&id));
                (id, up)
            }));
        }
        match EndpointFiles::open(prefix) {
            Ok(mut files) => {
                let all = states.iter().map(|(id, state)| (id.clone(), is_up(Some(state))));
                let problems = files.update(all);
                self.files = Some((prefix.clone(), files));
                problems
            }
            Err(error) => vec![Problem {
                subject: "endpoint status files".to_owned(),
                message: crate::telemetry::chain(&error),
            }],
        }
    }
}

/// One line for each change of an endpoint.
fn say(id: &WorkloadEndpointId, state: Option<&EndpointState>) {
    let endpoint = id.on_host();
    match state {
        Some(EndpointState::Up) => {
            tracing::info!(endpoint, "endpoint is up: policy and routes are in the kernel")
        }
        Some(EndpointState::Down(reason)) => tracing::info!(endpoint, reason, "endpoint is down"),
        Some(EndpointState::Error(reason)) => {
            tracing::warn!(endpoint, reason, "endpoint is not protected as it should be")
        }
        None => tracing::info!(endpoint, "endpoint is gone"),
    }
}
