//! The status document, made of everything that is known.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use calico_datastore::model::WorkloadEndpointId;
use calico_datastore::timestamp::rfc3339;

use super::Overview;
use crate::collector::CollectorState;
use crate::desired::{DesiredState, Externals, LocalEndpoint, Origin};
use crate::drift::Repair;
use crate::felix::iptables::forwarded::read as read_forwarded;
use crate::felix::tally::Tallies;
use crate::reconcile::Problem;
use crate::routes::bird;
use crate::status::document::{
    CollectorStatus, DatastoreStatus, EndpointStatus, ExternalAddressStatus, ForwardedPortStatus,
    Instead, PartStatus, RejectedKey, RepairStatus, StatusDocument, StoredStatus, SuspectedStatus,
};
use crate::status::forwarded::explain;
use crate::status::hosts;

impl Overview {
    /// What policy says of the ports that others lead to endpoints, and why that is not known.
    async fn forwarded_ports(&self) -> (Vec<ForwardedPortStatus>, Option<String>) {
        let desired = self.desired.borrow().clone().filter(|d| !d.endpoints.is_empty());
        let (Some(exec), Some(desired)) = (&self.programs, desired) else {
            return (Vec::new(), None);
        };
        match read_forwarded(exec, desired.settings.ipv6).await {
            Ok(ports) => (explain(&ports, &desired), None),
            Err(error) => (Vec::new(), Some(error)),
        }
    }

    /// The packets of endpoints, and why they are not known.
    async fn tallies(&self) -> (Tallies, Option<String>) {
        let desired = self.desired.borrow().clone();
        let (Some(tally), Some(desired)) = (&self.tally, desired) else {
            return (Tallies::new(), None);
        };
        match tally.ask(&desired).await {
            Ok(tallies) => (tallies, None),
            Err(error) => (Tallies::new(), Some(format!("cannot read the address sets: {error}"))),
        }
    }

    /// The whole document. Asks BIRD for its sessions, and reads the ports that others forward and the
    /// packets that were counted.
    pub async fn document(&self) -> StatusDocument {
        let (sessions, (forwarded_ports, forwarded_ports_error), (tallies, counters_error)) =
            tokio::join!(bird::sessions(&self.bird_socket), self.forwarded_ports(), self.tallies());
        let (bgp, bgp_error) = match sessions {
            Ok(sessions) => (sessions, None),
            Err(error) => (Vec::new(), Some(crate::telemetry::chain(&error))),
        };
        let sync = self.sync.borrow().clone();
        let desired = self.desired.borrow().clone();
        let mut notices = sync.settings.clone();
        notices.extend(self.files.borrow().iter().cloned());
        notices.extend(self.kept.borrow().iter().cloned());
        notices.extend(self.mtu.borrow().iter().cloned());
        notices.extend(self.denied.borrow().iter().cloned());
        notices.extend(self.beside.borrow().iter().cloned());
        let collector = self.collector.borrow().clone();
        notices.extend(collector.problems.iter().cloned());
        let registration = self.registration.borrow().clone();
        notices.extend(registration.problems);
        let registration = registration.text;
        let mut counts = BTreeMap::new();
        let (mut endpoints, mut host_endpoints) = (Vec::new(), Vec::new());
        if let Some(desired) = &desired {
            counts.insert("classes".to_owned(), desired.classes.len());
            counts.insert("policies".to_owned(), desired.policies.len());
            counts.insert("profiles".to_owned(), desired.profiles.len());
            counts.insert("sets".to_owned(), desired.sets.len());
            counts.insert("pools".to_owned(), desired.pools.len());
            counts.insert("blocks".to_owned(), desired.blocks.len());
            notices.extend(desired.notices.iter().map(|(subject, message)| Problem {
                subject: subject.to_string(),
                message: message.to_string(),
            }));
            let externals = self.externals();
            endpoints = desired
                .endpoints
                .iter()
                .map(|(id, endpoint)| EndpointStatus {
                    external_addresses: external_addresses(id, externals.as_deref()),
                    counters: tallies.get(id).copied(),
                    ..self.endpoint(desired, id, endpoint)
                })
                .collect();
            host_endpoints = hosts::host_endpoints(desired, &self.host_states());
        }
        StatusDocument {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            state: self.overall(),
            hanging: self.hanging(),
            datastore: DatastoreStatus {
                location: Some(self.location.clone()),
                in_sync: sync.is_in_sync(),
                waiting: sync.waiting,
                revision: sync.revision,
                rejected: sync
                    .rejected
                    .into_iter()
                    .map(|(key, reason)| {
                        let instead = Instead::of(&key, sync.kept.contains(&key));
                        RejectedKey { key, reason, instead }
                    })
                    .collect(),
                unsupported: sync.unsupported,
                registration,
                policy_order: sync.policy_order,
            },
            stored: desired.as_ref().and_then(|desired| stored_status(desired.origin)),
            collector: collector_status(collector),
            generation: desired.as_ref().map_or(0, |desired| desired.generation),
            parts: self
                .reports()
                .into_iter()
                .map(|(part, report)| {
                    let report = report.unwrap_or_default();
                    PartStatus {
                        name: part.name.to_owned(),
                        applied: report.applied,
                        problems: report.problems,
                        facts: report.facts,
                        repairs_total: report.repairs.total,
                        repairs: report.repairs.iter().map(repair_status).collect(),
                    }
                })
                .collect(),
            endpoints,
            counters_error,
            host_endpoints,
            forwarded_ports,
            forwarded_ports_error,
            counts,
            notices,
            bgp,
            bgp_error,
        }
    }

    fn endpoint(
        &self,
        desired: &DesiredState,
        id: &WorkloadEndpointId,
        endpoint: &LocalEndpoint,
    ) -> EndpointStatus {
        let class = desired.classes.get(&endpoint.class);
        let mut policies = Vec::new();
        for direction in class.iter().flat_map(|class| [&class.ingress, &class.egress]) {
            for tier in &direction.tiers {
                for policy in &tier.policies {
                    let name = format!("{}/{policy}", tier.tier);
                    if !policies.contains(&name) {
                        policies.push(name);
                    }
                }
            }
        }
        EndpointStatus {
            endpoint: id.on_host(),
            interface: endpoint.interface.to_string(),
            addresses: endpoint.addresses.iter().map(ToString::to_string).collect(),
            external_addresses: Vec::new(),
            class: endpoint.class.as_str().chars().take(12).collect(),
            policies,
            profiles: class
                .map(|class| class.ingress.profiles.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            state: self.endpoint_state(id),
            counters: None,
        }
    }
}

/// Those of an endpoint that are in force.
fn external_addresses(
    id: &WorkloadEndpointId,
    externals: Option<&Externals>,
) -> Vec<ExternalAddressStatus> {
    let given = externals.into_iter().flat_map(|externals| &externals.given);
    given
        .filter(|(_, target)| target.endpoint == *id)
        .map(|(address, target)| ExternalAddressStatus {
            address: *address,
            leads_to: target.internal,
        })
        .collect()
}

fn stored_status(origin: Origin) -> Option<StoredStatus> {
    let Origin::Stored { since } = origin else { return None };
    let since = UNIX_EPOCH.checked_add(Duration::from_secs(since))?;
    let age = SystemTime::now().duration_since(since).ok();
    Some(StoredStatus { since: rfc3339(since), age_seconds: age.map(|age| age.as_secs()) })
}

fn collector_status(state: CollectorState) -> Option<CollectorStatus> {
    let suspected = state.suspected.into_iter().map(|suspected| SuspectedStatus {
        subject: suspected.subject,
        reason: suspected.why,
        seconds: suspected.since.elapsed().as_secs(),
    });
    state.looks.then(|| CollectorStatus {
        rkt_pods: state.pods,
        suspected: suspected.collect(),
        collected: state.collected,
    })
}

fn repair_status(repair: &Repair) -> RepairStatus {
    RepairStatus {
        subject: repair.subject.clone(),
        change: repair.change,
        detail: repair.detail.clone(),
        count: repair.count,
        last: rfc3339(repair.last),
    }
}
