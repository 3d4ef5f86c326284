//! What endpoints may do beside policy where their host lets them: send from prefixes that they list
//! (`allowSpoofedSourcePrefixes`), and be reached by other addresses (`ipNATs`).
//!
//! An external address has one owner on a host. An endpoint's own address always is its own; of
//! several that ask for another one, the first in the order of their ids has it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_datastore::model::{FelixConfiguration, Name, WorkloadEndpoint, WorkloadEndpointId};

use crate::packet::Direction;
use crate::store::Reference;

/// What leads packets to an endpoint: its id, and its own address behind the external one.
pub type Owner = (WorkloadEndpointId, IpAddr);

impl Reference {
    /// True where `WorkloadSourceSpoofing` is `Any` on a node.
    pub fn lets_spoof(&self, node: &Name) -> bool {
        self.is_set(node, "WorkloadSourceSpoofing", "Any")
    }

    /// True where `FloatingIPs` is `Enabled` on a node.
    pub fn lets_float(&self, node: &Name) -> bool {
        self.is_set(node, "FloatingIPs", "Enabled")
    }

    /// What is said of a node goes before what is said of all. Names and words in any case.
    fn is_set(&self, node: &Name, parameter: &str, to: &str) -> bool {
        let said = |name: &str| {
            let all = &self.configurations.get(name)?.parameters;
            all.iter().find(|(name, _)| name.eq_ignore_ascii_case(parameter)).map(|(_, v)| v)
        };
        let said = said(&format!("node.{node}")).or_else(|| said(FelixConfiguration::CLUSTER));
        said.is_some_and(|value| value.eq_ignore_ascii_case(to))
    }

    /// True when an endpoint may use an address as one end of a packet.
    pub(crate) fn may_use(
        &self,
        id: &WorkloadEndpointId,
        endpoint: &WorkloadEndpoint,
        direction: Direction,
        address: IpAddr,
    ) -> bool {
        let own = endpoint.addresses.iter().any(|net| crate::net::holds(net, address));
        let listed = endpoint.spoof.iter().any(|net| crate::net::holds(net, address));
        own || (direction == Direction::Egress && listed && self.lets_spoof(&id.node))
    }

    /// The external addresses of a node's endpoints.
    pub fn externals(&self, node: &Name) -> BTreeMap<IpAddr, Owner> {
        let mut owners = BTreeMap::new();
        let here = || self.workloads.iter().filter(|(id, one)| id.node == *node && one.active);
        for (id, endpoint) in here() {
            // An endpoint of OpenStack needs no leave.
            if !self.lets_float(node) && id.orchestrator != *"openstack" {
                continue;
            }
            for (internal, external) in &endpoint.nat {
                let mut addresses = here().flat_map(|(_, other)| &other.addresses);
                let is_own = addresses.any(|net| net.is_host() && net.address() == *external);
                if !is_own {
                    owners.entry(*external).or_insert((id.clone(), *internal));
                }
            }
        }
        owners
    }
}
