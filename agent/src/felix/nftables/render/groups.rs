//! Which netdevice group stands for which class: pure.
//!
//! Numbers are given out in a circle, so one that is free again comes last: an interface whose group
//! is not yet another one meets no class but its old one. What the kernel's map and the groups of
//! interfaces say is taken over at a start, so that nothing has to change there.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::ClassId;

/// The number before the first group. Below 2³¹: iproute2 takes no others.
pub const BASE: u32 = 0x4a11_0000;
/// How many groups there are.
pub const COUNT: u32 = 0xffff;

/// True for a group that could be one of a class.
pub fn is_ours(group: u32) -> bool {
    (BASE + 1..=BASE + COUNT).contains(&group)
}

/// The groups that are given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    of: BTreeMap<ClassId, u32>,
    classes: BTreeMap<u32, ClassId>,
    /// How far the circle has come: groups up to here were given out.
    last: u32,
    /// Classes for which there was none.
    without: BTreeSet<ClassId>,
}

impl Groups {
    /// The group of a class.
    pub fn get(&self, class: &ClassId) -> Option<u32> {
        self.of.get(class).copied()
    }

    /// The class of a group.
    pub fn class(&self, group: u32) -> Option<&ClassId> {
        self.classes.get(&group)
    }

    /// A class has this group already, unless either has another.
    pub fn take_over(&mut self, group: u32, class: &ClassId) {
        let free = !self.of.contains_key(class) && !self.classes.contains_key(&group);
        if free && is_ours(group) {
            self.put(group - BASE, class);
            self.last = self.last.max(group - BASE);
        }
    }

    /// Takes over what interfaces say: the group of each, and the class of its endpoint. A class gets a group in
    /// which nobody else is. While no agent ran the endpoints of one class may have come into several, or some
    /// may have gone: what its group leads to changes before any interface is moved, so with one of the heirs
    /// in its place the others would be asked by a stranger's policy until then.
    pub fn take_over_from_links<'a>(
        &mut self,
        links: impl IntoIterator<Item = (u32, Option<&'a ClassId>)>,
    ) {
        let mut members: BTreeMap<u32, BTreeSet<Option<&ClassId>>> = BTreeMap::new();
        for (group, class) in links.into_iter().filter(|(group, _)| is_ours(*group)) {
            self.avoid(group);
            members.entry(group).or_default().insert(class);
        }
        for (group, classes) in members {
            if let (Some(Some(class)), 1) = (classes.first(), classes.len()) {
                self.take_over(group, class);
            }
        }
    }

    /// Somebody may still have this group: it is given out last.
    pub fn avoid(&mut self, group: u32) {
        if is_ours(group) {
            self.last = self.last.max(group - BASE);
        }
    }

    /// The classes that got none, because all were given out.
    pub fn without(&self) -> &BTreeSet<ClassId> {
        &self.without
    }

    /// True when some are not given out.
    pub fn is_free(&self) -> bool {
        self.of.len() < COUNT as usize
    }

    /// The group of a class, a new one if it has none. `None`: all of them are given out.
    pub fn give(&mut self, class: &ClassId) -> Option<u32> {
        if let Some(group) = self.get(class) {
            return Some(group);
        }
        let given = if self.is_free() { self.find(class) } else { None };
        match given {
            Some(_) => drop(self.without.remove(class)),
            None => drop(self.without.insert(class.clone())),
        }
        given
    }

    fn find(&mut self, class: &ClassId) -> Option<u32> {
        let next = |number: u32| if number >= COUNT { 1 } else { number + 1 };
        let mut number = next(self.last);
        for _ in 0..COUNT {
            if !self.classes.contains_key(&(BASE + number)) {
                self.put(number, class);
                self.last = number;
                return Some(BASE + number);
            }
            number = next(number);
        }
        None
    }

    /// A class is no more.
    pub fn free(&mut self, class: &ClassId) -> Option<u32> {
        self.without.remove(class);
        let group = self.of.remove(class)?;
        self.classes.remove(&group);
        Some(group)
    }

    /// A new class has the group of another from now on, which has none any more.
    pub fn hand_over(&mut self, old: &ClassId, new: &ClassId) {
        if self.of.contains_key(new) {
            return;
        }
        if let Some(group) = self.free(old) {
            self.without.remove(new);
            self.put(group - BASE, new);
        }
    }

    /// Only these classes are left.
    pub fn retain(&mut self, stays: impl Fn(&ClassId) -> bool) {
        self.of.retain(|class, _| stays(class));
        self.classes.retain(|_, class| stays(class));
        self.without.retain(|class| stays(class));
    }

    fn put(&mut self, number: u32, class: &ClassId) {
        self.of.insert(class.clone(), BASE + number);
        self.classes.insert(BASE + number, class.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{AclClass, DirectionAcl};

    fn class(n: u32) -> ClassId {
        let profiles = vec![format!("p{n}").as_str().into()];
        let ingress = DirectionAcl { profiles, ..DirectionAcl::default() };
        AclClass { active: true, ingress, ..AclClass::default() }.id()
    }

    #[test]
    fn a_class_keeps_its_group_and_a_free_one_comes_last() {
        let mut groups = Groups::default();
        let all: Vec<_> = (0..4).map(|n| groups.give(&class(n)).unwrap()).collect();
        assert_eq!(all, [BASE + 1, BASE + 2, BASE + 3, BASE + 4]);
        assert_eq!(groups.free(&class(1)), Some(BASE + 2));
        assert_eq!(groups.give(&class(9)), Some(BASE + 5));
        assert_eq!(groups.give(&class(2)), Some(BASE + 3));
        assert_eq!(groups.give(&class(1)), Some(BASE + 6));
        assert_eq!(groups.class(BASE + 2), None);
        assert_eq!(groups.class(BASE + 6), Some(&class(1)));
    }

    #[test]
    fn what_is_in_force_is_taken_over_and_no_number_twice() {
        let mut groups = Groups::default();
        groups.take_over(BASE + 7, &class(0));
        groups.take_over(BASE + 7, &class(1));
        groups.take_over(BASE + 8, &class(0));
        groups.take_over(1, &class(2));
        groups.avoid(BASE + 9);
        assert_eq!(groups.get(&class(0)), Some(BASE + 7));
        assert_eq!((groups.get(&class(1)), groups.get(&class(2))), (None, None));
        assert_eq!(groups.give(&class(1)), Some(BASE + 10));
    }

    #[test]
    fn a_group_is_taken_over_from_interfaces_that_are_all_of_one_class() {
        let [a, b, c] = [0, 1, 2].map(class);
        let taken = |held: &[(u32, &ClassId)], links: &[(u32, Option<&ClassId>)]| {
            let mut groups = Groups::default();
            held.iter().for_each(|(group, class)| groups.take_over(BASE + group, class));
            groups.take_over_from_links(links.iter().map(|(group, of)| (BASE + group, *of)));
            let all = [groups.get(&a), groups.get(&b), groups.get(&c)];
            (all.map(|group| group.map(|group| group - BASE)), groups.give(&class(9)))
        };
        let (ours, theirs) = (|of| (7, Some(of)), (7, None));
        assert_eq!(taken(&[], &[ours(&a), ours(&a)]), ([Some(7), None, None], Some(BASE + 8)));
        // A class became two: neither has its group, and nobody else gets it soon.
        assert_eq!(taken(&[], &[ours(&a), ours(&b)]), ([None; 3], Some(BASE + 8)));
        // One of the two has a group of its own: the other does not get what its interfaces are still in.
        assert_eq!(taken(&[(5, &a)], &[ours(&a), ours(&b)]).0, [Some(5), None, None]);
        // Nor what somebody is in whose endpoint is no more.
        assert_eq!(taken(&[], &[ours(&a), theirs]).0, [None; 3]);
        // What the map says counts more, and groups of others are theirs.
        assert_eq!(taken(&[(7, &c)], &[ours(&a), ours(&a)]).0, [None, None, Some(7)]);
        assert_eq!(taken(&[], &[(COUNT + 1, Some(&a))]).0, [None; 3]);
    }

    #[test]
    fn a_new_class_takes_the_group_of_another_over() {
        let mut groups = Groups::default();
        groups.give(&class(0));
        groups.give(&class(1));
        groups.hand_over(&class(0), &class(2));
        assert_eq!((groups.get(&class(0)), groups.get(&class(2))), (None, Some(BASE + 1)));
        assert_eq!(groups.class(BASE + 1), Some(&class(2)));
        // One that has a group keeps it, and of one that has none there is nothing to take.
        groups.hand_over(&class(2), &class(1));
        groups.hand_over(&class(8), &class(9));
        assert_eq!((groups.get(&class(1)), groups.get(&class(9))), (Some(BASE + 2), None));
        assert_eq!(groups.get(&class(2)), Some(BASE + 1));
    }

    #[test]
    fn the_circle_closes_and_ends_when_all_are_given_out() {
        let mut groups = Groups::default();
        for n in 0..COUNT {
            assert!(groups.give(&class(n)).is_some_and(is_ours), "{n}");
        }
        assert!(groups.without().is_empty());
        assert_eq!(groups.give(&class(COUNT)), None);
        assert_eq!(groups.without().iter().collect::<Vec<_>>(), [&class(COUNT)]);
        groups.free(&class(17));
        assert_eq!(groups.give(&class(COUNT)), Some(BASE + 18));
        assert!(groups.without().is_empty());
        assert_eq!(groups.give(&class(17)), None);
        groups.free(&class(17));
        assert!(groups.without().is_empty(), "it is no more");
    }
}
