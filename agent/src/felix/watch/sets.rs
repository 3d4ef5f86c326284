//! Address sets tell nobody when they change: their heads are listed each second, and the members of
//! those that are small.
//!
//! A set that is missing, is another one (type, parameters, a new seed of its hash) or has more or
//! fewer members is noticed within about a second. One member in the place of another is noticed
//! within about two, in sets of up to [`SMALL`] members; in larger ones only the slow refresh
//! (`IpsetsRefreshInterval`) finds that.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;

use tokio::time::Instant;
use tracing::debug;

use super::budget::{Budget, cpu_time};
use super::changes::Grown;
use crate::felix::ipset::element;
use crate::felix::ipset::wire::{Link, attr, behind_head, head, member};
use crate::felix::iptables::names::owns_set;
use crate::netlink::{attribute, attributes, be32, text};

/// One part in so many of a core goes into looking at heads, and one into members.
const SHARE: u32 = 2000;
/// Sets of up to so many members are compared member by member.
const SMALL: u32 = 4096;

/// What a list says about a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    /// Digest of its type and parameters.
    kind: u64,
    /// How many members; old kernels do not tell.
    count: Option<u32>,
}

/// The head of a set in a message of a list.
fn described(body: &[u8]) -> Option<(&str, Head)> {
    let body = behind_head(body)?;
    let name = attribute(body, attr::NAME).and_then(text)?;
    let mut hasher = DefaultHasher::new();
    attribute(body, attr::TYPE).hash(&mut hasher);
    attribute(body, attr::FAMILY).hash(&mut hasher);
    let data = attribute(body, attr::DATA)?;
    let mut count = None;
    for (kind, value) in attributes(data) {
        match kind {
            head::ELEMENTS => count = be32(value),
            head::HASH_SIZE | head::REFERENCES | head::MEMORY => {}
            _ => (kind, value).hash(&mut hasher),
        }
    }
    Some((name, Head { kind: hasher.finish(), count }))
}

/// Digest of the members in a message of a list, whatever their order, and whatever was counted for them.
fn members(body: &[u8]) -> u64 {
    let digest = |entry: &[u8]| {
        let mut hasher = DefaultHasher::new();
        let said = attributes(entry);
        said.filter(|(kind, _)| ![member::PACKETS, member::BYTES].contains(kind))
            .for_each(|said| said.hash(&mut hasher));
        hasher.finish()
    };
    element::members(body).fold(0, |sum: u64, entry| sum.wrapping_add(digest(entry)))
}

/// What was last seen of a set.
#[derive(Clone, Copy, Debug)]
struct Seen {
    head: Head,
    members: Option<u64>,
}

/// What a list makes known, with members where it has them.
#[derive(Debug, Default)]
struct Listed {
    /// The sets of ours.
    seen: BTreeMap<String, Seen>,
    /// How many members all sets have, others' too. As many as can be where the kernel does not tell.
    total: u32,
}

impl Listed {
    /// Adds a message of a list of heads.
    fn head(&mut self, body: &[u8]) {
        self.add(body, None);
    }

    /// Adds a message of a list of everything. A set with many members comes in several, the first of
    /// which has its head.
    fn whole(&mut self, body: &[u8]) {
        self.add(body, Some(members(body)));
    }

    fn add(&mut self, body: &[u8], members: Option<u64>) {
        let said = described(body);
        if let Some((_, head)) = said {
            self.total = self.total.saturating_add(head.count.unwrap_or(u32::MAX));
        }
        let name = behind_head(body).and_then(|body| attribute(body, attr::NAME)).and_then(text);
        let Some(name) = name.filter(|name| owns_set(name)) else { return };
        if let Some((_, head)) = said {
            self.seen.insert(name.to_owned(), Seen { head, members });
        } else if let Some(seen) = self.seen.get_mut(name) {
            seen.members = seen.members.zip(members).map(|(a, b)| a.wrapping_add(b));
        }
    }
}

/// The sets of ours.
#[derive(Debug, Default)]
pub(super) struct Sets {
    link: Option<Link>,
    seen: Option<BTreeMap<String, Seen>>,
    heads: Budget,
    members: Budget,
    /// At the last look there were so few members that one list of everything costs less than a list of each set.
    few: bool,
}

impl Sets {
    /// Looks, and returns the sets that are not as they were when last seen, and not as they should
    /// be by what was written since; at the first look none. With `all` nothing is put off.
    pub(super) fn poll(&mut self, now: Instant, all: bool, grown: &Grown) -> Vec<String> {
        if !all && !self.heads.is_due(now) {
            return Vec::new();
        }
        self.look(now, all, grown).unwrap_or_else(|error| {
            debug!(%error, "cannot look at the address sets");
            self.link = None;
            Vec::new()
        })
    }

    fn look(&mut self, now: Instant, all: bool, grown: &Grown) -> io::Result<Vec<String>> {
        let begin = cpu_time();
        // Everything in one list, if there is not much, has the shares of both.
        let whole = self.few;
        let share = if whole { SHARE / 2 } else { SHARE };
        let deep = all || whole || self.members.is_due(now);
        let link = match &mut self.link {
            Some(link) => link,
            none => none.insert(Link::open()?),
        };
        let Listed { mut seen, total } =
            if whole { link.list_whole(Listed::whole)? } else { link.list(None, Listed::head)? };
        self.few = total <= SMALL;
        self.heads.spent(cpu_time().saturating_sub(begin), share, now);
        let before = self.seen.take();
        let old = before.as_ref();
        let mut changed = Vec::new();
        for (name, Seen { head, members: digest }) in &mut seen {
            let (name, head) = (name.as_str(), *head);
            let known = old.and_then(|old| old.get(name));
            let same = known.filter(|known| known.head == head);
            let small = head.count.is_none_or(|count| count <= SMALL);
            if digest.is_none() && small && (deep || same.is_none()) {
                let add = |sum: &mut u64, body: &[u8]| *sum = sum.wrapping_add(members(body));
                // It may have gone since it was listed: the next look will see.
                *digest = link.list(Some(name), add).ok();
            }
            *digest = digest.or_else(|| same.and_then(|known| known.members));
            let differs = |known: &Seen| {
                known.head != head || (known.members.zip(*digest)).is_some_and(|(a, b)| a != b)
            };
            let own = explained(known.map(|known| known.head), head, grown.get(name));
            if old.is_some() && known.is_none_or(differs) && !own {
                changed.push(name.to_owned());
            }
        }
        let gone = old.into_iter().flatten().filter(|(name, _)| !seen.contains_key(*name));
        let gone = gone.filter(|(name, _)| !grown.contains_key(*name));
        changed.extend(gone.map(|(name, _)| name.clone()));
        self.seen = Some(seen);
        if deep {
            self.members.spent(cpu_time().saturating_sub(begin), share, now);
        }
        Ok(changed)
    }
}

/// True when what was written to a set accounts for its new head. One member in the place of another
/// is not told from what was written in the same moment.
fn explained(old: Option<Head>, new: Head, grown: Option<&Option<i64>>) -> bool {
    match (grown, old) {
        (None, _) => false,
        (Some(Some(by)), Some(old)) => {
            let counts = old.count.zip(new.count);
            let grew = |(old, new): (u32, u32)| i64::from(new) - i64::from(old) == *by;
            old.kind == new.kind && counts.is_none_or(grew)
        }
        (Some(_), _) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::felix::ipset::wire::{LIST, NFGENMSG};
    use crate::netlink::{messages, request};
    use proptest::prelude::*;

    /// An attribute with its head.
    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        request(0, 0, &[], &[(kind, value)])[16..].to_vec()
    }

    fn message(name: &str, data: &[(u16, u32)], members: &[[u8; 4]]) -> Vec<u8> {
        let members: Vec<_> = members.iter().map(|m| nla(1, m)).collect();
        message_of(name, data, &members)
    }

    fn message_of(name: &str, data: &[(u16, u32)], members: &[Vec<u8>]) -> Vec<u8> {
        let data: Vec<u8> = data.iter().flat_map(|(k, v)| nla(*k, &v.to_be_bytes())).collect();
        let members: Vec<u8> = members.iter().flat_map(|m| nla(attr::DATA, m)).collect();
        let name = format!("{name}\0");
        let all: [(u16, &[u8]); 4] = [
            (attr::NAME, name.as_bytes()),
            (attr::TYPE, b"hash:net\0"),
            (attr::DATA, &data),
            (attr::MEMBERS, &members),
        ];
        let whole = request(LIST, 0, &NFGENMSG, &all);
        messages(&whole).next().unwrap().1.to_vec()
    }

    #[test]
    fn parameters_and_the_number_of_members_count() {
        let of = |data: &[(u16, u32)]| described(&message("cali40x", data, &[])).unwrap().1;
        let whole = of(&[(19, 65536), (head::HASH_SIZE, 64), (head::ELEMENTS, 2)]);
        assert_eq!(whole.count, Some(2));
        let grown = of(&[(19, 65536), (head::HASH_SIZE, 128), (head::REFERENCES, 5), (24, 2)]);
        assert_eq!(grown, whole);
        assert_ne!(of(&[(19, 65537), (head::ELEMENTS, 2)]), whole);
        assert_ne!(of(&[(19, 65536), (head::ELEMENTS, 3)]), whole);
        assert_eq!(described(&message("cali40x", &[], &[])).unwrap().0, "cali40x");
    }

    #[test]
    fn members_count_in_any_order() {
        let of = |all: &[[u8; 4]]| members(&message("x", &[], all));
        assert_eq!(of(&[[1; 4], [2; 4]]), of(&[[2; 4], [1; 4]]));
        assert_ne!(of(&[[1; 4], [2; 4]]), of(&[[1; 4], [3; 4]]));
    }

    /// As the kernel lists a set with many members; others' count, but are not kept.
    #[test]
    fn a_list_of_everything_says_what_lists_of_each_do() {
        let one = message("cali40x", &[(head::ELEMENTS, 3)], &[[1; 4], [2; 4]]);
        let third = nla(attr::DATA, &nla(1, &[3; 4]));
        let more: [(u16, &[u8]); 2] = [(attr::NAME, b"cali40x\0"), (attr::MEMBERS, &third)];
        let more = request(LIST, 0, &NFGENMSG, &more);
        let more = messages(&more).next().unwrap().1.to_vec();
        let theirs = message("theirs", &[(head::ELEMENTS, 9)], &[[9; 4]]);
        let mut listed = Listed::default();
        [&one, &theirs, &more].into_iter().for_each(|body| listed.whole(body));
        let sum = members(&one).wrapping_add(members(&more));
        assert_eq!((listed.total, listed.seen.len()), (12, 1));
        assert_eq!(listed.seen["cali40x"].members, Some(sum));
        let mut heads = Listed::default();
        heads.head(&message("cali40x", &[(head::ELEMENTS, 3)], &[]));
        assert_eq!((heads.total, heads.seen["cali40x"].members), (3, None));
        assert_eq!(heads.seen["cali40x"].head, listed.seen["cali40x"].head);
    }

    #[test]
    fn what_is_counted_is_no_change() {
        let of = |address: u8, packets: u64| {
            let parts = [
                nla(member::ADDRESS, &[address; 4]),
                nla(member::PACKETS, &packets.to_be_bytes()),
                nla(member::BYTES, &(packets * 60).to_be_bytes()),
                nla(member::INTERFACE, b"cali1\0"),
            ];
            members(&message_of("x", &[], &[parts.concat()]))
        };
        assert_eq!(of(1, 0), of(1, 7));
        assert_ne!(of(1, 7), of(2, 7));
    }

    #[test]
    fn what_was_written_explains_no_more_than_itself() {
        let one = |count| Head { kind: 1, count: Some(count) };
        let old = Some(one(3));
        assert!(explained(old, one(5), Some(&Some(2))));
        assert!(!explained(old, one(4), Some(&Some(2))), "somebody took one");
        assert!(!explained(old, one(3), None), "it was not written at all");
        let other = Head { kind: 2, count: Some(5) };
        assert!(!explained(old, other, Some(&Some(2))), "it is another one");
        assert!(explained(old, other, Some(&None)) && explained(None, other, Some(&None)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (described(&bytes), members(&bytes));
        }
    }
}
