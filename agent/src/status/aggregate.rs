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
use crate::reconcile::{EndpointState, HostStates, Problem};
use crate::telemetry::event;

/// How soon a file that could not be written is tried again.
const FILE_RETRY: Duration = Duration::from_secs(3);

/// Where the results go.
#[derive(Debug)]
pub struct Outputs {
    /// One state per endpoint; `None` until the first complete apply.
    pub states: watch::Sender<Option<States>>,
    /// One state per host endpoint.
    pub hosts: watch::Sender<HostStates>,
    /// A desired state was completely in force once.
    pub ready: watch::Sender<bool>,
    /// Files that cannot be written.
    pub problems: watch::Sender<Vec<Problem>>,
}

/// Runs until an input ends. `files` is the directory of endpoint files, emptied before anything
/// was programmed; `None` when there is none or it could not be emptied yet.
pub async fn run(
    overview: Arc<Overview>,
    files: Option<EndpointFiles>,
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
        files,
        outputs,
        notifier,
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
    files: Option<EndpointFiles>,
    outputs: Outputs,
    notifier: Notifier,
}

impl Aggregate {
    fn must_retry(&self) -> bool {
        self.files.as_ref().is_some_and(EndpointFiles::has_pending)
            || !self.outputs.problems.borrow().is_empty()
    }

    fn update(&mut self) {
        let Some(desired) = self.overview.desired.borrow().clone() else {
            self.notifier.status(&self.overview.summary());
            return;
        };
        // What is said here is said of the state that every part has worked on.
        let required = self.overview.parts.iter().filter(|part| part.required);
        let given = required.map(|part| part.report.borrow().as_ref().and_then(|one| one.given));
        let generation = given.min().flatten();
        let _said = tracing::error_span!("reports", generation).entered();
        let (mut changed, mut rewritten) = (Vec::new(), Vec::new());
        let mut hosts = HostStates::new();
        for part in self.overview.parts.iter().filter(|part| part.required) {
            // What is in force from disk is told nobody: not that a pod may start, nor that it runs.
            if let Some(report) = part.report.borrow().as_ref().filter(|report| !report.stored) {
                let changes = self.combined.update(part.name, report);
                changed.extend(changes.states);
                rewritten.extend(changes.in_force);
                hosts.extend(report.hosts.clone());
            }
        }
        self.tell_hosts(hosts);
        // Somebody waits for the files.
        let prefix = desired.settings.endpoint_status_prefix.as_ref();
        let problems = self.update_files(prefix, rewritten);
        for id in &changed {
            say(id, &self.combined);
        }
        let mut news = !changed.is_empty();
        self.outputs.problems.send_if_modified(|current| {
            let changed = *current != problems;
            if changed {
                for problem in problems.iter().filter(|problem| !current.contains(problem)) {
                    let subject = problem.subject.as_str();
                    tracing::warn!(event = event::PROBLEM, subject, "{}", problem.message);
                }
                *current = problems;
            }
            changed
        });
        if !*self.outputs.ready.borrow() && self.overview.complete() {
            self.outputs.ready.send_replace(true);
            news = true;
            tracing::info!(
                event = event::READY,
                endpoints = desired.endpoints.len(),
                generation = desired.generation,
                "ready: the desired state is in force"
            );
            self.notifier.ready();
        }
        if news && *self.outputs.ready.borrow() {
            self.outputs.states.send_replace(Some(self.combined.states().clone()));
        }
        self.notifier.status(&self.overview.summary());
    }

    /// Tells of host endpoints, and says what changed of them.
    fn tell_hosts(&self, hosts: HostStates) {
        self.outputs.hosts.send_if_modified(|old| {
            for (id, host) in hosts.iter().filter(|(id, host)| old.get(*id) != Some(*host)) {
                let endpoint = id.name.as_str();
                match &host.state {
                    EndpointState::Up => {
                        tracing::info!(
                            event = event::ENDPOINT_UP,
                            endpoint,
                            "host endpoint is in force"
                        );
                    }
                    EndpointState::Down(reason) => {
                        tracing::info!(endpoint, reason, "host endpoint is down");
                    }
                    EndpointState::Error(reason) => {
                        tracing::warn!(
                            event = event::ENDPOINT_FAILED,
                            endpoint,
                            reason,
                            "host endpoint is not in force"
                        );
                    }
                }
            }
            for id in old.keys().filter(|id| !hosts.contains_key(*id)) {
                tracing::info!(endpoint = id.name.as_str(), "host endpoint is gone");
            }
            let differs = *old != hosts;
            *old = hosts;
            differs
        });
    }

    /// Keeps the directory of endpoint files; when the setting changes, empties the old one and the
    /// new one.
    fn update_files(
        &mut self,
        prefix: Option<&PathBuf>,
        changed: Vec<WorkloadEndpointId>,
    ) -> Vec<Problem> {
        let combined = &self.combined;
        let with_content = |id: WorkloadEndpointId| {
            let content = combined.in_force(&id).cloned();
            (id, content)
        };
        let mut problems = Vec::new();
        if let Some(files) =
            self.files.take_if(|files| Some(files.prefix()) != prefix.map(AsRef::as_ref))
        {
            problems = files.close();
        }
        let Some(prefix) = prefix else { return problems };
        if let Some(files) = &mut self.files {
            return files.update(changed.into_iter().map(with_content));
        }
        match EndpointFiles::open(prefix) {
            Ok(mut files) => {
                problems.extend(files.update(combined.states().keys().cloned().map(with_content)));
                self.files = Some(files);
            }
            Err(error) => problems.push(Problem {
                subject: "endpoint status files".to_owned(),
                message: crate::telemetry::chain(&error),
            }),
        }
        problems
    }
}

/// One line for each change of an endpoint.
fn say(id: &WorkloadEndpointId, combined: &Combined) {
    let endpoint = id.on_host();
    match combined.states().get(id) {
        Some(EndpointState::Up) => {
            tracing::info!(
                event = event::ENDPOINT_UP,
                endpoint,
                "endpoint is up: policy and routes are in the kernel"
            );
        }
        // One part is faster than the other; the line comes when both have spoken.
        Some(EndpointState::Down(reason)) if !combined.is_judged(id) => {
            tracing::debug!(endpoint, reason, "endpoint is down");
        }
        Some(EndpointState::Down(reason)) => tracing::info!(endpoint, reason, "endpoint is down"),
        Some(EndpointState::Error(reason)) => {
            tracing::warn!(
                event = event::ENDPOINT_FAILED,
                endpoint,
                reason,
                "endpoint is not as it should be"
            );
        }
        None => tracing::info!(endpoint, "endpoint is gone"),
    }
}

#[cfg(test)]
mod tests;
