//! What BIRD needs to know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::model::{AsNumber, Cidr, Name};

/// Another node of the full mesh, by one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MeshPeer {
    /// Its address; one entry per family.
    pub address: IpAddr,
    /// Its name, for comments and `status`.
    pub node: Name,
    /// Its AS number, the cluster's when it has none of its own.
    pub as_number: AsNumber,
}

/// The BGP part of the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpState {
    /// This host's name.
    pub node: Name,
    /// The datastore has a Node of that name. Before a host is registered there is none, and nobody
    /// could have given it an address.
    pub registered: bool,
    /// This host's routable IPv4 address: BIRD's router id. Without it no BIRD is configured.
    pub ipv4: Option<Ipv4Addr>,
    /// This host's routable IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// This host's AS number.
    pub as_number: AsNumber,
    /// The other nodes of the mesh in order of address; empty when the mesh is off.
    pub mesh: Vec<MeshPeer>,
    /// The port BIRD listens on.
    pub listen_port: Option<u16>,
    /// Pools and whether their routes are told to peers.
    pub pools: Vec<(Cidr, bool)>,
    /// BIRD's debug level: `none`, `info` or `debug`.
    pub log_severity: String,
}

impl Default for BgpState {
    fn default() -> Self {
        Self {
            node: Name::from(""),
            registered: false,
            ipv4: None,
            ipv6: None,
            as_number: AsNumber::DEFAULT,
            mesh: Vec::new(),
            listen_port: None,
            pools: Vec::new(),
            log_severity: "info".to_owned(),
        }
    }
}
