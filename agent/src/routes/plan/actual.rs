//! What the kernel holds, as far as it concerns us: read once, then kept in memory.
//!
//! Besides the routes themselves it remembers when each was first seen and whether it was adopted.
//! It does no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use calico_datastore::model::Cidr;

use super::{Neighbour, Op, Plan, Route, RouteKind};

/// What we remember about something in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// When it was first seen, on the clock of [`super::Rules::now`].
    pub since: Duration,
    /// Another program wrote it, and it counts as ours.
    pub adopted: bool,
}

/// The routes and neighbours that concern us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    routes: BTreeMap<Cidr, BTreeMap<Route, Sight>>,
    /// Which destinations have a route on an interface.
    devices: BTreeMap<u32, BTreeSet<Cidr>>,
    neighbours: BTreeMap<(u32, IpAddr), (Neighbour, Sight)>,
    blackholes: usize,
    unicast: usize,
}

impl Actual {
    /// The routes to exactly that destination.
    pub fn at(&self, destination: &Cidr) -> impl Iterator<Item = (&Route, &Sight)> {
        self.routes.get(destination).into_iter().flatten()
    }

    /// Every destination with a route.
    pub fn destinations(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.routes.keys().copied()
    }

    /// Every route.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().flat_map(BTreeMap::keys)
    }

    /// How many routes of that kind there are.
    pub fn count(&self, kind: RouteKind) -> usize {
        match kind {
            RouteKind::Unicast => self.unicast,
            RouteKind::Blackhole => self.blackholes,
            RouteKind::Other(_) => self.routes().filter(|route| route.kind == kind).count(),
        }
    }

    /// How many neighbours there are.
    pub fn neighbour_count(&self) -> usize {
        self.neighbours.len()
    }

    /// The permanent entry for that interface and address.
    pub fn neighbour(&self, key: (u32, IpAddr)) -> Option<&(Neighbour, Sight)> {
        self.neighbours.get(&key)
    }

    /// Every neighbour's interface and address.
    pub fn neighbour_keys(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        self.neighbours.keys().copied()
    }

    /// Every neighbour.
    pub fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.neighbours.values().map(|(neighbour, _)| neighbour)
    }

    /// Takes over a complete reading. What was known before keeps its [`Sight`].
    pub fn set_all(&mut self, routes: Vec<Route>, neighbours: Vec<Neighbour>, now: Duration) {
        let old = std::mem::take(self);
        for route in routes {
            let known = old.routes.get(&route.destination).and_then(|there| there.get(&route));
            self.insert(route, known.copied(), now);
        }
        for neighbour in neighbours {
            let key = (neighbour.device, neighbour.address);
            let known = old.neighbours.get(&key).filter(|(same, _)| *same == neighbour);
            self.insert_neighbour(neighbour, known.map(|(_, sight)| *sight), now);
        }
    }

    /// Takes over a complete reading of one interface. Returns what is or was there.
    pub fn set_device(
        &mut self,
        device: u32,
        routes: Vec<Route>,
        neighbours: Vec<Neighbour>,
        now: Duration,
    ) -> (BTreeSet<Cidr>, BTreeSet<(u32, IpAddr)>) {
        let old = self.clone_device(device);
        let (mut destinations, mut keys) = self.forget_device(device);
        for route in routes {
            destinations.insert(route.destination);
            self.insert(route, old.0.get(&route).copied(), now);
        }
        for neighbour in neighbours {
            keys.insert((neighbour.device, neighbour.address));
            let known = old.1.get(&neighbour).copied();
            self.insert_neighbour(neighbour, known, now);
        }
        (destinations, keys)
    }

    /// Takes over a complete reading of the routes that `belongs` says yes to. Returns the
    /// destinations where something is or was.
    pub fn set_matching(
        &mut self,
        belongs: impl Fn(&Route) -> bool,
        routes: Vec<Route>,
        now: Duration,
    ) -> BTreeSet<Cidr> {
        let old: BTreeMap<Route, Sight> = self
            .routes
            .values()
            .flatten()
            .filter(|(route, _)| belongs(route))
            .map(|(route, sight)| (*route, *sight))
            .collect();
        let mut destinations = BTreeSet::new();
        for route in old.keys() {
            destinations.insert(route.destination);
            self.remove(route);
        }
        for route in routes.into_iter().filter(belongs) {
            destinations.insert(route.destination);
            self.insert(route, old.get(&route).copied(), now);
        }
        destinations
    }

    /// The interface is gone, and with it all that was on it. Returns what was there.
    pub fn forget_device(&mut self, device: u32) -> (BTreeSet<Cidr>, BTreeSet<(u32, IpAddr)>) {
        let destinations = self.devices.get(&device).cloned().unwrap_or_default();
        for destination in &destinations {
            let on_device = |route: &&Route| route.device == Some(device);
            let there: Vec<Route> =
                self.at(destination).map(|(route, _)| route).filter(on_device).copied().collect();
            for route in &there {
                self.remove(route);
            }
        }
        let keys: BTreeSet<_> = self.device_neighbours(device).map(|(key, _)| *key).collect();
        for key in &keys {
            self.neighbours.remove(key);
        }
        (destinations, keys)
    }

    /// A copy of what is known of some places.
    pub fn excerpt(&self, destinations: &BTreeSet<Cidr>, keys: &BTreeSet<(u32, IpAddr)>) -> Self {
        let mut copy = Self::default();
        for destination in destinations {
            for (route, sight) in self.at(destination) {
                copy.insert(*route, Some(*sight), sight.since);
            }
        }
        for key in keys {
            if let Some((neighbour, sight)) = self.neighbour(*key) {
                copy.insert_neighbour(*neighbour, Some(*sight), sight.since);
            }
        }
        copy
    }

    /// Takes in what another one knows of other places.
    pub fn add(&mut self, other: Self) {
        for (route, sight) in other.routes.into_values().flatten() {
            self.insert(route, Some(sight), sight.since);
        }
        self.neighbours.extend(other.neighbours);
    }

    /// Where something is on an interface.
    pub fn places_on(&self, device: u32) -> (BTreeSet<Cidr>, BTreeSet<(u32, IpAddr)>) {
        let keys = self.device_neighbours(device).map(|(key, _)| *key).collect();
        (self.devices.get(&device).cloned().unwrap_or_default(), keys)
    }

    /// A route counts as ours from now on, whoever wrote it.
    pub fn take_over(&mut self, route: &Route) {
        let there = self.routes.get_mut(&route.destination);
        if let Some(sight) = there.and_then(|there| there.get_mut(route)) {
            sight.adopted = true;
        }
    }

    /// Records what the plan adopts.
    pub fn adopt(&mut self, plan: &Plan) {
        plan.adopt.iter().for_each(|route| self.take_over(route));
        for neighbour in &plan.adopt_neighbours {
            if let Some((_, sight)) =
                self.neighbours.get_mut(&(neighbour.device, neighbour.address))
            {
                sight.adopted = true;
            }
        }
    }

    /// Records that an operation was carried out.
    pub fn apply(&mut self, op: &Op, now: Duration) {
        match op {
            Op::AddRoute(route) => self.insert(*route, None, now),
            Op::ReplaceRoute { old, new } => {
                self.remove(old);
                self.insert(*new, None, now);
            }
            Op::DeleteRoute(route) => self.remove(route),
            Op::SetNeighbour(neighbour) => self.insert_neighbour(*neighbour, None, now),
            Op::DeleteNeighbour(neighbour) => {
                self.neighbours.remove(&(neighbour.device, neighbour.address));
            }
        }
    }

    fn insert(&mut self, route: Route, known: Option<Sight>, now: Duration) {
        let sight = known.unwrap_or(Sight { since: now, adopted: false });
        let there = self.routes.entry(route.destination).or_default();
        if there.insert(route, sight).is_none() {
            self.tally(route.kind, usize::wrapping_add);
        }
        if let Some(device) = route.device {
            self.devices.entry(device).or_default().insert(route.destination);
        }
    }

    fn remove(&mut self, route: &Route) {
        let Some(there) = self.routes.get_mut(&route.destination) else { return };
        let removed = there.remove(route).is_some();
        let another = there.keys().any(|other| other.device == route.device);
        if there.is_empty() {
            self.routes.remove(&route.destination);
        }
        if removed {
            self.tally(route.kind, usize::wrapping_sub);
        }
        if let Some(device) = route.device.filter(|_| !another)
            && let Some(destinations) = self.devices.get_mut(&device)
        {
            destinations.remove(&route.destination);
            if destinations.is_empty() {
                self.devices.remove(&device);
            }
        }
    }

    fn tally(&mut self, kind: RouteKind, change: fn(usize, usize) -> usize) {
        match kind {
            RouteKind::Unicast => self.unicast = change(self.unicast, 1),
            RouteKind::Blackhole => self.blackholes = change(self.blackholes, 1),
            RouteKind::Other(_) => {}
        }
    }

    fn insert_neighbour(&mut self, neighbour: Neighbour, known: Option<Sight>, now: Duration) {
        let sight = known.unwrap_or(Sight { since: now, adopted: false });
        self.neighbours.insert((neighbour.device, neighbour.address), (neighbour, sight));
    }

    fn device_neighbours(
        &self,
        device: u32,
    ) -> impl Iterator<Item = (&(u32, IpAddr), &(Neighbour, Sight))> {
        // IPv4 sorts before IPv6, so this is the first possible key.
        let first = (device, IpAddr::from([0; 4]));
        self.neighbours.range(first..).take_while(move |(key, _)| key.0 == device)
    }

    fn clone_device(&self, device: u32) -> (BTreeMap<Route, Sight>, BTreeMap<Neighbour, Sight>) {
        let routes = self
            .devices
            .get(&device)
            .into_iter()
            .flatten()
            .flat_map(|destination| self.at(destination))
            .filter(|(route, _)| route.device == Some(device))
            .map(|(route, sight)| (*route, *sight))
            .collect();
        let neighbours = self.device_neighbours(device).map(|(_, both)| *both).collect();
        (routes, neighbours)
    }
}
