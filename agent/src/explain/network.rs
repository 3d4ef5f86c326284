//! A network as a peer: cut into parts that policy may treat differently, and put together again
//! where it does not. Pure.
//!
//! Two addresses that the same prefixes hold, of all that any rule or set names, are treated alike.
//! So one address of each part tells for all of it. Parts are given as prefixes, of which the
//! longest that holds an address counts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_datastore::model::{Cidr, Family};

use super::document::Answer;
use super::world::Place;
use crate::config::Settings;
use crate::desired::{ActiveRule, ActiveRules, DesiredState, Member};

/// How many parts are looked at.
pub(super) const MOST: usize = 4096;

/// Prefixes inside `net`, itself first, and an address of each that is in none of the others. True:
/// there are more than [`MOST`], and for those beyond speaks what they are in.
pub(super) fn parts<'a>(
    net: Cidr,
    places: impl Iterator<Item = &'a Place>,
) -> (Vec<(Cidr, IpAddr)>, bool) {
    let mut cuts = BTreeSet::from([net]);
    for place in places {
        let hosts = place.addresses.iter().map(|address| Cidr::host(*address));
        let named = named(&place.state).chain(hosts).chain(special(net.family()));
        cuts.extend(named.filter(|cut| net.covers(cut)).take(MOST + 1));
    }
    let more = cuts.len() > MOST;
    // In order of their first address, and what holds others before them.
    let mut cuts: Vec<Cidr> = cuts.into_iter().collect();
    cuts.sort_by_key(|cut| (cut.address(), cut.prefix_len()));
    cuts.truncate(MOST);
    let own = cuts.iter().enumerate().filter_map(|(at, cut)| {
        let inside = cuts.iter().skip(at + 1).take_while(|other| cut.covers(other));
        Some((*cut, own_address(*cut, inside)?))
    });
    (own.collect(), more)
}

/// The first address of a prefix that is in none of those inside it, which come in order.
fn own_address<'a>(net: Cidr, inside: impl Iterator<Item = &'a Cidr>) -> Option<IpAddr> {
    let mut index: u128 = 0;
    for other in inside {
        let candidate = net.nth(index)?;
        if other.contains(candidate) {
            index = net.index_of(other.address())?.checked_add(other.size())?;
        }
    }
    net.nth(index)
}

/// Every prefix that a rule names.
pub(super) fn of_rules(state: &DesiredState) -> impl Iterator<Item = Cidr> {
    of_lists(state.policies.values().chain(state.profiles.values()))
}

fn of_lists<'a>(lists: impl Iterator<Item = &'a Arc<ActiveRules>>) -> impl Iterator<Item = Cidr> {
    let rules = lists.flat_map(|rules| rules.ingress.iter().chain(&rules.egress));
    rules.flat_map(|ActiveRule { source, destination, .. }| {
        let sides = [source, destination].into_iter();
        sides.flat_map(|side| side.nets.iter().chain(&side.not_nets).copied())
    })
}

/// Every prefix that a rule names, or that is a member of a set; of pods and of host endpoints.
fn named(state: &DesiredState) -> impl Iterator<Item = Cidr> {
    let hosts = &state.host_endpoints;
    let sets = state.sets.values().chain(hosts.sets.values());
    let members = sets.flat_map(|set| &set.members);
    let of_sets = members.map(|member| match member {
        Member::Net(net) => *net,
        Member::Port(address, ..) => Cidr::host(*address),
    });
    let of_hosts = of_lists(hosts.policies.values().chain(hosts.profiles.values()));
    let Settings { failsafe_inbound, failsafe_outbound, .. } = &*state.settings;
    let failsafes = failsafe_inbound.iter().chain(failsafe_outbound).filter_map(|one| one.net);
    of_rules(state).chain(of_sets).chain(of_hosts).chain(failsafes)
}

/// What the dataplane treats in its own way.
fn special(family: Family) -> impl Iterator<Item = Cidr> {
    let list: [(IpAddr, u8); 3] = match family {
        Family::V4 => [
            (Ipv4Addr::new(127, 0, 0, 0).into(), 8),
            (Ipv4Addr::new(224, 0, 0, 0).into(), 4),
            (Ipv4Addr::BROADCAST.into(), 32),
        ],
        Family::V6 => {
            let multicast: IpAddr = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into();
            [(multicast, 8), (multicast, 8), (multicast, 8)]
        }
    };
    list.into_iter().filter_map(|(address, len)| Cidr::new(address, len).ok())
}

/// Parts that are treated alike become one answer. A part inside one that is treated alike goes
/// without saying.
pub(super) fn grouped(parts: Vec<(Cidr, Answer)>, of_source: bool) -> Vec<Answer> {
    let mut groups: Vec<(Vec<Cidr>, Answer)> = Vec::new();
    // The prefixes that hold the next one, and the group of each.
    let mut around: Vec<(Cidr, usize)> = Vec::new();
    for (prefix, answer) in parts {
        around.retain(|(outer, _)| outer.covers(&prefix));
        let same = |(_, other): &(Vec<Cidr>, Answer)| {
            other.outcome == answer.outcome && other.because == answer.because
        };
        let group = groups.iter().position(same).unwrap_or_else(|| {
            groups.push((Vec::new(), answer));
            groups.len() - 1
        });
        let implied = around.last().is_some_and(|(_, outer)| *outer == group);
        if let (false, Some((prefixes, _))) = (implied, groups.get_mut(group)) {
            prefixes.push(prefix);
        }
        around.push((prefix, group));
    }
    let done = groups.into_iter().map(|(prefixes, mut answer)| {
        let end = if of_source { &mut answer.from } else { &mut answer.to };
        end.networks = prefixes.iter().map(Cidr::to_string).collect();
        answer
    });
    done.collect()
}

#[cfg(test)]
mod tests {
    use super::parts as all_parts;
    use super::*;
    use crate::desired::{AddressSet, SetId, SetKind};

    fn net(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn own(net_: &str, inside: &[&str]) -> Option<String> {
        let inside: Vec<Cidr> = inside.iter().map(|text| net(text)).collect();
        own_address(net(net_), inside.iter()).map(|address| address.to_string())
    }

    fn place(members: u32) -> Place {
        let mut state = DesiredState::default();
        let members = (0..members).map(|n| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + 2 * n);
            Member::Net(Cidr::host(address.into()))
        });
        let set =
            AddressSet { kind: SetKind::Net, selector: "x".into(), members: members.collect() };
        state.sets.insert(SetId::new("s:x"), set);
        Place::new(Arc::new(state), BTreeSet::new())
    }

    #[test]
    fn a_network_of_very_many_parts_is_cut_and_that_is_told() {
        let (parts, more) = all_parts(net("10.0.0.0/8"), [&place(3)].into_iter());
        let parts: Vec<_> = parts.iter().map(|(net, own)| format!("{net} {own}")).collect();
        let own = ["10.0.0.0/32 10.0.0.0", "10.0.0.2/32 10.0.0.2", "10.0.0.4/32 10.0.0.4"];
        assert_eq!((&parts[1..], more), (&own.map(str::to_owned)[..], false));
        assert_eq!(parts[0], "10.0.0.0/8 10.0.0.1");
        let (parts, more) = all_parts(net("10.0.0.0/8"), [&place(100_000)].into_iter());
        assert_eq!((parts.len(), more), (MOST, true));
        // What is outside of the network does not count.
        let (parts, more) = all_parts(net("10.0.0.0/29"), [&place(100_000)].into_iter());
        assert_eq!((parts.len(), more), (5, false));
    }

    #[test]
    fn an_address_of_its_own() {
        assert_eq!(own("10.0.0.0/30", &[]).as_deref(), Some("10.0.0.0"));
        assert_eq!(own("10.0.0.0/30", &["10.0.0.0/32"]).as_deref(), Some("10.0.0.1"));
        let nested = ["10.0.0.0/31", "10.0.0.0/32", "10.0.0.1/32", "10.0.0.3/32"];
        assert_eq!(own("10.0.0.0/30", &nested).as_deref(), Some("10.0.0.2"));
        assert_eq!(own("10.0.0.0/31", &["10.0.0.0/32", "10.0.0.1/32"]), None);
        assert_eq!(own("0.0.0.0/0", &["0.0.0.0/1", "128.0.0.0/1"]), None);
        assert_eq!(own("::/0", &["::/1"]).as_deref(), Some("8000::"));
    }
}
