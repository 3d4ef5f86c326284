//! What a run says: the state of each endpoint, problems, counters, when to come back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use calico_datastore::model::{Cidr, WorkloadEndpointId};

use super::super::changes::Place;
use super::super::plan::RouteKind;
use super::{DEAD_RETRY, Outcome, Routes, Work};
use crate::reconcile::{EndpointState, Problem, Programmed, Report, World};

impl Routes {
    pub(super) fn refresh_states(&mut self, work: &Work, world: &World, outcome: &Outcome) {
        let mut ids = work.endpoints.clone();
        if work.all {
            ids.extend(self.intent.endpoints().cloned());
            ids.extend(self.states.keys().cloned());
        } else {
            for destination in &work.destinations {
                ids.extend(self.intent.claimants(destination).cloned());
            }
            for (device, _) in &work.neighbours {
                ids.extend(self.intent.users(*device).cloned());
            }
        }
        for id in ids {
            if !world.desired.endpoints.contains_key(&id) {
                self.states.remove(&id);
                self.in_force.remove(&id);
                self.failing.remove(&id);
                continue;
            }
            let state = self.state_of(&id, outcome);
            let up = state == EndpointState::Up;
            let on_device = self.intent.on_device(&id).filter(|_| up);
            let now = on_device
                .map(|(endpoint, device)| Programmed::new(endpoint, &world.desired, device));
            Programmed::note(&mut self.in_force, &id, now);
            if matches!(state, EndpointState::Error(_)) {
                self.failing.insert(id.clone());
            } else {
                self.failing.remove(&id);
            }
            if self.states.get(&id) != Some(&state) {
                self.states.insert(id, state);
            }
        }
    }

    pub(super) fn state_of(&self, id: &WorkloadEndpointId, outcome: &Outcome) -> EndpointState {
        let state = self.intent.state(id).unwrap_or(EndpointState::Up);
        if state != EndpointState::Up {
            return state;
        }
        let (mut destinations, keys) = self.intent.places(id);
        let at_route = |destination: Cidr| {
            let trouble = self.route_troubles.get(&destination).map(|one| one.message.clone());
            trouble.or_else(|| self.fight_at(&Place::Route(destination)))
        };
        let at_neighbour = |&(device, address): &(u32, IpAddr)| {
            let trouble = self.neighbour_troubles.get(&(device, address));
            let trouble = trouble.map(|one| one.message.clone());
            trouble.or_else(|| self.fight_at(&Place::Neighbour(device, address)))
        };
        let trouble = destinations
            .find_map(at_route)
            .or_else(|| keys.iter().find_map(at_neighbour))
            .or_else(|| outcome.error.clone());
        trouble.map_or(EndpointState::Up, EndpointState::Error)
    }

    pub(super) fn report(&self, world: &World, outcome: &Outcome, now: Duration) -> Report {
        let mut problems = BTreeSet::new();
        let mut problem = |subject: String, message: &str| {
            problems.insert(Problem { subject, message: message.to_owned() });
        };
        for id in &self.failing {
            if let Some(EndpointState::Error(reason)) = self.states.get(id) {
                problem(format!("endpoint {}", id.on_host()), reason);
            }
        }
        // What no endpoint's error tells: blocks, and leftovers that will not go.
        for (destination, trouble) in &self.route_troubles {
            if !self.intent.claimants(destination).any(|id| self.failing.contains(id)) {
                problem(format!("route {destination}"), &trouble.message);
            }
        }
        for ((device, address), trouble) in &self.neighbour_troubles {
            if !self.intent.users(*device).any(|id| self.failing.contains(id)) {
                problem(format!("neighbour {address}"), &trouble.message);
            }
        }
        for place in self.fights.keys() {
            let told = match place {
                Place::Route(to) => self.intent.claimants(to).any(|id| self.failing.contains(id)),
                Place::Neighbour(device, _) => {
                    self.intent.users(*device).any(|id| self.failing.contains(id))
                }
            };
            if let Some(message) = self.fight_at(place).filter(|_| !told) {
                problem(self.subject(*place, None), &message);
            }
        }
        if let Some(error) = &outcome.error {
            problem("routes".to_owned(), error);
        }
        // A foreign route in the way is no failure of ours: it concerns its endpoint only, and
        // waiting does not help.
        let failed = outcome.retry
            || outcome.error.is_some()
            || self.route_troubles.values().any(|trouble| trouble.failed)
            || self.neighbour_troubles.values().any(|trouble| trouble.failed);
        Report {
            applied: (!failed).then_some(world.desired.generation),
            given: Some(world.desired.generation),
            endpoints: self.states.clone(),
            in_force: self.in_force.clone(),
            problems: problems.into_iter().collect(),
            facts: self.facts(),
            // The loop backs off by itself; a refresh that is due would make it spin.
            wake_after: if outcome.retry { None } else { self.next_wake(now) },
            retry: outcome.retry,
            ..Report::default()
        }
    }

    pub(super) fn facts(&self) -> BTreeMap<String, String> {
        let count = |kind| self.actual.count(kind).to_string();
        BTreeMap::from([
            ("routes".to_owned(), count(RouteKind::Unicast)),
            ("blackholes".to_owned(), count(RouteKind::Blackhole)),
            ("neighbours".to_owned(), self.actual.neighbour_count().to_string()),
            ("writes".to_owned(), self.writes.to_string()),
            ("reads".to_owned(), self.reads.to_string()),
        ])
    }

    pub(super) fn next_wake(&self, now: Duration) -> Option<Duration> {
        let refresh = self.intent.settings().route_refresh;
        let refresh = (!refresh.is_zero()).then(|| self.refreshed + refresh);
        let dead = self.intent.has_dead().then(|| now + DEAD_RETRY);
        let grace = self.grace_routes.values().chain(self.grace_neighbours.values()).min().copied();
        let truce = self.fights.values().filter_map(|fight| fight.until).min();
        [refresh, dead, grace, truce]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_sub(self.started.elapsed()))
    }
}
