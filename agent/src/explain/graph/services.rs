//! What is asked about: every port that a rule names, and one that none names.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use calico_datastore::model::{Family, Name, Protocol};

use super::NamedPorts;
use crate::desired::verdict::Flow;
use crate::desired::{DesiredState, Member, SetKind};
use crate::explain::question::{Packet, Port};

/// A kind of packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    /// Ports from the first to the last that one rule names; the first is asked about.
    Port(Protocol, u16, u16),
    /// The port that the destination calls so.
    Named(Protocol, Name),
    /// A port that no rule names.
    OtherPort(Protocol, u16),
    /// A message of the family's ICMP: type (an echo request without it) and code.
    Icmp(Option<u8>, u8),
    /// A protocol without ports.
    Protocol(Protocol),
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, first, last) if first == last => write!(f, "{protocol} {first}"),
            Self::Port(protocol, first, last) => write!(f, "{protocol} {first}-{last}"),
            Self::Named(protocol, name) => write!(f, "{protocol} {name}"),
            Self::OtherPort(protocol, _) => write!(f, "other {protocol}"),
            Self::Icmp(None, _) => f.write_str("icmp echo"),
            Self::Icmp(Some(kind), code) => write!(f, "icmp {kind}/{code}"),
            Self::Protocol(protocol) => write!(f, "{protocol}"),
        }
    }
}

impl Service {
    /// What one question is about.
    pub(super) fn of(packet: &Packet) -> Self {
        match packet {
            Packet::Ports { protocol, to: Port::Number(port), .. } => {
                Self::Port(*protocol, *port, *port)
            }
            Packet::Ports { protocol, to: Port::Name(name), .. } => {
                Self::Named(*protocol, name.clone())
            }
            Packet::Icmp { kind, code, .. } => Self::Icmp(*kind, *code),
            Packet::Other(protocol) => Self::Protocol(*protocol),
        }
    }

    /// A packet of it; `None`: the destination has no such port.
    pub(super) fn flow(
        &self,
        source: IpAddr,
        destination: IpAddr,
        client: u16,
        ports: &NamedPorts<'_>,
    ) -> Option<Flow> {
        let flow = Flow { source, destination, protocol: None, ports: None, icmp: None };
        let with =
            |protocol, port| Flow { protocol: Some(protocol), ports: Some((client, port)), ..flow };
        Some(match self {
            Self::Port(protocol, port, _) | Self::OtherPort(protocol, port) => {
                with(*protocol, *port)
            }
            Self::Named(protocol, name) => {
                with(*protocol, *ports.get(&(destination, *protocol, name.as_str()))?)
            }
            Self::Icmp(kind, code) => {
                let (protocol, icmp) = Packet::icmp(Family::of(source), *kind, *code);
                Flow { protocol: Some(protocol), icmp: Some(icmp), ..flow }
            }
            Self::Protocol(protocol) => Flow { protocol: Some(*protocol), ..flow },
        })
    }
}

/// Every port that a rule names, a port of TCP and of UDP that none names, an echo request, and
/// every other protocol that a rule names.
pub(super) fn named(state: &DesiredState) -> Vec<Service> {
    let mut found = BTreeSet::from([Service::Icmp(None, 0)]);
    // The ends of ranges, and what lies next to them: candidates for a port that none names.
    let mut taken: BTreeSet<(u16, u16)> = BTreeSet::new();
    let lists = state.policies.values().chain(state.profiles.values());
    for rule in lists.flat_map(|rules| rules.ingress.iter().chain(&rules.egress)) {
        let protocols: Vec<Protocol> = match rule.protocol {
            Some(protocol) => vec![protocol],
            None => vec![Protocol::TCP, Protocol::UDP],
        };
        let not = rule.not_protocol;
        for protocol in protocols.into_iter().chain(not) {
            let icmp = matches!(protocol, Protocol::ICMP | Protocol::ICMPV6);
            if !protocol.has_ports() && !icmp {
                found.insert(Service::Protocol(protocol));
            }
            let to = &rule.destination;
            for range in to.ports.iter().chain(&to.not_ports) {
                taken.insert((range.first(), range.last()));
                if protocol.has_ports() {
                    found.insert(Service::Port(protocol, range.first(), range.last()));
                }
            }
        }
    }
    for set in state.sets.values().filter(|set| set.kind == SetKind::Port) {
        let mut parts = set.selector.rsplitn(3, "; ");
        if let (Some(name), Some(protocol)) = (parts.next(), parts.next())
            && let Ok(protocol) = protocol.parse()
        {
            found.insert(Service::Named(protocol, Name::from(name)));
        }
        taken.extend(set.members.iter().filter_map(|member| match member {
            Member::Port(_, _, port) => Some((*port, *port)),
            Member::Net(_) => None,
        }));
    }
    if let Some(other) = (1..=u16::MAX)
        .find(|port| !taken.iter().any(|(first, last)| (*first..=*last).contains(port)))
    {
        found.extend([Protocol::TCP, Protocol::UDP].map(|of| Service::OtherPort(of, other)));
    }
    found.into_iter().collect()
}
