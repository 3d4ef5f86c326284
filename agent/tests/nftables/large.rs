//! Many elements, many endpoints, batches of megabytes.

use std::net::{IpAddr, Ipv4Addr};

use calico_agent::felix::nftables::contents::Contents;
use calico_agent::felix::nftables::object::*;
use calico_datastore::model::Family;

use crate::support::{Kernel, base, chain, contents, drops, from, jump, rule, set};

/// Endpoints of some classes, each with three policies of three rules of its own, both directions;
/// anti-spoofing by interface and address. What nftables.md measured.
pub(crate) fn world(endpoints: u32, classes: u32) -> Contents {
    let dispatch =
        |key, map: &str| rule(vec![], vec![Statement::Dispatch { key, map: map.into() }]);
    let spoofed = Match::InterfaceAddressIn {
        way: Way::In,
        family: Family::V4,
        set: "addresses".into(),
        not: true,
    };
    let drop = rule(vec![], vec![Statement::Counter, Statement::Verdict(Verdict::Drop)]);
    let hook = |hook, priority, rules| base(BaseKind::Filter, hook, priority, rules);
    let from = dispatch(DispatchKey::InGroup, "from");
    let mut world = contents(
        [
            ("raw", hook(Hook::Prerouting, -300, vec![drops(vec![spoofed])])),
            ("egress", hook(Hook::Forward, -2, vec![from])),
            ("ingress", hook(Hook::Forward, -1, vec![dispatch(DispatchKey::OutGroup, "to")])),
        ],
        [
            ("from", set(SetKind::VerdictsByGroup, vec![])),
            ("to", set(SetKind::VerdictsByGroup, vec![])),
            ("addresses", set(SetKind::InterfaceAddress(Family::V4), vec![])),
        ],
    );
    let policy = |class: u32, policy: u32| {
        let port = u16::try_from(1000 + 10 * policy).unwrap();
        let rules = (0..3).map(|n| {
            let net = format!("10.{}.{}.0/24", class % 256, policy * 3 + u32::from(n));
            let ports = vec![calico_datastore::model::PortRange::single(port + n)];
            rule(
                vec![
                    Match::Address { side: Side::Source, net: net.parse().unwrap(), not: false },
                    Match::Protocol { number: 6, not: false },
                    Match::Ports { side: Side::Destination, ranges: ports, not: false },
                ],
                vec![Statement::Verdict(Verdict::Accept)],
            )
        });
        chain(rules.collect())
    };
    for class in 0..classes {
        for way in ["from", "to"] {
            let mut rules = Vec::new();
            for n in 0..3 {
                let name = format!("policy-{way}-{class}-{n}");
                rules.push(jump(&name));
                world.chains.insert(name.into(), policy(class, n));
            }
            rules.push(drop.clone());
            let name: Name = format!("class-{way}-{class}").into();
            world.chains.insert(name.clone(), chain(rules));
            let element = Element::Group(0x4a11_0000 + class, Verdict::Goto(name));
            world.sets.get_mut(way).unwrap().elements.insert(element);
        }
    }
    let addresses = world.sets.get_mut("addresses").unwrap();
    (0..endpoints).for_each(|n| addresses.elements.insert(endpoint(n)));
    world
}

/// The interface and address of an endpoint.
pub(crate) fn endpoint(n: u32) -> Element {
    let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a40_0000 + n));
    Element::InterfaceAddress(format!("cali{n:08x}").parse().unwrap(), address)
}

fn addresses(count: u32) -> impl Iterator<Item = Element> {
    (0..count).map(|n| Element::Address(Ipv4Addr::from_bits(0x0b00_0000 + n).into()))
}

fn ranges(count: u32) -> impl Iterator<Item = Element> {
    let ip = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0c00_0000 + n));
    (0..count).map(move |n| Element::Range(ip(n * 4), ip(n * 4 + 2)))
}

#[test]
fn twenty_thousand_elements_come_and_go_at_once() {
    let kernel = Kernel::new();
    let mut wanted = contents(
        [],
        [
            ("s", set(SetKind::Address(Family::V4), addresses(20_000).collect())),
            ("i", set(SetKind::Interval(Family::V4), ranges(20_000).collect())),
        ],
    );
    let written = kernel.fill(&wanted);
    assert!(written.batches == 1 && written.bytes > 1 << 20, "{written:?}");
    assert!(kernel.differs(&wanted).is_none());

    // Half of them go again, and some come.
    let mut changes: Vec<_> =
        addresses(10_000).map(|element| Change::Delete("s".into(), element)).collect();
    changes.extend(ranges(10_000).map(|element| Change::Delete("i".into(), element)));
    changes.extend(addresses(25_000).skip(20_000).map(|e| Change::Add("s".into(), e)));
    assert_eq!(kernel.write(&changes).unwrap().batches, 1);
    assert_eq!(wanted.apply(&changes), []);
    assert!(kernel.differs(&wanted).is_none());
    let counted = kernel.netns.sh("nft -j list set inet calico s | grep -o '11[.]0' | wc -l");
    assert_eq!(counted.trim(), "15000", "nft sees as many");
}

#[test]
fn two_thousand_endpoints_of_a_hundred_classes_are_one_batch() {
    let kernel = Kernel::new();
    let wanted = world(2000, 100);
    let written = kernel.fill(&wanted);
    println!("{written:?}");
    assert_eq!(written.batches, 1);
    assert!(kernel.differs(&wanted).is_none());
    assert!(kernel.list().contains("goto class-from-99"));
    // Another class for one of them, and all of them at once from another set of policies.
    let other = world(2000, 90);
    let difference = kernel.differs(&other);
    kernel.write(&difference.now).unwrap();
    kernel.write(&difference.after).unwrap();
    assert!(kernel.differs(&other).is_none());
}

#[test]
fn more_than_a_socket_takes_is_written_in_parts_that_nobody_sees() {
    let kernel = Kernel::new();
    let wanted = contents(
        [("top", base(BaseKind::Filter, Hook::Input, 0, vec![drops(vec![from("s")])]))],
        [("s", set(SetKind::Address(Family::V4), addresses(300_000).collect()))],
    );
    // What cannot be is refused at the end, and what came early goes again.
    let mut broken = wanted.as_changes();
    broken.push(Change::PutChain("broken".into(), chain(vec![jump("nowhere")])));
    let error = kernel.write(&broken).unwrap_err();
    assert_eq!(error.subject().unwrap().to_string(), "rule 1 of chain broken");
    assert!(!kernel.list().contains("set s"), "a set is left over");

    let written = kernel.fill(&wanted);
    assert!(written.batches > 2, "{written:?}");
    assert_eq!(kernel.differs(&wanted).drift, []);
}
