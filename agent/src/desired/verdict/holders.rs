//! Which endpoints may use an address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_datastore::model::{Cidr, WorkloadEndpointId};

use crate::desired::LocalEndpoint;

/// Some endpoints, by the addresses that they may use. A look for an address costs the longer prefixes
/// of all of them, which are few, and not the endpoints. Who may use every address has none.
#[derive(Debug, Default)]
pub(super) struct Holders<'a> {
    single: BTreeMap<IpAddr, Vec<Holder<'a>>>,
    nets: Vec<(Cidr, Holder<'a>)>,
}

/// One of them.
pub(super) type Holder<'a> = (&'a WorkloadEndpointId, &'a LocalEndpoint);

impl<'a> Holders<'a> {
    pub(super) fn add(&mut self, id: &'a WorkloadEndpointId, endpoint: &'a LocalEndpoint) {
        for net in endpoint.addresses.iter().filter(|net| net.prefix_len() > 0) {
            if net.is_host() {
                self.single.entry(net.address()).or_default().push((id, endpoint));
            } else {
                self.nets.push((*net, (id, endpoint)));
            }
        }
    }

    /// Those that may use the address, each once.
    pub(super) fn with(&self, address: IpAddr) -> Vec<Holder<'a>> {
        let mut found: Vec<Holder<'a>> = Vec::new();
        let single = self.single.get(&address).into_iter().flatten();
        let nets = self.nets.iter().filter(|(net, _)| net.contains(address));
        for holder in single.chain(nets.map(|(_, holder)| holder)) {
            if !found.iter().any(|(id, _)| *id == holder.0) {
                found.push(*holder);
            }
        }
        found
    }

    /// Somebody may use the address.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.single.contains_key(&address) || self.nets.iter().any(|(net, _)| net.contains(address))
    }
}
