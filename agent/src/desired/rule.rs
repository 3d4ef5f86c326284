//! Rules with their selectors resolved to address sets.

use calico_datastore::model::{Action, Cidr, Family, IcmpMatch, PortRange, Protocol};

use super::SetId;

/// One side of a rule. All criteria are AND-ed; each list is OR-ed inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideMatch {
    /// Prefixes of either family; see [`calico_datastore::model::Peer::nets`].
    pub nets: Vec<Cidr>,
    /// Prefixes that must not match.
    pub not_nets: Vec<Cidr>,
    /// Sets that must each hold the address.
    pub sets: Vec<SetId>,
    /// Sets that must not hold the address.
    pub not_sets: Vec<SetId>,
    /// Ports by number; OR-ed with `named_ports`.
    pub ports: Vec<PortRange>,
    /// Sets of (address, protocol, port); OR-ed with `ports`.
    pub named_ports: Vec<SetId>,
    /// Ports that must not match.
    pub not_ports: Vec<PortRange>,
    /// Sets of (address, protocol, port) that must not match.
    pub not_named_ports: Vec<SetId>,
}

/// A rule as the dataplane renders it. Rules that can never match were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveRule {
    /// Its place in the policy or profile as written, counted from 0: rules that were left out
    /// count. [`ActiveRule::UNWRITTEN`]: it stands nowhere.
    pub origin: u32,
    /// What happens on a match.
    pub action: Action,
    /// Only this family.
    pub family: Option<Family>,
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Any protocol but this one.
    pub not_protocol: Option<Protocol>,
    /// Only this ICMP type.
    pub icmp: Option<IcmpMatch>,
    /// Any ICMP message but this one.
    pub not_icmp: Option<IcmpMatch>,
    /// Where the packet comes from.
    pub source: SideMatch,
    /// Where the packet goes to.
    pub destination: SideMatch,
}

impl ActiveRule {
    /// The place of a rule that nobody wrote: it stands for a profile that is not there.
    pub const UNWRITTEN: u32 = u32::MAX;
}

/// The rules of a policy or a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveRules {
    /// For packets to the endpoint.
    pub ingress: Vec<ActiveRule>,
    /// For packets from the endpoint.
    pub egress: Vec<ActiveRule>,
}
