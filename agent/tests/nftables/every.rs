//! Every criterion and every statement with the line that `nft list ruleset` shows of it.

use calico_agent::felix::nftables::contents::{Contents, Set};
use calico_agent::felix::nftables::object::*;
use calico_datastore::model::{Family, PortRange};

use crate::support::{base, chain, contents, drops, rule, set};

fn ports(ranges: &[(u16, u16)]) -> Vec<PortRange> {
    ranges.iter().map(|(first, last)| PortRange::new(*first, *last).unwrap()).collect()
}

fn address(side: Side, net: &str, not: bool) -> Match {
    Match::Address { side, net: net.parse().unwrap(), not }
}

fn among(side: Side, nets: &[&str], not: bool) -> Match {
    let nets = nets.iter().map(|net| net.parse().unwrap()).collect();
    Match::AddressAmong { side, nets, not }
}

fn address_in(side: Side, family: Family, set: &str, mask: Option<u8>, not: bool) -> Match {
    Match::AddressIn { side, family, set: set.into(), mask, not }
}

fn protocol(number: u8) -> Match {
    Match::Protocol { number, not: false }
}

fn is(name: &str) -> InterfacePattern {
    InterfacePattern::Is(name.parse().unwrap())
}

fn interface(way: Way, name: InterfacePattern, not: bool) -> Match {
    Match::Interface { way, name, not }
}

use Family::{V4, V6};
use Side::{Destination as D, Source as S};

/// Criteria and how they are listed before `drop`.
pub(crate) fn matches() -> Vec<(Vec<Match>, &'static str)> {
    let tcp = || protocol(6);
    let eth0 = || is("eth0");
    let mark = |mask, value| Match::Mark { mask, value };
    let icmp = |icmp_type, code, not| Match::Icmp { icmp_type, code, not };
    let states = |states, not| Match::CtState { states, not };
    let ports = |side, list: &[(u16, u16)], not| Match::Ports { side, ranges: ports(list), not };
    vec![
        (vec![Match::Family(V4)], "meta nfproto ipv4"),
        (vec![Match::Family(V6)], "meta nfproto ipv6"),
        (vec![tcp()], "meta l4proto tcp"),
        (vec![Match::Protocol { number: 17, not: true }], "meta l4proto != udp"),
        (vec![protocol(200)], "meta l4proto 200"),
        (vec![address(S, "10.0.0.0/8", false)], "ip saddr 10.0.0.0/8"),
        (vec![address(D, "10.1.2.0/23", false)], "ip daddr 10.1.2.0/23"),
        (vec![address(D, "10.1.2.3", true)], "ip daddr != 10.1.2.3"),
        (vec![address(S, "10.1.2.0/24", true)], "ip saddr != 10.1.2.0/24"),
        (vec![address(S, "fd00::/64", false)], "ip6 saddr fd00::/64"),
        (vec![address(D, "fd00::/9", true)], "ip6 daddr != fd00::/9"),
        (vec![address(S, "fd00::1", false)], "ip6 saddr fd00::1"),
        (vec![address(S, "0.0.0.0/0", false)], "meta nfproto ipv4"),
        (vec![address(S, "0.0.0.0/0", true)], "ip saddr != 0.0.0.0/0"),
        (vec![address(S, "::/0", true)], "ip6 saddr != ::/0"),
        (
            vec![address(S, "10.0.0.0/8", false), address(D, "10.0.0.1", false)],
            "ip saddr 10.0.0.0/8 ip daddr 10.0.0.1",
        ),
        (vec![among(S, &["10.0.0.0/8", "192.0.2.1"], false)], "ip saddr { 10.0.0.0/8, 192.0.2.1 }"),
        (vec![among(S, &["192.0.2.9", "192.0.2.1"], true)], "ip saddr != { 192.0.2.1, 192.0.2.9 }"),
        (
            vec![among(D, &["fd00::/8", "2001:db8::1"], false)],
            "ip6 daddr { 2001:db8::1, fd00::/8 }",
        ),
        (
            vec![among(D, &["255.0.0.0/8", "0.0.0.0/8"], false)],
            "ip daddr { 0.0.0.0/8, 255.0.0.0/8 }",
        ),
        (vec![among(D, &["10.0.0.0/8", "10.1.0.0/16"], false)], "ip daddr 10.0.0.0/8"),
        (vec![among(D, &["0.0.0.0/1", "128.0.0.0/1"], false)], "meta nfproto ipv4"),
        (vec![among(D, &["10.0.0.0/25", "10.0.0.128/26"], false)], "ip daddr 10.0.0.0-10.0.0.191"),
        (
            vec![among(D, &["10.0.0.0/25", "10.0.0.128/26"], true)],
            "ip daddr != 10.0.0.0-10.0.0.191",
        ),
        (vec![address_in(S, V4, "a4", None, false)], "ip saddr @a4"),
        (vec![address_in(D, V6, "a6", None, true)], "ip6 daddr != @a6"),
        (vec![address_in(S, V4, "a4", Some(24), false)], "ip saddr & 255.255.255.0 == @a4"),
        (vec![address_in(S, V4, "a4", Some(32), false)], "ip saddr @a4"),
        (vec![address_in(D, V6, "a6", Some(64), true)], "ip6 daddr & ffff:ffff:ffff:ffff:: != @a6"),
        (vec![address_in(D, V4, "i4", None, false)], "ip daddr @i4"),
        (vec![address_in(S, V6, "i6", None, true)], "ip6 saddr != @i6"),
        (vec![tcp(), ports(D, &[(80, 80)], false)], "tcp dport 80"),
        (vec![tcp(), ports(S, &[(80, 90)], false)], "tcp sport 80-90"),
        (vec![tcp(), ports(S, &[(80, 90)], true)], "tcp sport != 80-90"),
        (
            vec![protocol(17), ports(D, &[(80, 80), (8000, 8080)], false)],
            "udp dport { 80, 8000-8080 }",
        ),
        (vec![protocol(132), ports(D, &[(80, 80), (90, 90)], true)], "sctp dport != { 80, 90 }"),
        (vec![tcp(), ports(D, &[(80, 80), (81, 85)], false)], "tcp dport 80-85"),
        (vec![tcp(), ports(D, &[(0, 65535)], false)], "tcp dport 0-65535"),
        (
            vec![tcp(), ports(D, &[(0, 5), (65530, 65535)], true)],
            "tcp dport != { 0-5, 65530-65535 }",
        ),
        (
            vec![tcp(), address(S, "10.0.0.0/8", false), ports(D, &[(80, 80)], false)],
            "ip saddr 10.0.0.0/8 tcp dport 80",
        ),
        (
            vec![Match::AddressPortIn { side: D, family: V4, set: "p4".into(), not: false }],
            "ip daddr . meta l4proto . th dport @p4",
        ),
        (
            vec![Match::AddressPortIn { side: S, family: V6, set: "p6".into(), not: true }],
            "ip6 saddr . meta l4proto . th sport != @p6",
        ),
        (vec![protocol(1), icmp(8, None, false)], "icmp type echo-request"),
        (
            vec![Match::Family(V4), protocol(1), icmp(8, Some(0), false)],
            "icmp type echo-request icmp code net-unreachable",
        ),
        (vec![protocol(1), icmp(3, None, true)], "icmp type != destination-unreachable"),
        (
            vec![protocol(1), icmp(3, Some(4), true)],
            "icmp type . icmp code != { destination-unreachable . frag-needed }",
        ),
        (vec![Match::Family(V6), protocol(58), icmp(128, None, false)], "icmpv6 type echo-request"),
        (
            vec![protocol(58), icmp(1, Some(3), true)],
            "icmpv6 type . icmpv6 code != { destination-unreachable . addr-unreachable }",
        ),
        (
            vec![protocol(58), Match::IcmpAmong { types: vec![136, 135] }],
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }",
        ),
        (
            vec![protocol(58), Match::IcmpAmong { types: vec![135] }],
            "icmpv6 type nd-neighbor-solicit",
        ),
        (vec![interface(Way::In, is("eth0"), false)], "iifname \"eth0\""),
        (vec![interface(Way::Out, is("fifteen-bytes-x"), true)], "oifname != \"fifteen-bytes-x\""),
        (
            vec![interface(Way::In, InterfacePattern::Begins("cali".into()), false)],
            "iifname \"cali*\"",
        ),
        (
            vec![interface(Way::Out, InterfacePattern::Begins("tap".into()), true)],
            "oifname != \"tap*\"",
        ),
        (
            vec![Match::InterfaceAddressIn {
                way: Way::In,
                family: V4,
                set: "n4".into(),
                not: false,
            }],
            "iifname . ip saddr @n4",
        ),
        (
            vec![Match::InterfaceAddressIn {
                way: Way::Out,
                family: V6,
                set: "n6".into(),
                not: true,
            }],
            "oifname . ip6 daddr != @n6",
        ),
        (
            vec![Match::InterfaceAddressIn {
                way: Way::In,
                family: V4,
                set: "r4".into(),
                not: false,
            }],
            "iifname . ip saddr @r4",
        ),
        (
            vec![Match::InterfaceAddressIn {
                way: Way::In,
                family: V6,
                set: "r6".into(),
                not: false,
            }],
            "iifname . ip6 saddr @r6",
        ),
        (vec![Match::InterfaceIn { way: Way::In, set: "if".into(), not: false }], "iifname @if"),
        (vec![Match::InterfaceIn { way: Way::Out, set: "if".into(), not: true }], "oifname != @if"),
        (vec![Match::SourceMacIn { set: "mac".into(), not: false }], "iifname . ether saddr @mac"),
        (
            vec![Match::SourceMacIn { set: "mac".into(), not: true }],
            "iifname . ether saddr != @mac",
        ),
        (
            vec![states(CtStates::ESTABLISHED.or(CtStates::RELATED), false)],
            "ct state established,related",
        ),
        (vec![states(CtStates::INVALID, false)], "ct state invalid"),
        (vec![states(CtStates::NEW.or(CtStates::UNTRACKED), true)], "ct state ! new,untracked"),
        (vec![Match::CtDnat], "ct status dnat"),
        (vec![mark(0xff00, 0x1200)], "meta mark & 0x0000ff00 == 0x00001200"),
        (vec![mark(1, 0)], "meta mark & 0x00000001 == 0x00000000"),
        (vec![mark(0xffff_0000, 0x1234_0000)], "meta mark 0x12340000/16"),
        (vec![mark(u32::MAX, 5)], "meta mark 0x00000005"),
        (vec![Match::Limit { rate: 10, burst: 7 }], "limit rate 10/second burst 7 packets"),
        (
            vec![
                eth0_in(eth0()),
                address(S, "10.0.0.0/8", false),
                tcp(),
                ports(D, &[(80, 80)], false),
            ],
            "iifname \"eth0\" ip saddr 10.0.0.0/8 tcp dport 80",
        ),
    ]
}

fn eth0_in(name: InterfacePattern) -> Match {
    interface(Way::In, name, false)
}

/// Statements and how they are listed; by the chain that they stand in.
pub(crate) fn statements() -> Vec<(&'static str, Rule, &'static str)> {
    use Statement::*;
    let tcp = || vec![protocol(6)];
    let ip = |text: &str| text.parse().unwrap();
    let range = PortRange::new(80, 90);
    let log = |prefix: &str| Log { prefix: prefix.into() };
    let mark = |mask, value| SetMark { mask, value };
    let dispatch = |key, map: &str| Dispatch { key, map: map.into() };
    let verdict = |verdict| rule(vec![], vec![Verdict(verdict)]);
    let snat = |to: Option<&str>, ports, random_fully| Snat { to: to.map(ip), ports, random_fully };
    let dnat = |to: &str, port| Dnat { to: ip(to), port };
    use super::support::rule as r;
    use calico_agent::felix::nftables::object::Verdict as V;
    let commented = |matches, text: &str| {
        let comment = Some(text.into());
        Rule { comment, ..r(matches, vec![Counter, Verdict(V::Accept)]) }
    };
    vec![
        ("fw", r(vec![], vec![Counter]), "counter packets 0 bytes 0"),
        ("fw", r(vec![], vec![log("a [x]: ")]), "log prefix \"a [x]: \" level notice"),
        ("fw", r(vec![], vec![log("say \"x\"")]), "log prefix \"say 'x'\" level notice"),
        (
            "fw",
            r(vec![], vec![LogGroup { group: 3, prefix: "D|x".into() }]),
            "log prefix \"D|x\" group 3",
        ),
        (
            "fw",
            r(vec![], vec![mark(0xff00, 0x1200)]),
            "meta mark set meta mark & 0xffff12ff | 0x00001200",
        ),
        ("fw", r(vec![], vec![mark(1, 1)]), "meta mark set meta mark | 0x00000001"),
        ("fw", r(vec![], vec![mark(1, 0)]), "meta mark set meta mark & 0xfffffffe"),
        ("fw", r(vec![], vec![mark(u32::MAX, 18)]), "meta mark set 0x00000012"),
        ("fw", r(vec![], vec![dispatch(DispatchKey::InGroup, "from")]), "iifgroup vmap @from"),
        ("fw", r(vec![], vec![dispatch(DispatchKey::OutGroup, "from")]), "oifgroup vmap @from"),
        ("fw", r(vec![], vec![dispatch(DispatchKey::InName, "names")]), "iifname vmap @names"),
        ("fw", r(vec![], vec![dispatch(DispatchKey::OutName, "names")]), "oifname vmap @names"),
        ("raw", r(vec![], vec![Notrack]), "notrack"),
        ("pre", r(vec![], vec![dnat("10.0.0.1", None)]), "dnat ip to 10.0.0.1"),
        (
            "pre",
            r(tcp(), vec![dnat("10.0.0.1", Some(80))]),
            "meta l4proto tcp dnat ip to 10.0.0.1:80",
        ),
        ("pre", r(vec![], vec![dnat("fd00::1", None)]), "dnat ip6 to fd00::1"),
        (
            "pre",
            r(tcp(), vec![dnat("fd00::1", Some(80))]),
            "meta l4proto tcp dnat ip6 to [fd00::1]:80",
        ),
        ("post", r(vec![], vec![snat(Some("10.0.0.1"), None, false)]), "snat ip to 10.0.0.1"),
        (
            "post",
            r(tcp(), vec![snat(Some("10.0.0.1"), range, true)]),
            "meta l4proto tcp snat ip to 10.0.0.1:80-90 fully-random",
        ),
        (
            "post",
            r(vec![], vec![snat(Some("fd00::1"), None, true)]),
            "snat ip6 to fd00::1 fully-random",
        ),
        ("post", r(vec![], vec![snat(None, None, false)]), "masquerade"),
        ("post", r(vec![], vec![snat(None, None, true)]), "masquerade fully-random"),
        ("post", r(tcp(), vec![snat(None, range, false)]), "meta l4proto tcp masquerade to :80-90"),
        (
            "post",
            r(tcp(), vec![snat(None, PortRange::new(7, 7), true)]),
            "meta l4proto tcp masquerade to :7 fully-random",
        ),
        ("fw", r(vec![], vec![Reject]), "reject"),
        ("fw", verdict(V::Accept), "accept"),
        ("fw", verdict(V::Drop), "drop"),
        ("fw", verdict(V::Return), "return"),
        ("fw", verdict(V::Jump("c1".into())), "jump c1"),
        ("fw", verdict(V::Goto("c1".into())), "goto c1"),
        (
            "fw",
            commented(vec![protocol(6)], "policy a.b \"x\""),
            "meta l4proto tcp counter packets 0 bytes 0 accept comment \"policy a.b 'x'\"",
        ),
    ]
}

/// A set of every kind, with elements.
pub(crate) fn sets() -> Vec<(&'static str, Set)> {
    let ip = |text: &str| text.parse().unwrap();
    let name = |text: &str| text.parse().unwrap();
    let net = |text: &str| text.parse().unwrap();
    let mac = |text: &str| text.parse().unwrap();
    use Element::*;
    vec![
        ("a4", set(SetKind::Address(V4), vec![Address(ip("10.0.0.1")), Address(ip("10.0.0.2"))])),
        ("a6", set(SetKind::Address(V6), vec![Address(ip("fd00::1"))])),
        (
            "i4",
            set(
                SetKind::Interval(V4),
                vec![
                    Range(ip("0.0.0.0"), ip("0.255.255.255")),
                    Range(ip("10.0.0.0"), ip("10.255.255.255")),
                    Range(ip("11.0.0.0"), ip("11.0.0.2")),
                    Range(ip("255.0.0.0"), ip("255.255.255.255")),
                ],
            ),
        ),
        ("i6", set(SetKind::Interval(V6), vec![Range(ip("fd00::"), ip("fd00::ffff"))])),
        ("p4", set(SetKind::AddressPort(V4), vec![AddressPort(ip("10.0.0.1"), 6, 80)])),
        ("p6", set(SetKind::AddressPort(V6), vec![AddressPort(ip("fd00::1"), 17, 53)])),
        (
            "n4",
            set(
                SetKind::InterfaceAddress(V4),
                vec![
                    InterfaceAddress(name("cali1"), ip("10.0.0.1")),
                    InterfaceAddress(name("fifteen-bytes-x"), ip("10.0.0.1")),
                ],
            ),
        ),
        (
            "n6",
            set(
                SetKind::InterfaceAddress(V6),
                vec![InterfaceAddress(name("cali1"), ip("fd00::1"))],
            ),
        ),
        (
            "r4",
            set(
                SetKind::InterfaceNet(V4),
                vec![
                    InterfaceNet(name("cali1"), net("10.0.0.0/8")),
                    InterfaceNet(name("cali2"), net("10.0.0.0/8")),
                    InterfaceNet(name("cali1"), net("11.0.0.1")),
                ],
            ),
        ),
        ("r6", set(SetKind::InterfaceNet(V6), vec![InterfaceNet(name("cali1"), net("fd00::/9"))])),
        ("if", set(SetKind::Interface, vec![Interface(name("eth0")), Interface(name("a.b-c_d"))])),
        (
            "mac",
            set(SetKind::InterfaceMac, vec![InterfaceMac(name("cali1"), mac("ee:ee:ee:ee:ee:ee"))]),
        ),
        (
            "from",
            set(
                SetKind::VerdictsByGroup,
                vec![Group(0x4a11_0001, Verdict::Goto("c1".into())), Group(5, Verdict::Drop)],
            ),
        ),
        (
            "names",
            set(
                SetKind::VerdictsByName,
                vec![
                    Named(name("eth0"), Verdict::Jump("c1".into())),
                    Named(name("eth1"), Verdict::Accept),
                    Named(name("eth2"), Verdict::Return),
                ],
            ),
        ),
    ]
}

/// A table with all of it; criteria stand in the chain `matches`, which prerouting leads to.
pub(crate) fn everything() -> Contents {
    let of = |wanted: &str| {
        let all = statements().into_iter().filter(|(chain, ..)| *chain == wanted);
        all.map(|(_, rule, _)| rule).collect()
    };
    let matching = matches().into_iter().map(|(matches, _)| drops(matches)).collect();
    let mut contents = contents(
        [
            ("c1", chain(vec![])),
            ("matches", chain(matching)),
            ("fw", base(BaseKind::Filter, Hook::Forward, -2, of("fw"))),
            ("raw", base(BaseKind::Filter, Hook::Prerouting, -300, of("raw"))),
            ("pre", base(BaseKind::Nat, Hook::Prerouting, -100, of("pre"))),
            ("post", base(BaseKind::Nat, Hook::Postrouting, 100, of("post"))),
        ],
        [],
    );
    contents.sets = sets().into_iter().map(|(name, set)| (name.into(), set)).collect();
    let one = Element::Address("10.0.0.9".parse().unwrap());
    let one = set(SetKind::Address(V4), vec![one]);
    let mut counted = vec![("counted", one)];
    counted.extend(sets().into_iter().filter_map(|(name, set)| match name {
        "i4" => Some(("counted-i4", set)),
        "n4" => Some(("counted-n4", set)),
        "r4" => Some(("counted-r4", set)),
        _ => None,
    }));
    for (name, set) in counted {
        let spec = SetSpec { counters: true, ..set.spec };
        contents.sets.insert(name.into(), Set { spec, ..set });
    }
    contents
}
