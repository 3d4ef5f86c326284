//! Routes and neighbours that an agent or an original Felix wrote, to be listed and removed.
//!
//! What is taken for theirs:
//!
//! * routes and blackholes of protocol 80, and routes of the protocol that the settings say on pod
//!   interfaces: elsewhere they are those of whoever else has that number;
//! * routes of BIRD into the pools: it leaves them when it ends;
//! * permanent neighbours on pod interfaces, and those with our mark on any.
//!
//! Routes of protocol boot on pod interfaces stay: they look alike whether the CNI plugin or an early
//! Felix wrote them, and go with the interface. It must not run beside an agent.

use calico_datastore::model::Cidr;

use super::changes::Changes;
use super::kernel::{Kernel, KernelError, RouteFilter};
use super::plan::{CALICO_PROTOCOL, Neighbour, Op, Route, is_link_scope};
use super::preview::{neighbour, route};
use crate::config::{BIRD_PROTOCOL, Settings};
use crate::reconcile::Problem;
use crate::telemetry::chain;

/// What all of this is called when it cannot be reached.
const ALL: &str = "routes and neighbours";

/// What was found.
#[derive(Debug, Default)]
pub struct Leftovers {
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
    /// What could not be looked at.
    pub problems: Vec<Problem>,
}

impl Leftovers {
    /// Looks at the main table and at the permanent neighbours of this network namespace.
    pub async fn find(settings: &Settings, pools: &[Cidr]) -> Self {
        let mut found = Self::default();
        match read(settings, pools).await {
            Ok((routes, neighbours)) => (found.routes, found.neighbours) = (routes, neighbours),
            Err(error) => {
                found.problems.push(Problem { subject: ALL.to_owned(), message: chain(&error) })
            }
        }
        found.routes.sort();
        found.neighbours.sort();
        found
    }

    fn ops(&self) -> Vec<Op> {
        let routes = self.routes.iter().copied().map(Op::DeleteRoute);
        routes.chain(self.neighbours.iter().copied().map(Op::DeleteNeighbour)).collect()
    }

    /// One line for each thing.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.ops().into_iter().map(|op| line(&op))
    }

    /// Removes everything; says what is left.
    pub async fn remove(&self) -> Vec<Problem> {
        let ops = self.ops();
        if ops.is_empty() {
            return Vec::new();
        }
        let kernel = match Kernel::open(&Changes::default()) {
            Ok(kernel) => kernel,
            Err(error) => {
                return vec![Problem { subject: ALL.to_owned(), message: chain(&error) }];
            }
        };
        let failed = kernel.apply(&ops).await.into_iter().filter_map(|(op, result)| {
            let message = result.err()?.reason();
            Some(Problem { subject: line(&op), message })
        });
        failed.collect()
    }
}

async fn read(
    settings: &Settings,
    pools: &[Cidr],
) -> Result<(Vec<Route>, Vec<Neighbour>), KernelError> {
    let kernel = Kernel::open(&Changes::default())?;
    let on_pod = |device: u32| {
        name(device).is_some_and(|name| {
            settings.interface_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
        })
    };
    let ours = |route: &Route| is_theirs(route, settings.route_protocol, pools, on_pod);
    let routes = kernel.routes(RouteFilter::All, ours).await?;
    let mut neighbours = kernel.neighbours(None, |_| true).await?;
    neighbours.retain(|neighbour| neighbour.marked || on_pod(neighbour.device));
    Ok((routes, neighbours))
}

/// Whether an agent or a Felix wrote that route, with `protocol` in its settings, or its BIRD.
fn is_theirs(route: &Route, protocol: u8, pools: &[Cidr], on_pod: impl Fn(u32) -> bool) -> bool {
    let marked = route.protocol == CALICO_PROTOCOL
        || route.protocol == protocol && route.device.is_some_and(on_pod)
        || route.protocol == BIRD_PROTOCOL
            && pools.iter().any(|pool| pool.covers(&route.destination));
    marked && !is_link_scope(route.destination.address())
}

fn line(op: &Op) -> String {
    match op {
        Op::AddRoute(one) | Op::DeleteRoute(one) | Op::ReplaceRoute { new: one, .. } => {
            format!("route {}", route(one, &name))
        }
        Op::SetNeighbour(one) | Op::DeleteNeighbour(one) => {
            format!("neighbour {}", neighbour(one, &name))
        }
    }
}

fn name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok()?.into_string().ok()
}

#[cfg(test)]
mod tests {
    use calico_datastore::model::Family;

    use super::*;
    use crate::routes::plan::RouteKind;

    #[test]
    fn only_on_pod_interfaces_the_number_of_the_settings_says_whose_a_route_is() {
        const POD: u32 = 7;
        const UPLINK: u32 = 2;
        let pools = ["10.65.0.0/16".parse().unwrap()];
        let route = |destination: &str, device, protocol| Route {
            destination: destination.parse().unwrap(),
            metric: Route::default_metric(Family::V4),
            tos: 0,
            scope: 0,
            kind: RouteKind::Unicast,
            device,
            indirect: device == Some(UPLINK),
            protocol,
            source: None,
        };
        // The numbers of boot, router advertisements, BIRD, DHCP, and one that is nobody's.
        for protocol in [3, 9, 12, 16, 99] {
            let theirs = |route: Route| is_theirs(&route, protocol, &pools, |device| device == POD);
            for (destination, device, number, goes) in [
                ("0.0.0.0/0", Some(UPLINK), protocol, false),
                ("203.0.113.0/24", None, protocol, false),
                ("10.65.0.2/32", Some(POD), protocol, true),
                ("10.65.9.0/26", Some(UPLINK), BIRD_PROTOCOL, true),
                ("0.0.0.0/0", Some(UPLINK), CALICO_PROTOCOL, true),
                ("10.65.0.0/26", None, CALICO_PROTOCOL, true),
                ("10.65.0.3/32", Some(POD), 4, false),
                ("169.254.0.0/16", Some(POD), CALICO_PROTOCOL, false),
            ] {
                let one = route(destination, device, number);
                assert_eq!(theirs(one), goes, "{protocol}: {one:?}");
            }
        }
    }
}
