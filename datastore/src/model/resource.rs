//! Any object of the datastore, by id.

use std::fmt;
use std::sync::Arc;

use super::{
    Affinity, AffinityId, BgpConfiguration, Block, Cidr, ClusterInformation, FelixConfiguration,
    HostEndpoint, HostEndpointId, Name, NetworkSet, NetworkSetId, Node, Policy, PolicyId, Pool,
    Profile, Tier, WorkloadEndpoint, WorkloadEndpointId,
};

/// What an object is called. Two objects never share an id, whatever their layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceId {
    /// ClusterInformation `default`.
    ClusterInformation,
    /// FelixConfiguration: `default` or `node.<name>`.
    FelixConfiguration(Name),
    /// BGPConfiguration: `default` or `node.<name>`.
    BgpConfiguration(Name),
    /// Node.
    Node(Name),
    /// IPPool.
    Pool(Name),
    /// Tier.
    Tier(Name),
    /// Profile.
    Profile(Name),
    /// NetworkPolicy or GlobalNetworkPolicy.
    Policy(PolicyId),
    /// NetworkSet or GlobalNetworkSet.
    NetworkSet(NetworkSetId),
    /// HostEndpoint.
    HostEndpoint(HostEndpointId),
    /// WorkloadEndpoint.
    WorkloadEndpoint(WorkloadEndpointId),
    /// Allocation block.
    Block(Cidr),
    /// Block affinity.
    Affinity(AffinityId),
}

impl fmt::Display for ResourceId {
    /// `kind name`, the way `calicoctl` names an object.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterInformation => f.write_str("ClusterInformation default"),
            Self::FelixConfiguration(name) => write!(f, "FelixConfiguration {name}"),
            Self::BgpConfiguration(name) => write!(f, "BGPConfiguration {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Pool(name) => write!(f, "IPPool {name}"),
            Self::Tier(name) => write!(f, "Tier {name}"),
            Self::Profile(name) => write!(f, "Profile {name}"),
            Self::Policy(id) if id.namespace.is_some() => write!(f, "NetworkPolicy {id}"),
            Self::Policy(id) => write!(f, "GlobalNetworkPolicy {id}"),
            Self::NetworkSet(id) if id.namespace.is_some() => write!(f, "NetworkSet {id}"),
            Self::NetworkSet(id) => write!(f, "GlobalNetworkSet {id}"),
            Self::HostEndpoint(id) => write!(f, "HostEndpoint {}", id.name),
            Self::WorkloadEndpoint(id) => write!(f, "WorkloadEndpoint {id}"),
            Self::Block(cidr) => write!(f, "block {cidr}"),
            Self::Affinity(id) => write!(f, "affinity of {} to block {}", id.host, id.block),
        }
    }
}

/// A change of one object: its new value, or `None` when it is gone or does not parse.
///
/// One variant per kind, so that an id can never travel with a value of another kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// ClusterInformation `default`.
    ClusterInformation(Option<Arc<ClusterInformation>>),
    /// FelixConfiguration.
    FelixConfiguration(Name, Option<Arc<FelixConfiguration>>),
    /// BGPConfiguration.
    BgpConfiguration(Name, Option<Arc<BgpConfiguration>>),
    /// Node.
    Node(Name, Option<Arc<Node>>),
    /// IPPool.
    Pool(Name, Option<Arc<Pool>>),
    /// Tier.
    Tier(Name, Option<Arc<Tier>>),
    /// Profile.
    Profile(Name, Option<Arc<Profile>>),
    /// Policy.
    Policy(PolicyId, Option<Arc<Policy>>),
    /// Network set.
    NetworkSet(NetworkSetId, Option<Arc<NetworkSet>>),
    /// Host endpoint.
    HostEndpoint(HostEndpointId, Option<Arc<HostEndpoint>>),
    /// Workload endpoint.
    WorkloadEndpoint(WorkloadEndpointId, Option<Arc<WorkloadEndpoint>>),
    /// Allocation block.
    Block(Cidr, Option<Arc<Block>>),
    /// Block affinity.
    Affinity(AffinityId, Option<Arc<Affinity>>),
}

impl Update {
    /// The object that changed.
    pub fn id(&self) -> ResourceId {
        match self {
            Self::ClusterInformation(_) => ResourceId::ClusterInformation,
            Self::FelixConfiguration(name, _) => ResourceId::FelixConfiguration(name.clone()),
            Self::BgpConfiguration(name, _) => ResourceId::BgpConfiguration(name.clone()),
            Self::Node(name, _) => ResourceId::Node(name.clone()),
            Self::Pool(name, _) => ResourceId::Pool(name.clone()),
            Self::Tier(name, _) => ResourceId::Tier(name.clone()),
            Self::Profile(name, _) => ResourceId::Profile(name.clone()),
            Self::Policy(id, _) => ResourceId::Policy(id.clone()),
            Self::NetworkSet(id, _) => ResourceId::NetworkSet(id.clone()),
            Self::HostEndpoint(id, _) => ResourceId::HostEndpoint(id.clone()),
            Self::WorkloadEndpoint(id, _) => ResourceId::WorkloadEndpoint(id.clone()),
            Self::Block(cidr, _) => ResourceId::Block(*cidr),
            Self::Affinity(id, _) => ResourceId::Affinity(id.clone()),
        }
    }

    /// The update that says that an object is gone.
    pub fn deleted(id: ResourceId) -> Self {
        match id {
            ResourceId::ClusterInformation => Self::ClusterInformation(None),
            ResourceId::FelixConfiguration(name) => Self::FelixConfiguration(name, None),
            ResourceId::BgpConfiguration(name) => Self::BgpConfiguration(name, None),
            ResourceId::Node(name) => Self::Node(name, None),
            ResourceId::Pool(name) => Self::Pool(name, None),
            ResourceId::Tier(name) => Self::Tier(name, None),
            ResourceId::Profile(name) => Self::Profile(name, None),
            ResourceId::Policy(id) => Self::Policy(id, None),
            ResourceId::NetworkSet(id) => Self::NetworkSet(id, None),
            ResourceId::HostEndpoint(id) => Self::HostEndpoint(id, None),
            ResourceId::WorkloadEndpoint(id) => Self::WorkloadEndpoint(id, None),
            ResourceId::Block(cidr) => Self::Block(cidr, None),
            ResourceId::Affinity(id) => Self::Affinity(id, None),
        }
    }
}
