//! Address pools and the blocks of this host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_datastore::model::{Cidr, EncapMode, Name, Pool, ResourceId};

use super::notices;
use crate::desired::{DesiredState, Overlay};

/// The pools as stored. Of several with one CIDR the one with the lowest name counts; the others
/// wait in its shadow.
#[derive(Debug, Default)]
pub(super) struct PoolTable {
    by_name: BTreeMap<Name, Arc<Pool>>,
    by_cidr: BTreeMap<Cidr, BTreeSet<Name>>,
}

impl PoolTable {
    /// A pool is new, different or gone. Disabled pools count like all others: disabled only means
    /// that no new addresses come from it.
    pub(super) fn set(
        &mut self,
        name: &Name,
        pool: Option<&Arc<Pool>>,
        desired: &mut DesiredState,
    ) {
        let old = match pool {
            Some(pool) => self.by_name.insert(name.clone(), Arc::clone(pool)),
            None => self.by_name.remove(name),
        };
        let old = old.map(|pool| pool.cidr);
        let new = pool.map(|pool| pool.cidr);
        if let Some(cidr) = old.filter(|_| old != new)
            && let Some(names) = self.by_cidr.get_mut(&cidr)
        {
            names.remove(name);
            if names.is_empty() {
                self.by_cidr.remove(&cidr);
            }
        }
        if let Some(cidr) = new {
            self.by_cidr.entry(cidr).or_default().insert(name.clone());
        }
        notices::set(&mut desired.notices, &subject(name), None);
        for cidr in BTreeSet::from_iter(old.into_iter().chain(new)) {
            self.publish(cidr, desired);
        }
    }

    /// The pools that count, in order, and whether their routes are told to BGP peers.
    pub(super) fn exported(&self) -> Vec<(Cidr, bool)> {
        let winners = self.by_cidr.iter().filter_map(|(cidr, names)| {
            let pool = self.by_name.get(names.first()?)?;
            Some((*cidr, !pool.disable_bgp_export))
        });
        winners.collect()
    }

    /// True without pools.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.by_cidr.is_empty()
    }

    fn publish(&self, cidr: Cidr, desired: &mut DesiredState) {
        let mut pools = self.by_cidr.get(&cidr).into_iter().flatten().filter_map(|name| {
            let pool = self.by_name.get(name)?;
            Some((name, pool))
        });
        let Some((winner, pool)) = pools.next() else {
            desired.pools.remove(&cidr);
            desired.overlays.remove(&cidr);
            return;
        };
        desired.pools.insert(cidr, pool.nat_outgoing);
        match overlay(pool) {
            Some(overlay) => desired.overlays.insert(cidr, overlay),
            None => desired.overlays.remove(&cidr),
        };
        let notices = &mut desired.notices;
        notices::set(notices, &subject(winner), notices::of_pool(pool, None));
        for (name, pool) in pools {
            notices::set(notices, &subject(name), notices::of_pool(pool, Some(winner)));
        }
    }
}

/// What its packets are wrapped into between hosts; of two the one that takes more room.
pub(super) fn overlay(pool: &Pool) -> Option<Overlay> {
    match (pool.ipip, pool.vxlan) {
        (EncapMode::Never, EncapMode::Never) => None,
        (_, EncapMode::Never) => Some(Overlay::IpInIp),
        _ => Some(Overlay::Vxlan),
    }
}

fn subject(name: &Name) -> String {
    ResourceId::Pool(name.clone()).to_string()
}
