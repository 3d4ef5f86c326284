//! What a run could not do: kept until it is settled. The loop logs it, once, from the report.

use calico_datastore::model::{Cidr, InterfaceName, WorkloadEndpointId};
use tracing::{debug, info};

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

impl Routes {
    pub(super) fn tell(&self, op: &Op, each: bool) {
        let interface = op
            .device()
            .and_then(|device| self.intent.pods().get(&device))
            .map(InterfaceName::as_str);
        let (what, place) = match op {
            Op::SetNeighbour(neighbour) => ("neighbour set", Cidr::host(neighbour.address)),
            Op::DeleteNeighbour(neighbour) => ("neighbour removed", Cidr::host(neighbour.address)),
            Op::AddRoute(route) => ("route added", route.destination),
            Op::ReplaceRoute { new, .. } => ("route replaced", new.destination),
            Op::DeleteRoute(route) => ("route removed", route.destination),
        };
        let endpoint = self.intent.claimants(&place).next().map(WorkloadEndpointId::on_host);
        // A neighbour comes with its route: one line is enough.
        if each && !matches!(op, Op::SetNeighbour(_) | Op::DeleteNeighbour(_)) {
            info!(destination = %place, interface, endpoint, "{what}");
        } else {
            debug!(destination = %place, interface, endpoint, "{what}");
        }
    }

    /// Remembers what the plan could not do, and when it has to be made again.
    pub(super) fn take_notes(&mut self, scope: &Scope, plan: &Plan) {
        match scope {
            Scope::All => {
                self.grace_routes.clear();
                self.grace_neighbours.clear();
                self.neighbour_troubles.clear();
                self.route_troubles.clear();
            }
            Scope::Only { destinations, neighbours } => {
                for key in neighbours {
                    self.grace_neighbours.remove(key);
                    self.neighbour_troubles.remove(key);
                }
                for destination in destinations {
                    self.grace_routes.remove(destination);
                    self.route_troubles.remove(destination);
                }
            }
        }
        self.grace_routes.extend(&plan.grace_routes);
        self.grace_neighbours.extend(&plan.grace_neighbours);
        for conflict in &plan.conflicts {
            let trouble = Trouble { message: self.describe(conflict), failed: false };
            self.route_troubles.insert(conflict.destination, trouble);
        }
    }

    pub(super) fn describe(&self, conflict: &Conflict) -> String {
        let Conflict { destination, foreign } = conflict;
        let us = match self.intent.claimants(destination).next() {
            Some(id) => format!("endpoint {id}"),
            None if destination.is_host() => "an external address".to_owned(),
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
        debug!(reason = message, "the kernel could not be changed");
        let trouble = Trouble { message, failed: true };
        match op {
            Op::AddRoute(route) | Op::DeleteRoute(route) | Op::ReplaceRoute { new: route, .. } => {
                self.route_troubles.insert(route.destination, trouble);
            }
            Op::SetNeighbour(entry) | Op::DeleteNeighbour(entry) => {
                self.neighbour_troubles.insert((entry.device, entry.address), trouble);
            }
        }
    }
}
