//! The elements that stand for the members of a set of rules, and what a change of members changes in
//! them, at the cost of the change: pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;

use calico_datastore::model::{Cidr, Family};
use imbl::OrdSet;

use super::names::{self, Part};
use super::shape::Shape;
use crate::desired::{AddressSet, Member, SetChange, SetId};
use crate::felix::nftables::object::{Change, Element, Name};

/// All elements of the sets that a set is, each with its set.
pub(super) fn elements(
    set: &AddressSet,
    family: Family,
    id: &SetId,
    shape: &Shape,
) -> Vec<(Name, Element)> {
    match shape {
        Shape::Lengths(_) => {
            let parts: BTreeSet<Cidr> = set
                .members
                .iter()
                .filter_map(|member| net(member, family))
                .flat_map(parts)
                .collect();
            parts.into_iter().map(|part| hashed(part, family, id)).collect()
        }
        Shape::Ranges => {
            let name = names::set(family, id, Part::Ranges);
            let all = outermost(&set.members, everything(family));
            all.into_iter().map(|net| (name.clone(), range(net))).collect()
        }
        Shape::Ports(_) => {
            set.members.iter().filter_map(|member| port(member, family, id)).collect()
        }
    }
}

/// What a change of members changes in sets of that shape.
pub(super) fn changes(
    old: &AddressSet,
    new: &AddressSet,
    change: &SetChange,
    (family, id): (Family, &SetId),
    shape: &Shape,
) -> Vec<Change> {
    let SetChange { added, removed } = change;
    let (comes, goes): (Vec<_>, Vec<_>) = match shape {
        Shape::Lengths(_) => {
            let all = |members: &[Member]| -> BTreeSet<Cidr> {
                members.iter().filter_map(|member| net(member, family)).flat_map(parts).collect()
            };
            let stays = |part: &Cidr| {
                let holds = |net: Cidr| new.members.contains(&Member::Net(net));
                let half = part.prefix_len() == 1;
                holds(*part) || (half && holds(everything(family)))
            };
            let (comes, mut goes) = (all(added), all(removed));
            goes.retain(|part| !stays(part));
            let hashed = |all: BTreeSet<Cidr>| -> Vec<_> {
                all.into_iter().map(|part| hashed(part, family, id)).collect()
            };
            (hashed(comes), hashed(goes))
        }
        Shape::Ranges => {
            let changed = added.iter().chain(removed).filter_map(|member| net(member, family));
            let (comes, goes) = ranges(&old.members, &new.members, changed.collect());
            let name = names::set(family, id, Part::Ranges);
            let all = |nets: Vec<Cidr>| nets.into_iter().map(|net| (name.clone(), range(net)));
            (all(comes).collect(), all(goes).collect())
        }
        Shape::Ports(_) => {
            let all = |members: &[Member]| -> Vec<_> {
                members.iter().filter_map(|member| port(member, family, id)).collect()
            };
            (all(added), all(removed))
        }
    };
    let goes = goes.into_iter().map(|(set, element)| Change::Delete(set, element));
    goes.chain(comes.into_iter().map(|(set, element)| Change::Add(set, element))).collect()
}

fn net(member: &Member, family: Family) -> Option<Cidr> {
    match member {
        Member::Net(net) if net.family() == family => Some(*net),
        _ => None,
    }
}

fn port(member: &Member, family: Family, id: &SetId) -> Option<(Name, Element)> {
    match member {
        Member::Port(address, protocol, port) if Family::of(*address) == family => Some((
            names::set(family, id, Part::Ports),
            Element::AddressPort(*address, protocol.number(), *port),
        )),
        _ => None,
    }
}

/// "Everywhere" is two halves: a mask of no bits would ask for nothing.
fn parts(net: Cidr) -> Vec<Cidr> {
    match net.halves() {
        Some((low, high)) if net.prefix_len() == 0 => vec![low, high],
        _ => vec![net],
    }
}

fn hashed(part: Cidr, family: Family, id: &SetId) -> (Name, Element) {
    let name = names::set(family, id, Part::Length(part.prefix_len()));
    (name, Element::Address(part.address()))
}

fn everything(family: Family) -> Cidr {
    let any = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Cidr::new(any, 0).unwrap_or(Cidr::host(any))
}

/// The last address of a prefix.
pub(super) fn last(net: Cidr) -> IpAddr {
    let host = u32::from(net.family().host_len() - net.prefix_len());
    match net.address() {
        IpAddr::V4(first) => {
            let bits = u32::MAX.checked_shr(32 - host).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | bits))
        }
        IpAddr::V6(first) => {
            let bits = u128::MAX.checked_shr(128 - host).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | bits))
        }
    }
}

/// A prefix as an element of a set of ranges.
pub(super) fn range(net: Cidr) -> Element {
    Element::Range(net.address(), last(net))
}

/// The members inside of a prefix that no other of them covers. They do not overlap: of two prefixes
/// one covers the other, or they have nothing in common. Costs what is found, not what is covered.
fn outermost(members: &OrdSet<Member>, within: Cidr) -> Vec<Cidr> {
    let end = Bound::Included(Member::Net(Cidr::host(last(within))));
    let mut from = Bound::Included(Member::Net(within));
    let mut out = Vec::new();
    // In order of the first address, and of equal ones the shortest first: whoever comes first covers
    // what comes next, or nobody does.
    while let Some(Member::Net(net)) = members.range((from, end)).next() {
        out.push(*net);
        let behind = Member::Net(Cidr::host(last(*net)));
        if Bound::Included(behind) == end {
            break;
        }
        from = Bound::Excluded(behind);
    }
    out
}

/// The shortest prefixes, those that another one covers left away: what is left does not overlap.
pub(super) fn shortest<'a>(nets: impl Iterator<Item = &'a Cidr>) -> Vec<Cidr> {
    let mut sorted: Vec<Cidr> = nets.copied().collect();
    sorted.sort();
    let mut out: Vec<Cidr> = Vec::new();
    for net in sorted {
        if !out.last().is_some_and(|last| last.covers(&net)) {
            out.push(net);
        }
    }
    out
}

/// The ranges that come and those that go when these members change.
fn ranges(
    old: &OrdSet<Member>,
    new: &OrdSet<Member>,
    changed: BTreeSet<Cidr>,
) -> (Vec<Cidr>, Vec<Cidr>) {
    let (mut comes, mut goes) = (Vec::new(), Vec::new());
    let mut done: Option<Cidr> = None;
    // Whoever covers others comes before them.
    for net in changed {
        if done.is_some_and(|done| done.covers(&net)) {
            continue;
        }
        done = Some(net);
        // What covers this has not changed, so it covers both before and after.
        let above = (0..net.prefix_len()).filter_map(|len| Cidr::new(net.address(), len).ok());
        if above.into_iter().any(|above| new.contains(&Member::Net(above))) {
            continue;
        }
        let (before, after) = (outermost(old, net), outermost(new, net));
        let before: BTreeSet<Cidr> = before.into_iter().collect();
        let after: BTreeSet<Cidr> = after.into_iter().collect();
        comes.extend(after.difference(&before));
        goes.extend(before.difference(&after));
    }
    (comes, goes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::desired::{SetKind, members_diff};

    fn set(nets: &[Cidr]) -> AddressSet {
        let members = nets.iter().map(|net| Member::Net(*net)).collect();
        AddressSet { kind: SetKind::Net, selector: Arc::from("all()"), members }
    }

    fn drawn() -> impl Strategy<Value = Cidr> {
        let v4 = (0_u32..64, 0_u8..=32).prop_map(|(a, len)| {
            Cidr::new(IpAddr::V4(Ipv4Addr::from_bits((a & 7) << 29 | a >> 3)), len).unwrap()
        });
        let v6 = (0_u128..64, prop::sample::select(vec![0_u8, 1, 3, 64, 127, 128])).prop_map(
            |(a, len)| {
                Cidr::new(IpAddr::V6(Ipv6Addr::from_bits((a & 7) << 125 | a >> 3)), len).unwrap()
            },
        );
        prop_oneof![v4, v6]
    }

    fn is_in(element: &Element, length: Option<u8>, address: IpAddr) -> bool {
        match element {
            Element::Address(first) => {
                Cidr::new(*first, length.unwrap()).unwrap().contains(address)
            }
            Element::Range(first, last) => (*first..=*last).contains(&address),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn elements_hold_what_members_hold_and_follow_them(
            a in prop::collection::vec(drawn(), 0..12),
            b in prop::collection::vec(drawn(), 0..12),
            asked in prop::collection::vec(drawn(), 20),
        ) {
            let id = SetId::new("s:x");
            let (old, new) = (set(&a), set(&b));
            let diff = members_diff(&old, &new);
            for family in Family::ALL {
                let mut all = Shape::of(&old, family);
                all.grow(new.members.iter(), family);
                for shape in [all, Shape::Ranges] {
                    let mut held: HashSet<_> = elements(&old, family, &id, &shape).into_iter().collect();
                    let wanted: Vec<_> = elements(&new, family, &id, &shape);
                    for change in changes(&old, &new, &diff, (family, &id), &shape) {
                        match change {
                            Change::Delete(set, element) => {
                                prop_assert!(held.remove(&(set, element)), "was not there");
                            }
                            Change::Add(set, element) => drop(held.insert((set, element))),
                            _ => unreachable!(),
                        }
                    }
                    prop_assert_eq!(&held, &wanted.iter().cloned().collect::<HashSet<_>>());
                    for net in asked.iter().filter(|net| net.family() == family) {
                        let address = net.address();
                        let found = wanted.iter().filter(|(name, element)| {
                            let length = name.rsplit_once('/').map_or(Some(family.host_len()), |(_, l)| l.parse().ok());
                            is_in(element, length, address)
                        }).count();
                        let expected = b.iter().any(|net| net.contains(address));
                        prop_assert_eq!(found > 0, expected);
                        prop_assert!(shape != Shape::Ranges || found <= 1, "overlap");
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_covered_comes_back() {
        let nets = |all: &[&str]| -> Vec<Cidr> { all.iter().map(|n| n.parse().unwrap()).collect() };
        let old = set(&nets(&[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "10.2.0.0/16",
            "192.0.2.0/24",
        ]));
        let new = set(&nets(&["10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "192.0.2.0/24"]));
        let diff = members_diff(&old, &new);
        let id = SetId::new("s:x");
        let found = changes(&old, &new, &diff, (Family::V4, &id), &Shape::Ranges);
        let said: Vec<String> = found
            .iter()
            .map(|change| match change {
                Change::Add(_, Element::Range(first, last)) => format!("+{first}-{last}"),
                Change::Delete(_, Element::Range(first, last)) => format!("-{first}-{last}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            said,
            ["-10.0.0.0-10.255.255.255", "+10.1.0.0-10.1.255.255", "+10.2.0.0-10.2.255.255"]
        );
    }

    #[test]
    fn the_last_address_of_every_length() {
        for (net, end) in [
            ("0.0.0.0/0", "255.255.255.255"),
            ("10.0.0.0/8", "10.255.255.255"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fd00::/127", "fd00::1"),
            ("fd00::1/128", "fd00::1"),
        ] {
            assert_eq!(last(net.parse().unwrap()), end.parse::<IpAddr>().unwrap(), "{net}");
        }
    }
}
