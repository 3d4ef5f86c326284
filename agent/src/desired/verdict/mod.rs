//! What the policy in force says about one flow, and which rule says it: pure.
//!
//! The same answer as the kernel gives to the first packet of a connection with the rules that are
//! made of the same state. It knows no more than a flow tells: addresses, protocol, ports or ICMP
//! type. Which interface a packet came from is not among them, so an address stands for the
//! endpoint that may use it.

mod holders;
mod host;
mod lists;
mod openstack;
mod reason;
mod rule;
mod spoofed;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_datastore::model::{
    Family, HostEndpointId, InterfaceName, Name, PolicyId, Protocol, WorkloadEndpointId,
};

use self::holders::{Holder, Holders};
pub use self::host::{Hook, Passage};
pub use self::lists::Lists;
pub use self::rule::{Criterion, Miss};
use self::trace::Trace;
pub use self::trace::{Step, Traced};
use super::{DesiredState, LocalEndpoint};
use crate::config::{HostAction, RKT_METADATA_PORT};

/// The first packet of a connection, where policy sees it: behind the translation of its
/// destination, before that of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// Who opened it.
    pub source: IpAddr,
    /// Who is to answer.
    pub destination: IpAddr,
    /// Its protocol; `None` = number 0, which no rule can name.
    pub protocol: Option<Protocol>,
    /// The ports of source and destination, where the protocol has them.
    pub ports: Option<(u16, u16)>,
    /// Type and code of an ICMP or ICMPv6 message.
    pub icmp: Option<(u8, u8)>,
}

impl Flow {
    fn family(&self) -> Family {
        Family::of(self.source)
    }
}

/// Which end of a flow an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Its egress rules decide.
    Source,
    /// Its ingress rules decide.
    Destination,
}

/// Where a rule stands in its policy or profile as that is written: the path below `spec`, so it
/// counts from 0, and rules count that were left out here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleAt {
    /// Whose rules: a source's are `egress`, a destination's `ingress`.
    pub side: Side,
    /// Its place among them; see [`ActiveRule::origin`](crate::desired::ActiveRule::origin).
    pub index: u32,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A rule of a policy.
    Policy {
        /// The tier that the policy is asked in.
        tier: Name,
        /// The policy.
        policy: PolicyId,
        /// The rule.
        rule: RuleAt,
    },
    /// A policy of this tier is not there; nothing passes it.
    NoSuchPolicy {
        /// The tier.
        tier: Name,
        /// The policy.
        policy: PolicyId,
    },
    /// No rule of this tier matched.
    EndOfTier(Name),
    /// A rule of a profile.
    Profile {
        /// The profile.
        profile: Name,
        /// The rule.
        rule: RuleAt,
    },
    /// The profile is not there; nothing passes it.
    NoSuchProfile(Name),
    /// No tier and no profile decided.
    NothingAllows,
    /// The endpoint is down, its class is not there, or its interface belongs to another endpoint.
    NotInForce,
    /// The name of its interface is none of a pod's, so no rule of pods asks what passes there. The host
    /// endpoint of that interface may, if it has one: see [`Judge::trace_passage`].
    NotOfPods,
    /// The address is not one of the endpoint's.
    NotItsAddress,
    /// The family is switched off.
    FamilyOff,
    /// What an endpoint wraps for a tunnel is dropped.
    Tunnel,
    /// No endpoint reaches the host's loopback addresses.
    Loopback,
    /// What a host with IPv6 has to hear from its endpoints.
    NeighbourDiscovery,
    /// What a guest of OpenStack may always ask of its host.
    OpenStack,
    /// The endpoint allows it, and `DefaultEndpointToHostAction` drops what is for the host.
    ToHost,
    /// From the host itself: policy is not asked.
    FromHost,
    /// One of the host's ports that stay reachable, or of others that it always reaches.
    Failsafe,
    /// Nothing that a host endpoint asks there decides: it goes on.
    GoesOn,
}

/// Whose policy is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A pod's.
    Workload(WorkloadEndpointId),
    /// That of an interface of the host.
    Host(HostEndpointId),
}

impl Subject {
    /// The endpoint of a pod.
    pub fn workload(&self) -> Option<&WorkloadEndpointId> {
        match self {
            Self::Workload(id) => Some(id),
            Self::Host(_) => None,
        }
    }
}

/// What one endpoint's policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whose policy it is.
    pub subject: Subject,
    /// Which end of the flow it is.
    pub side: Side,
    /// False: dropped.
    pub allowed: bool,
    /// What decided.
    pub reason: Reason,
}

/// Answers questions about one state. To make it costs the endpoints; a question costs the rules
/// that are asked, whatever the size of their sets.
#[derive(Debug)]
pub struct Judge<'a> {
    state: &'a DesiredState,
    host: &'a BTreeSet<IpAddr>,
    /// Endpoints that are in force.
    owners: Holders<'a>,
    /// Endpoints that are in force and may send from other prefixes.
    spoofers: Vec<Holder<'a>>,
    /// Endpoints that are not in force.
    idle: BTreeSet<&'a WorkloadEndpointId>,
    /// The same, by what they would use.
    others: Holders<'a>,
    /// Endpoints on interfaces that are none of pods: no rule of pods is asked about what is theirs.
    unpoliced: Holders<'a>,
    pods: Lists<'a>,
    hosts: Lists<'a>,
}

/// UDP port of VXLAN.
const VXLAN_PORT: u16 = 4789;
/// IP in IP (RFC 2003).
const IPIP: u8 = 4;
/// ICMPv6 types that a pod may always send to its host; see the chains of the table `filter`.
const ND_TYPES: [u8; 7] = [130, 131, 132, 133, 135, 136, 143];

impl<'a> Judge<'a> {
    /// `host`: the addresses of the host itself.
    pub fn new(state: &'a DesiredState, host: &'a BTreeSet<IpAddr>) -> Self {
        let mut judge = Self {
            state,
            host,
            owners: Holders::default(),
            spoofers: Vec::new(),
            idle: BTreeSet::new(),
            others: Holders::default(),
            unpoliced: Holders::default(),
            pods: Lists::new(&state.policies, &state.profiles, &state.sets),
            hosts: Lists::of_hosts(&state.host_endpoints),
        };
        // The first active one of an interface, in order of names, as the dataplane has it.
        let mut taken: BTreeSet<&InterfaceName> = BTreeSet::new();
        for (id, endpoint) in &state.endpoints {
            if !state.settings.is_of_pods(&endpoint.interface) {
                judge.unpoliced.add(id, endpoint);
                continue;
            }
            let class = state.classes.get(&endpoint.class);
            let active = endpoint.active && class.is_some_and(|class| class.active);
            if !active || !taken.insert(&endpoint.interface) {
                judge.idle.insert(id);
                judge.others.add(id, endpoint);
                continue;
            }
            if state.settings.source_spoofing && !endpoint.spoof.is_empty() {
                judge.spoofers.push((id, endpoint));
            }
            judge.owners.add(id, endpoint);
        }
        judge
    }

    /// Each endpoint of this host that the flow is from or to and that policy is asked about, and what
    /// it says. The flow passes when all of them allow it; without any it is none of ours. Of several endpoints with
    /// one address each is asked: which one a flow is of, it does not tell.
    pub fn judge(&self, flow: &Flow) -> Vec<Verdict> {
        let mut out = Vec::new();
        for (side, address) in [(Side::Source, flow.source), (Side::Destination, flow.destination)]
        {
            let mut decide = |endpoint: &WorkloadEndpointId, (allowed, reason)| {
                let subject = Subject::Workload(endpoint.clone());
                out.push(Verdict { subject, side, allowed, reason });
            };
            let owners = self.owners.with(address);
            for (id, endpoint) in &owners {
                decide(id, self.decide(endpoint, side, flow, &mut ()));
            }
            // What is of one that is not policed passes, whoever else would have the address.
            if owners.is_empty() && !self.unpoliced.has(address) {
                for (id, _) in self.others.with(address) {
                    decide(id, (false, Reason::NotInForce));
                }
            }
        }
        out
    }

    /// What the policy of one endpoint says about a flow from it or to it; `None` when there is no
    /// such endpoint.
    pub fn ask(&self, id: &WorkloadEndpointId, side: Side, flow: &Flow) -> Option<Verdict> {
        self.ask_with(id, side, flow, &mut ())
    }

    /// The same, with everything that was asked on the way.
    pub fn trace(&self, id: &WorkloadEndpointId, side: Side, flow: &Flow) -> Option<Traced<'a>> {
        let mut steps = Vec::new();
        let verdict = self.ask_with(id, side, flow, &mut steps)?;
        Some(Traced { verdict, steps })
    }

    fn ask_with<T: Trace<'a>>(
        &self,
        id: &WorkloadEndpointId,
        side: Side,
        flow: &Flow,
        trace: &mut T,
    ) -> Option<Verdict> {
        let endpoint = self.state.endpoints.get(id)?;
        let address = match side {
            Side::Source => flow.source,
            Side::Destination => flow.destination,
        };
        let (allowed, reason) = if !self.state.settings.is_of_pods(&endpoint.interface) {
            (true, Reason::NotOfPods)
        } else if self.idle.contains(id) {
            (false, Reason::NotInForce)
        } else if !self.may_use(endpoint, side, address) {
            (false, Reason::NotItsAddress)
        } else {
            self.decide(endpoint, side, flow, trace)
        };
        Some(Verdict { subject: Subject::Workload(id.clone()), side, allowed, reason })
    }

    /// The endpoints of this host that a flow from or to an address is of: those in force that may
    /// use it, or else those that no rule asks about, or else those that would.
    pub fn endpoints_with(&self, address: IpAddr) -> Vec<&'a WorkloadEndpointId> {
        let ranks = [&self.owners, &self.unpoliced, &self.others].into_iter();
        let mut found = ranks.map(|holders| holders.with(address));
        let first = found.find(|holders| !holders.is_empty()).unwrap_or_default();
        first.into_iter().map(|(id, _)| id).collect()
    }

    /// What goes there the host itself takes.
    pub fn is_for_host(&self, to: IpAddr) -> bool {
        let broadcast = matches!(to, IpAddr::V4(to) if to.is_broadcast());
        self.host.contains(&to) || to.is_multicast() || broadcast
    }

    /// What comes from there the host itself sends.
    pub fn is_of_host(&self, from: IpAddr) -> bool {
        self.host.contains(&from)
    }

    /// As a source also what it may spoof. Only where the endpoint is known beforehand: such an address
    /// alone does not say that a flow is of it.
    fn may_use(&self, endpoint: &LocalEndpoint, side: Side, address: IpAddr) -> bool {
        let spoof = side == Side::Source && self.state.settings.source_spoofing;
        let listed = endpoint.spoof.iter().filter(|_| spoof);
        endpoint.addresses.iter().chain(listed).any(|net| net.contains(address))
    }

    /// What the endpoints of pods ask.
    pub fn of_pods(&self) -> &Lists<'a> {
        &self.pods
    }

    /// What host endpoints ask.
    pub fn of_hosts(&self) -> &Lists<'a> {
        &self.hosts
    }

    fn decide<T: Trace<'a>>(
        &self,
        endpoint: &LocalEndpoint,
        side: Side,
        flow: &Flow,
        trace: &mut T,
    ) -> (bool, Reason) {
        let settings = &self.state.settings;
        if flow.family() == Family::V6 && !settings.ipv6 {
            return (false, Reason::FamilyOff);
        }
        let Some(class) = self.state.classes.get(&endpoint.class) else {
            return (false, Reason::NotInForce);
        };
        if side == Side::Destination {
            // The chains of forwarded packets never see what the host itself sends.
            if self.is_of_host(flow.source) {
                return (true, Reason::FromHost);
            }
            return self.pods.walk(&class.ingress, side, flow, trace);
        }
        let to = flow.destination;
        if openstack::asks_its_host(settings, &endpoint.interface, flow, self.host.contains(&to)) {
            return (true, Reason::OpenStack);
        }
        if to.is_ipv4() && to.is_loopback() {
            return (false, Reason::Loopback);
        }
        let to_host = self.is_for_host(to);
        let discovery = flow.protocol == Some(Protocol::ICMPV6)
            && flow.icmp.is_some_and(|(kind, _)| ND_TYPES.contains(&kind));
        if to_host && flow.family() == Family::V6 && discovery {
            return (true, Reason::NeighbourDiscovery);
        }
        let vxlan = flow.protocol == Some(Protocol::UDP)
            && flow.ports.is_some_and(|(_, port)| port == VXLAN_PORT);
        if vxlan || flow.protocol.is_some_and(|protocol| protocol.number() == IPIP) {
            return (false, Reason::Tunnel);
        }
        let (allowed, reason) = self.pods.walk(&class.egress, side, flow, trace);
        let metadata = settings.rkt_metadata_service
            && flow.family() == Family::V4
            && flow.protocol == Some(Protocol::TCP)
            && flow.ports.is_some_and(|(_, port)| port == RKT_METADATA_PORT);
        if allowed && to_host && settings.endpoint_to_host == HostAction::Drop && !metadata {
            return (false, Reason::ToHost);
        }
        (allowed, reason)
    }
}
