//! What others changed: noticed by comparing what was known with what was just read, and fights with
//! somebody who changes it again and again.
//!
//! A place has drifted when nothing had to be done there with what was known of it, and something has
//! to with what is there now. So neither what the world asks for nor what we wrote is ever drift; what
//! the kernel takes away with a link is left out by its interface.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use calico_datastore::model::{Cidr, InterfaceName};

use super::super::changes::Place;
use super::super::plan::{
    Actual, CALICO_PROTOCOL, Neighbour, Op, Plan, Route, RouteKind, Scope, plan,
};
use super::Routes;
use crate::drift::{Change, Drift};

/// So many repairs of one place in a row are done at once.
const FREELY: u32 = 4;
/// How long the next one waits; doubled with each.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A place that held this long is at peace.
const CALM: Duration = Duration::from_secs(60);

/// Places that were read again in one run, as they were known before.
#[derive(Debug, Default)]
pub(super) struct Before {
    known: Actual,
    destinations: BTreeSet<Cidr>,
    neighbours: BTreeSet<(u32, IpAddr)>,
    /// Interfaces from which the kernel has dropped things by itself.
    excused: BTreeSet<u32>,
}

impl Before {
    /// Nothing yet. From `excused` interfaces the kernel has dropped things by itself.
    pub(super) fn new(excused: BTreeSet<u32>) -> Self {
        Self { excused, ..Self::default() }
    }

    /// Keeps what is known of these places, unless an earlier memory of the same run is kept.
    pub(super) fn remember(
        &mut self,
        actual: &Actual,
        mut destinations: BTreeSet<Cidr>,
        mut keys: BTreeSet<(u32, IpAddr)>,
    ) {
        destinations.retain(|destination| !self.destinations.contains(destination));
        keys.retain(|key| !self.neighbours.contains(key));
        self.known.add(actual.excerpt(&destinations, &keys));
        self.destinations.append(&mut destinations);
        self.neighbours.append(&mut keys);
    }

    /// Leaves the places that are not as they were known.
    fn keep_changed(&mut self, actual: &Actual) {
        let Self { known, destinations, neighbours, .. } = self;
        let routes = |actual: &Actual, to: &Cidr| -> Vec<Route> {
            actual.at(to).map(|(route, _)| *route).collect()
        };
        destinations.retain(|to| routes(known, to) != routes(actual, to));
        let entry = |actual: &Actual, key| actual.neighbour(key).map(|(entry, _)| *entry);
        neighbours.retain(|key| entry(known, *key) != entry(actual, *key));
    }
}

/// What was found at a place, and the interfaces that its repair needs.
#[derive(Debug)]
pub(super) struct Found {
    place: Place,
    devices: Vec<u32>,
    drift: Drift,
}

/// Somebody who works against us at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fight {
    /// How often in a row the place was repaired.
    pub(super) repairs: u32,
    /// The last time.
    last: Duration,
    /// It is left alone until then.
    pub(super) until: Option<Duration>,
}

impl Routes {
    /// Finds the places that others changed, by what is known now. Must be called before anything is
    /// planned, and once in a run.
    pub(super) fn find_drifted(&mut self, mut before: Before, now: Duration) -> BTreeSet<Place> {
        before.keep_changed(&self.actual);
        if before.destinations.is_empty() && before.neighbours.is_empty() {
            return BTreeSet::new();
        }
        let scope = Scope::Only {
            destinations: before.destinations.clone(),
            neighbours: before.neighbours.clone(),
        };
        let rules = self.intent.rules(now);
        let was = plan(&self.intent, &before.known, &scope, &rules);
        let mut unsettled: BTreeSet<Place> = was.ops.iter().map(place_of).collect();
        unsettled.extend(was.conflicts.iter().map(|conflict| Place::Route(conflict.destination)));
        let excused = |to: &Cidr| {
            let mut known = before.known.at(to);
            known.any(|(route, _)| {
                route.device.is_some_and(|device| before.excused.contains(&device))
            })
        };
        let routes = before.destinations.iter().filter(|to| !excused(to));
        let routes = routes.map(|to| Place::Route(*to));
        let neighbours =
            before.neighbours.iter().filter(|(device, _)| !before.excused.contains(device));
        let neighbours = neighbours.map(|(device, address)| Place::Neighbour(*device, *address));
        let drifted: BTreeSet<Place> =
            routes.chain(neighbours).filter(|place| !unsettled.contains(place)).collect();
        // What stands exactly where a route of ours stood was put in its place.
        for place in &drifted {
            let Place::Route(to) = place else { continue };
            let ours: Vec<Route> = before
                .known
                .at(to)
                .filter(|(route, sight)| sight.adopted || self.intent.is_marked(route))
                .map(|(route, _)| *route)
                .collect();
            let usurpers: Vec<Route> = self
                .actual
                .at(to)
                .filter(|(route, _)| {
                    !ours.contains(route) && ours.iter().any(|mine| mine.key() == route.key())
                })
                .map(|(route, _)| *route)
                .collect();
            if self.intent.is_claimed(to) {
                usurpers.iter().for_each(|route| self.actual.take_over(route));
            }
        }
        drifted
    }

    /// What was found at the places that the plan repairs.
    pub(super) fn describe_drift(&self, drifted: &BTreeSet<Place>, plan: &Plan) -> Vec<Found> {
        let mut ops: BTreeMap<Place, Vec<&Op>> = BTreeMap::new();
        for op in &plan.ops {
            let place = place_of(op);
            let stray = matches!(op, Op::DeleteRoute(route) if self.is_stray(route));
            if drifted.contains(&place) || stray {
                ops.entry(place).or_default().push(op);
            }
        }
        let found = |(place, ops): (Place, Vec<&Op>)| Found {
            place,
            devices: ops.iter().filter_map(|op| op.device()).collect(),
            drift: self.drift_at(place, &ops),
        };
        ops.into_iter().map(found).collect()
    }

    /// Notes what was found and repaired, and counts it against those who did it. Not what was on an
    /// interface that turned out to be gone or down: the kernel did that, and says so in a moment.
    pub(super) fn note_drift(&mut self, found: Vec<Found>, now: Duration) {
        for Found { place, devices, drift } in found {
            let failed = match place {
                Place::Route(to) => self.route_troubles.get(&to).is_some_and(|one| one.failed),
                Place::Neighbour(device, address) => {
                    self.neighbour_troubles.contains_key(&(device, address))
                }
            };
            if failed || devices.iter().any(|device| self.intent.is_dead(*device)) {
                continue;
            }
            self.drift.push(drift);
            let fight =
                self.fights.entry(place).or_insert(Fight { repairs: 0, last: now, until: None });
            if now >= fight.last + CALM {
                fight.repairs = 0;
            }
            fight.repairs += 1;
            fight.last = now;
            let more = fight.repairs.checked_sub(FREELY);
            fight.until =
                more.map(|more| now + BACKOFF.0.saturating_mul(1 << more.min(16)).min(BACKOFF.1));
        }
    }

    /// An unknown route that came after our first look, and whose grace is over.
    fn is_stray(&self, route: &Route) -> bool {
        let sight = self.actual.at(&route.destination).find(|(there, _)| *there == route);
        sight.is_some_and(|(_, sight)| !sight.adopted && sight.since > self.first_look)
            && !self.marks().contains(&route.protocol)
    }

    fn marks(&self) -> [u8; 2] {
        [CALICO_PROTOCOL, self.intent.settings().route_protocol]
    }

    fn drift_at(&self, place: Place, ops: &[&Op]) -> Drift {
        let mut found = Vec::new();
        let (mut missing, mut wanted) = (false, None);
        for op in ops {
            match op {
                Op::AddRoute(new) => (missing, wanted) = (true, Some(*new)),
                Op::ReplaceRoute { old, new } => {
                    found.push(self.describe_route(old));
                    (missing, wanted) = (true, Some(*new));
                }
                Op::DeleteRoute(old) => found.push(self.describe_route(old)),
                Op::SetNeighbour(new) => {
                    missing = true;
                    let there = self.actual.neighbour((new.device, new.address));
                    found.extend(there.map(|(there, _)| describe_neighbour(there)));
                }
                Op::DeleteNeighbour(old) => found.push(describe_neighbour(old)),
            }
        }
        let change = match (missing, found.is_empty()) {
            (true, true) => Change::Missing,
            (true, false) => Change::Modified,
            (false, _) => Change::Unexpected,
        };
        let detail = match found.is_empty() {
            true => String::new(),
            false => format!("found {}", found.join(" and ")),
        };
        let whose = match place {
            Place::Route(to) => self.intent.claimants(&to).next(),
            Place::Neighbour(device, _) => self.intent.users(device).next(),
        };
        Drift::new(self.subject(place, wanted.as_ref()), change, detail).of(whose)
    }

    /// What a place is called, in what people read.
    pub(super) fn subject(&self, place: Place, wanted: Option<&Route>) -> String {
        match place {
            Place::Route(to) => match wanted.map(|route| (route.kind, route.device)) {
                Some((RouteKind::Blackhole, _)) => format!("route blackhole {to}"),
                Some((_, Some(device))) => format!("route {to} dev {}", self.name_of(device)),
                _ => format!("route {to}"),
            },
            Place::Neighbour(device, address) => {
                format!("neighbour {address} dev {}", self.name_of(device))
            }
        }
    }

    fn name_of(&self, device: u32) -> String {
        let name = self.intent.pods().get(&device).or_else(|| self.intent.interface_name(device));
        name.map_or_else(
            || format!("number {device}"),
            |name| InterfaceName::as_str(name).to_owned(),
        )
    }

    fn describe_route(&self, route: &Route) -> String {
        let kind = match route.kind {
            RouteKind::Unicast => String::new(),
            RouteKind::Blackhole => "blackhole ".to_owned(),
            RouteKind::Other(number) => format!("type {number} "),
        };
        let mut text = format!("{kind}{}", route.destination);
        if route.indirect {
            text += " over a gateway";
        }
        if let Some(device) = route.device {
            text += &format!(" dev {}", self.name_of(device));
        }
        text += &format!(" proto {} metric {} scope {}", route.protocol, route.metric, route.scope);
        if let Some(source) = route.source {
            text += &format!(" src {source}");
        }
        text
    }

    /// Takes out of the plan what concerns places that are left alone for now.
    pub(super) fn withhold(&self, plan: &mut Plan, now: Duration) {
        plan.ops.retain(|op| !self.is_left_alone(&place_of(op), now));
    }

    pub(super) fn is_left_alone(&self, place: &Place, now: Duration) -> bool {
        let until = self.fights.get(place).and_then(|fight| fight.until);
        until.is_some_and(|until| now < until)
    }

    /// Places whose time has come; forgets those that have been at peace.
    pub(super) fn end_truces(&mut self, now: Duration) -> BTreeSet<Place> {
        self.fights.retain(|_, fight| now < fight.last + CALM);
        let mut over = BTreeSet::new();
        for (place, fight) in &mut self.fights {
            if fight.until.is_some_and(|until| now >= until) {
                fight.until = None;
                over.insert(*place);
            }
        }
        over
    }

    /// Why an endpoint or a block is not as it should be, where somebody works against us.
    pub(super) fn fight_at(&self, place: &Place) -> Option<String> {
        let fight = self.fights.get(place).filter(|fight| fight.until.is_some())?;
        let wait = fight.until.unwrap_or_default().saturating_sub(fight.last).as_secs();
        Some(format!(
            "{} is changed again and again by another program: repaired {} times, looked at again \
             {wait} s after the last; find and stop that program (`ip monitor` shows when)",
            self.subject(*place, None),
            fight.repairs
        ))
    }
}

fn describe_neighbour(neighbour: &Neighbour) -> String {
    match neighbour.mac {
        Some(mac) => format!("{} lladdr {mac}", neighbour.address),
        None => format!("{} without an Ethernet address", neighbour.address),
    }
}

/// Where an operation works.
pub(super) fn place_of(op: &Op) -> Place {
    match op {
        Op::AddRoute(route) | Op::DeleteRoute(route) | Op::ReplaceRoute { new: route, .. } => {
            Place::Route(route.destination)
        }
        Op::SetNeighbour(entry) | Op::DeleteNeighbour(entry) => {
            Place::Neighbour(entry.device, entry.address)
        }
    }
}
