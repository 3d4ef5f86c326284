//! Reads the kernel's lists of sets: pure.

use std::collections::BTreeMap;

use super::element::{elements, family};
use super::wire::{attr, behind_head, flag, head};
use super::{ActualSet, SetSpec, SetType};
use crate::felix::iptables::names::owns_set;
use crate::netlink::{attribute, attributes, be32, messages, text};

/// The set that a message of a list is about, when it describes it: the first of those about it does.
fn described(body: &[u8]) -> Option<(&str, ActualSet)> {
    let body = behind_head(body)?;
    let name = attribute(body, attr::NAME).and_then(text)?;
    let kind = attribute(body, attr::TYPE).and_then(text)?;
    let data = attribute(body, attr::DATA)?;
    let kind =
        [SetType::Net, SetType::Port, SetType::NetIface].into_iter().find(|k| k.name() == kind);
    let shape = kind.zip(family(body, attr::FAMILY));
    let flags = attribute(data, head::FLAGS).and_then(be32).unwrap_or(0);
    let counters = flags & flag::WITH_COUNTERS != 0;
    // Where members go by themselves, by time or for lack of room, or mean something else.
    let odd = attributes(data)
        .any(|(kind, _)| [head::TIMEOUT, head::NETMASK, head::BITMASK].contains(&kind))
        || flags & flag::WITH_FORCEADD != 0;
    let spec = |((kind, family), max)| SetSpec { kind, family, max, counters };
    let spec = shape.zip(max(data)).map(spec).filter(|_| !odd);
    Some((name, ActualSet { spec, shape, ..ActualSet::default() }))
}

fn max(data: &[u8]) -> Option<u32> {
    attribute(data, head::MAX).and_then(be32)
}

/// The most members that a set may have, in a message that describes it.
pub(super) fn most(body: &[u8]) -> Option<u32> {
    attribute(behind_head(body)?, attr::DATA).and_then(max)
}

/// Adds what a message of a list says to the sets that the messages before it described; only sets of
/// ours.
pub(super) fn add(sets: &mut BTreeMap<String, ActualSet>, body: &[u8]) {
    if let Some((name, set)) = described(body).filter(|(name, _)| owns_set(name)) {
        sets.insert(name.to_owned(), set);
    }
    let name = behind_head(body).and_then(|body| attribute(body, attr::NAME)).and_then(text);
    if let Some(set) = name.and_then(|name| sets.get_mut(name)) {
        take(body, set);
    }
}

/// The sets of ours in a list, as the kernel sends it.
pub fn listed(datagram: &[u8]) -> BTreeMap<String, ActualSet> {
    let mut sets = BTreeMap::new();
    messages(datagram).for_each(|(_, body)| add(&mut sets, body));
    sets
}

/// Takes the members that a message lists into `set`. One that we cannot say makes it a set that we
/// would not make.
fn take(body: &[u8], set: &mut ActualSet) {
    let Some((kind, _)) = set.shape else { return };
    for element in elements(body) {
        let negated = element.as_ref().is_some_and(|element| element.is_negated());
        let counts = element.as_ref().and_then(|element| element.counts);
        let Some(entry) = element.and_then(|element| element.entry(kind)) else {
            set.spec = None;
            continue;
        };
        if let Some(counts) = counts.filter(|counts| counts.packets > 0) {
            set.counts.insert(entry.clone(), counts);
        }
        if negated { &mut set.negated } else { &mut set.members }.insert(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use calico_datastore::model::Family;
    use proptest::prelude::*;

    use super::*;
    use crate::felix::ipset::wire::{LIST, NFGENMSG, member};
    use crate::felix::ipset::{Counts, Entry, element};
    use crate::netlink::build::Message;

    struct Set<'t> {
        kind: &'t str,
        family: u8,
        data: &'t [(u16, u32)],
        /// Each with its flags.
        members: &'t [(Entry, u32)],
    }

    fn read(set: &Set<'_>) -> ActualSet {
        let mut message = Message::new(LIST, 0, &NFGENMSG);
        message.put_text(attr::NAME, "cali40x");
        message.put_text(attr::TYPE, set.kind);
        message.put(attr::FAMILY, &[set.family]);
        let data = message.nest(attr::DATA);
        set.data.iter().for_each(|(kind, value)| message.put(*kind, &value.to_be_bytes()));
        message.close(data);
        let members = message.nest(attr::MEMBERS);
        for (entry, flags) in set.members {
            let one = message.nest(attr::DATA);
            element::write(&mut message, entry);
            element::write_counts(&mut message, Counts { packets: 7, bytes: 420 });
            message.put(member::FLAGS, &flags.to_be_bytes());
            message.close(one);
        }
        message.close(members);
        listed(&message.finish()).remove("cali40x").unwrap()
    }

    fn net(text: &str) -> Entry {
        Entry::Net(text.parse().unwrap())
    }

    #[test]
    fn a_set_of_ours_is_known_again() {
        let members = [(net("10.0.0.0/8"), 0), (net("10.1.0.0/16"), flag::NOMATCH)];
        let data = [(head::HASH_SIZE, 64), (head::MAX, 9), (head::FLAGS, flag::WITH_COUNTERS)];
        let set = read(&Set { kind: "hash:net", family: 2, data: &data, members: &members });
        let spec = SetSpec { kind: SetType::Net, family: Family::V4, max: 9, counters: true };
        assert_eq!(set.spec, Some(spec));
        assert_eq!(set.members, HashSet::from([net("10.0.0.0/8")]));
        assert_eq!(set.negated, HashSet::from([net("10.1.0.0/16")]));
        assert_eq!(set.counts[&net("10.0.0.0/8")], Counts { packets: 7, bytes: 420 });
    }

    #[test]
    fn one_that_we_would_not_make_has_no_spec() {
        let interface = |flags| {
            let entry = Entry::NetIface("10.0.0.1".parse().unwrap(), "cali1".parse().unwrap());
            [(entry, flags)]
        };
        let data: &[(u16, u32)] = &[(head::MAX, 9)];
        for (kind, family, data, members, spec, shape) in [
            ("hash:net,iface", 10, data, &interface(0)[..], true, true),
            ("hash:net,iface", 10, data, &interface(flag::WILDCARD)[..], false, true),
            ("hash:net,iface", 10, data, &interface(flag::BRIDGE_PORT)[..], false, true),
            ("hash:net", 2, &[(head::MAX, 9), (head::TIMEOUT, 0)], &[], false, true),
            ("hash:net", 2, &[(head::MAX, 9), (head::FLAGS, 1 << 5)], &[], false, true),
            ("hash:net", 2, &[(head::MAX, 9), (head::NETMASK, 24)], &[], false, true),
            ("hash:ip,port", 2, &[(head::MAX, 9), (head::BITMASK, 24)], &[], false, true),
            ("hash:net", 2, &[], &[], false, true),
            ("hash:net", 0, data, &[], false, false),
            ("hash:ip", 2, data, &[(net("10.0.0.1"), 0)], false, false),
        ] {
            let set = read(&Set { kind, family, data, members });
            assert_eq!((set.spec.is_some(), set.shape.is_some()), (spec, shape), "{kind} {data:?}");
            assert!(shape || set.members.is_empty(), "members of an unknown type");
        }
    }

    /// What a kernel sent (6.18): see `fuzz/seeds`.
    #[test]
    fn what_a_kernel_sends_is_understood() {
        let sets = listed(include_bytes!("../../../../fuzz/seeds/ipset_list/all"));
        let names: Vec<&str> = sets.keys().map(String::as_str).collect();
        assert_eq!(names, ["cali40old", "cali40s:a", "cali40x", "cali60n:p"]);
        let a = &sets["cali40s:a"];
        let spec = SetSpec { kind: SetType::Net, family: Family::V4, max: 9, counters: true };
        assert_eq!(a.spec, Some(spec));
        assert_eq!(a.members, HashSet::from([net("10.0.0.0/8"), net("10.0.0.1/32")]));
        assert_eq!(a.negated, HashSet::from([net("10.1.0.0/16")]));
        assert_eq!(a.counts[&net("10.0.0.1/32")], Counts { packets: 5, bytes: 300 });
        let ports = ["tcp:80", "udp:53"].map(|text| {
            let (protocol, port) = text.split_once(':').unwrap();
            let address = "fd65::1".parse().unwrap();
            Entry::Port(address, protocol.parse().unwrap(), port.parse().unwrap())
        });
        assert_eq!(sets["cali60n:p"].members, HashSet::from(ports));
        // One of its members is behind the port of a bridge.
        assert_eq!((sets["cali40x"].spec, sets["cali40x"].shape.is_some()), (None, true));
        assert!(
            sets["cali40x"]
                .members
                .contains(&Entry::NetIface("10.0.0.1".parse().unwrap(), "cali1".parse().unwrap()))
        );
        assert_eq!((sets["cali40old"].spec, sets["cali40old"].shape), (None, None));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (described(&bytes), most(&bytes), listed(&bytes));
            let shape = Some((SetType::NetIface, Family::V4));
            take(&bytes, &mut ActualSet { shape, ..ActualSet::default() });
        }
    }
}
