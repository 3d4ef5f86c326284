//! How what should be follows the world: a change touches the indexes of what changed, and says what
//! that makes stale.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_datastore::model::{Cidr, InterfaceName, WorkloadEndpointId};
use imbl::ordmap::DiffItem;

use super::{Intent, Stale, hosts, same_routes};
use crate::desired::{DesiredState, Externals, LocalEndpoint};
use crate::reconcile::World;

impl Intent {
    /// Takes over a new world and says what that makes stale.
    pub fn update(&mut self, world: &World) -> Stale {
        let mut stale = Stale::default();
        let desired = &world.desired;
        stale.everything = !same_routes(&self.settings, &desired.settings);
        self.settings = Arc::clone(&desired.settings);
        self.origin = desired.origin;
        // Who has external addresses costs all endpoints: only for a reason.
        let mut decide = stale.everything;

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
            decide = true;
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
            if !self.settings.is_of_pods(name) || same {
                continue;
            }
            decide = true;
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
        if decide {
            self.follow_externals(desired, &mut stale);
        }
        stale.gone.retain(|index| !self.pods.contains_key(index));
        self.note_former(&mut stale);
        stale
    }

    /// Decides anew who has which external address, where anybody asks for one.
    fn follow_externals(&mut self, desired: &DesiredState, stale: &mut Stale) {
        let is_up = |name: &InterfaceName| {
            self.settings.is_of_pods(name) && self.links.get(name).is_some_and(|link| link.up)
        };
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

    fn index_pods(&mut self) {
        self.pods = self
            .links
            .iter()
            .filter(|(name, _)| self.settings.is_of_pods(name))
            .map(|(name, link)| (link.index, name.clone()))
            .collect();
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
