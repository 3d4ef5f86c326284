//! Whether a rule matches a packet, as the kernel would find.

use std::net::IpAddr;

use calico_agent::felix::nftables::contents::Set;
use calico_agent::felix::nftables::object::{
    CtStates, Element, InterfacePattern, Match, SetKind, Side, Way,
};
use calico_datastore::model::{Cidr, Family, InterfaceName, Mac};
use calico_ruleset::{Packet, State};

use super::Ruleset;

/// A packet on its way.
#[derive(Clone)]
pub(super) struct Flight {
    pub(super) packet: Packet,
    pub(super) input: String,
    pub(super) output: String,
    /// Connections are known by now.
    pub(super) tracked: bool,
    pub(super) destination_translated: bool,
    pub(super) source_translated: bool,
    pub(super) masqueraded: bool,
    pub(super) untracked: bool,
    pub(super) matched: Vec<super::At>,
    pub(super) by: Option<super::At>,
}

impl Flight {
    fn address(&self, side: Side) -> IpAddr {
        match side {
            Side::Source => self.packet.source,
            Side::Destination => self.packet.destination,
        }
    }

    fn port(&self, side: Side) -> Option<u16> {
        self.packet.ports.map(|(source, destination)| match side {
            Side::Source => source,
            Side::Destination => destination,
        })
    }

    pub(super) fn interface(&self, way: Way) -> &str {
        match way {
            Way::In => &self.input,
            Way::Out => &self.output,
        }
    }

    fn named(&self, way: Way) -> Option<InterfaceName> {
        self.interface(way).parse().ok()
    }

    fn family(&self) -> Family {
        Family::of(self.packet.source)
    }

    fn states(&self) -> CtStates {
        assert!(self.tracked, "asked for the connection before there is one");
        match self.packet.state {
            _ if self.untracked => CtStates::UNTRACKED,
            State::New => CtStates::NEW,
            State::Established => CtStates::ESTABLISHED,
            State::Related => CtStates::RELATED,
            State::Invalid => CtStates::INVALID,
            State::Untracked => CtStates::UNTRACKED,
        }
    }
}

impl Ruleset {
    fn set(&self, name: &str, kinds: &[SetKind]) -> &Set {
        let set = self.contents.sets.get(name).unwrap_or_else(|| panic!("no set {name}"));
        assert!(kinds.contains(&set.spec.kind), "{name} is another kind of set: {kinds:?}");
        set
    }

    pub(super) fn matches(&self, one: &Match, flight: &Flight) -> bool {
        let packet = &flight.packet;
        let of = |family: Family| family == flight.family();
        match one {
            Match::Family(family) => of(*family),
            Match::Protocol { number, not } => (packet.protocol == *number) != *not,
            Match::Address { side, net, not } => {
                of(net.family()) && net.contains(flight.address(*side)) != *not
            }
            Match::AddressAmong { side, nets, not } => {
                assert!(nets.len() > 1 && nets.iter().all(|net| net.family() == nets[0].family()));
                let among = nets.iter().any(|net| net.contains(flight.address(*side)));
                of(nets[0].family()) && among != *not
            }
            Match::AddressIn { side, family, set, mask, not } => {
                of(*family) && self.holds(set, *family, *mask, flight.address(*side)) != *not
            }
            Match::Ports { side, ranges, not } => {
                let within = |port| ranges.iter().any(|r| (r.first()..=r.last()).contains(&port));
                let apart = ranges.windows(2).all(|two| two[0].last() < two[1].first());
                assert!(!ranges.is_empty() && apart, "{ranges:?}");
                flight.port(*side).is_some_and(|port| within(port) != *not)
            }
            Match::AddressPortIn { side, family, set, not } => {
                let set = self.set(set, &[SetKind::AddressPort(*family)]);
                let Some(port) = flight.port(*side).filter(|_| of(*family)) else { return false };
                let key = Element::AddressPort(flight.address(*side), packet.protocol, port);
                set.elements.contains(&key) != *not
            }
            Match::Icmp { icmp_type, code, not } => packet.icmp.is_some_and(|(kind, of)| {
                (kind == *icmp_type && code.is_none_or(|code| code == of)) != *not
            }),
            Match::IcmpAmong { types } => {
                packet.icmp.is_some_and(|(kind, _)| types.contains(&kind))
            }
            Match::Interface { way, name, not } => {
                let is = flight.interface(*way);
                let matches = match name {
                    InterfacePattern::Is(name) => name.as_str() == is,
                    InterfacePattern::Begins(start) => is.starts_with(&**start),
                };
                matches != *not
            }
            Match::InterfaceAddressIn { way, family, set, not } => {
                let kinds = [SetKind::InterfaceAddress(*family), SetKind::InterfaceNet(*family)];
                let set = self.set(set, &kinds);
                let side = match way {
                    Way::In => Side::Source,
                    Way::Out => Side::Destination,
                };
                let address = flight.address(side);
                let found = flight.named(*way).is_some_and(|name| match set.spec.kind {
                    SetKind::InterfaceAddress(_) => {
                        set.elements.contains(&Element::InterfaceAddress(name, address))
                    }
                    _ => set.elements.iter().any(|element| match element {
                        Element::InterfaceNet(of, net) => of == name && net.contains(address),
                        other => panic!("{other:?}"),
                    }),
                });
                of(*family) && found != *not
            }
            Match::InterfaceIn { way, set, not } => {
                let set = self.set(set, &[SetKind::Interface]);
                let name = flight.named(*way);
                let found = name.is_some_and(|n| set.elements.contains(&Element::Interface(n)));
                found != *not
            }
            Match::SourceMacIn { set, not } => {
                let set = self.set(set, &[SetKind::InterfaceMac]);
                let Some(mac) = packet.mac.map(Mac::new) else { return false };
                let name = flight.named(Way::In);
                let key = name.map(|name| Element::InterfaceMac(name, mac));
                key.is_some_and(|key| set.elements.contains(&key)) != *not
            }
            Match::CtState { states, not } => ((flight.states().0 & states.0) != 0) != *not,
            Match::CtDnat => {
                assert!(flight.tracked);
                flight.destination_translated
            }
            Match::Mark { mask, value } => packet.mark & mask == *value,
            // Every packet is one too many.
            Match::Limit { .. } => false,
        }
    }

    fn holds(&self, name: &str, family: Family, mask: Option<u8>, address: IpAddr) -> bool {
        let set = self.set(name, &[SetKind::Address(family), SetKind::Interval(family)]);
        if set.spec.kind == SetKind::Interval(family) {
            assert_eq!(mask, None);
            let mut ranges = set.elements.iter().filter(|element| match element {
                Element::Range(first, last) => (*first..=*last).contains(&address),
                other => panic!("{other:?}"),
            });
            let found = ranges.next().is_some();
            assert!(ranges.next().is_none(), "{name} has ranges that overlap");
            return found;
        }
        let masked = mask.map_or(address, |len| Cidr::new(address, len).unwrap().address());
        set.elements.contains(&Element::Address(masked))
    }
}
