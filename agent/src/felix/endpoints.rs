//! What an endpoint is to the dataplane: addresses, a class and a MAC behind one interface.
//!
//! The interface is the key, because the kernel knows nothing else. Two endpoints that name the
//! same interface (a pod that was made again under another name, and its old object not deleted
//! yet) must not take each other's members away when one goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_datastore::model::{Family, InterfaceName, Mac, WorkloadEndpointId};

use crate::desired::{Change, ClassId, DesiredState, Externals, LocalEndpoint};
use crate::routes::monitor::Links;

/// The interfaces of the active endpoints.
#[derive(Debug, Default)]
pub struct Interfaces {
    claims: BTreeMap<InterfaceName, BTreeSet<WorkloadEndpointId>>,
    owners: BTreeMap<InterfaceName, (WorkloadEndpointId, Arc<LocalEndpoint>)>,
    macs: BTreeMap<InterfaceName, Mac>,
    externals: Arc<Externals>,
    /// The interfaces that there were when they were decided, since everything was made anew.
    links: Option<Links>,
    /// They were decided at least once.
    decided: bool,
    /// Endpoints may send from the prefixes that they list.
    may_spoof: bool,
    spoofers: Spoofers,
    /// Who lists prefixes in vain.
    honest: BTreeMap<InterfaceName, WorkloadEndpointId>,
}

/// The interfaces from which more than the endpoint's own addresses may come, and its class.
pub type Spoofers = BTreeMap<Family, BTreeMap<InterfaceName, ClassId>>;

/// The owner of an interface before and after a change.
pub type Owners = (Option<Arc<LocalEndpoint>>, Option<Arc<LocalEndpoint>>);

/// What a change of endpoints means.
#[derive(Debug, Default)]
pub struct InterfaceChanges {
    /// The interfaces whose owner is another or says something else: before, and now.
    pub owners: BTreeMap<InterfaceName, Owners>,
    /// Addresses that left an interface.
    pub left: BTreeSet<IpAddr>,
    /// External addresses that lead elsewhere, or nowhere, than at the last time. Of the first time
    /// nothing is known.
    pub moved: BTreeSet<IpAddr>,
    /// True when the MAC rules are not the same.
    pub macs: bool,
    /// True when [`Interfaces::spoofers`] are not the same.
    pub spoofers: bool,
    /// Families that have spoofers now and had none.
    pub spoof_begins: BTreeSet<Family>,
    /// Families that had spoofers and have none now.
    pub spoof_ends: BTreeSet<Family>,
    /// Endpoints whose state may be another.
    pub touched: BTreeSet<WorkloadEndpointId>,
}

impl Interfaces {
    /// The MAC of each interface that has one.
    pub fn macs(&self) -> &BTreeMap<InterfaceName, Mac> {
        &self.macs
    }

    /// The external addresses of all endpoints.
    pub fn externals(&self) -> &Externals {
        &self.externals
    }

    /// The same, to be kept.
    pub fn share_externals(&self) -> Arc<Externals> {
        Arc::clone(&self.externals)
    }

    /// The interfaces from which more than the endpoint's own addresses may come. A family without any
    /// is not there.
    pub fn spoofers(&self) -> &Spoofers {
        &self.spoofers
    }

    /// True when what comes in by an interface may have a source that no route leads back to.
    pub fn is_spoofer(&self, interface: &InterfaceName, family: Family) -> bool {
        self.spoofers.get(&family).is_some_and(|all| all.contains_key(interface))
    }

    /// Endpoints that list prefixes and may not use them.
    pub fn honest(&self) -> impl Iterator<Item = &WorkloadEndpointId> {
        self.honest.values()
    }

    /// The endpoint whose addresses and MAC are in force on an interface.
    pub fn owner(&self, interface: &InterfaceName) -> Option<&WorkloadEndpointId> {
        self.owners.get(interface).map(|(id, _)| id)
    }

    /// What the endpoint is that is in force on an interface.
    pub fn endpoint(&self, interface: &InterfaceName) -> Option<&Arc<LocalEndpoint>> {
        self.owners.get(interface).map(|(_, endpoint)| endpoint)
    }

    /// Every endpoint that names the interface.
    pub fn claimants(
        &self,
        interface: &InterfaceName,
    ) -> impl Iterator<Item = &WorkloadEndpointId> {
        self.claims.get(interface).into_iter().flatten()
    }

    /// The interfaces with an owner, and the owner.
    pub fn owners(&self) -> impl Iterator<Item = (&InterfaceName, &Arc<LocalEndpoint>)> {
        self.owners.iter().map(|(name, (_, endpoint))| (name, endpoint))
    }

    /// The interfaces with an owner.
    pub fn names(&self) -> impl Iterator<Item = &InterfaceName> {
        self.owners.keys()
    }

    /// Takes over the endpoints of `state` from nothing. `links`: the interfaces that there are.
    pub fn rebuild(&mut self, state: &DesiredState, links: &Links) -> InterfaceChanges {
        let changes: Vec<_> = state
            .endpoints
            .iter()
            .map(|(id, endpoint)| (id.clone(), Change::Added(Arc::clone(endpoint))))
            .collect();
        // What led where is known all the same, if anything is: settings may have changed that.
        let (externals, decided) = (std::mem::take(&mut self.externals), self.decided);
        let may_spoof = state.settings.source_spoofing;
        *self = Self { externals, may_spoof, ..Self::default() };
        let mut changes = self.update(&changes, state, links);
        self.decided = true;
        if !decided {
            changes.moved.clear();
        }
        changes
    }

    /// Takes over changed endpoints.
    pub fn update(
        &mut self,
        changes: &[(WorkloadEndpointId, Change<Arc<LocalEndpoint>>)],
        state: &DesiredState,
        links: &Links,
    ) -> InterfaceChanges {
        let mut out = InterfaceChanges::default();
        let had: BTreeSet<Family> = self.spoofers.keys().copied().collect();
        let mut interfaces = BTreeSet::new();
        for (id, change) in changes {
            out.touched.insert(id.clone());
            let (old, new) = match change {
                Change::Added(new) => (None, Some(new)),
                Change::Updated { old, new } => (Some(old), Some(new)),
                Change::Removed(old) => (Some(old), None),
            };
            if let Some(old) = old {
                interfaces.insert(old.interface.clone());
                if let Some(claims) = self.claims.get_mut(&old.interface) {
                    claims.remove(id);
                }
            }
            if let Some(new) = new {
                interfaces.insert(new.interface.clone());
                self.claims.entry(new.interface.clone()).or_default().insert(id.clone());
            }
        }
        for interface in interfaces {
            self.update_interface(interface, state, &mut out);
        }
        let has: BTreeSet<Family> = self.spoofers.keys().copied().collect();
        out.spoof_begins = has.difference(&had).copied().collect();
        out.spoof_ends = had.difference(&has).copied().collect();
        out.moved = self.update_externals(changes, state, links);
        out
    }

    /// Who has them may also depend on which interface is up, so where anybody asks for one they are
    /// decided again with every change of endpoints or interfaces.
    fn update_externals(
        &mut self,
        changes: &[(WorkloadEndpointId, Change<Arc<LocalEndpoint>>)],
        state: &DesiredState,
        links: &Links,
    ) -> BTreeSet<IpAddr> {
        let asks = |change: &Change<Arc<LocalEndpoint>>| match change {
            Change::Added(new) | Change::Updated { new, .. } => !new.nat.is_empty(),
            Change::Removed(_) => false,
        };
        let old_links = self.links.replace(links.clone());
        if changes.is_empty() && old_links.is_some_and(|old| old.ptr_eq(links)) {
            return BTreeSet::new();
        }
        if self.externals.is_empty() && !changes.iter().any(|(_, change)| asks(change)) {
            return BTreeSet::new();
        }
        let settings = &state.settings;
        let is_up = |name: &InterfaceName| {
            settings.is_of_pods(name) && links.get(name).is_some_and(|link| link.up)
        };
        let new = Arc::new(Externals::of(state, is_up));
        let old = std::mem::replace(&mut self.externals, new);
        old.moved(&self.externals)
    }

    fn update_interface(
        &mut self,
        interface: InterfaceName,
        state: &DesiredState,
        out: &mut InterfaceChanges,
    ) {
        let claims = self.claims.get(&interface);
        out.touched.extend(claims.into_iter().flatten().cloned());
        // Rules ask what comes from interfaces with the prefix. Whoever names another one would be
        // without policy, and it may be the host's own.
        let policed = claims.filter(|_| state.settings.is_of_pods(&interface));
        // The first active one, in order of names: the same after a restart.
        let owner = policed.into_iter().flatten().find_map(|id| {
            let endpoint = state.endpoints.get(id)?;
            let class = state.classes.get(&endpoint.class)?;
            (endpoint.active && class.active).then(|| (id.clone(), Arc::clone(endpoint)))
        });
        if claims.is_some_and(BTreeSet::is_empty) {
            self.claims.remove(&interface);
        }
        let old = match &owner {
            Some(owner) => self.owners.insert(interface.clone(), owner.clone()),
            None => self.owners.remove(&interface),
        };
        let new = owner.as_ref().map(|(_, endpoint)| endpoint);
        let old = old.as_ref().map(|(_, endpoint)| endpoint);
        if old != new {
            // One that is touched twice was first what it was before.
            let change = out.owners.entry(interface.clone());
            change.or_insert_with(|| (old.cloned(), None)).1 = new.cloned();
        }
        let spoof = self.may_spoof;
        let has = |address: &IpAddr| new.is_some_and(|e| addresses(e).any(|a| a == *address));
        out.left.extend(old.into_iter().flat_map(|e| addresses(e)).filter(|a| !has(a)));
        let lists = |family: Family| {
            new.filter(|endpoint| endpoint.spoof.iter().any(|net| net.family() == family))
        };
        for family in Family::ALL {
            let class = lists(family).filter(|_| spoof).map(|endpoint| endpoint.class.clone());
            out.spoofers |= set_spoofer(&mut self.spoofers, family, &interface, class);
        }
        match owner.as_ref().filter(|(_, endpoint)| !spoof && !endpoint.spoof.is_empty()) {
            Some((id, _)) => drop(self.honest.insert(interface.clone(), id.clone())),
            None => drop(self.honest.remove(&interface)),
        }
        let mac = new.and_then(|endpoint| endpoint.mac);
        let previous = match mac {
            Some(mac) => self.macs.insert(interface, mac),
            None => self.macs.remove(&interface),
        };
        out.macs |= previous != mac;
    }
}

/// True when that changed something.
fn set_spoofer(
    spoofers: &mut Spoofers,
    family: Family,
    interface: &InterfaceName,
    class: Option<ClassId>,
) -> bool {
    let Some(class) = class else {
        let Some(all) = spoofers.get_mut(&family) else { return false };
        let removed = all.remove(interface).is_some();
        if all.is_empty() {
            spoofers.remove(&family);
        }
        return removed;
    };
    let all = spoofers.entry(family).or_default();
    all.insert(interface.clone(), class.clone()) != Some(class)
}

/// The single addresses of an endpoint.
fn addresses(endpoint: &LocalEndpoint) -> impl Iterator<Item = IpAddr> {
    endpoint.addresses.iter().filter(|net| net.is_host()).map(|net| net.address())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::desired::AclClass;
    use crate::routes::monitor::Link;

    fn id(name: &str) -> WorkloadEndpointId {
        WorkloadEndpointId {
            node: "host".into(),
            orchestrator: "cni".into(),
            workload: name.into(),
            endpoint: "eth0".into(),
        }
    }

    #[test]
    fn external_addresses_are_decided_when_something_of_them_may_be_another() {
        let settings = Settings { floating_ips: true, ..Settings::default() };
        let mut state = DesiredState { settings: Arc::new(settings), ..DesiredState::default() };
        let pod = |name: &str, internal: &str| LocalEndpoint {
            interface: format!("cali{name}").parse().unwrap(),
            active: true,
            mac: None,
            addresses: vec![internal.parse().unwrap()],
            nat: vec![(internal.parse().unwrap(), "192.0.2.1".parse().unwrap())],
            spoof: Vec::new(),
            class: AclClass::default().id(),
        };
        let [a, b] = [Arc::new(pod("a", "10.0.0.1")), Arc::new(pod("b", "10.0.0.2"))];
        state.endpoints.insert(id("a"), Arc::clone(&a));
        let mut links = Links::new();
        let up = |index| Link { index, up: true, ..Link::default() };
        links.insert(a.interface.clone(), up(1));
        let mut interfaces = Interfaces::default();
        interfaces.rebuild(&state, &links);
        let owner = |interfaces: &Interfaces| {
            let all = &interfaces.externals().given;
            all.values().map(|target| target.endpoint.clone()).collect::<Vec<_>>()
        };
        assert_eq!(owner(&interfaces), [id("a")]);
        // A state that changes in something else only.
        let first = interfaces.share_externals();
        assert!(interfaces.update(&[], &state, &links).moved.is_empty());
        assert!(Arc::ptr_eq(&first, &interfaces.share_externals()), "decided in vain");

        state.endpoints.insert(id("b"), Arc::clone(&b));
        let change = [(id("b"), Change::Added(Arc::clone(&b)))];
        assert!(interfaces.update(&change, &state, &links).moved.is_empty());
        assert_eq!(owner(&interfaces), [id("a")]);
        // Only interfaces change.
        links.insert(b.interface.clone(), up(2));
        links.remove(&a.interface);
        let moved = interfaces.update(&[], &state, &links).moved;
        assert_eq!(moved, BTreeSet::from(["192.0.2.1".parse().unwrap()]));
        assert_eq!(owner(&interfaces), [id("b")]);
        // Only settings do, which makes everything anew.
        state.settings = Arc::new(Settings::default());
        assert_eq!(interfaces.rebuild(&state, &links).moved, moved);
        assert_eq!(owner(&interfaces), []);
    }
}
