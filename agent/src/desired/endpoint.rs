//! An endpoint of this host as the dataplane needs it.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, InterfaceName, Mac};

use super::ClassId;

/// One pod interface on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// The host side of its veth pair.
    pub interface: InterfaceName,
    /// False: everything is dropped and no route is programmed.
    pub active: bool,
    /// Its Ethernet address, when known.
    pub mac: Option<Mac>,
    /// The addresses it may use, sorted, without duplicates.
    pub addresses: Vec<Cidr>,
    /// 1:1 NAT: (internal, external).
    pub nat: Vec<(IpAddr, IpAddr)>,
    /// Prefixes that it may send from besides its addresses, where `WorkloadSourceSpoofing` lets it;
    /// sorted, without duplicates. Sources only: nothing is routed to them.
    pub spoof: Vec<Cidr>,
    /// Its ACL.
    pub class: ClassId,
}
