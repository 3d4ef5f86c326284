//! Who a packet from a pod says it is: the first thing that is asked, of every packet.

use calico_datastore::model::{Cidr, Family, InterfaceName};

use super::names::{self, OfPods};
use super::pods::Pods;
use super::style::{drops, ends};
use crate::config::OPENSTACK_PREFIX;
use crate::felix::nftables::object::{InterfacePattern, Match, Rule, Side, Verdict, Way};

/// ICMPv6 types that a pod may send before it has an address: multicast listener messages, router
/// solicitation, neighbour solicitation and advertisement. Not 134: a pod is no router.
pub(super) const ND_TYPES: [u8; 7] = [130, 131, 132, 133, 135, 136, 143];
/// The router advertisement, which would give the host a default route through the pod.
pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;

pub(super) const UDP: u8 = 17;
pub(super) const TCP: u8 = 6;
const ICMPV6: u8 = 58;

pub(super) fn protocol(number: u8) -> Match {
    Match::Protocol { number, not: false }
}

/// The packet has that source, or destination.
pub(super) fn address(side: Side, net: &str) -> Match {
    let net: Cidr = net.parse().unwrap_or_else(|_| Cidr::host([0, 0, 0, 0].into()));
    Match::Address { side, net, not: false }
}

pub(super) fn port(side: Side, port: u16) -> Match {
    let ranges = vec![calico_datastore::model::PortRange::single(port)];
    Match::Ports { side, ranges, not: false }
}

/// It is one of these messages.
pub(super) fn icmpv6(types: &[u8]) -> [Match; 3] {
    let types = types.to_vec();
    [Match::Family(Family::V6), protocol(ICMPV6), Match::IcmpAmong { types }]
}

/// It comes from a guest of OpenStack.
pub(super) fn from_guest() -> Match {
    let name = InterfacePattern::Begins(OPENSTACK_PREFIX.into());
    Match::Interface { way: Way::In, name, not: false }
}

/// Ports of DHCP and DHCPv6: client, server.
pub(super) fn dhcp(family: Family) -> [Match; 3] {
    let (client, server) = match family {
        Family::V4 => (68, 67),
        Family::V6 => (546, 547),
    };
    [protocol(UDP), port(Side::Source, client), port(Side::Destination, server)]
}

impl Pods<'_> {
    /// DHCP of a guest that has no address yet: its source is in no set.
    pub(super) fn asks_for_an_address(&self) -> Vec<Rule> {
        if !self.style.settings.has_openstack() {
            return Vec::new();
        }
        let one = |family: &Family| {
            let nobody = match family {
                Family::V4 => "0.0.0.0/32",
                Family::V6 => "fe80::/10",
            };
            let mut matches = vec![from_guest(), address(Side::Source, nobody)];
            matches.extend(dhcp(*family));
            ends(matches, Verdict::Accept)
        };
        self.style.families.iter().map(one).collect()
    }

    /// The chain of every packet that comes from a pod.
    pub(super) fn anti_spoof(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        // Every frame, neighbour discovery included, so it comes first.
        if self.macs {
            out.push(drops(vec![
                Match::InterfaceIn { way: Way::In, set: names::CHECKED.into(), not: false },
                Match::SourceMacIn { set: names::MACS.into(), not: true },
            ]));
        }
        // route_localnet is on for these interfaces, so the kernel would take them.
        out.push(drops(vec![address(Side::Destination, "127.0.0.0/8")]));
        out.push(drops(vec![address(Side::Source, "127.0.0.0/8")]));
        let v6 = !self.style.is_v6_off();
        if v6 {
            out.push(drops(icmpv6(&[ROUTER_ADVERTISEMENT]).into()));
        }
        // Nearly all packets end here.
        let accept = |one: Match| ends(vec![one], Verdict::Accept);
        out.extend(self.known(OfPods::Known, Way::In).map(accept));
        out.extend(self.known(OfPods::Spoofed, Way::In).map(accept));
        if v6 {
            // Such packets never leave the host: the sets that forwarded packets are looked up in hold
            // no such address. The unspecified one: duplicate address detection and what goes with it.
            for source in ["fe80::/10", "::/128"] {
                let [_, icmp, types] = icmpv6(&ND_TYPES);
                out.push(ends(vec![address(Side::Source, source), icmp, types], Verdict::Accept));
            }
        }
        out.extend(self.asks_for_an_address());
        out.push(drops(Vec::new()));
        out
    }
}

/// An interface of that name.
pub(super) fn interface(way: Way, name: &InterfaceName) -> Match {
    Match::Interface { way, name: InterfacePattern::Is(name.clone()), not: false }
}
