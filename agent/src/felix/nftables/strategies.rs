//! Random rules, sets and whole tables, for tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_datastore::model::{Cidr, Family, InterfaceName, Mac, PortRange};
use proptest::prelude::*;
use proptest::sample::select;

use super::contents::{Contents, Set};
use super::object::*;

pub(super) fn family() -> impl Strategy<Value = Family> {
    select(Family::ALL.to_vec())
}

fn address(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::V4 => any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))).boxed(),
        Family::V6 => any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).boxed(),
    }
}

fn net(family: Family) -> impl Strategy<Value = Cidr> {
    (address(family), 0..=family.host_len()).prop_map(|(ip, len)| Cidr::new(ip, len).unwrap())
}

fn interface() -> impl Strategy<Value = InterfaceName> {
    "[a-z][a-z0-9_.-]{0,14}".prop_map(|name| name.parse().unwrap())
}

fn side() -> impl Strategy<Value = Side> {
    select(vec![Side::Source, Side::Destination])
}

fn way() -> impl Strategy<Value = Way> {
    select(vec![Way::In, Way::Out])
}

fn ports() -> impl Strategy<Value = PortRange> {
    (any::<u16>(), any::<u16>()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap())
}

fn name() -> impl Strategy<Value = Name> {
    "[a-z][a-z0-9_.-]{0,20}".prop_map(Arc::from)
}

/// Any criterion, of sets that need not exist.
pub(super) fn one_match() -> BoxedStrategy<Match> {
    let not = any::<bool>;
    let nets = family().prop_flat_map(|family| prop::collection::vec(net(family), 1..5));
    prop_oneof![
        family().prop_map(Match::Family),
        (any::<u8>(), not()).prop_map(|(number, not)| Match::Protocol { number, not }),
        (side(), family().prop_flat_map(net), not()).prop_map(|(side, net, not)| Match::Address {
            side,
            net,
            not
        }),
        (side(), nets, not()).prop_map(|(side, nets, not)| Match::AddressAmong { side, nets, not }),
        (side(), family(), name(), prop::option::of(0_u8..33), not()).prop_map(
            |(side, family, set, mask, not)| Match::AddressIn { side, family, set, mask, not }
        ),
        (side(), prop::collection::vec(ports(), 1..4), not())
            .prop_map(|(side, ranges, not)| Match::Ports { side, ranges, not }),
        (side(), family(), name(), not())
            .prop_map(|(side, family, set, not)| Match::AddressPortIn { side, family, set, not }),
        (any::<u8>(), any::<Option<u8>>(), not()).prop_map(|(icmp_type, code, not)| Match::Icmp {
            icmp_type,
            code,
            not
        }),
        prop::collection::vec(any::<u8>(), 1..4).prop_map(|types| Match::IcmpAmong { types }),
        (way(), interface(), not()).prop_map(|(way, name, not)| Match::Interface {
            way,
            name: InterfacePattern::Is(name),
            not
        }),
        (way(), "[a-z]{1,15}", not()).prop_map(|(way, start, not)| Match::Interface {
            way,
            name: InterfacePattern::Begins(start.into()),
            not
        }),
        (way(), family(), name(), not()).prop_map(|(way, family, set, not)| {
            Match::InterfaceAddressIn { way, family, set, not }
        }),
        (way(), name(), not()).prop_map(|(way, set, not)| Match::InterfaceIn { way, set, not }),
        (name(), not()).prop_map(|(set, not)| Match::SourceMacIn { set, not }),
        (1_u32..128, not())
            .prop_map(|(states, not)| Match::CtState { states: CtStates(states), not }),
        Just(Match::CtDnat),
        (any::<u32>(), any::<u32>()).prop_map(|(mask, value)| Match::Mark { mask, value }),
        (1_u32..1000, 1_u32..1000).prop_map(|(rate, burst)| Match::Limit { rate, burst }),
    ]
    .boxed()
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Drop),
        Just(Verdict::Return),
        name().prop_map(Verdict::Jump),
        name().prop_map(Verdict::Goto),
    ]
}

/// Anything that a rule does.
pub(super) fn statement() -> BoxedStrategy<Statement> {
    let key = select(vec![
        DispatchKey::InGroup,
        DispatchKey::OutGroup,
        DispatchKey::InName,
        DispatchKey::OutName,
    ]);
    let ip = || family().prop_flat_map(address);
    prop_oneof![
        Just(Statement::Counter),
        "[ -~]{0,30}".prop_map(|prefix| Statement::Log { prefix: prefix.into() }),
        (any::<u16>(), "[ -~]{0,30}")
            .prop_map(|(group, prefix)| Statement::LogGroup { group, prefix: prefix.into() }),
        (any::<u32>(), any::<u32>()).prop_map(|(mask, value)| Statement::SetMark { mask, value }),
        Just(Statement::Notrack),
        (key, name()).prop_map(|(key, map)| Statement::Dispatch { key, map }),
        (ip(), any::<Option<u16>>()).prop_map(|(to, port)| Statement::Dnat { to, port }),
        (prop::option::of(ip()), prop::option::of(ports()), any::<bool>())
            .prop_map(|(to, ports, random_fully)| Statement::Snat { to, ports, random_fully }),
        Just(Statement::Reject),
        verdict().prop_map(Statement::Verdict),
    ]
    .boxed()
}

/// A rule of anything.
pub(super) fn rule() -> impl Strategy<Value = Rule> {
    let matches = prop::collection::vec(one_match(), 0..5);
    let statements = prop::collection::vec(statement(), 0..4);
    (matches, statements, prop::option::of(".{0,200}")).prop_map(
        |(matches, statements, comment)| Rule {
            matches,
            statements,
            comment: comment.map(Arc::from),
        },
    )
}

/// Elements of a kind, each key once; ranges have gaps in between.
pub(super) fn elements(kind: SetKind) -> BoxedStrategy<Vec<Element>> {
    let many = |one: BoxedStrategy<Element>| {
        prop::collection::btree_set(one, 0..12).prop_map(|set| set.into_iter().collect()).boxed()
    };
    match kind {
        SetKind::Address(family) => many(address(family).prop_map(Element::Address).boxed()),
        SetKind::Interval(family) => {
            prop::collection::btree_set(address(family), 0..12).prop_map(ranges).boxed()
        }
        SetKind::AddressPort(family) => many(
            (address(family), any::<u8>(), any::<u16>())
                .prop_map(|(ip, protocol, port)| Element::AddressPort(ip, protocol, port))
                .boxed(),
        ),
        SetKind::InterfaceAddress(family) => many(
            (interface(), address(family))
                .prop_map(|(name, ip)| Element::InterfaceAddress(name, ip))
                .boxed(),
        ),
        SetKind::InterfaceNet(family) => many(
            (interface(), net(family))
                .prop_map(|(name, net)| Element::InterfaceNet(name, net))
                .boxed(),
        ),
        SetKind::Interface => many(interface().prop_map(Element::Interface).boxed()),
        SetKind::InterfaceMac => many(
            (interface(), any::<[u8; 6]>())
                .prop_map(|(name, mac)| Element::InterfaceMac(name, Mac::new(mac)))
                .boxed(),
        ),
        SetKind::VerdictsByGroup => prop::collection::btree_map(any::<u32>(), verdict(), 0..12)
            .prop_map(|map| map.into_iter().map(|(key, to)| Element::Group(key, to)).collect())
            .boxed(),
        SetKind::VerdictsByName => prop::collection::btree_map(interface(), verdict(), 0..12)
            .prop_map(|map| map.into_iter().map(|(key, to)| Element::Named(key, to)).collect())
            .boxed(),
    }
}

/// Pairs of neighbours, sometimes touching the next pair.
fn ranges(ends: std::collections::BTreeSet<IpAddr>) -> Vec<Element> {
    let ends: Vec<_> = ends.into_iter().collect();
    ends.chunks_exact(2).map(|pair| Element::Range(pair[0], pair[1])).collect()
}

fn ip4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
}

/// A consistent table: base chains `b…`, others `c…` that lead to higher ones only, plain sets `s…`
/// (of addresses or of ranges), maps `m…`.
pub(super) fn contents() -> impl Strategy<Value = Contents> {
    let chains =
        prop::collection::btree_map(0_usize..6, prop::collection::vec(any::<u8>(), 0..4), 0..6);
    let bases = prop::collection::btree_map(
        0_usize..2,
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..4)),
        0..3,
    );
    let plain = (any::<bool>(), any::<bool>(), prop::collection::btree_set(0_u8..6, 0..6));
    let plain = prop::collection::btree_map(0_usize..3, plain, 0..4);
    let maps = prop::collection::btree_map(0_u32..5, any::<u8>(), 0..5);
    let maps = prop::collection::btree_map(0_usize..2, maps, 0..3);
    (chains, bases, plain, maps).prop_map(|(chains, bases, plain, maps)| {
        let names: Vec<Name> = chains.keys().map(|n| Name::from(format!("c{n}"))).collect();
        let mut sets = BTreeMap::new();
        for (n, (interval, counters, members)) in plain {
            let kind = if interval { SetKind::Interval } else { SetKind::Address };
            let spec = SetSpec { kind: kind(Family::V4), counters };
            let element = |m: &u8| match interval {
                true => Element::Range(ip4(m * 10), ip4(m * 10 + m)),
                false => Element::Address(ip4(*m)),
            };
            let elements = members.iter().map(element).collect();
            sets.insert(Name::from(format!("s{n}")), Set { spec, elements });
        }
        let plain: Vec<Name> = sets.keys().cloned().collect();
        for (n, keys) in maps {
            let spec = SetSpec { kind: SetKind::VerdictsByGroup, counters: false };
            let to = |seed: &u8| verdict_to(*seed, &names);
            let elements = keys.iter().map(|(key, seed)| Element::Group(*key, to(seed))).collect();
            sets.insert(Name::from(format!("m{n}")), Set { spec, elements });
        }
        let maps: Vec<Name> = sets.keys().filter(|n| n.starts_with('m')).cloned().collect();
        let mut out = BTreeMap::new();
        for (n, seeds) in &chains {
            let name = Name::from(format!("c{n}"));
            let later: Vec<Name> = names.iter().filter(|to| **to > name).cloned().collect();
            let rules = seeds.iter().map(|seed| a_rule(*seed, &later, &plain, &[])).collect();
            out.insert(name, Arc::new(Chain { base: None, rules }));
        }
        for (n, (late, seeds)) in &bases {
            let priority = if *late { 10 } else { 0 };
            let base = Some(Base { kind: BaseKind::Filter, hook: Hook::Forward, priority });
            let rules = seeds.iter().map(|seed| a_rule(*seed, &names, &plain, &maps)).collect();
            out.insert(Name::from(format!("b{n}")), Arc::new(Chain { base, rules }));
        }
        Contents { chains: out, sets }
    })
}

fn verdict_to(seed: u8, chains: &[Name]) -> Verdict {
    match chains.get(usize::from(seed) % (chains.len() + 1)) {
        Some(chain) => Verdict::Goto(chain.clone()),
        None => Verdict::Drop,
    }
}

fn a_rule(seed: u8, chains: &[Name], plain: &[Name], maps: &[Name]) -> Rule {
    let mut rule = Rule { matches: Vec::new(), statements: Vec::new(), comment: None };
    let pick = |names: &[Name], n: u8| names.get(usize::from(n)).cloned();
    if let Some(set) = pick(plain, seed & 3) {
        let (side, not) = (Side::Source, seed & 64 != 0);
        rule.matches.push(Match::AddressIn { side, family: Family::V4, set, mask: None, not });
    }
    match pick(maps, seed >> 2 & 3) {
        Some(map) => {
            rule.statements.push(Statement::Dispatch { key: DispatchKey::InGroup, map });
        }
        None => rule.statements.push(Statement::Verdict(verdict_to(seed >> 3, chains))),
    }
    rule
}
