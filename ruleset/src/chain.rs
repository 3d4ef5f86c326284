//! The way of a packet through one chain and those that it leads to.

use crate::flight::Flight;
use crate::hook::Table;
use crate::host::{Host, is_broadcast};
use crate::net::{Family, number};
use crate::packet::{DCCP, ICMP, ICMPV6, SCTP, State, TCP, UDP, UDPLITE};
use crate::rule::{AddressType, Match, Side, Target, What};
use crate::set::Kind;
use crate::tables::{RuleAt, Ruleset};
use crate::walk::{By, End};

impl Ruleset {
    /// Sends a packet through a chain.
    pub(crate) fn chain(
        &self,
        host: &Host,
        table: Table,
        start: usize,
        flight: &mut Flight<'_>,
    ) -> End {
        let chains = &self.tables[table as usize].chains;
        // Where to go on: chain and rule.
        let mut back: Vec<(usize, usize)> = Vec::new();
        let (mut chain, mut at) = (start, 0);
        loop {
            let Some(rule) = chains[chain].rules.get(at) else {
                match back.pop() {
                    Some(place) => (chain, at) = place,
                    None => return End::Returned,
                }
                continue;
            };
            at += 1;
            if !rule.matches.iter().all(|one| self.matches(host, one, flight)) {
                continue;
            }
            // No table has as many chains or rules.
            let place = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let this = RuleAt { table, chain: place(chain), rule: place(at - 1) };
            flight.matched.push(this);
            match &rule.target {
                Target::None | Target::Note => {}
                Target::Accept => return End::Accepted,
                Target::Drop => {
                    flight.by = By::Rule(this);
                    return End::Dropped;
                }
                Target::Reject => {
                    flight.by = By::Rule(this);
                    return End::Rejected;
                }
                Target::Return => match back.pop() {
                    Some(place) => (chain, at) = place,
                    None => return End::Returned,
                },
                Target::Jump(to) => {
                    back.push((chain, at));
                    (chain, at) = (*to, 0);
                }
                Target::Goto(to) => (chain, at) = (*to, 0),
                Target::Mark { keep, flip } => {
                    let packet = flight.packet.to_mut();
                    packet.mark = (packet.mark & keep) ^ flip;
                }
                Target::NoTrack => {
                    // What is tracked already stays so.
                    if !flight.tracked {
                        flight.state = State::Untracked;
                        flight.untracked = true;
                    }
                }
                Target::DestinationNat { address, port } => {
                    flight.translate(*address, *port);
                    return End::Accepted;
                }
                Target::SourceNat { address } => {
                    flight.packet.to_mut().source = *address;
                    flight.source = number(*address);
                    flight.source_translated = true;
                    return End::Accepted;
                }
                Target::Masquerade => {
                    flight.masqueraded = true;
                    flight.source_translated = true;
                    return End::Accepted;
                }
            }
        }
    }

    fn matches(&self, host: &Host, one: &Match, flight: &Flight<'_>) -> bool {
        let packet = &flight.packet;
        let address = |side: Side| match side {
            Side::Source => flight.source,
            Side::Destination => flight.destination,
        };
        let plain = match &one.what {
            What::In(name, more) => named(name, *more, flight.input),
            What::Out(name, more) => named(name, *more, flight.output),
            What::Net(side, net) => net.contains(address(*side)),
            What::Protocol(number) => packet.protocol == *number,
            What::Ports(sides, ranges) => {
                let has = matches!(packet.protocol, TCP | UDP | SCTP | DCCP | UDPLITE);
                let Some((from, to)) = packet.ports.filter(|_| has) else { return false };
                sides.iter().any(|side| {
                    let port = if *side == Side::Source { from } else { to };
                    ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
                })
            }
            What::Icmp(kind, (first, last)) => {
                let own = if self.family == Family::V4 { ICMP } else { ICMPV6 };
                let Some((is, code)) = packet.icmp.filter(|_| packet.protocol == own) else {
                    return false;
                };
                *kind == 255 || *kind == is && (*first..=*last).contains(&code)
            }
            What::Set(at, sides) => self.in_set(*at, sides, flight),
            What::Mark(value, mask) => packet.mark & mask == *value,
            What::State(states) => {
                // Before connection tracking nothing is known of the packet.
                let state = match flight.state {
                    State::Untracked => State::Untracked,
                    _ if !flight.tracked => State::Invalid,
                    state => state,
                };
                states.states.contains(&state)
                    || states.source_translated && flight.source_translated
                    || states.destination_translated && flight.destination_translated
            }
            What::Mac(mac) => match packet.mac {
                Some(is) if !flight.input.is_empty() => is == *mac,
                _ => return false,
            },
            What::AddressType(side, kind) => {
                let address = match side {
                    Side::Source => packet.source,
                    Side::Destination => packet.destination,
                };
                match kind {
                    AddressType::Local => host.is_local(address),
                    AddressType::Multicast => address.is_multicast(),
                    AddressType::Broadcast => is_broadcast(address),
                }
            }
            What::Limit => host.within_limits(),
        };
        plain != one.not
    }

    fn in_set(&self, at: usize, sides: &[Side], flight: &Flight<'_>) -> bool {
        let (set, packet) = (&self.sets[at], &flight.packet);
        let address = |side: Side| match side {
            Side::Source => flight.source,
            Side::Destination => flight.destination,
        };
        match *sides {
            [side] => set.has_net(address(side)),
            [first, second] if set.kind == Kind::IpPort => {
                let port = match packet.protocol {
                    TCP | UDP | SCTP | UDPLITE => {
                        let Some((from, to)) = packet.ports else { return false };
                        if second == Side::Source { from } else { to }
                    }
                    ICMP | ICMPV6 => match packet.icmp {
                        Some((kind, code)) => u16::from_be_bytes([kind, code]),
                        None => return false,
                    },
                    _ => 0,
                };
                set.has_port(address(first), packet.protocol, port)
            }
            [first, second] => {
                let name = if second == Side::Source { flight.input } else { flight.output };
                !name.is_empty() && set.has_iface(address(first), name)
            }
            _ => false,
        }
    }
}

/// Is it the interface, or one whose name begins so?
fn named(name: &str, more: bool, interface: &str) -> bool {
    if more { interface.starts_with(name) } else { interface == name }
}
