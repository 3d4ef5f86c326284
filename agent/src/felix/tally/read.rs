//! Reads the counters of the sets, one list for each set.

use std::io;

use calico_datastore::model::{Cidr, Family, InterfaceName};

use super::Counts;
use super::book::{Reading, What};
use crate::felix::ipset::element::elements;
use crate::felix::ipset::wire::Link;
use crate::felix::iptables::names;
use crate::felix::nftables::counted::Counting;
use crate::felix::nftables::render::names::OfPods;
use crate::felix::ruleset::Direction;

/// Which set counts what. What is denied comes last: a packet is counted there after it was counted in
/// one of the others, so nothing counts as allowed that is denied just now.
fn sets(family: Family) -> [(String, What); 6] {
    [
        (names::local_endpoints(family), What::Sent),
        (names::spoofed(family), What::Sent),
        (names::receivers(family), What::Received),
        (names::denied(family, Direction::Egress), What::DeniedFrom),
        (names::denied(family, Direction::Ingress), What::DeniedTo),
        (names::unasked(family), What::Unasked),
    ]
}

/// The same of our own table: what a pod is denied to send is never looked up as what another receives.
const TABLE: [(OfPods, What); 6] = [
    (OfPods::Sent, What::Sent),
    (OfPods::SentSpoofed, What::Sent),
    (OfPods::Received, What::Received),
    (OfPods::DeniedFrom, What::DeniedFrom),
    (OfPods::DeniedSpoofed, What::DeniedFrom),
    (OfPods::DeniedTo, What::DeniedTo),
];

/// Reads the sets of our own table. One that is not there counts nothing. `Interrupted`: one was not told whole.
pub(super) fn table(families: &[Family]) -> io::Result<Reading> {
    let mut counting = Counting::open()?;
    let mut reading = Reading::new();
    for ((set, what), &family) in families.iter().flat_map(|family| TABLE.map(|one| (one, family)))
    {
        for (interface, net, counts) in counting.read(set, family)? {
            add(&mut reading, interface, (what, net), counts);
        }
    }
    Ok(reading)
}

/// An address may be in both sets of sources.
fn add(reading: &mut Reading, interface: InterfaceName, of: (What, Cidr), counts: Counts) {
    let known = reading.entry(interface).or_default().entry(of).or_default();
    *known = *known + counts;
}

/// Reads the address sets of these families. One that is not there counts nothing.
pub(super) fn address_sets(families: &[Family]) -> io::Result<Reading> {
    let mut link = Link::open()?;
    let mut reading = Reading::new();
    for (set, what) in families.iter().flat_map(|family| sets(*family)) {
        let found = |found: &mut Vec<_>, body: &[u8]| found.extend(members(body));
        let found = match link.list(Some(&set), found) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => continue,
            other => other?,
        };
        for (interface, net, counts) in found {
            add(&mut reading, interface, (what, net), counts);
        }
    }
    Ok(reading)
}

/// The members in a message of a list for which anything is counted.
fn members(body: &[u8]) -> impl Iterator<Item = (InterfaceName, Cidr, Counts)> {
    elements(body).flatten().filter_map(|one| Some((one.interface?, one.net, one.counts?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::felix::ipset::wire::{attr, member};
    use crate::netlink::request;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        request(0, 0, &[], &[(kind, value)])[16..].to_vec()
    }

    fn entry(address: &[u8], length: Option<u8>, counters: bool) -> Vec<u8> {
        let kind = if address.len() == 4 { 1 } else { 2 };
        let mut out = nla(member::ADDRESS, &nla(kind, address));
        out.extend(length.map(|length| nla(member::LENGTH, &[length])).unwrap_or_default());
        out.extend(nla(member::INTERFACE, b"cali1\0"));
        if counters {
            out.extend(nla(member::BYTES, &600_u64.to_be_bytes()));
            out.extend(nla(member::PACKETS, &6_u64.to_be_bytes()));
        }
        out
    }

    #[test]
    fn members_with_counters_are_read() {
        let v6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let entries = [
            entry(&[10, 0, 0, 1], Some(32), true),
            entry(&[192, 0, 2, 0], Some(24), true),
            entry(&v6, None, true),
            entry(&[10, 0, 0, 2], Some(32), false),
            entry(&[10, 0, 0], Some(32), true),
            entry(&[10, 0, 0, 3], Some(33), true),
        ];
        let list: Vec<u8> = entries.iter().flat_map(|entry| nla(attr::DATA, entry)).collect();
        let body = [&[2, 0, 0, 0][..], &nla(attr::MEMBERS, &list)].concat();
        let counts = Counts { packets: 6, bytes: 600 };
        let cali1: InterfaceName = "cali1".parse().unwrap();
        let expected: Vec<_> = ["10.0.0.1/32", "192.0.2.0/24", "fd00::1/128"]
            .map(|net| (cali1.clone(), net.parse().unwrap(), counts))
            .into();
        assert_eq!(members(&body).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn each_set_is_read_once_and_what_is_denied_last() {
        for family in Family::ALL {
            let names: Vec<String> = sets(family).into_iter().map(|(name, _)| name).collect();
            assert!(names::counting(family).iter().all(|name| names.contains(name)), "{names:?}");
            let at = |name: &String| names.iter().position(|other| other == name);
            let asked = [names::local_endpoints(family), names::receivers(family)];
            let denied = Direction::ALL.map(|direction| names::denied(family, direction));
            assert!(asked.iter().all(|a| denied.iter().all(|d| at(a) < at(d))), "{names:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = members(&bytes).count();
        }
    }
}
