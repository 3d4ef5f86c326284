//! What the kernel's sets for one set of prefixes look like: pure.
//!
//! A hash is asked in a fifth of the time of a set of ranges, but knows only what is asked in full. So
//! prefixes are in one hash for each length, asked with a mask, as long as there are few lengths. A
//! shape only grows: rules that name the sets are written again when it does, and a member that comes
//! and goes must not do that each time.

use std::collections::BTreeSet;

use calico_datastore::model::{Cidr, Family};

use super::names::{self, Part};
use crate::desired::{AddressSet, Member, SetId, SetKind as MemberKind};
use crate::felix::nftables::object::{Match, Name, SetKind, SetSpec, Side};

/// The most lengths that are asked one after the other.
const LENGTHS: usize = 5;

/// The sets of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A hash for each of these lengths. None: there never was a member.
    Lengths(BTreeSet<u8>),
    /// One set of ranges.
    Ranges,
    /// A hash of ports; false: there never was a member.
    Ports(bool),
}

/// The length of the prefixes that stand for one: "everywhere" is two halves.
fn length(net: &Cidr) -> u8 {
    net.prefix_len().max(1)
}

impl Shape {
    /// That of nothing.
    pub fn new(kind: MemberKind) -> Self {
        match kind {
            MemberKind::Net => Self::Lengths(BTreeSet::new()),
            MemberKind::Port => Self::Ports(false),
        }
    }

    /// That of a set.
    pub fn of(set: &AddressSet, family: Family) -> Self {
        let mut shape = Self::new(set.kind);
        shape.grow(set.members.iter(), family);
        shape
    }

    /// Members come. True when the shape is another.
    pub fn grow<'a>(
        &mut self,
        members: impl IntoIterator<Item = &'a Member>,
        family: Family,
    ) -> bool {
        let mut grown = false;
        for member in members {
            grown |= match (&mut *self, member) {
                (Self::Lengths(lengths), Member::Net(net)) if net.family() == family => {
                    let new = lengths.insert(length(net));
                    if lengths.len() > LENGTHS {
                        *self = Self::Ranges;
                    }
                    new
                }
                (Self::Ports(any), Member::Port(address, ..)) if Family::of(*address) == family => {
                    !std::mem::replace(any, true)
                }
                _ => false,
            };
            if *self == Self::Ranges {
                return grown;
            }
        }
        grown
    }

    fn parts(&self) -> Vec<Part> {
        match self {
            Self::Lengths(lengths) => lengths.iter().rev().map(|l| Part::Length(*l)).collect(),
            Self::Ranges => vec![Part::Ranges],
            Self::Ports(any) => any.then_some(Part::Ports).into_iter().collect(),
        }
    }

    /// The sets that there are.
    pub fn sets(&self, family: Family, id: &SetId) -> Vec<(Name, SetSpec)> {
        let spec = |part| {
            let kind = match part {
                Part::Length(_) => SetKind::Address(family),
                Part::Ranges => SetKind::Interval(family),
                Part::Ports => SetKind::AddressPort(family),
            };
            SetSpec { kind, counters: false }
        };
        self.parts().into_iter().map(|part| (names::set(family, id, part), spec(part))).collect()
    }

    /// What asks for a member: one of these has to match. Negated: all.
    pub fn matches(&self, family: Family, id: &SetId, side: Side, not: bool) -> Vec<Match> {
        let one = |part| {
            let set = names::set(family, id, part);
            match part {
                Part::Length(length) => {
                    let mask = (length < family.host_len()).then_some(length);
                    Match::AddressIn { side, family, set, mask, not }
                }
                Part::Ranges => Match::AddressIn { side, family, set, mask: None, not },
                Part::Ports => Match::AddressPortIn { side, family, set, not },
            }
        };
        self.parts().into_iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(all: &[&str]) -> Vec<Member> {
        all.iter().map(|net| Member::Net(net.parse().unwrap())).collect()
    }

    #[test]
    fn a_shape_grows_and_never_shrinks() {
        let mut shape = Shape::new(MemberKind::Net);
        assert!(!shape.grow(&nets(&["fd00::/8"]), Family::V4));
        assert!(shape.matches(Family::V4, &SetId::new("s:a"), Side::Source, false).is_empty());
        assert!(shape.grow(&nets(&["10.0.0.1/32"]), Family::V4));
        assert!(!shape.grow(&nets(&["10.0.0.2/32"]), Family::V4));
        assert!(shape.grow(&nets(&["0.0.0.0/0", "10.0.0.0/24"]), Family::V4));
        assert_eq!(shape, Shape::Lengths([1, 24, 32].into()));
        assert!(!shape.grow(&nets(&["128.0.0.0/1"]), Family::V4));
        let names: Vec<String> = shape
            .sets(Family::V4, &SetId::new("s:a"))
            .into_iter()
            .map(|(name, _)| name.to_string())
            .collect();
        assert_eq!(names, ["set4-s-a", "set4-s-a/24", "set4-s-a/1"]);
        assert!(shape.grow(&nets(&["10.0.0.0/25", "10.0.0.0/26"]), Family::V4));
        assert!(shape.grow(&nets(&["10.0.0.0/27", "10.0.0.0/28"]), Family::V4));
        assert_eq!(shape, Shape::Ranges);
        assert!(!shape.grow(&nets(&["10.0.0.0/8"]), Family::V4));
    }
}
