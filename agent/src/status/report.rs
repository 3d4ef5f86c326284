//! Writes the status keys: the host's on a timer, an endpoint's when it changed.
//!
//! A datastore that does not answer costs nothing but the report; the newest state is written
//! when it answers again.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::future::pending;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_datastore::layout::Reports;
use calico_datastore::model::Name;
use imbl::ordmap::DiffItem;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::combine::States;
use super::keys::{self, EndpointKeys, Write};
use super::systemd::Heartbeat;
use crate::config::Settings;
use crate::reconcile::HostStates;
use calico_datastore::store::{Store, StoreError};

/// The endpoints' keys are compared with the store this often: somebody may have written there.
const RELIST: Duration = Duration::from_secs(3600);

/// After a failure nothing is tried for this long.
const PAUSE: Duration = Duration::from_secs(3);

/// How many reasons of one outage are given.
const MOST_SAID: usize = 5;

/// What the reporter follows.
#[derive(Debug)]
pub struct Inputs {
    /// Where the store has reports.
    pub reports: Reports,
    /// The settings; a change counts at once.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The state of each endpoint; `None` until the first complete apply, and until then nothing
    /// is reported.
    pub states: watch::Receiver<Option<States>>,
    /// The state of each host endpoint; counts with the first `states`.
    pub hosts: watch::Receiver<HostStates>,
    /// The watchdog's question.
    pub heartbeat: Heartbeat,
}

/// Reports until a sender of its inputs is gone. Cancel-safe: a report that was cut off is written
/// by the next run.
pub async fn run<S: Store>(store: S, node: Name, started: Instant, mut inputs: Inputs) {
    let mut reporter = Reporter::new(store, node, started, inputs.reports);
    reporter.learn(&mut inputs);
    loop {
        // Each arm only waits; what follows is done after the select, so nothing is cut in half.
        tokio::select! {
            changed = inputs.settings.changed() => if changed.is_err() { return },
            changed = inputs.states.changed() => if changed.is_err() { return },
            changed = inputs.hosts.changed() => if changed.is_err() { return },
            () = inputs.heartbeat.beat() => {}
            () = until(reporter.next_wake()) => {}
        }
        reporter.learn(&mut inputs);
        let mut work = std::pin::pin!(reporter.work());
        loop {
            // The work is pinned outside and polled to its end. It waits for the store alone, which
            // bounds each call in time: that is no hang.
            tokio::select! {
                () = &mut work => break,
                () = inputs.heartbeat.beat() => {}
            }
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

struct Reporter<S> {
    store: S,
    node: Name,
    started: Instant,
    settings: Arc<Settings>,
    complete: bool,
    known: States,
    hosts: HostStates,
    reports: Reports,
    keys: EndpointKeys,
    first: bool,
    host_due: Option<Instant>,
    endpoint_due: Instant,
    relist_due: Option<Instant>,
    paused_until: Option<Instant>,
    /// The reasons that were given since it worked last. Of an outage there are several, which take
    /// turns.
    said: BTreeSet<String>,
}

impl<S: Store> Reporter<S> {
    fn new(store: S, node: Name, started: Instant, reports: Reports) -> Self {
        Self {
            store,
            node,
            started,
            settings: Arc::default(),
            complete: false,
            known: States::new(),
            hosts: HostStates::new(),
            reports,
            keys: EndpointKeys::new(reports),
            first: true,
            host_due: None,
            endpoint_due: started,
            relist_due: None,
            paused_until: None,
            said: BTreeSet::new(),
        }
    }

    /// Takes over what the inputs say now.
    fn learn(&mut self, inputs: &mut Inputs) {
        let settings = inputs.settings.borrow_and_update().clone();
        let states = inputs.states.borrow_and_update().clone();
        let now = Instant::now();
        let first = states.is_some() && !self.complete;
        let other_interval = settings.reporting_interval != self.settings.reporting_interval;
        if first || (self.complete && other_interval) {
            self.host_due = (!settings.reporting_interval.is_zero()).then_some(now);
        }
        let switched_on = settings.endpoint_reporting && !self.settings.endpoint_reporting;
        if settings.endpoint_reporting && (first || (self.complete && switched_on)) {
            self.relist_due = Some(now);
        } else if !settings.endpoint_reporting {
            self.relist_due = None;
        }
        self.settings = settings;
        if let Some(states) = states {
            self.complete = true;
            for item in self.known.diff(&states) {
                match item {
                    DiffItem::Add(id, state) | DiffItem::Update { new: (id, state), .. } => {
                        self.keys.set(id, Some(state));
                    }
                    DiffItem::Remove(id, _) => self.keys.set(id, None),
                }
            }
            self.known = states;
            self.learn_hosts(inputs.hosts.borrow_and_update().clone());
        }
    }

    fn learn_hosts(&mut self, hosts: HostStates) {
        for id in self.hosts.keys().filter(|id| !hosts.contains_key(*id)) {
            self.keys.set_host(&self.node, id, None);
        }
        for (id, host) in &hosts {
            self.keys.set_host(&self.node, id, Some(&host.state));
        }
        self.hosts = hosts;
    }

    /// When there is something to do next.
    fn next_wake(&self) -> Option<Instant> {
        let endpoint =
            (self.reports_endpoints() && self.keys.next().is_some()).then_some(self.endpoint_due);
        let next = [self.host_due, self.relist_due, endpoint].into_iter().flatten().min()?;
        Some(self.paused_until.map_or(next, |paused| paused.max(next)))
    }

    fn reports_endpoints(&self) -> bool {
        self.complete && self.settings.endpoint_reporting
    }

    /// Does what is due.
    async fn work(&mut self) {
        let now = Instant::now();
        if !self.complete || self.paused_until.is_some_and(|paused| paused > now) {
            return;
        }
        self.paused_until = None;
        match self.write_due(now).await {
            Ok(()) => self.said.clear(),
            Err(error) => {
                self.paused_until = Some(Instant::now() + PAUSE);
                let message = format!("{error}: {}", error.source);
                if self.said.len() < MOST_SAID && self.said.insert(message.clone()) {
                    tracing::warn!(reason = %message, "status not reported; trying again");
                }
            }
        }
    }

    async fn write_due(&mut self, now: Instant) -> Result<(), StoreError> {
        if self.host_due.is_some_and(|due| due <= now) {
            self.write_host().await?;
            let random = RandomState::new().build_hasher().finish();
            let next = keys::next_report(self.settings.reporting_interval, random);
            self.host_due = next.map(|time| now + time);
        }
        if self.relist_due.is_some_and(|due| due <= now) {
            let lists = [
                self.reports.workload_statuses_of(&self.node),
                self.reports.host_endpoint_statuses_of(&self.node),
            ];
            let mut stored = Vec::new();
            for list in lists {
                stored.extend(self.store.list(&list).await?);
            }
            self.keys.listed(stored.into_iter().map(|(key, stored)| (key, stored.value)));
            self.relist_due = Some(now + RELIST);
        }
        let may_write = self.reports_endpoints() && self.endpoint_due <= now;
        if let Some(write) = self.keys.next().filter(|_| may_write) {
            self.write_endpoint(&write).await?;
            self.keys.done(write);
            self.endpoint_due = now + self.settings.endpoint_reporting_delay;
        }
        Ok(())
    }

    async fn write_host(&mut self) -> Result<(), StoreError> {
        let value = keys::host_value(SystemTime::now(), self.started.elapsed(), self.first);
        let ttl = Some(self.settings.reporting_ttl).filter(|ttl| !ttl.is_zero());
        self.store.put(&self.reports.host_status(&self.node), value.as_bytes(), ttl).await?;
        self.store.put(&self.reports.host_last_status(&self.node), value.as_bytes(), None).await?;
        self.first = false;
        Ok(())
    }

    async fn write_endpoint(&self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Put { key, value } => self.store.put(key, value.as_bytes(), None).await,
            Write::Delete { key } => self.store.delete(key).await,
        }
    }
}

#[cfg(test)]
mod tests;
