//! Address pools.

use super::{Cidr, Selector};

/// When packets between hosts are wrapped into another packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncapMode {
    /// Never.
    #[default]
    Never,
    /// Between any two hosts.
    Always,
    /// Only between hosts of different subnets.
    CrossSubnet,
}

/// An address pool. Of several pools with one CIDR the one with the lowest name counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The addresses.
    pub cidr: Cidr,
    /// IP in IP; never for IPv6.
    pub ipip: EncapMode,
    /// VXLAN.
    pub vxlan: EncapMode,
    /// Masquerade what leaves the pool for addresses outside every pool.
    pub nat_outgoing: bool,
    /// No new addresses are taken from it. It still counts for masquerade and BGP.
    pub disabled: bool,
    /// Its routes are not told to BGP peers.
    pub disable_bgp_export: bool,
    /// Prefix length of its allocation blocks: 20–32 (IPv4) or 116–128 (IPv6).
    pub block_size: u8,
    /// The nodes that may take blocks from it.
    pub node_selector: Selector,
    /// Pods may have addresses of it; otherwise only tunnels or load balancers.
    pub for_workloads: bool,
    /// Its addresses are only given to who asks for the pool or for the address.
    pub manual: bool,
}
