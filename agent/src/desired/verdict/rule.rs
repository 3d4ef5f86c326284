//! Does a rule match a flow? Each criterion as the kernel understands what is rendered of it.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, PortRange, Protocol};

use super::{Flow, Lists};
use crate::desired::{ActiveRule, Member, SetId, SideMatch};

/// Which prefix lengths a set holds, of IPv4 and of IPv6: only those are looked up.
#[derive(Clone, Debug, Default)]
pub(super) struct Lengths {
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Lengths {
    pub(super) fn of<'m>(members: impl Iterator<Item = &'m Member>) -> Self {
        // An address has at most 128 bits.
        let mut seen = [[false; 129]; 2];
        for member in members {
            if let Member::Net(net) = member {
                let family = usize::from(net.family() == Family::V6);
                seen[family][usize::from(net.prefix_len().min(128))] = true;
            }
        }
        let list = |seen: &[bool; 129]| (0..=128).filter(|len| seen[usize::from(*len)]).collect();
        Self { v4: list(&seen[0]), v6: list(&seen[1]) }
    }

    pub(super) fn family(&self, family: Family) -> &[u8] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// One end of a flow.
#[derive(Clone, Copy)]
struct End {
    address: IpAddr,
    port: Option<u16>,
    protocol: Option<Protocol>,
}

/// The criterion of a side that a flow does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion<'a> {
    /// The address is in none of the prefixes.
    Nets,
    /// The address is in one of the prefixes that it must not be in.
    NotNets,
    /// All prefixes that it must not be in are of the other family: the rule is not there for this
    /// one.
    ForeignNotNets,
    /// The set does not hold the address.
    Set(&'a SetId),
    /// The set holds the address, and must not.
    NotSet(&'a SetId),
    /// The port is none of those, by number or by name.
    Ports,
    /// The port is one of those that it must not be.
    NotPorts,
    /// The port is one that has the name which it must not have.
    NotNamedPort(&'a SetId),
}

/// Why a rule does not match a flow: the first criterion that is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss<'a> {
    /// The rule is for the other family.
    Family,
    /// Another protocol than the rule's.
    Protocol,
    /// The protocol that it must not be.
    NotProtocol,
    /// Not a message of the family's own ICMP, which alone has types.
    NoIcmp,
    /// Another type or code.
    Icmp,
    /// The type (and code) that it must not be.
    NotIcmp,
    /// The rule is about ports, and the protocol has none that rules can name.
    NoPorts,
    /// Something about where it comes from.
    Source(Criterion<'a>),
    /// Something about where it goes to.
    Destination(Criterion<'a>),
}

/// The first criterion of the rule that the flow does not meet; `None`: it matches.
pub(super) fn miss<'r>(rule: &'r ActiveRule, flow: &Flow, lists: &Lists<'_>) -> Option<Miss<'r>> {
    let family = flow.family();
    if rule.family.is_some_and(|only| only != family) {
        return Some(Miss::Family);
    }
    if let Some(miss) = protocol_miss(rule, flow) {
        return Some(miss);
    }
    let [source, destination] = [0, 1].map(|end| End {
        address: if end == 0 { flow.source } else { flow.destination },
        port: flow.ports.map(|(from, to)| if end == 0 { from } else { to }),
        protocol: flow.protocol,
    });
    side_miss(&rule.source, source, lists)
        .map(Miss::Source)
        .or_else(|| side_miss(&rule.destination, destination, lists).map(Miss::Destination))
}

fn protocol_miss(rule: &ActiveRule, flow: &Flow) -> Option<Miss<'static>> {
    let is = |protocol: Protocol| flow.protocol == Some(protocol);
    if rule.protocol.is_some_and(|only| !is(only)) {
        return Some(Miss::Protocol);
    }
    if rule.not_protocol.is_some_and(is) {
        return Some(Miss::NotProtocol);
    }
    if rule.icmp.is_some() || rule.not_icmp.is_some() {
        // A type is one of the family's own ICMP.
        let icmp = match flow.family() {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        };
        let Some((kind, code)) = flow.icmp.filter(|_| is(icmp)) else { return Some(Miss::NoIcmp) };
        let same = |wanted: calico_datastore::model::IcmpMatch| {
            wanted.icmp_type == kind && wanted.code.is_none_or(|wanted| wanted == code)
        };
        if rule.icmp.is_some_and(|icmp| !same(icmp)) {
            return Some(Miss::Icmp);
        }
        if rule.not_icmp.is_some_and(same) {
            return Some(Miss::NotIcmp);
        }
    }
    let sides = [&rule.source, &rule.destination];
    let numbers = |side: &&SideMatch| !(side.ports.is_empty() && side.not_ports.is_empty());
    let names =
        |side: &&SideMatch| !(side.named_ports.is_empty() && side.not_named_ports.is_empty());
    let (by_number, by_name) = (sides.iter().any(numbers), sides.iter().any(names));
    // Numbers need a protocol with ports. A named port's set knows its protocol; with an ICMP type
    // or another protocol beside it, the rule is not there at all.
    let has_ports = flow.protocol.is_some_and(Protocol::has_ports);
    let fixed = rule.protocol.is_some() || rule.icmp.is_some() || rule.not_icmp.is_some();
    (!has_ports && (by_number || (by_name && fixed))).then_some(Miss::NoPorts)
}

fn side_miss<'r>(side: &'r SideMatch, end: End, lists: &Lists<'_>) -> Option<Criterion<'r>> {
    let family = Family::of(end.address);
    let within = |nets: &[Cidr]| nets.iter().any(|net| net.contains(end.address));
    // A list without any prefix of the family: the rule is not there for it.
    let foreign = |nets: &[Cidr]| !nets.is_empty() && nets.iter().all(|n| n.family() != family);
    let in_ports = |ports: &[PortRange]| {
        end.port.is_some_and(|port| ports.iter().any(|p| (p.first()..=p.last()).contains(&port)))
    };
    let named = |id: &&SetId| lists.has_port(id, end.address, end.protocol, end.port);
    let holds = |id: &&SetId| lists.has_address(id, end.address);
    if !(side.nets.is_empty() || within(&side.nets)) {
        return Some(Criterion::Nets);
    }
    if within(&side.not_nets) {
        return Some(Criterion::NotNets);
    }
    if foreign(&side.not_nets) {
        return Some(Criterion::ForeignNotNets);
    }
    if let Some(id) = side.sets.iter().find(|id| !holds(id)) {
        return Some(Criterion::Set(id));
    }
    if let Some(id) = side.not_sets.iter().find(holds) {
        return Some(Criterion::NotSet(id));
    }
    let any_port = side.ports.is_empty() && side.named_ports.is_empty();
    if !(any_port || in_ports(&side.ports) || side.named_ports.iter().any(|id| named(&id))) {
        return Some(Criterion::Ports);
    }
    if in_ports(&side.not_ports) {
        return Some(Criterion::NotPorts);
    }
    side.not_named_ports.iter().find(named).map(Criterion::NotNamedPort)
}
