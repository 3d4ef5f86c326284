//! The addresses of what can be a member of sets, and what changed between two lists of them.

use std::ops::Deref;
use std::sync::Arc;

use calico_datastore::model::{Cidr, NetworkSet};

/// Addresses. Those of a network set may be a hundred thousand, and are not copied.
#[derive(Debug, PartialEq)]
pub(super) enum Addresses {
    /// An endpoint's.
    Own(Box<[Cidr]>),
    /// A network set's.
    Set(Arc<NetworkSet>),
}

impl Deref for Addresses {
    type Target = [Cidr];

    fn deref(&self) -> &[Cidr] {
        match self {
            Self::Own(addresses) => addresses,
            Self::Set(set) => &set.nets,
        }
    }
}

/// What one list has more often than the other: (added, removed). Lists that differ in a few places
/// cost one comparison of each element.
pub(super) fn difference(old: &[Cidr], new: &[Cidr]) -> (Vec<Cidr>, Vec<Cidr>) {
    let same = |(a, b): &(&Cidr, &Cidr)| a == b;
    let head = old.iter().zip(new).take_while(same).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let (mut old, mut new) = (old[..old.len() - tail].to_vec(), new[..new.len() - tail].to_vec());
    old.sort_unstable();
    new.sort_unstable();
    (only_in(&new, &old), only_in(&old, &new))
}

/// What the first sorted list has more often than the second.
fn only_in(list: &[Cidr], other: &[Cidr]) -> Vec<Cidr> {
    let mut other = other.iter().peekable();
    let mut only = Vec::new();
    for cidr in list {
        while other.next_if(|next| *next < cidr).is_some() {}
        if other.next_if_eq(&cidr).is_none() {
            only.push(*cidr);
        }
    }
    only
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidrs(numbers: &[u8]) -> Vec<Cidr> {
        numbers.iter().map(|number| format!("10.0.0.{number}/32").parse().unwrap()).collect()
    }

    #[test]
    fn what_changed_is_the_difference_however_it_moved() {
        for (old, new, added, removed) in [
            (&[][..], &[][..], &[][..], &[][..]),
            (&[], &[1], &[1], &[]),
            (&[1, 2, 3], &[1, 9, 3], &[9], &[2]),
            (&[1, 2, 3], &[3, 2, 1], &[], &[]),
            (&[1, 2, 3], &[1, 3], &[], &[2]),
            (&[1, 2], &[9, 1, 2, 8], &[8, 9], &[]),
            // Each time that it stands there counts.
            (&[1, 1, 2], &[1, 2], &[], &[1]),
            (&[1, 1], &[1, 1, 1], &[1], &[]),
        ] {
            assert_eq!(difference(&cidrs(old), &cidrs(new)), (cidrs(added), cidrs(removed)));
        }
    }

    proptest! {
        #[test]
        fn the_difference_leads_from_one_list_to_the_other(
            old in proptest::collection::vec(0u8..6, 0..12),
            new in proptest::collection::vec(0u8..6, 0..12),
        ) {
            let (added, removed) = difference(&cidrs(&old), &cidrs(&new));
            prop_assert!(added.iter().all(|cidr| !removed.contains(cidr)));
            let mut there = cidrs(&old);
            for cidr in removed {
                let at = there.iter().position(|other| *other == cidr).unwrap();
                there.remove(at);
            }
            there.extend(added);
            there.sort_unstable();
            let mut new = cidrs(&new);
            new.sort_unstable();
            prop_assert_eq!(there, new);
        }
    }
}
