//! Criteria and packets: of every criterion one that it is about and one that it is not, negated too,
//! and one of the other family, which it never touches.

use calico_agent::felix::nftables::object::*;
use calico_datastore::model::{Cidr, Family, PortRange};

use crate::support::{base, contents, rule, set};
use crate::wire::{Probe, Scene, icmp, tcp, udp};
use Family::{V4, V6};
use Side::{Destination, Source};

/// A criterion, negated or not, that every packet of `hit` meets and none of `miss`.
struct Case {
    make: Box<dyn Fn(bool) -> Option<Vec<Match>>>,
    hit: Probe,
    miss: Vec<Probe>,
    /// Of the other family: passes in any case.
    other: Option<Probe>,
    /// The packets are sent by the host.
    out: bool,
}

fn case(
    make: impl Fn(bool) -> Option<Vec<Match>> + 'static,
    hit: Probe,
    miss: &[Probe],
    other: Option<Probe>,
) -> Case {
    Case { make: Box::new(make), hit, miss: miss.to_vec(), other, out: false }
}

/// Packets of the host itself.
fn out(case: Case) -> Case {
    Case { out: true, ..case }
}

/// A criterion that cannot be negated.
fn plain(one: Vec<Match>) -> impl Fn(bool) -> Option<Vec<Match>> {
    move |not| (!not).then(|| one.clone())
}

pub(crate) const PEER: &str = "10.1.0.2:5000";
const PEER9: &str = "10.1.0.9:5000";
const FAR: &str = "10.1.7.2:5000";
pub(crate) const HOST: &str = "10.1.0.1:80";
pub(crate) const HOST3: &str = "10.1.0.3:80";
pub(crate) const PEER_6: &str = "[fd01::2]:5000";
const PEER9_6: &str = "[fd01::9]:5000";
const FAR_6: &str = "[fd01:0:0:7::2]:5000";
pub(crate) const HOST_6: &str = "[fd01::1]:80";
const HOST3_6: &str = "[fd01::3]:80";

pub(crate) fn to4() -> Probe {
    udp(PEER, HOST)
}

pub(crate) fn to6() -> Probe {
    udp(PEER_6, HOST_6)
}

fn port(port: u16) -> (Probe, Probe) {
    (udp(PEER, &format!("10.1.0.1:{port}")), udp(PEER_6, &format!("[fd01::1]:{port}")))
}

fn nets(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn address(side: Side, net: &'static str) -> impl Fn(bool) -> Option<Vec<Match>> {
    move |not| Some(vec![Match::Address { side, net: net.parse().unwrap(), not }])
}

fn among(side: Side, list: &'static [&'static str]) -> impl Fn(bool) -> Option<Vec<Match>> {
    move |not| Some(vec![Match::AddressAmong { side, nets: nets(list), not }])
}

fn named(
    side: Side,
    family: Family,
    set: &'static str,
    mask: Option<u8>,
) -> impl Fn(bool) -> Option<Vec<Match>> {
    move |not| Some(vec![Match::AddressIn { side, family, set: set.into(), mask, not }])
}

fn ports(side: Side, list: &'static [(u16, u16)]) -> impl Fn(bool) -> Option<Vec<Match>> {
    move |not| {
        let ranges = list.iter().map(|(a, b)| PortRange::new(*a, *b).unwrap()).collect();
        let udp = Match::Protocol { number: 17, not: false };
        Some(vec![udp, Match::Ports { side, ranges, not }])
    }
}

fn cases() -> Vec<Case> {
    let (far4, far6) = (|| udp(FAR, HOST), || udp(FAR_6, HOST_6));
    let (nine4, nine6) = (|| udp(PEER9, HOST), || udp(PEER9_6, HOST_6));
    let (three4, three6) = (|| udp(PEER, HOST3), || udp(PEER_6, HOST3_6));
    let protocol = |number| move |not| Some(vec![Match::Protocol { number, not }]);
    let icmp_match = |family, icmp_type, code| {
        let number = if family == V4 { 1 } else { 58 };
        move |not| {
            let protocol = Match::Protocol { number, not: false };
            let one = Match::Icmp { icmp_type, code, not };
            Some(vec![Match::Family(family), protocol, one])
        }
    };
    let is = |name: &str| InterfacePattern::Is(name.parse().unwrap());
    let interface = |way, name: InterfacePattern| {
        move |not| Some(vec![Match::Interface { way, name: name.clone(), not }])
    };
    let with_address = |way, family, set: &'static str| {
        move |not| Some(vec![Match::InterfaceAddressIn { way, family, set: set.into(), not }])
    };
    let with_port = |side, family, set: &'static str| {
        move |not| Some(vec![Match::AddressPortIn { side, family, set: set.into(), not }])
    };
    let states = |states| move |not| Some(vec![Match::CtState { states, not }]);
    let from_host = || udp(HOST, PEER);
    let from_host6 = || udp(HOST_6, PEER_6);
    vec![
        case(plain(vec![Match::Family(V4)]), to4(), &[to6()], None),
        case(plain(vec![Match::Family(V6)]), to6(), &[to4()], None),
        case(protocol(17), to4(), &[tcp(HOST)], None),
        case(protocol(17), to6(), &[tcp(HOST_6)], None),
        case(protocol(6), tcp(HOST), &[to4()], None),
        case(protocol(58), icmp("fd01::1", 128, 0), &[to6()], None),
        case(address(Source, "10.1.0.2"), to4(), &[nine4()], Some(to6())),
        case(address(Source, "10.1.0.0/24"), to4(), &[far4()], Some(to6())),
        case(address(Source, "10.1.0.0/21"), to4(), &[], Some(to6())),
        case(address(Source, "10.1.4.0/22"), far4(), &[to4()], Some(to6())),
        case(address(Destination, "10.1.0.1"), to4(), &[three4()], Some(to6())),
        case(address(Source, "fd01::2"), to6(), &[nine6()], Some(to4())),
        case(address(Source, "fd01::/64"), to6(), &[far6()], Some(to4())),
        case(address(Source, "fd01:0:0:4::/62"), far6(), &[to6()], Some(to4())),
        case(address(Destination, "fd01::1"), to6(), &[three6()], Some(to4())),
        case(address(Source, "0.0.0.0/0"), to4(), &[], Some(to6())),
        case(address(Source, "::/0"), to6(), &[], Some(to4())),
        case(among(Source, &["10.1.0.2", "10.1.4.0/22"]), far4(), &[nine4()], Some(to6())),
        case(among(Source, &["10.1.0.2", "10.1.0.9"]), to4(), &[far4()], Some(to6())),
        case(among(Source, &["10.1.0.2", "10.1.0.3"]), to4(), &[nine4()], Some(to6())),
        case(among(Destination, &["10.1.0.0/31", "10.2.0.0/16"]), to4(), &[three4()], Some(to6())),
        case(among(Source, &["fd01::2", "fd01:0:0:4::/62"]), far6(), &[nine6()], Some(to4())),
        case(among(Destination, &["fd01::1", "fd01::2"]), to6(), &[three6()], Some(to4())),
        case(among(Source, &["::/1", "8000::/1"]), to6(), &[], Some(to4())),
        case(named(Source, V4, "a4", None), to4(), &[nine4()], Some(to6())),
        case(named(Destination, V6, "a6", None), to6(), &[three6()], Some(to4())),
        case(named(Source, V4, "m4", Some(24)), far4(), &[to4()], Some(to6())),
        case(named(Source, V6, "m6", Some(64)), far6(), &[to6()], Some(to4())),
        case(named(Source, V4, "i4", None), nine4(), &[to4(), far4()], Some(to6())),
        case(named(Source, V6, "i6", None), nine6(), &[to6(), far6()], Some(to4())),
        case(ports(Destination, &[(80, 80)]), to4(), &[port(81).0], None),
        case(ports(Destination, &[(80, 80)]), to6(), &[port(81).1], None),
        case(ports(Source, &[(5000, 5010)]), to4(), &[udp("10.1.0.2:5011", HOST)], None),
        case(
            ports(Destination, &[(70, 75), (80, 80)]),
            port(75).0,
            &[port(76).0, port(79).0],
            None,
        ),
        case(ports(Destination, &[(79, 79), (81, 81)]), port(81).1, &[port(80).1], None),
        case(
            with_port(Destination, V4, "p4"),
            to4(),
            &[port(81).0, three4(), tcp(HOST)],
            Some(to6()),
        ),
        case(with_port(Source, V6, "p6"), to6(), &[nine6()], Some(to4())),
        case(icmp_match(V4, 8, None), icmp("10.1.0.1", 8, 5), &[icmp("10.1.0.1", 13, 0)], None),
        case(
            icmp_match(V4, 8, Some(5)),
            icmp("10.1.0.1", 8, 5),
            &[icmp("10.1.0.1", 8, 0), icmp("10.1.0.1", 13, 5)],
            None,
        ),
        case(icmp_match(V6, 128, None), icmp("fd01::1", 128, 5), &[icmp("fd01::1", 200, 0)], None),
        case(
            icmp_match(V6, 128, Some(5)),
            icmp("fd01::1", 128, 5),
            &[icmp("fd01::1", 128, 0), icmp("fd01::1", 200, 5)],
            None,
        ),
        case(
            plain(vec![
                Match::Family(V6),
                Match::Protocol { number: 58, not: false },
                Match::IcmpAmong { types: vec![200, 128] },
            ]),
            icmp("fd01::1", 200, 0),
            &[icmp("fd01::1", 201, 0), to6()],
            None,
        ),
        case(interface(Way::In, is("in0")), to4(), &[], None),
        case(interface(Way::In, InterfacePattern::Begins("in".into())), to6(), &[], None),
        out(case(interface(Way::Out, is("in0")), from_host(), &[], None)),
        // Another one, which the packet is not of.
        case(move |not| interface(Way::In, is("in"))(!not), to4(), &[], None),
        case(
            move |not| interface(Way::In, InterfacePattern::Begins("inn".into()))(!not),
            to6(),
            &[],
            None,
        ),
        out(case(move |not| interface(Way::Out, is("in1"))(!not), from_host6(), &[], None)),
        case(with_address(Way::In, V4, "n4"), to4(), &[nine4()], Some(to6())),
        case(with_address(Way::In, V6, "n6"), to6(), &[nine6()], Some(to4())),
        out(case(
            with_address(Way::Out, V4, "n4"),
            from_host(),
            &[udp(HOST, PEER9)],
            Some(from_host6()),
        )),
        out(case(
            with_address(Way::Out, V6, "n6"),
            from_host6(),
            &[udp(HOST_6, PEER9_6)],
            Some(from_host()),
        )),
        case(with_address(Way::In, V4, "r4"), far4(), &[to4()], Some(to6())),
        case(with_address(Way::In, V6, "r6"), far6(), &[to6()], Some(to4())),
        case(
            |not| Some(vec![Match::InterfaceIn { way: Way::In, set: "if".into(), not }]),
            to4(),
            &[],
            None,
        ),
        case(
            |not| Some(vec![Match::InterfaceIn { way: Way::In, set: "noif".into(), not: !not }]),
            to6(),
            &[],
            None,
        ),
        out(case(
            |not| Some(vec![Match::InterfaceIn { way: Way::Out, set: "if".into(), not }]),
            from_host(),
            &[],
            None,
        )),
        case(|not| Some(vec![Match::SourceMacIn { set: "mac".into(), not }]), to4(), &[], None),
        case(
            |not| Some(vec![Match::SourceMacIn { set: "nomac".into(), not: !not }]),
            to6(),
            &[],
            None,
        ),
        case(states(CtStates::NEW), udp("10.1.0.2:5055", HOST), &[], None),
        case(
            states(CtStates::ESTABLISHED.or(CtStates::RELATED)),
            udp("10.1.0.2:5001", "10.1.0.1:90").answered(),
            &[udp("10.1.0.2:5056", HOST)],
            None,
        ),
        case(
            states(CtStates::ESTABLISHED),
            udp("[fd01::2]:5001", "[fd01::1]:90").answered(),
            &[udp("[fd01::2]:5056", HOST_6)],
            None,
        ),
        case(plain(vec![Match::Mark { mask: 0xff, value: 0 }]), to4(), &[], None),
        case(
            move |not| Some(vec![Match::Mark { mask: 0xff, value: u32::from(not) }]),
            to6(),
            &[],
            None,
        ),
        case(
            move |not| Some(vec![Match::Mark { mask: u32::MAX, value: u32::from(not) }]),
            to4(),
            &[],
            None,
        ),
    ]
}

pub(crate) fn scene() -> Scene {
    let ip = |text: &str| text.parse().unwrap();
    let name = |text: &str| text.parse().unwrap();
    let one = |kind, element| set(kind, vec![element]);
    let range = |a, b| Element::Range(ip(a), ip(b));
    let net = |net: &str| Element::InterfaceNet(name("in0"), net.parse().unwrap());
    let on = |text: &str| Element::InterfaceAddress(name("in0"), ip(text));
    let scene = Scene::new();
    let mac = |text: &str| Element::InterfaceMac(name("in0"), text.parse().unwrap());
    let contents = contents(
        [
            ("in", base(BaseKind::Filter, Hook::Prerouting, 0, vec![])),
            ("out", base(BaseKind::Filter, Hook::Output, 0, vec![])),
        ],
        [
            ("a4", one(SetKind::Address(V4), Element::Address(ip("10.1.0.2")))),
            ("a6", one(SetKind::Address(V6), Element::Address(ip("fd01::1")))),
            ("m4", one(SetKind::Address(V4), Element::Address(ip("10.1.7.0")))),
            ("m6", one(SetKind::Address(V6), Element::Address(ip("fd01:0:0:7::")))),
            ("i4", one(SetKind::Interval(V4), range("10.1.0.3", "10.1.0.9"))),
            ("i6", one(SetKind::Interval(V6), range("fd01::3", "fd01::9"))),
            ("p4", one(SetKind::AddressPort(V4), Element::AddressPort(ip("10.1.0.1"), 17, 80))),
            ("p6", one(SetKind::AddressPort(V6), Element::AddressPort(ip("fd01::2"), 17, 5000))),
            ("n4", one(SetKind::InterfaceAddress(V4), on("10.1.0.2"))),
            ("n6", one(SetKind::InterfaceAddress(V6), on("fd01::2"))),
            ("r4", one(SetKind::InterfaceNet(V4), net("10.1.4.0/22"))),
            ("r6", one(SetKind::InterfaceNet(V6), net("fd01:0:0:4::/62"))),
            ("if", one(SetKind::Interface, Element::Interface(name("in0")))),
            ("noif", one(SetKind::Interface, Element::Interface(name("in00")))),
            ("mac", one(SetKind::InterfaceMac, mac(crate::wire::PEER_MAC))),
            ("nomac", one(SetKind::InterfaceMac, mac("02:00:00:00:00:99"))),
        ],
    );
    scene.kernel.fill(&contents);
    scene
}

#[test]
fn every_criterion_meets_what_it_is_about_and_nothing_else() {
    let scene = scene();
    for case in cases() {
        for not in [false, true] {
            let Some(matches) = (case.make)(not) else { continue };
            let (name, hook) = match case.out {
                false => ("in", Hook::Prerouting),
                true => ("out", Hook::Output),
            };
            let drop = rule(matches.clone(), vec![Statement::Verdict(Verdict::Drop)]);
            let chain = base(BaseKind::Filter, hook, 0, vec![drop]);
            scene.kernel.write(&[Change::PutChain(name.into(), chain)]).unwrap();
            let text = format!("{matches:?}");
            scene.assert(&case.hit, case.out, not, &text);
            for miss in &case.miss {
                scene.assert(miss, case.out, !not, &text);
            }
            if let Some(other) = &case.other {
                scene.assert(other, case.out, true, &text);
            }
        }
        for (name, hook) in [("in", Hook::Prerouting), ("out", Hook::Output)] {
            let empty = base(BaseKind::Filter, hook, 0, vec![]);
            scene.kernel.write(&[Change::PutChain(name.into(), empty)]).unwrap();
        }
    }
}
