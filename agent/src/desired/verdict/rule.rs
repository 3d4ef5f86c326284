//! Does a rule match a flow? Each criterion as the kernel understands what is rendered of it.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, PortRange, Protocol};

use super::{Flow, Judge};
use crate::desired::{ActiveRule, Member, SetId, SideMatch};

/// Which prefix lengths a set holds, of IPv4 and of IPv6: only those are looked up.
#[derive(Clone, Debug, Default)]
pub(super) struct Lengths {
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Lengths {
    fn of<'m>(members: impl Iterator<Item = &'m Member>) -> Self {
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

    fn family(&self, family: Family) -> &[u8] {
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

pub(super) fn matches(rule: &ActiveRule, flow: &Flow, judge: &Judge<'_>) -> bool {
    let family = flow.family();
    if rule.family.is_some_and(|only| only != family) || !protocol_matches(rule, flow) {
        return false;
    }
    let [source, destination] = [0, 1].map(|end| End {
        address: if end == 0 { flow.source } else { flow.destination },
        port: flow.ports.map(|(from, to)| if end == 0 { from } else { to }),
        protocol: flow.protocol,
    });
    side_matches(&rule.source, source, judge) && side_matches(&rule.destination, destination, judge)
}

fn protocol_matches(rule: &ActiveRule, flow: &Flow) -> bool {
    let is = |protocol: Protocol| flow.protocol == Some(protocol);
    if rule.protocol.is_some_and(|only| !is(only)) || rule.not_protocol.is_some_and(is) {
        return false;
    }
    if rule.icmp.is_some() || rule.not_icmp.is_some() {
        // A type is one of the family's own ICMP.
        let icmp = match flow.family() {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        };
        let Some((kind, code)) = flow.icmp.filter(|_| is(icmp)) else { return false };
        let same = |wanted: calico_datastore::model::IcmpMatch| {
            wanted.icmp_type == kind && wanted.code.is_none_or(|wanted| wanted == code)
        };
        if rule.icmp.is_some_and(|icmp| !same(icmp)) || rule.not_icmp.is_some_and(same) {
            return false;
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
    has_ports || !(by_number || (by_name && fixed))
}

fn side_matches(side: &SideMatch, end: End, judge: &Judge<'_>) -> bool {
    let family = Family::of(end.address);
    let within = |nets: &[Cidr]| nets.iter().any(|net| net.contains(end.address));
    // A list without any prefix of the family: the rule is not there for it.
    let foreign = |nets: &[Cidr]| !nets.is_empty() && nets.iter().all(|n| n.family() != family);
    let in_ports = |ports: &[PortRange]| {
        end.port.is_some_and(|port| ports.iter().any(|p| (p.first()..=p.last()).contains(&port)))
    };
    let named = |id: &SetId| judge.has_port(id, end.address, end.protocol, end.port);
    let any_port = side.ports.is_empty() && side.named_ports.is_empty();
    (side.nets.is_empty() || within(&side.nets))
        && !within(&side.not_nets)
        && !foreign(&side.not_nets)
        && side.sets.iter().all(|id| judge.has_address(id, end.address))
        && !side.not_sets.iter().any(|id| judge.has_address(id, end.address))
        && (any_port || in_ports(&side.ports) || side.named_ports.iter().any(named))
        && !in_ports(&side.not_ports)
        && !side.not_named_ports.iter().any(named)
}

impl Judge<'_> {
    /// Does a prefix of the set hold the address? One look for each length that the set has.
    fn has_address(&self, id: &SetId, address: IpAddr) -> bool {
        let (Some(set), Some(lengths)) = (self.state.sets.get(id), self.lengths.get(id)) else {
            return false;
        };
        let lengths = lengths.get_or_init(|| Lengths::of(set.members.iter()));
        lengths.family(Family::of(address)).iter().any(|len| {
            Cidr::new(address, *len).is_ok_and(|net| set.members.contains(&Member::Net(net)))
        })
    }

    fn has_port(
        &self,
        id: &SetId,
        address: IpAddr,
        protocol: Option<Protocol>,
        port: Option<u16>,
    ) -> bool {
        let (Some(set), Some(protocol), Some(port)) = (self.state.sets.get(id), protocol, port)
        else {
            return false;
        };
        set.members.contains(&Member::Port(address, protocol, port))
    }
}
