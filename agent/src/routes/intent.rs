//! Which routes and neighbours should be: endpoints, links, blocks and settings, indexed so that a
//! change costs what changed.
//!
//! It does no I/O, knows no clock and plans nothing.

mod follow;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::model::{Cidr, Family, InterfaceName, Mac, WorkloadEndpointId};
use imbl::{OrdMap, OrdSet};

use super::monitor::Links;
use super::plan::{CALICO_PROTOCOL, Route, Rules, Want, Wanted, is_link_scope};
use crate::config::Settings;
use crate::desired::{LocalEndpoint, Origin};
use crate::reconcile::EndpointState;

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
enum Readiness {
    Ready(u32),
    Down(&'static str),
    /// Nothing of it is ours to route to, whoever owns the interface.
    NotOfPods,
}

impl Intent {
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

    /// True for a route with a number of ours, at a place where that says that it is ours.
    pub fn is_marked(&self, route: &Route) -> bool {
        route.protocol == CALICO_PROTOCOL
            || route.protocol == self.settings.route_protocol
                && route.device.is_some_and(|device| self.is_watched(device))
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

    /// True for a route that is to be looked at: on an interface where ours may be, with Calico's own
    /// protocol, or where somebody wants one. What else has the number that the settings say is
    /// another program's.
    pub fn concerns(&self, route: &Route) -> bool {
        route.device.is_some_and(|device| self.is_watched(device))
            || route.protocol == CALICO_PROTOCOL
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
            Readiness::NotOfPods => {
                EndpointState::Error(self.settings.not_of_pods(&endpoint.interface))
            }
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
            Readiness::Down(_) | Readiness::NotOfPods => None,
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

    fn readiness(&self, endpoint: &LocalEndpoint) -> Readiness {
        if !endpoint.active {
            return Readiness::Down("the endpoint is administratively down");
        }
        if !self.settings.is_of_pods(&endpoint.interface) {
            return Readiness::NotOfPods;
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
                Readiness::Down(_) | Readiness::NotOfPods => None,
            }
        })
    }

    /// The interface of the endpoint behind an external address.
    fn external(&self, destination: &Cidr) -> Option<u32> {
        let endpoint = self.endpoints.get(self.externals.get(destination)?)?;
        match self.readiness(endpoint) {
            Readiness::Ready(device) => Some(device),
            Readiness::Down(_) | Readiness::NotOfPods => None,
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
