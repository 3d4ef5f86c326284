//! What a run could not do, and what it tells people: logged once, kept until it is settled.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_datastore::model::Cidr;
use tracing::{debug, info, warn};

use super::super::kernel::Failure;
use super::super::plan::{Conflict, Op, Plan, RouteKind, Scope};
use super::Routes;

/// Something wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) message: String,
    /// The kernel did not do what it was asked; when false, it was not asked, because a foreign
    /// route is in the way.
    pub(super) failed: bool,
}

/// Where something can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Route(Cidr),
    Neighbour((u32, IpAddr)),
}

impl Routes {
    pub(super) fn tell(&self, op: &Op, each: bool) {
        let interface = op
            .device()
            .and_then(|device| self.intent.pods().get(&device))
            .map_or("", |name| name.as_str());
        let (what, place) = match op {
            Op::SetNeighbour(neighbour) => ("neighbour set", Cidr::host(neighbour.address)),
            Op::DeleteNeighbour(neighbour) => ("neighbour removed", Cidr::host(neighbour.address)),
            Op::AddRoute(route) => ("route added", route.destination),
            Op::ReplaceRoute { new, .. } => ("route replaced", new.destination),
            Op::DeleteRoute(route) => ("route removed", route.destination),
        };
        let endpoint = self.intent.claimants(&place).next().map(tracing::field::display);
        // A neighbour comes with its route: one line is enough.
        if each && !matches!(op, Op::SetNeighbour(_) | Op::DeleteNeighbour(_)) {
            info!(destination = %place, interface, endpoint, "{what}");
        } else {
            debug!(destination = %place, interface, endpoint, "{what}");
        }
    }

    /// Remembers what the plan could not do, and when it has to be made again.
    pub(super) fn take_notes(&mut self, scope: &Scope, plan: &Plan) {
        let old = match scope {
            Scope::All => {
                self.grace_routes.clear();
                self.grace_neighbours.clear();
                self.neighbour_troubles.clear();
                std::mem::take(&mut self.route_troubles)
            }
            Scope::Only { destinations, neighbours } => {
                for key in neighbours {
                    self.grace_neighbours.remove(key);
                    self.neighbour_troubles.remove(key);
                }
                let mut old = BTreeMap::new();
                for destination in destinations {
                    self.grace_routes.remove(destination);
                    old.extend(self.route_troubles.remove_entry(destination));
                }
                old
            }
        };
        self.grace_routes.extend(&plan.grace_routes);
        self.grace_neighbours.extend(&plan.grace_neighbours);
        for conflict in &plan.conflicts {
            let trouble = Trouble { message: self.describe(conflict), failed: false };
            if old.get(&conflict.destination) != Some(&trouble) {
                let reason = trouble.message.as_str();
                warn!(destination = %conflict.destination, reason, "a route is in the way");
            }
            self.route_troubles.insert(conflict.destination, trouble);
        }
    }

    pub(super) fn describe(&self, conflict: &Conflict) -> String {
        let Conflict { destination, foreign } = conflict;
        let us = match self.intent.claimants(destination).next() {
            Some(id) => format!("endpoint {id}"),
            None => "this host's block".to_owned(),
        };
        let kind = match foreign.kind {
            RouteKind::Unicast => "a route",
            RouteKind::Blackhole => "a blackhole",
            RouteKind::Other(_) => "a route that refuses",
        };
        let over = match foreign.device.map(|device| (device, self.intent.interface_name(device))) {
            Some((_, Some(name))) => format!(" over {name}"),
            Some((device, None)) => format!(" over interface number {device}"),
            None => String::new(),
        };
        format!(
            "{destination} of {us} is in the main table already: {kind}{over} of protocol {}, \
             metric {}; remove one of the two",
            foreign.protocol, foreign.metric
        )
    }

    pub(super) fn note_failure(&mut self, op: &Op, failure: &Failure) {
        let reason = failure.reason();
        let place = place_of(op);
        let message = match op {
            Op::AddRoute(route) | Op::ReplaceRoute { new: route, .. } => {
                let hint = match route.source {
                    Some(source) => format!(" (is {source} an address of this host?)"),
                    None => String::new(),
                };
                format!("cannot add the route to {}: {reason}{hint}", route.destination)
            }
            Op::DeleteRoute(route) => {
                format!("cannot remove the route to {}: {reason}", route.destination)
            }
            Op::SetNeighbour(entry) => {
                format!("cannot set the neighbour {}: {reason}", entry.address)
            }
            Op::DeleteNeighbour(entry) => {
                format!("cannot remove the neighbour {}: {reason}", entry.address)
            }
        };
        let trouble = Trouble { message, failed: true };
        if self.known_failures.get(&place) != Some(&trouble.message) {
            warn!(reason = trouble.message, "the kernel could not be changed");
            self.known_failures.insert(place, trouble.message.clone());
        }
        match place {
            Place::Route(destination) => {
                self.route_troubles.insert(destination, trouble);
            }
            Place::Neighbour(key) => {
                self.neighbour_troubles.insert(key, trouble);
            }
        }
    }
}

pub(super) fn place_of(op: &Op) -> Place {
    match op {
        Op::AddRoute(route) | Op::DeleteRoute(route) | Op::ReplaceRoute { new: route, .. } => {
            Place::Route(route.destination)
        }
        Op::SetNeighbour(entry) | Op::DeleteNeighbour(entry) => {
            Place::Neighbour((entry.device, entry.address))
        }
    }
}
