//! External addresses: who has which, when all of the host is known.
//!
//! An endpoint may be reached by addresses that it does not know itself (1:1 NAT). One can have only
//! one owner, and an endpoint's own address always is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, InterfaceName, WorkloadEndpointId};

use super::{DesiredState, LocalEndpoint};

/// Its endpoints' external addresses need no setting (as in the original).
const OPENSTACK: &str = "openstack";

/// Where packets for an external address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The endpoint.
    pub endpoint: WorkloadEndpointId,
    /// Its address behind the external one.
    pub internal: IpAddr,
}

/// Why an endpoint does not have an external address that it asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Another endpoint has it.
    Taken(WorkloadEndpointId),
    /// It is another endpoint's own address, or its own.
    Own(WorkloadEndpointId),
}

/// The external addresses of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Externals {
    /// Those in force.
    pub given: BTreeMap<IpAddr, Target>,
    /// What was asked for in vain.
    pub refused: BTreeMap<(WorkloadEndpointId, IpAddr), Refusal>,
    /// How many were asked for while they are switched off.
    pub off: usize,
}

impl Externals {
    /// Decides. Of several that ask for an address, the first in the order of ids whose interface is
    /// up has it, and if none is, the first. Endpoints on interfaces that are none of pods neither
    /// have any nor keep others from them. Costs the endpoints of the host.
    pub fn of(state: &DesiredState, is_up: impl Fn(&InterfaceName) -> bool) -> Self {
        let mut out = Self::default();
        let settings = &state.settings;
        // An address that leads to an interface without policy would be one that nobody guards.
        let active = || {
            let in_force = |e: &LocalEndpoint| e.active && settings.is_of_pods(&e.interface);
            state.endpoints.iter().filter(move |(_, endpoint)| in_force(endpoint))
        };
        if active().all(|(_, endpoint)| endpoint.nat.is_empty()) {
            return out;
        }
        let mut own: BTreeMap<Cidr, &WorkloadEndpointId> = BTreeMap::new();
        for (id, endpoint) in active() {
            for address in &endpoint.addresses {
                own.entry(*address).or_insert(id);
            }
        }
        let mut claims: BTreeMap<IpAddr, Vec<(bool, Target)>> = BTreeMap::new();
        for (id, endpoint) in active() {
            let up = is_up(&endpoint.interface);
            let mut seen = BTreeSet::new();
            for (internal, external) in &endpoint.nat {
                if Family::of(*external) == Family::V6 && !settings.ipv6 {
                    continue;
                }
                if !settings.floating_ips && id.orchestrator.as_str() != OPENSTACK {
                    out.off += 1;
                } else if let Some(owner) = own.get(&Cidr::host(*external)) {
                    let why = Refusal::Own((*owner).clone());
                    out.refused.insert((id.clone(), *external), why);
                } else if seen.insert(*external) {
                    let target = Target { endpoint: id.clone(), internal: *internal };
                    claims.entry(*external).or_default().push((up, target));
                }
            }
        }
        for (external, all) in claims {
            let winner = all.iter().position(|(up, _)| *up).unwrap_or(0);
            let has_it = all[winner].1.endpoint.clone();
            for (at, (_, target)) in all.into_iter().enumerate() {
                if at == winner {
                    out.given.insert(external, target);
                } else {
                    let why = Refusal::Taken(has_it.clone());
                    out.refused.insert((target.endpoint, external), why);
                }
            }
        }
        out
    }

    /// True when nobody asks for any.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.refused.is_empty() && self.off == 0
    }

    /// Those of a family: (external, internal).
    pub fn pairs(&self, family: Family) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let of = self.given.iter().filter(move |(external, _)| Family::of(**external) == family);
        of.map(|(external, target)| (*external, target.internal))
    }

    /// External addresses that lead elsewhere in `other`: new ones, those that are gone, and those of
    /// another endpoint.
    pub fn moved(&self, other: &Self) -> BTreeSet<IpAddr> {
        let both = self.given.keys().chain(other.given.keys());
        both.filter(|address| self.given.get(*address) != other.given.get(*address))
            .copied()
            .collect()
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Taken(id) => write!(f, "endpoint {id} has it"),
            Self::Own(id) => write!(f, "it is an own address of endpoint {id}"),
        }
    }
}

#[cfg(test)]
mod tests;
