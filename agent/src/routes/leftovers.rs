//! Routes and neighbours that an agent or an original Felix wrote, to be listed and removed.
//!
//! What is taken for theirs:
//!
//! * routes and blackholes of protocol 80, and of the protocol that the settings say: that one only
//!   on pod interfaces when it is a number that everybody uses;
//! * routes of BIRD into the pools: it leaves them when it ends;
//! * permanent neighbours on pod interfaces, and those with our mark on any.
//!
//! Routes of protocol boot on pod interfaces stay: they look alike whether the CNI plugin or an early
//! Felix wrote them, and go with the interface. It must not run beside an agent.

use calico_datastore::model::Cidr;

use super::changes::Changes;
use super::kernel::{Kernel, KernelError, RouteFilter};
use super::plan::{CALICO_PROTOCOL, LAST_COMMON_PROTOCOL, Neighbour, Op, Route, is_link_scope};
use super::preview::{neighbour, route};
use crate::config::Settings;
use crate::reconcile::Problem;
use crate::telemetry::chain;

/// `RTPROT_BIRD`.
const BIRD_PROTOCOL: u8 = 12;
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
    let protocol = settings.route_protocol;
    let on_pod = |device: u32| {
        name(device).is_some_and(|name| {
            settings.interface_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
        })
    };
    let ours = |route: &Route| {
        let common = protocol <= LAST_COMMON_PROTOCOL;
        let marked = route.protocol == CALICO_PROTOCOL
            || route.protocol == protocol && (!common || route.device.is_some_and(on_pod))
            || route.protocol == BIRD_PROTOCOL
                && pools.iter().any(|pool| pool.covers(&route.destination));
        marked && !is_link_scope(route.destination.address())
    };
    let routes = kernel.routes(RouteFilter::All, ours).await?;
    let mut neighbours = kernel.neighbours(None, |_| true).await?;
    neighbours.retain(|neighbour| neighbour.marked || on_pod(neighbour.device));
    Ok((routes, neighbours))
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
