//! Host endpoints: which one governs an interface, and what its policy says at each hook.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, HostEndpointId, InterfaceName, Name, PolicyKind, Protocol};

use crate::ask::Tiers;
use crate::net;
use crate::packet::{Direction, Packet};
use crate::store::{Policy, Reference};
use crate::verdict::{Reason, Verdict};

/// Where a host endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Before connection tracking (table `raw`): `doNotTrack` policies.
    Untracked,
    /// Before destinations are translated (table `mangle`): `preDNAT` policies, ingress only.
    PreDnat,
    /// What the host itself receives and sends: tiers, profiles, drop.
    Normal,
    /// What passes through the host: policies that apply on forward.
    Forward,
}

/// A port that is never closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failsafe {
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the answering end.
    pub port: u16,
    /// Only from or to these others; `None` = all.
    pub net: Option<Cidr>,
}

impl Failsafe {
    /// Is it a packet to this port, the other end being `other`?
    pub(crate) fn meets(&self, protocol: u8, port: Option<u16>, other: IpAddr) -> bool {
        self.protocol.number() == protocol
            && port == Some(self.port)
            && self.net.is_none_or(|net| net::holds(&net, other))
    }
}

/// An interface of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: InterfaceName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Reference {
    /// The host endpoint that governs an interface of a host: one that names it, else one that
    /// names none and expects one of its addresses, else one of all interfaces, which the loopback
    /// interface is not among. Of several the first by name. Interfaces of workloads have none; do not ask about them.
    pub fn host_endpoint_of(&self, node: &Name, interface: &Interface) -> Option<&HostEndpointId> {
        let of_node = || self.hosts.iter().filter(|(_, endpoint)| endpoint.node == *node);
        let named = |wanted: &str| {
            of_node().find(|(_, e)| e.interface.as_ref().is_some_and(|name| *name == *wanted))
        };
        let by_address = || {
            of_node().find(|(_, endpoint)| {
                endpoint.interface.is_none()
                    && endpoint.expected_addresses.iter().any(|ip| interface.addresses.contains(ip))
            })
        };
        let of_all = || named("*").filter(|_| interface.name.as_str() != "lo");
        let found = named(interface.name.as_str()).or_else(by_address).or_else(of_all);
        found.map(|(id, _)| id)
    }

    /// What the policy of a host endpoint says at a hook, failsafe ports aside; `None` when there is
    /// no such endpoint. [`Reason::NotAsked`] means that it goes on.
    pub fn host(
        &self,
        id: &HostEndpointId,
        hook: Hook,
        direction: Direction,
        packet: &Packet,
    ) -> Option<Verdict> {
        let endpoint = self.hosts.get(id)?;
        let labels = self.labels(&endpoint.labels, &endpoint.profiles);
        let of_hook = |policy: &Policy| is_of(policy, hook, direction);
        // The tables `raw` and `mangle` never drop at an end.
        let ends = matches!(hook, Hook::Normal | Hook::Forward);
        let tiers = self.ask_tiers(&labels, of_hook, ends, direction, packet);
        Some(match (tiers, hook) {
            (Tiers::Decided(verdict), _) => verdict,
            (_, Hook::Normal) => self.ask_profiles(&endpoint.profiles, direction, packet),
            _ => Verdict::allow(Reason::NotAsked),
        })
    }

    /// Is anything asked of a host endpoint at a hook? What the host itself receives and sends always
    /// is.
    pub(crate) fn asks(&self, id: &HostEndpointId, hook: Hook, direction: Direction) -> bool {
        let Some(endpoint) = self.hosts.get(id) else { return false };
        let labels = self.labels(&endpoint.labels, &endpoint.profiles);
        let governs = |policy: &Policy| match direction {
            Direction::Ingress => policy.object.governs_ingress,
            Direction::Egress => policy.object.governs_egress,
        };
        hook == Hook::Normal
            || self.policies.values().any(|policy| {
                is_of(policy, hook, direction) && governs(policy) && policy.selector.holds(&labels)
            })
    }
}

/// Is the policy one that is asked at this hook?
pub(crate) fn is_of(policy: &Policy, hook: Hook, direction: Direction) -> bool {
    let policy = &policy.object;
    match hook {
        Hook::Untracked => policy.kind == PolicyKind::Untracked,
        Hook::PreDnat => policy.kind == PolicyKind::PreDnat && direction == Direction::Ingress,
        Hook::Normal => policy.kind == PolicyKind::Normal,
        Hook::Forward => policy.kind == PolicyKind::Normal && policy.apply_on_forward,
    }
}
