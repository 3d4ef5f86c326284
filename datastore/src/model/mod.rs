//! The internal model: one vocabulary for every layout.
//!
//! After decoding there are no strings for addresses, ports, selectors or actions. Everything here
//! is an immutable value, cheap to clone (`Arc` inside), ordered and comparable, so that the
//! calculation can diff it. This module does no I/O and knows no clock; a test enforces it.

mod bgp;
mod cidr;
mod cluster;
mod endpoint;
mod ipam;
mod labels;
mod name;
mod netset;
mod node;
mod policy;
mod pool;
mod profile;
mod resource;
mod rule;
pub mod selector;

pub use bgp::{AsNumber, BgpConfiguration, InvalidAsNumber};
pub use cidr::{Cidr, Family, InvalidCidr};
pub use cluster::{CalicoVersion, ClusterInformation, FelixConfiguration, InvalidVersion};
pub use endpoint::{
    HostEndpoint, HostEndpointId, InterfaceName, InvalidInterfaceName, InvalidMac, Mac, NamedPort,
    WorkloadEndpoint, WorkloadEndpointId,
};
pub use ipam::{Affinity, AffinityId, AffinityState, Block, IpamConfig};
pub use labels::Labels;
pub use name::Name;
pub use netset::{NetworkSet, NetworkSetId};
pub use node::Node;
pub use policy::{Order, Policy, PolicyId, PolicyKind, Tier, TierAction};
pub use pool::{EncapMode, Pool};
pub use profile::Profile;
pub use resource::{ResourceId, Update};
pub use rule::{
    Action, IcmpMatch, InvalidPort, InvalidProtocol, Peer, PortRange, Ports, Protocol, Rule,
    Unevaluable,
};
pub use selector::Selector;
