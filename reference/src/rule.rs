//! Whether a rule speaks of a packet: datamodel B.6 and A.8.

use std::net::IpAddr;

use calico_datastore::model::{
    Action, Cidr, Family, IcmpMatch, Peer, PortRange, Ports, Protocol, Rule, Unevaluable,
};

use crate::member::{Member, meant};
use crate::net;
use crate::packet::Packet;
use crate::selector::Expression;

/// A rule whose selectors have been read.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) rule: Rule,
    source: Selectors,
    destination: Selectors,
}

#[derive(Clone, Debug)]
struct Selectors {
    selector: Option<Expression>,
    not_selector: Option<Expression>,
}

/// One end of a packet.
struct End<'a> {
    packet: &'a Packet,
    address: IpAddr,
    port: Option<u16>,
    /// The protocol of named ports in this rule.
    named: Protocol,
}

impl Read {
    /// Reads the selectors of a rule. `None` when one is none, which the model rules out.
    pub(crate) fn new(rule: &Rule) -> Option<Self> {
        let read = |peer: &Peer| {
            let expression = |text: Option<&calico_datastore::model::Selector>| match text {
                None => Some(None),
                Some(selector) => Expression::read(selector.canonical()).map(Some),
            };
            Some(Selectors {
                selector: expression(peer.selector.as_ref())?,
                not_selector: expression(peer.not_selector.as_ref())?,
            })
        };
        let (source, destination) = (read(&rule.source)?, read(&rule.destination)?);
        Some(Self { rule: rule.clone(), source, destination })
    }

    /// Does it speak of this packet? Every criterion has to hold.
    pub(crate) fn matches(&self, packet: &Packet, members: &[Member]) -> bool {
        let rule = &self.rule;
        if !can_be_known(rule) || !exists_for(rule, packet.family()) {
            return false;
        }
        if rule.family.is_some_and(|family| family != packet.family()) {
            return false;
        }
        if rule.protocol.is_some_and(|protocol| protocol.number() != packet.protocol) {
            return false;
        }
        if rule.not_protocol.is_some_and(|protocol| protocol.number() == packet.protocol) {
            return false;
        }
        if rule.icmp.is_some_and(|icmp| !is(icmp, packet)) {
            return false;
        }
        // Type and code are negated together.
        if rule.not_icmp.is_some_and(|icmp| packet.icmp.is_none() || is(icmp, packet)) {
            return false;
        }
        // Named ports are those of the rule's protocol, of TCP when it has none with ports.
        let named = match rule.protocol {
            Some(p @ (Protocol::TCP | Protocol::UDP | Protocol::SCTP)) => p,
            _ => Protocol::TCP,
        };
        let source =
            End { packet, address: packet.source, port: packet.ports.map(|(from, _)| from), named };
        let destination = End {
            packet,
            address: packet.destination,
            port: packet.ports.map(|(_, to)| to),
            named,
        };
        source.is_meant_by(&rule.source, &self.source, members)
            && destination.is_meant_by(&rule.destination, &self.destination, members)
    }
}

/// Services are a set that nobody can fill here: such a rule never matches. `http` cannot be looked
/// at: who allows some requests must not let all of them pass, who denies some denies the
/// connection.
fn can_be_known(rule: &Rule) -> bool {
    match rule.unevaluable {
        None => true,
        Some(Unevaluable::Services) => false,
        Some(Unevaluable::Http) => rule.action == Action::Deny,
    }
}

/// A list of nets, negated or not, that holds none of a family takes the rule away from it.
fn exists_for(rule: &Rule, family: Family) -> bool {
    let lists = [
        &rule.source.nets,
        &rule.source.not_nets,
        &rule.destination.nets,
        &rule.destination.not_nets,
    ];
    lists.into_iter().all(|list: &Vec<Cidr>| {
        list.is_empty() || list.iter().any(|net| net.address().is_ipv4() == (family == Family::V4))
    })
}

fn is(wanted: IcmpMatch, packet: &Packet) -> bool {
    packet.icmp.is_some_and(|(kind, code)| {
        wanted.icmp_type == kind && wanted.code.is_none_or(|wanted| wanted == code)
    })
}

impl End<'_> {
    fn is_meant_by(&self, peer: &Peer, selectors: &Selectors, members: &[Member]) -> bool {
        let within = |nets: &[Cidr]| nets.iter().any(|net| net::holds(net, self.address));
        if !peer.nets.is_empty() && !within(&peer.nets) {
            return false;
        }
        if within(&peer.not_nets) {
            return false;
        }
        // A selector and its exception mean whom the one matches and the other does not. An
        // exception alone means every address that is not one of theirs, also of nobody known.
        let known = |selector, except| {
            meant(members, selector, except).any(|member| member.holds(self.address))
        };
        let (selector, except) = (selectors.selector.as_ref(), selectors.not_selector.as_ref());
        let addresses_fit = match (selector, except) {
            (None, None) => true,
            (Some(_), _) => known(selector, except),
            (None, Some(_)) => !known(except, None),
        };
        // Whose names of ports count: with a selector only of those that it means.
        let except = except.filter(|_| selector.is_some());
        let has_name = |name: &str| {
            self.packet.protocol == self.named.number()
                && self.port.is_some_and(|port| {
                    meant(members, selector, except).any(|member| {
                        member.holds(self.address) && member.calls(name, self.packet.protocol, port)
                    })
                })
        };
        let in_ports = |ports: &Ports| {
            let in_range = |range: &PortRange| {
                self.port.is_some_and(|port| range.first() <= port && port <= range.last())
            };
            ports.ranges.iter().any(in_range)
                || ports.named.iter().any(|name| has_name(name.as_str()))
        };
        addresses_fit
            && (peer.ports.is_empty() || in_ports(&peer.ports))
            && !in_ports(&peer.not_ports)
    }
}
