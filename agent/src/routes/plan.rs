//! What must change in the kernel's main table and neighbour table: pure.
//!
//! The plan is made destination by destination, so that it can be made for one of them as well as
//! for all. It owns the question *whose is this route*:
//!
//! | route | whose | what happens when it is not wanted |
//! |---|---|---|
//! | our protocol (80, or what the settings say) on a pod interface, or on one that was and has another name now; a blackhole of protocol 80 | ours | removed at once |
//! | what somebody put in the place of ours | ours | replaced at once |
//! | protocol boot, where we want a route: the original CNI plugin's | ours once adopted | removed at once |
//! | anything else on a pod interface | unknown | removed after [`GRACE`], if the settings say so |
//! | protocol 80, elsewhere (a Felix was here) | left over | removed after [`GRACE`]: BIRD needs a moment to bring its own |
//! | made by the kernel; link-local, multicast | foreign | never touched |
//! | all others | foreign | never touched; in our way: a [`Conflict`] |
//!
//! It does no I/O and knows no clock: the time is an argument.

mod actual;
mod owner;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use calico_datastore::model::{Cidr, Family, InterfaceName, Mac};

pub use actual::{Actual, Sight};
use owner::{Owner, owner};
use route::LAST_COMMON_PROTOCOL;
pub(crate) use route::is_link_scope;
pub use route::{BOOT_PROTOCOL, CALICO_PROTOCOL, Neighbour, Route, RouteKind};

/// How long an unknown route or neighbour on a pod interface is left alone after first sight: a
/// CNI plugin writes its route before the endpoint arrives here. The original's value.
pub const GRACE: Duration = Duration::from_secs(10);
/// What should be at one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A pod.
    Pod {
        /// Its interface.
        device: u32,
        /// The preferred source address of the host.
        source: Option<IpAddr>,
    },
    /// Nothing: an address of our block that no pod has must not leave the host.
    Blackhole,
}

/// What the plan is made with.
#[derive(Clone, Debug)]
pub struct Rules<'a> {
    /// The protocol number of new pod routes.
    pub protocol: u8,
    /// Remove unknown routes after the grace.
    pub remove_external: bool,
    /// Only give: what is not wanted stays, whoever wrote it. For a state from disk, which may be
    /// old.
    pub keep: bool,
    /// Look after IPv6; when not, what is unknown there is left alone.
    pub ipv6: bool,
    /// The pod interfaces.
    pub pods: &'a BTreeMap<u32, InterfaceName>,
    /// Interfaces that were pods' and have another name now; what we put there is still ours.
    pub former: &'a BTreeSet<u32>,
    /// Time since some fixed moment.
    pub now: Duration,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Add or overwrite a permanent neighbour.
    SetNeighbour(Neighbour),
    /// Add a route; there must be none with its key.
    AddRoute(Route),
    /// Put a route in the place of another with the same key, without a gap.
    ReplaceRoute {
        /// What is there.
        old: Route,
        /// What shall be there.
        new: Route,
    },
    /// Remove a route.
    DeleteRoute(Route),
    /// Remove a neighbour.
    DeleteNeighbour(Neighbour),
}

impl Op {
    /// The interface it concerns.
    pub fn device(&self) -> Option<u32> {
        match self {
            Self::AddRoute(route) | Self::DeleteRoute(route) => route.device,
            Self::ReplaceRoute { new, .. } => new.device,
            Self::SetNeighbour(neighbour) | Self::DeleteNeighbour(neighbour) => {
                Some(neighbour.device)
            }
        }
    }

    /// Order of application: what gives comes before what takes, so that nothing is missing in
    /// between; a neighbour comes before the route that needs it. Ops of one phase concern
    /// different keys and may be applied in any order.
    pub fn phase(&self) -> u8 {
        match self {
            Self::SetNeighbour(_) => 0,
            Self::AddRoute(_) | Self::ReplaceRoute { .. } => 1,
            Self::DeleteRoute(_) => 2,
            Self::DeleteNeighbour(_) => 3,
        }
    }
}

/// A foreign route is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What we want to route.
    pub destination: Cidr,
    /// The route that is there.
    pub foreign: Route,
}

/// What is to be planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// These only.
    Only {
        /// Destinations of routes.
        destinations: BTreeSet<Cidr>,
        /// Neighbours by interface and address.
        neighbours: BTreeSet<(u32, IpAddr)>,
    },
}

/// What must change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes, in order of their phases.
    pub ops: Vec<Op>,
    /// Routes of others that count as ours from now on.
    pub adopt: Vec<Route>,
    /// Neighbours of others that count as ours from now on.
    pub adopt_neighbours: Vec<Neighbour>,
    /// What cannot be done.
    pub conflicts: Vec<Conflict>,
    /// When the grace of something at a destination ends.
    pub grace_routes: BTreeMap<Cidr, Duration>,
    /// When the grace of a neighbour ends.
    pub grace_neighbours: BTreeMap<(u32, IpAddr), Duration>,
}

/// Says what should be, for single places and as lists.
pub trait Wanted {
    /// What should be at that destination.
    fn route(&self, destination: &Cidr) -> Option<Want>;
    /// Which Ethernet address that neighbour should have.
    fn neighbour(&self, device: u32, address: IpAddr) -> Option<Mac>;
    /// Every destination for which [`Wanted::route`] may say something.
    fn destinations(&self) -> BTreeSet<Cidr>;
    /// Every neighbour for which [`Wanted::neighbour`] may say something.
    fn neighbours(&self) -> BTreeSet<(u32, IpAddr)>;
}

/// What must change to come from `actual` to `wanted`, within `scope`.
pub fn plan(wanted: &impl Wanted, actual: &Actual, scope: &Scope, rules: &Rules<'_>) -> Plan {
    let mut plan = Plan::default();
    let all;
    let (destinations, neighbours) = match scope {
        Scope::Only { destinations, neighbours } => (destinations, neighbours),
        Scope::All => {
            let mut both = (wanted.destinations(), wanted.neighbours());
            both.0.extend(actual.destinations());
            both.1.extend(actual.neighbour_keys());
            all = both;
            (&all.0, &all.1)
        }
    };
    for destination in destinations {
        let want = wanted.route(destination);
        plan_destination(&mut plan, destination, want, actual, rules);
    }
    for &(device, address) in neighbours {
        let want = wanted.neighbour(device, address);
        plan_neighbour(&mut plan, (device, address), want, actual, rules);
    }
    plan.ops.sort_by_key(|op| (op.phase(), *op));
    plan
}

/// True when `route` is as good as the one we would write.
fn satisfies(route: &Route, want: &Want, rules: &Rules<'_>) -> bool {
    match want {
        Want::Pod { device, source } => {
            // As we write it; the metric of a CNI plugin's does not matter.
            let metric = Route::default_metric(route.destination.family());
            let marked = route.protocol == CALICO_PROTOCOL
                || route.protocol == rules.protocol && rules.protocol > LAST_COMMON_PROTOCOL;
            let known = match marked {
                true => route.metric == metric,
                false => [rules.protocol, BOOT_PROTOCOL].contains(&route.protocol),
            };
            route.kind == RouteKind::Unicast
                && route.device == Some(*device)
                && !route.indirect
                && route.tos == 0
                && route.scope == Route::pod_scope(route.destination.family())
                && known
                && route.source == *source
        }
        // Whoever drops these packets, they are dropped: a BIRD of the original keeps its own.
        Want::Blackhole => route.kind != RouteKind::Unicast && route.tos == 0,
    }
}

/// The route that we write for `want`.
pub fn wanted_route(destination: &Cidr, want: &Want, rules: &Rules<'_>) -> Route {
    let (kind, device, protocol, source) = match *want {
        Want::Pod { device, source } => (RouteKind::Unicast, Some(device), rules.protocol, source),
        Want::Blackhole => (RouteKind::Blackhole, None, CALICO_PROTOCOL, None),
    };
    Route {
        destination: *destination,
        metric: Route::default_metric(destination.family()),
        tos: 0,
        scope: if device.is_some() { Route::pod_scope(destination.family()) } else { 0 },
        kind,
        device,
        indirect: false,
        protocol,
        source,
    }
}

/// What is at a destination: each route with what is known of it and whose it is.
type There<'a> = [(&'a Route, &'a Sight, Owner)];

#[derive(Default)]
struct Placed {
    /// The metric of the new route; none when it could not be placed.
    metric: Option<u32>,
    replaced: Option<Route>,
}

/// Plans a new route: beside what is there, in the place of something of ours, or not at all.
fn place(plan: &mut Plan, new: Route, there: &There<'_>, rules: &Rules<'_>) -> Placed {
    let occupants = || there.iter().filter(|(route, ..)| route.key() == new.key());
    let pod = new.kind == RouteKind::Unicast;
    let blocker = occupants().find(|(route, sight, owner)| match owner {
        Owner::Ours | Owner::LeftOver => false,
        // On a pod interface the wanted pod wins at once; a blackhole waits for the grace.
        Owner::Unknown => {
            let may_go = pod || rules.now >= sight.since + GRACE;
            !(rules.remove_external && may_go || pod && route.protocol == BOOT_PROTOCOL)
        }
        Owner::Foreign => true,
    });
    match (blocker, occupants().next()) {
        (Some((foreign, _, owner)), _) => {
            if *owner == Owner::Foreign || !rules.remove_external {
                let destination = new.destination;
                plan.conflicts.push(Conflict { destination, foreign: **foreign });
            }
            Placed::default()
        }
        (None, Some((old, ..))) => {
            plan.ops.push(Op::ReplaceRoute { old: **old, new });
            Placed { metric: Some(new.metric), replaced: Some(**old) }
        }
        (None, None) => {
            plan.ops.push(Op::AddRoute(new));
            Placed { metric: Some(new.metric), replaced: None }
        }
    }
}

fn plan_destination(
    plan: &mut Plan,
    destination: &Cidr,
    want: Option<Want>,
    actual: &Actual,
    rules: &Rules<'_>,
) {
    let there: Vec<(&Route, &Sight, Owner)> = actual
        .at(destination)
        .map(|(route, sight)| (route, sight, owner(route, sight, rules)))
        .collect();
    let mut settled = None;
    let mut decides_before = None;
    if let Some(want) = want {
        // Ours first: a foreign one may vanish at any time; then the one that decides.
        let kept = there
            .iter()
            .filter(|(route, ..)| satisfies(route, &want, rules))
            .min_by_key(|(route, _, owner)| (*owner != Owner::Ours, route.metric));
        let metric = match kept {
            Some((route, _, owner)) => {
                if *owner == Owner::Unknown && matches!(want, Want::Pod { .. }) {
                    plan.adopt.push(**route);
                }
                settled = Some(**route);
                Some(route.metric)
            }
            None => {
                let placed = place(plan, wanted_route(destination, &want, rules), &there, rules);
                settled = placed.replaced;
                placed.metric
            }
        };
        // A better metric decides even where both fit. A blackhole only has to be the last resort.
        if let (Some(metric), Want::Pod { .. }) = (metric, want) {
            decides_before = Some(metric);
            let stays = |owner: Owner| {
                owner == Owner::Foreign || owner == Owner::Unknown && !rules.remove_external
            };
            let shadow = there.iter().find(|(route, _, owner)| {
                stays(*owner) && route.tos == 0 && route.metric < metric && settled != Some(**route)
            });
            if let Some((foreign, ..)) = shadow {
                plan.conflicts.push(Conflict { destination: *destination, foreign: **foreign });
            }
        }
    }
    for (route, sight, owner) in there {
        if settled == Some(*route) {
            continue;
        }
        let graced = match owner {
            _ if rules.keep => continue,
            Owner::Foreign => continue,
            Owner::Ours => false,
            Owner::LeftOver => true,
            Owner::Unknown if !rules.remove_external => continue,
            Owner::Unknown if !rules.ipv6 && destination.family() == Family::V6 => continue,
            // The pod that it should lead to is known: nobody can be about to announce another.
            Owner::Unknown => decides_before.is_none_or(|metric| route.metric >= metric),
        };
        let end = sight.since + GRACE;
        if graced && rules.now < end {
            let next = plan.grace_routes.entry(*destination).or_insert(end);
            *next = end.min(*next);
        } else {
            plan.ops.push(Op::DeleteRoute(*route));
        }
    }
}

fn plan_neighbour(
    plan: &mut Plan,
    key: (u32, IpAddr),
    want: Option<Mac>,
    actual: &Actual,
    rules: &Rules<'_>,
) {
    let (device, address) = key;
    let there = actual.neighbour(key);
    match (want, there) {
        (Some(mac), Some((old, sight))) if old.mac == Some(mac) => {
            if !old.marked && !sight.adopted {
                plan.adopt_neighbours.push(*old);
            }
        }
        (Some(mac), _) => {
            let new = Neighbour { device, address, mac: Some(mac), marked: true };
            plan.ops.push(Op::SetNeighbour(new));
        }
        (None, Some(_)) if rules.keep => {}
        (None, Some((old, sight))) => {
            let end = sight.since + GRACE;
            if old.marked || sight.adopted {
                plan.ops.push(Op::DeleteNeighbour(*old));
            } else if !rules.remove_external
                || is_link_scope(address)
                || (address.is_ipv6() && !rules.ipv6)
                || !rules.pods.contains_key(&device)
            {
                // Somebody else's.
            } else if rules.now < end {
                plan.grace_neighbours.insert(key, end);
            } else {
                plan.ops.push(Op::DeleteNeighbour(*old));
            }
        }
        (None, None) => {}
    }
}
