//! Packets whose addresses, ports and types are those that a world names, or lie just beside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::model::{
    Cidr, Family, IcmpMatch, Name, Peer, Protocol, Rule, Update, WorkloadEndpoint,
    WorkloadEndpointId,
};
use calico_reference::{Direction, Packet};

use crate::chance::Chance;
use crate::question::Question;

/// What a world names.
#[derive(Debug, Default)]
pub(crate) struct Aim {
    workloads: Vec<(WorkloadEndpointId, WorkloadEndpoint)>,
    /// Addresses of endpoints.
    owned: Vec<IpAddr>,
    /// Edges of the prefixes of rules, and what lies beside them.
    edges: Vec<IpAddr>,
    /// The same of network sets.
    sets: Vec<IpAddr>,
    /// What a packet has above its addresses.
    contents: Vec<Content>,
}

/// What a rule asks for, from which a packet is made.
#[derive(Clone, Copy, Debug, Default)]
struct Content {
    protocol: Option<u8>,
    source_port: Option<u16>,
    port: Option<u16>,
    icmp: Option<(u8, u8)>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;
const GRE: u8 = 47;
/// Ports for where no rule says one.
const PORTS: [u16; 6] = [22, 53, 80, 443, 8080, 40_000];

impl Aim {
    pub(crate) fn new(updates: &[Update]) -> Self {
        let mut aim = Self::default();
        for update in updates {
            match update {
                Update::WorkloadEndpoint(id, Some(endpoint)) => {
                    aim.owned.extend(endpoint.addresses.iter().map(Cidr::address));
                    aim.contents.extend(
                        endpoint.ports.iter().flat_map(|port| named(port.protocol, port.port)),
                    );
                    aim.workloads.push((id.clone(), (**endpoint).clone()));
                }
                Update::HostEndpoint(_, Some(endpoint)) => {
                    aim.owned.extend(&endpoint.expected_addresses);
                    aim.contents.extend(
                        endpoint.ports.iter().flat_map(|port| named(port.protocol, port.port)),
                    );
                }
                Update::NetworkSet(_, Some(set)) => aim.sets.extend(around(&set.nets)),
                Update::Policy(_, Some(policy)) => {
                    policy.ingress.iter().chain(&policy.egress).for_each(|rule| aim.rule(rule));
                }
                Update::Profile(_, Some(profile)) => {
                    profile.ingress.iter().chain(&profile.egress).for_each(|rule| aim.rule(rule));
                }
                _ => {}
            }
        }
        aim.edges.retain(is_of_somebody);
        aim.sets.retain(is_of_somebody);
        aim
    }

    fn rule(&mut self, rule: &Rule) {
        for peer in [&rule.source, &rule.destination] {
            self.edges.extend(around(&peer.nets));
            self.edges.extend(around(&peer.not_nets));
        }
        let protocol = rule.protocol.or(rule.not_protocol).map(Protocol::number);
        let content = Content { protocol, ..Content::default() };
        let types = [rule.icmp, rule.not_icmp].into_iter().flatten().flat_map(types);
        let types: Vec<_> = types.map(|icmp| Content { icmp: Some(icmp), ..content }).collect();
        let to = ports(&rule.destination).map(|port| Content { port: Some(port), ..content });
        let to: Vec<_> = to.collect();
        let from = ports(&rule.source).map(|port| Content { source_port: Some(port), ..content });
        let from: Vec<_> = from.collect();
        let all: Vec<Content> = types.into_iter().chain(to).chain(from).collect();
        if all.is_empty() {
            self.contents.push(content);
        } else {
            self.contents.extend(all);
        }
    }

    /// A packet between any two.
    pub(crate) fn packet(&self, c: &mut Chance) -> Packet {
        let source = self.address(c, None);
        let destination = self.address(c, Some(Family::of(source)));
        self.between(c, source, destination)
    }

    pub(crate) fn questions(&self, node: &Name, c: &mut Chance, count: usize) -> Vec<Question> {
        let local: Vec<_> = self.workloads.iter().filter(|(id, _)| id.node == *node).collect();
        let mut all = Vec::with_capacity(count);
        while all.len() < count && !local.is_empty() {
            let (id, endpoint) = c.one(&local);
            let near = c.one(&endpoint.addresses).address();
            let far = self.address(c, Some(Family::of(near)));
            let direction = *c.one(&Direction::ALL);
            let packet = match direction {
                Direction::Ingress => self.between(c, far, near),
                Direction::Egress => self.between(c, near, far),
            };
            all.push(Question { endpoint: id.clone(), direction, packet });
        }
        all
    }

    /// Packets from sources at the edges of what endpoints of the node list, and beside.
    pub(crate) fn spoofed(&self, node: &Name, c: &mut Chance, count: usize) -> Vec<Question> {
        let lists = |(id, endpoint): &&(WorkloadEndpointId, WorkloadEndpoint)| {
            id.node == *node && !endpoint.spoof.is_empty()
        };
        let local: Vec<_> = self.workloads.iter().filter(lists).collect();
        let mut all = Vec::with_capacity(count);
        while all.len() < count && !local.is_empty() {
            let (id, endpoint) = c.one(&local);
            let sources: Vec<IpAddr> = around(&endpoint.spoof).collect();
            let source = *c.one(&sources);
            let destination = self.address(c, Some(Family::of(source)));
            let packet = self.between(c, source, destination);
            all.push(Question { endpoint: id.clone(), direction: Direction::Egress, packet });
        }
        all
    }

    /// An address of an endpoint, at the edge of a prefix, or of nobody.
    fn address(&self, c: &mut Chance, family: Option<Family>) -> IpAddr {
        let fits = |ip: &&IpAddr| family.is_none_or(|family| Family::of(**ip) == family);
        let list = match c.below(10) {
            0..=5 => &self.owned,
            6..=8 => &self.sets,
            _ => &self.edges,
        };
        let some: Vec<&IpAddr> = list.iter().filter(fits).collect();
        if some.is_empty() || c.percent(5) {
            return match family {
                Some(Family::V6) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 9)),
                _ => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
            };
        }
        **c.one(&some)
    }

    fn between(&self, c: &mut Chance, source: IpAddr, destination: IpAddr) -> Packet {
        let mut content = Content::default();
        let (own_icmp, foreign_icmp) = if source.is_ipv4() { (1, 58) } else { (58, 1) };
        if !self.contents.is_empty() && c.percent(85) {
            content = *c.one(&self.contents);
            if content.protocol == Some(foreign_icmp) {
                content = *c.one(&self.contents);
            }
        }
        let mut protocol = content
            .protocol
            .unwrap_or_else(|| *c.one(&[TCP, TCP, TCP, UDP, UDP, own_icmp, SCTP, UDPLITE, GRE]));
        // One in a while of another protocol with the same ports: criteria are about both.
        if c.percent(8) && content.icmp.is_none() {
            protocol = *c.one(&[TCP, UDP, SCTP]);
        }
        if protocol == foreign_icmp {
            protocol = own_icmp;
        }
        let mut packet = Packet { source, destination, protocol, ports: None, icmp: None };
        match protocol {
            TCP | UDP | SCTP | UDPLITE => {
                let from = content.source_port.unwrap_or_else(|| *c.one(&PORTS));
                let to = content.port.unwrap_or_else(|| *c.one(&PORTS));
                packet.ports = Some((from, to));
            }
            1 | 58 => {
                let request = if source.is_ipv4() { 8 } else { 128 };
                packet.icmp = Some(content.icmp.unwrap_or((request, 0)));
            }
            _ => {}
        }
        packet
    }
}

/// What is special in the kernel is no matter of policy.
fn is_of_somebody(address: &IpAddr) -> bool {
    let broadcast = *address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

/// The edges of prefixes, and what lies beside them.
fn around(nets: &[Cidr]) -> impl Iterator<Item = IpAddr> {
    nets.iter().flat_map(|net| {
        let last = net.nth(net.size() - 1).unwrap_or(net.address());
        let edges = [Some(net.address()), Some(last), before(net.address()), after(last)];
        edges.into_iter().flatten()
    })
}

/// A named port at each end.
fn named(protocol: Protocol, port: u16) -> [Content; 2] {
    let content = Content { protocol: Some(protocol.number()), ..Content::default() };
    [Content { port: Some(port), ..content }, Content { source_port: Some(port), ..content }]
}

/// The edges of every range of a side, and what lies beside them.
fn ports(peer: &Peer) -> impl Iterator<Item = u16> {
    let ranges = peer.ports.ranges.iter().chain(&peer.not_ports.ranges);
    ranges.flat_map(|range| {
        let (first, last) = (range.first(), range.last());
        [first, first.saturating_sub(1), last, last.saturating_add(1)]
    })
}

/// The type with the code, another code, and the next type.
fn types(icmp: IcmpMatch) -> [(u8, u8); 4] {
    let (kind, code) = (icmp.icmp_type, icmp.code.unwrap_or(0));
    [(kind, code), (kind, code), (kind, code ^ 1), (kind ^ 1, code)]
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(ip) => ip.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}
