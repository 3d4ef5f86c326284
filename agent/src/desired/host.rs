//! Host endpoints of this host: what decides about packets of its own interfaces.
//!
//! It is a part by itself, so that a policy, a profile or a set that only host endpoints need is not
//! programmed by anybody who programs what the endpoints of pods need. What both need is in both.

use std::net::IpAddr;
use std::sync::Arc;

use calico_datastore::model::{HostEndpointId, Name, PolicyId};
use imbl::OrdMap;

use super::{ActiveRules, AddressSet, SetId, TierAcl};

/// The tiers that govern each direction; see [`TierAcl`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostTiers {
    /// Packets to the host or, forwarded, into it.
    pub ingress: Vec<TierAcl>,
    /// Packets from the host or, forwarded, out of it.
    pub egress: Vec<TierAcl>,
}

/// One host endpoint. Which interface it is about in the end is found out where interfaces and
/// their addresses are known: two of them may claim one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalHostEndpoint {
    /// The interface; `*` = all; `None` = whichever holds one of `addresses`.
    pub interface: Option<Name>,
    /// The addresses it is expected to have, sorted, without duplicates.
    pub addresses: Vec<IpAddr>,
    /// What the host itself sends and receives: these tiers, then `profiles`, then drop.
    pub normal: HostTiers,
    /// What passes through the host: the policies of `normal` that apply on forward. Without any of
    /// them in a direction everything passes, and profiles are not asked.
    pub forward: HostTiers,
    /// Asked before connection tracking. Its end drops nothing.
    pub untracked: HostTiers,
    /// Asked before destination addresses are translated, about what comes in. Its end drops
    /// nothing.
    pub pre_dnat: Vec<TierAcl>,
    /// Profiles in the order they are asked.
    pub profiles: Vec<Name>,
}

/// Every host endpoint of this host, and all that they need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostEndpoints {
    /// The endpoints.
    pub endpoints: OrdMap<HostEndpointId, Arc<LocalHostEndpoint>>,
    /// The policies that apply to one of them.
    pub policies: OrdMap<PolicyId, Arc<ActiveRules>>,
    /// The profiles that one of them lists; a missing one drops everything.
    pub profiles: OrdMap<Name, Arc<ActiveRules>>,
    /// The address sets that those rules use.
    pub sets: OrdMap<SetId, AddressSet>,
}
