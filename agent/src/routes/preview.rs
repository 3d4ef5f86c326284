//! What a reconciler that knows nothing yet would do to routes and neighbours. It reads the kernel
//! and writes nothing.

use std::time::Duration;

use calico_datastore::model::{Cidr, Family};
use serde::Serialize;

use super::changes::Changes;
use super::intent::Intent;
use super::kernel::{Kernel, KernelError, RouteFilter};
use super::plan::{Actual, GRACE, Neighbour, Op, Route, RouteKind, Scope, plan};
use crate::reconcile::{Problem, World};

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteChange {
    /// As `ip` would be told.
    pub command: String,
    /// Nobody knows yet whose it is: it is done after this time, if it is still wanted then. 0: at
    /// once.
    pub after_seconds: u64,
}

/// The name of an interface; `None` when it has gone.
pub(super) type Namer<'a> = dyn Fn(u32) -> Option<String> + 'a;

/// What a first run would do, and what is in its way.
///
/// # Errors
/// When the kernel cannot be read.
pub async fn preview(world: &World) -> Result<(Vec<RouteChange>, Vec<Problem>), KernelError> {
    let mut intent = Intent::default();
    intent.update(world);
    let kernel = Kernel::open(&Changes::default())?;
    let routes = kernel.routes(RouteFilter::All, |route| intent.concerns(route)).await?;
    let pods = intent.pods();
    let neighbours = kernel.neighbours(None, |device| pods.contains_key(&device)).await?;
    let mut actual = Actual::default();
    actual.set_all(routes, neighbours, Duration::ZERO);

    let first = plan(&intent, &actual, &Scope::All, &intent.rules(Duration::ZERO));
    let later = plan(&intent, &actual, &Scope::All, &intent.rules(GRACE));
    // One that has no name any more is named by its number.
    let device = |index| intent.interface_name(index).map(ToString::to_string);
    let change =
        |op: &Op, after_seconds| RouteChange { command: command(op, &device), after_seconds };
    let mut changes: Vec<RouteChange> = first.ops.iter().map(|op| change(op, 0)).collect();
    let delayed = later.ops.iter().filter(|op| !first.ops.contains(op));
    changes.extend(delayed.map(|op| change(op, GRACE.as_secs())));
    let problems = later.conflicts.iter().map(|conflict| Problem {
        subject: format!("route {}", conflict.destination),
        message: format!(
            "a route of somebody else is in the way: {}",
            route(&conflict.foreign, &device)
        ),
    });
    Ok((changes, problems.collect()))
}

/// An operation as `ip` would be told. `name` knows the names of interfaces.
pub(super) fn command(op: &Op, name: &Namer<'_>) -> String {
    match op {
        Op::AddRoute(new) => format!("ip{} route add {}", six(new), route(new, name)),
        Op::ReplaceRoute { new, .. } => {
            format!("ip{} route replace {}", six(new), route(new, name))
        }
        Op::DeleteRoute(old) => format!("ip{} route del {}", six(old), route(old, name)),
        Op::SetNeighbour(new) => format!("ip neigh replace {}", neighbour(new, name)),
        Op::DeleteNeighbour(old) => format!("ip neigh del {}", neighbour(old, name)),
    }
}

fn six(route: &Route) -> &'static str {
    if route.destination.family() == Family::V6 { " -6" } else { "" }
}

fn device(index: u32, name: &Namer<'_>) -> String {
    name(index).unwrap_or_else(|| format!("if{index}"))
}

pub(super) fn route(route: &Route, name: &Namer<'_>) -> String {
    let kind = match route.kind {
        RouteKind::Unicast => String::new(),
        RouteKind::Blackhole => "blackhole ".to_owned(),
        RouteKind::Other(number) => format!("type {number} "),
    };
    let mut text = format!("{kind}{}", route.destination);
    if let Some(index) = route.device {
        text += &format!(" dev {}", device(index, name));
    }
    text += &format!(" proto {}", route.protocol);
    // rtnetlink(7): 0 is the whole world, which IPv6 knows alone and nobody writes; 253 is the link.
    match route.scope {
        0 => {}
        253 => text += " scope link",
        other => text += &format!(" scope {other}"),
    }
    if let Some(source) = route.source {
        text += &format!(" src {source}");
    }
    if route.metric != Route::default_metric(route.destination.family()) {
        text += &format!(" metric {}", route.metric);
    }
    text
}

pub(super) fn neighbour(neighbour: &Neighbour, name: &Namer<'_>) -> String {
    let address = Cidr::host(neighbour.address).address();
    let mac = neighbour.mac.map_or_else(String::new, |mac| format!(" lladdr {mac}"));
    format!("{address}{mac} dev {} nud permanent", device(neighbour.device, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_ip_takes_it() {
        let nameless = |_| None;
        let pod = Route {
            destination: "10.0.0.1/32".parse().unwrap(),
            metric: 0,
            tos: 0,
            scope: Route::pod_scope(Family::V4),
            kind: RouteKind::Unicast,
            device: Some(7),
            indirect: false,
            protocol: 80,
            source: Some("192.0.2.1".parse().unwrap()),
        };
        let block = Route {
            destination: "fd00::/122".parse().unwrap(),
            metric: 1024,
            scope: 0,
            kind: RouteKind::Blackhole,
            device: None,
            source: None,
            ..pod
        };
        assert_eq!(
            command(&Op::AddRoute(pod), &nameless),
            "ip route add 10.0.0.1/32 dev if7 proto 80 scope link src 192.0.2.1"
        );
        assert_eq!(
            command(&Op::DeleteRoute(block), &nameless),
            "ip -6 route del blackhole fd00::/122 proto 80"
        );
        let mac = calico_datastore::model::Mac::new([2, 0, 0, 0, 0, 1]);
        let entry = Neighbour {
            device: 7,
            address: "10.0.0.1".parse().unwrap(),
            mac: Some(mac),
            marked: true,
        };
        assert_eq!(
            command(&Op::SetNeighbour(entry), &nameless),
            "ip neigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev if7 nud permanent"
        );
    }
}
