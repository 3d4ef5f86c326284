//! Which routes and neighbours should be: endpoints, links, blocks and settings, indexed so that a
//! change costs what changed.
//!
//! It does no I/O, knows no clock and plans nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::model::{Cidr, Family, InterfaceName, Mac, WorkloadEndpointId};
use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use super::monitor::Links;
use super::plan::{CALICO_PROTOCOL, Route, Rules, Want, Wanted, is_link_scope};
use crate::config::Settings;
use crate::desired::{DesiredState, Externals, LocalEndpoint, Origin};
use crate::reconcile::{EndpointState, World};

/// What a change of the world makes stale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stale {
    /// Everything: a setting changed.
    pub everything: bool,
    /// Destinations to plan again.
    pub destinations: BTreeSet<Cidr>,
    /// Neighbours to plan again.
    pub neighbours: BTreeSet<(u32, IpAddr)>,
    /// Endpoints whose state may differ.
    pub endpoints: BTreeSet<WorkloadEndpointId>,
    /// Interfaces whose routes and neighbours are to be read again.
    pub read: BTreeSet<u32>,
    /// Interfaces that do not exist any more.
    pub gone: BTreeSet<u32>,
}

/// What should be.
#[derive(Clone, Debug, Default)]
pub struct Intent {
    endpoints: OrdMap<WorkloadEndpointId, Arc<LocalEndpoint>>,
    links: Links,
    blocks: OrdSet<Cidr>,
    settings: Arc<Settings>,
    origin: Origin,
    /// Who wants a destination. More than one: the first that can have it gets it.
    claims: BTreeMap<Cidr, BTreeSet<WorkloadEndpointId>>,
    users: BTreeMap<InterfaceName, BTreeSet<WorkloadEndpointId>>,
    pods: BTreeMap<u32, InterfaceName>,
    /// Interfaces that were pods' until they got another name.
    former: BTreeSet<u32>,
    /// The keys of `claims`, for the monitor.
    claimed: OrdSet<Cidr>,
    /// Addresses of endpoints whose Ethernet address is known.
    fixed: OrdSet<IpAddr>,
    /// Who is behind an external address, which needs no neighbour: no packet reaches an interface
    /// with it.
    externals: BTreeMap<Cidr, WorkloadEndpointId>,
    /// How many endpoints ask for external addresses.
    asking: usize,
    /// Interfaces that died under an operation; the monitor will say so in a moment.
    dead: BTreeSet<u32>,
}

/// What there is to know about an endpoint besides its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness<'a> {
    Ready(u32),
    Down(&'a str),
}

impl Intent {
    /// Takes over a new world and says what that makes stale.
    pub fn update(&mut self, world: &World) -> Stale {
        let mut stale = Stale::default();
        let desired = &world.desired;
        stale.everything = !same_routes(&self.settings, &desired.settings);
        self.settings = Arc::clone(&desired.settings);
        self.origin = desired.origin;

        let old = std::mem::replace(&mut self.endpoints, desired.endpoints.clone());
        for change in old.diff(&desired.endpoints) {
            let (id, before, after) = match change {
                DiffItem::Add(id, new) => (id, None, Some(new)),
                DiffItem::Update { old: (id, old), new: (_, new) } => (id, Some(old), Some(new)),
                DiffItem::Remove(id, old) => (id, Some(old), None),
            };
            if let Some(endpoint) = before {
                self.mark(endpoint, &mut stale);
                self.unclaim(id, endpoint);
            }
            if let Some(endpoint) = after {
                self.claim(id, endpoint);
                self.mark(endpoint, &mut stale);
            }
            stale.endpoints.insert(id.clone());
        }

        let old = std::mem::replace(&mut self.links, world.links.clone());
        for change in old.diff(&world.links) {
            let (name, before, after) = match change {
                DiffItem::Add(name, new) => (name, None, Some(new)),
                DiffItem::Update { old: (name, old), new: (_, new) } => {
                    (name, Some(old), Some(new))
                }
                DiffItem::Remove(name, old) => (name, Some(old), None),
            };
            let same =
                before.map(|link| (link.index, link.up)) == after.map(|link| (link.index, link.up));
            if !self.is_pod(name) || same {
                continue;
            }
            if let Some(link) = before
                && self.pods.get(&link.index) == Some(name)
            {
                self.pods.remove(&link.index);
            }
            if let Some(link) = after {
                self.pods.insert(link.index, name.clone());
            }
            for link in [before, after].into_iter().flatten() {
                self.dead.remove(&link.index);
            }
            if let Some(link) = before
                && after.is_none_or(|after| after.index != link.index)
            {
                // A rename keeps the index; then the other name's change reads it again.
                stale.gone.insert(link.index);
            }
            if let Some(link) = after {
                // Up: a CNI plugin may have been quicker. Down: the kernel drops IPv4 routes
                // without a word.
                stale.read.insert(link.index);
            }
            self.mark_interface(name, before.map(|link| link.index), &mut stale);
            self.mark_interface(name, after.map(|link| link.index), &mut stale);
        }
        if stale.everything {
            self.index_pods();
        }

        let old = std::mem::replace(&mut self.blocks, desired.blocks.clone());
        for change in old.diff(&desired.blocks) {
            let (imbl::ordset::DiffItem::Add(block) | imbl::ordset::DiffItem::Remove(block)) =
                change;
            stale.destinations.insert(*block);
        }
        self.follow_externals(desired, &mut stale);
        stale.gone.retain(|index| !self.pods.contains_key(index));
        self.note_former(&mut stale);
        stale
    }

    /// Decides anew who has which external address, where anybody asks for one.
    fn follow_externals(&mut self, desired: &DesiredState, stale: &mut Stale) {
        let is_up = |name: &InterfaceName| self.links.get(name).is_some_and(|link| link.up);
        let given = match self.asking {
            0 => BTreeMap::new(),
            _ => Externals::of(desired, is_up).given,
        };
        let new: BTreeMap<Cidr, WorkloadEndpointId> =
            given.into_iter().map(|(address, to)| (Cidr::host(address), to.endpoint)).collect();
        let old = std::mem::take(&mut self.externals);
        for destination in old.keys().chain(new.keys()) {
            if old.get(destination) != new.get(destination) {
                stale.destinations.insert(*destination);
            }
            if new.contains_key(destination) {
                self.claimed.insert(*destination);
            } else if !self.claims.contains_key(destination) {
                self.claimed.remove(destination);
            }
        }
        self.externals = new;
    }

    /// How to plan at the moment `now`.
    pub fn rules(&self, now: Duration) -> Rules<'_> {
        Rules {
            protocol: self.settings.route_protocol,
            remove_external: self.settings.remove_external_routes,
            keep: self.origin.is_stored(),
            ipv6: self.settings.ipv6,
            pods: &self.pods,
            former: &self.former,
            now,
        }
    }

    /// Where what is wanted comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The pod interfaces by index.
    pub fn pods(&self) -> &BTreeMap<u32, InterfaceName> {
        &self.pods
    }

    /// True for an interface on which routes of ours may be.
    pub fn is_watched(&self, device: u32) -> bool {
        self.pods.contains_key(&device) || self.former.contains(&device)
    }

    /// Interfaces that were pods' and have another name now.
    pub fn former(&self) -> &BTreeSet<u32> {
        &self.former
    }

    /// Every destination that an endpoint wants, every block, and every address whose neighbour
    /// entry is permanent: for the monitor, which must know them all.
    pub fn watched(&self) -> (OrdSet<Cidr>, OrdSet<Cidr>, OrdSet<IpAddr>) {
        (self.claimed.clone(), self.blocks.clone(), self.fixed.clone())
    }

    /// The name of any interface; for messages, it searches.
    pub fn interface_name(&self, device: u32) -> Option<&InterfaceName> {
        self.links.iter().find(|(_, link)| link.index == device).map(|(name, _)| name)
    }

    /// Every endpoint.
    pub fn endpoints(&self) -> impl Iterator<Item = &WorkloadEndpointId> {
        self.endpoints.keys()
    }

    /// True when somebody wants that destination.
    pub fn is_claimed(&self, destination: &Cidr) -> bool {
        self.claims.contains_key(destination)
            || self.externals.contains_key(destination)
            || self.blocks.contains(destination)
    }

    /// True for a route that is to be looked at: on an interface where ours may be, with one of our
    /// protocols, or where somebody wants one.
    pub fn concerns(&self, route: &Route) -> bool {
        route.device.is_some_and(|device| self.is_watched(device))
            || route.protocol == CALICO_PROTOCOL
            || route.protocol == self.settings.route_protocol
            || self.is_claimed(&route.destination)
    }

    /// Who wants that destination.
    pub fn claimants(&self, destination: &Cidr) -> impl Iterator<Item = &WorkloadEndpointId> {
        self.claims.get(destination).into_iter().flatten()
    }

    /// The endpoints on that interface.
    pub fn users(&self, device: u32) -> impl Iterator<Item = &WorkloadEndpointId> {
        self.pods.get(&device).and_then(|name| self.users.get(name)).into_iter().flatten()
    }

    /// An operation found that the interface is gone or down: nothing is wanted there until the
    /// monitor has said what became of it, or [`Intent::revive`]. Returns what that makes stale.
    pub fn bury(&mut self, device: u32) -> Stale {
        let mut stale = Stale::default();
        self.dead.insert(device);
        if let Some(name) = self.pods.get(&device).cloned() {
            self.mark_interface(&name, Some(device), &mut stale);
        }
        stale
    }

    /// Forgets what [`Intent::bury`] was told. Returns what that makes stale.
    pub fn revive(&mut self) -> Stale {
        let mut stale = Stale::default();
        for device in std::mem::take(&mut self.dead) {
            stale.read.insert(device);
            if let Some(name) = self.pods.get(&device).cloned() {
                self.mark_interface(&name, Some(device), &mut stale);
            }
        }
        stale
    }

    /// As [`Intent::revive`] for one interface that came up again.
    pub fn revive_one(&mut self, device: u32) -> Stale {
        let mut stale = Stale::default();
        self.dead.remove(&device);
        stale.read.insert(device);
        if let Some(name) = self.pods.get(&device).cloned() {
            self.mark_interface(&name, Some(device), &mut stale);
        }
        stale
    }

    /// True when this interface is buried.
    pub fn is_dead(&self, device: u32) -> bool {
        self.dead.contains(&device)
    }

    /// True when an interface is buried.
    pub fn has_dead(&self) -> bool {
        !self.dead.is_empty()
    }

    /// The state of an endpoint as far as it follows from the world alone; `None` = unknown here.
    pub fn state(&self, id: &WorkloadEndpointId) -> Option<EndpointState> {
        let endpoint = self.endpoints.get(id)?;
        Some(match self.readiness(endpoint) {
            Readiness::Down(reason) => EndpointState::Down(reason.to_owned()),
            Readiness::Ready(_) => {
                let rival = self.destinations_of(endpoint).find_map(|destination| {
                    let winner = self.winner(&destination)?.0;
                    (winner != id).then(|| {
                        format!("{destination} also belongs to endpoint {winner}, which has it")
                    })
                });
                rival.map_or(EndpointState::Up, EndpointState::Error)
            }
        })
    }

    /// An endpoint whose interface is there and up, and the index of that.
    pub fn on_device(&self, id: &WorkloadEndpointId) -> Option<(&LocalEndpoint, u32)> {
        let endpoint = self.endpoints.get(id)?;
        match self.readiness(endpoint) {
            Readiness::Ready(device) => Some((endpoint, device)),
            Readiness::Down(_) => None,
        }
    }

    /// Where the addresses of an endpoint are routed to, and its neighbours.
    pub fn places(
        &self,
        id: &WorkloadEndpointId,
    ) -> (impl Iterator<Item = Cidr> + '_, Vec<(u32, IpAddr)>) {
        let endpoint = self.endpoints.get(id);
        let mut keys = Vec::new();
        if let Some(endpoint) = endpoint
            && let Readiness::Ready(device) = self.readiness(endpoint)
        {
            keys.extend(hosts(endpoint).map(|address| (device, address)));
        }
        (endpoint.into_iter().flat_map(|endpoint| self.destinations_of(endpoint)), keys)
    }

    fn is_pod(&self, name: &InterfaceName) -> bool {
        let text = name.as_str();
        self.settings.interface_prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()))
            || self.users.contains_key(name)
    }

    fn index_pods(&mut self) {
        self.pods = self
            .links
            .iter()
            .filter(|(name, _)| self.is_pod(name))
            .map(|(name, link)| (link.index, name.clone()))
            .collect();
    }

    fn readiness(&self, endpoint: &LocalEndpoint) -> Readiness<'static> {
        if !endpoint.active {
            return Readiness::Down("the endpoint is administratively down");
        }
        match self.links.get(&endpoint.interface) {
            None => Readiness::Down("its interface does not exist"),
            Some(link) if !link.up || self.dead.contains(&link.index) => {
                Readiness::Down("its interface is down")
            }
            Some(link) => Readiness::Ready(link.index),
        }
    }

    fn destinations_of<'a>(
        &'a self,
        endpoint: &'a LocalEndpoint,
    ) -> impl Iterator<Item = Cidr> + 'a {
        let ipv6 = self.settings.ipv6;
        endpoint.addresses.iter().copied().filter(move |destination| {
            (ipv6 || destination.family() == Family::V4) && !is_link_scope(destination.address())
        })
    }

    fn winner(&self, destination: &Cidr) -> Option<(&WorkloadEndpointId, &LocalEndpoint, u32)> {
        self.claimants(destination).find_map(|id| {
            let endpoint = self.endpoints.get(id)?;
            match self.readiness(endpoint) {
                Readiness::Ready(device) => Some((id, &**endpoint, device)),
                Readiness::Down(_) => None,
            }
        })
    }

    /// The interface of the endpoint behind an external address.
    fn external(&self, destination: &Cidr) -> Option<u32> {
        let endpoint = self.endpoints.get(self.externals.get(destination)?)?;
        match self.readiness(endpoint) {
            Readiness::Ready(device) => Some(device),
            Readiness::Down(_) => None,
        }
    }

    /// An interface that left its name behind still exists, and what we put there with it.
    fn note_former(&mut self, stale: &mut Stale) {
        if stale.gone.is_empty() && self.former.is_empty() {
            return;
        }
        let there: BTreeSet<u32> = self.links.values().map(|link| link.index).collect();
        for index in &stale.gone {
            if there.contains(index) {
                self.former.insert(*index);
                stale.read.insert(*index);
            }
        }
        stale.gone.retain(|index| !there.contains(index));
        let former = std::mem::take(&mut self.former);
        for index in former {
            if !there.contains(&index) {
                stale.gone.insert(index);
            } else if !self.pods.contains_key(&index) {
                self.former.insert(index);
            }
        }
    }

    fn claim(&mut self, id: &WorkloadEndpointId, endpoint: &LocalEndpoint) {
        self.asking += usize::from(!endpoint.nat.is_empty());
        for destination in &endpoint.addresses {
            self.claimed.insert(*destination);
            if endpoint.mac.is_some() {
                self.fixed.insert(destination.address());
            }
            self.claims.entry(*destination).or_default().insert(id.clone());
        }
        let users = self.users.entry(endpoint.interface.clone()).or_default();
        users.insert(id.clone());
        if let Some(link) = self.links.get(&endpoint.interface) {
            self.pods.insert(link.index, endpoint.interface.clone());
        }
    }

    fn unclaim(&mut self, id: &WorkloadEndpointId, endpoint: &LocalEndpoint) {
        self.asking -= usize::from(!endpoint.nat.is_empty());
        for destination in &endpoint.addresses {
            if let Some(claimants) = self.claims.get_mut(destination) {
                claimants.remove(id);
                let another = |id: &WorkloadEndpointId| {
                    self.endpoints.get(id).is_some_and(|other| other.mac.is_some())
                };
                if !claimants.iter().any(another) {
                    self.fixed.remove(&destination.address());
                }
                if claimants.is_empty() {
                    self.claims.remove(destination);
                    if !self.externals.contains_key(destination) {
                        self.claimed.remove(destination);
                    }
                }
            }
        }
        if let Some(users) = self.users.get_mut(&endpoint.interface) {
            users.remove(id);
            if users.is_empty() {
                self.users.remove(&endpoint.interface);
            }
        }
    }

    fn mark(&self, endpoint: &LocalEndpoint, stale: &mut Stale) {
        stale.destinations.extend(endpoint.addresses.iter().copied());
        // Its interface may be gone or another.
        stale.destinations.extend(endpoint.nat.iter().map(|(_, external)| Cidr::host(*external)));
        for destination in &endpoint.addresses {
            stale.endpoints.extend(self.claimants(destination).cloned());
        }
        if let Some(link) = self.links.get(&endpoint.interface) {
            stale.neighbours.extend(hosts(endpoint).map(|address| (link.index, address)));
        }
        // Rivals for an address have their neighbour entry where their interface is.
        for destination in &endpoint.addresses {
            for id in self.claimants(destination) {
                let rival = self
                    .endpoints
                    .get(id)
                    .and_then(|rival| self.links.get(&rival.interface).map(|link| link.index));
                stale.neighbours.extend(rival.map(|device| (device, destination.address())));
            }
        }
    }

    fn mark_interface(&self, name: &InterfaceName, device: Option<u32>, stale: &mut Stale) {
        for id in self.users.get(name).into_iter().flatten() {
            stale.endpoints.insert(id.clone());
            if let Some(endpoint) = self.endpoints.get(id) {
                self.mark(endpoint, stale);
                let device = device.into_iter();
                stale.neighbours.extend(
                    device.flat_map(|device| hosts(endpoint).map(move |address| (device, address))),
                );
            }
        }
    }
}

impl Wanted for Intent {
    fn route(&self, destination: &Cidr) -> Option<Want> {
        let supported = self.settings.ipv6 || destination.family() == Family::V4;
        let own = self.winner(destination).map(|(_, _, device)| device);
        let device = own.or_else(|| self.external(destination));
        if let Some(device) = device.filter(|_| supported)
            && !is_link_scope(destination.address())
        {
            let source = match destination.family() {
                Family::V4 => self.settings.route_source,
                Family::V6 => self.settings.route_source_v6,
            };
            return Some(Want::Pod { device, source });
        }
        // The block of one address is the pod's own route, or nothing: as the original.
        let block = supported && !destination.is_host() && self.blocks.contains(destination);
        block.then_some(Want::Blackhole)
    }

    fn neighbour(&self, device: u32, address: IpAddr) -> Option<Mac> {
        let destination = Cidr::host(address);
        self.route(&destination)?;
        let (_, endpoint, winner) = self.winner(&destination)?;
        endpoint.mac.filter(|_| winner == device)
    }

    fn destinations(&self) -> BTreeSet<Cidr> {
        let pods = self.claims.keys().chain(self.externals.keys());
        pods.chain(&self.blocks).copied().collect()
    }

    fn neighbours(&self) -> BTreeSet<(u32, IpAddr)> {
        let mut all = BTreeSet::new();
        for endpoint in self.endpoints.values() {
            if let Some(link) = self.links.get(&endpoint.interface) {
                all.extend(hosts(endpoint).map(|address| (link.index, address)));
            }
        }
        all
    }
}

fn hosts(endpoint: &LocalEndpoint) -> impl Iterator<Item = IpAddr> + '_ {
    endpoint.addresses.iter().filter(|cidr| cidr.is_host()).map(Cidr::address)
}

/// True when the settings that routes follow are the same.
fn same_routes(a: &Settings, b: &Settings) -> bool {
    a.interface_prefixes == b.interface_prefixes
        && a.ipv6 == b.ipv6
        && a.floating_ips == b.floating_ips
        && a.route_protocol == b.route_protocol
        && a.route_source == b.route_source
        && a.route_source_v6 == b.route_source_v6
        && a.remove_external_routes == b.remove_external_routes
}

#[cfg(test)]
mod tests;
