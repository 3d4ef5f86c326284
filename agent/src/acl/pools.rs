//! Address pools and the blocks of this host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_datastore::model::{Cidr, Name, Pool, ResourceId};
use imbl::OrdMap;

use super::notices::{self, Notices};

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
        desired: &mut OrdMap<Cidr, bool>,
        notices: &mut Notices,
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
        notices::set(notices, &subject(name), None);
        for cidr in BTreeSet::from_iter(old.into_iter().chain(new)) {
            self.publish(cidr, desired, notices);
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

    fn publish(&self, cidr: Cidr, desired: &mut OrdMap<Cidr, bool>, notices: &mut Notices) {
        let mut pools = self.by_cidr.get(&cidr).into_iter().flatten().filter_map(|name| {
            let pool = self.by_name.get(name)?;
            Some((name, pool))
        });
        let Some((winner, pool)) = pools.next() else {
            desired.remove(&cidr);
            return;
        };
        desired.insert(cidr, pool.nat_outgoing);
        notices::set(notices, &subject(winner), notices::of_pool(pool, None));
        for (name, pool) in pools {
            notices::set(notices, &subject(name), notices::of_pool(pool, Some(winner)));
        }
    }
}

fn subject(name: &Name) -> String {
    ResourceId::Pool(name.clone()).to_string()
}
