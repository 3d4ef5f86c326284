//! Objects by chance: what the properties and the walk are fed with.

use std::sync::Arc;

use calico_datastore::model::{
    Action, Affinity, AffinityId, AffinityState, BgpConfiguration, Block, EncapMode,
    FelixConfiguration, Name, Node, Peer, PolicyKind, PortRange, Ports, Profile, Protocol, Rule,
    TierAction, Unevaluable, Update,
};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::HOST;
use super::make::*;

/// How many different objects there may be: names by kind.
#[derive(Debug)]
pub(super) struct Names {
    /// Other hosts.
    hosts: &'static [&'static str],
    workloads: &'static [&'static str],
    interfaces: &'static [&'static str],
    policies: &'static [&'static str],
    tiers: &'static [&'static str],
    /// Tiers that policies may name, with some that never exist.
    named_tiers: &'static [&'static str],
    profiles: &'static [&'static str],
    host_endpoints: &'static [&'static str],
    network_sets: &'static [&'static str],
    pools: &'static [&'static str],
    cidrs: &'static [&'static str],
    blocks: &'static [&'static str],
    /// `calicoVersion` of the cluster; nothing: none.
    versions: &'static [&'static str],
}

/// One of each generation, and one that is none.
const VERSIONS: &[&str] = &["", "v3.20.0", "v3.29.1", "v3.32.0", "master"];

/// A world so small that everything meets everything, and a failure shrinks to a few lines.
pub(super) const SMALL: Names = Names {
    hosts: &["host-b", "host-c"],
    workloads: &["0", "1", "2", "3"],
    interfaces: &["0", "1", "2"],
    policies: &["a", "default.a", "t1.b", "t2.c", "n/a", "a/n", "t1.a", "knp.default.z", "z"],
    tiers: &["default", "t1", "t2"],
    named_tiers: &["default", "t1", "t9"],
    profiles: &["p1", "p2", "projectcalico-default-allow"],
    host_endpoints: &["h", "i"],
    network_sets: &["s", "r"],
    pools: &["pa", "pb", "pc"],
    cidrs: &["10.0.0.0/16", "10.1.0.0/16"],
    blocks: &["10.0.0.0/26"],
    versions: VERSIONS,
};

/// A world in which a change concerns some of what exists.
pub(super) const LARGE: Names = Names {
    hosts: &["host-b", "host-c", "host-d"],
    workloads: &["0", "1", "2", "3", "4", "5", "6", "7"],
    interfaces: &["0", "1", "2", "3", "4", "5", "6"],
    policies: &[
        "a",
        "b",
        "c",
        "default.a",
        "default.b",
        "t1.a",
        "t1.b",
        "t2.c",
        "t2.d",
        "t3.a",
        "n/a",
        "n/t1.a",
        "m/a",
        "a/m",
        "knp.default.z",
        "kanp.adminnetworkpolicy.z",
        "z",
    ],
    tiers: &["default", "t1", "t2", "t3"],
    named_tiers: &["default", "t1", "t2", "t9"],
    profiles: &["p1", "p2", "p3", "projectcalico-default-allow"],
    host_endpoints: &["h", "i", "j", "k"],
    network_sets: &["s", "r", "q", "p"],
    pools: &["pa", "pb", "pc", "pd"],
    cidrs: &["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16", "fd00::/64"],
    blocks: &["10.0.0.0/26", "10.0.0.64/26", "fd00::/122"],
    versions: VERSIONS,
};

const SELECTORS: &[&str] = &[
    "all()",
    "global()",
    "a == 'x'",
    "a != 'x'",
    "a in {'x', 'y'}",
    "a in {}",
    "has(b)",
    "!has(b)",
    "a == 'x' && b == 'y'",
    "a == 'x' || has(p1)",
    "a == 'x' && !has(b)",
    "b starts with 'y' || b == 'x'",
    "has(p1) && has(a)",
];
const LABELS: &[&str] = &["", "a=x", "a=y", "b", "b=y", "a=x b=y", "a=x b", "p1", "a=z p1=x"];
const PROFILES: &[&str] =
    &["", "p1", "p2", "p1 p2", "p2 p1", "p3 p1", "projectcalico-default-allow"];
const ADDRESSES: &[&str] =
    &["10.0.0.1", "10.0.0.2", "10.0.0.1 10.0.0.2", "10.0.0.2 fd00::2", "10.0.0.3 10.0.0.3"];
const PORTS: &[&[&str]] =
    &[&[], &["http/tcp/80"], &["http/tcp/80", "http/udp/80"], &["http/tcp/81"]];

fn peer() -> impl Strategy<Value = Peer> {
    let selectors = || proptest::option::weighted(0.4, select(SELECTORS).prop_map(selector));
    let ports = || {
        let named = proptest::collection::vec(select(&["http", "dns"][..]), 0..2);
        (named, any::<bool>()).prop_map(|(named, number)| Ports {
            ranges: number.then(|| PortRange::single(8)).into_iter().collect(),
            named: named.into_iter().map(Name::from).collect(),
        })
    };
    let nets = || {
        let nets = select(&["10.0.0.0/24", "0.0.0.0/0", "fd00::/64"][..]);
        let nets = nets.prop_map(|net| net.parse().unwrap());
        proptest::option::weighted(0.2, nets).prop_map(Vec::from_iter)
    };
    let ports = (ports(), proptest::option::weighted(0.2, ports()));
    (selectors(), selectors(), ports, nets(), nets()).prop_map(
        |(selector, not_selector, (ports, not_ports), nets, not_nets)| Peer {
            nets,
            not_nets,
            selector,
            not_selector,
            ports,
            not_ports: not_ports.unwrap_or_default(),
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = select(&[Action::Allow, Action::Deny, Action::Pass, Action::Log][..]);
    let protocol =
        proptest::option::of(select(&[Protocol::TCP, Protocol::UDP, Protocol::ICMP][..]));
    let unevaluable = select(&[Unevaluable::Services, Unevaluable::Http][..]);
    let unevaluable = proptest::option::weighted(0.15, unevaluable);
    (action, protocol, peer(), peer(), unevaluable).prop_map(
        |(action, protocol, source, destination, unevaluable)| Rule {
            protocol,
            source,
            destination,
            unevaluable,
            ..Rule::any(action)
        },
    )
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(rule(), 0..3)
}

/// This host as often as all others together.
fn host(names: &Names) -> impl Strategy<Value = &'static str> + use<> {
    prop_oneof![Just(HOST), select(names.hosts)]
}

fn workload(names: &Names) -> impl Strategy<Value = Update> + use<> {
    let place = (host(names), select(names.workloads));
    let look = (select(LABELS), select(PROFILES), select(ADDRESSES), select(PORTS));
    let spoof = select(&["", "", "", "10.9.0.0/16", "0.0.0.0/0 ::/0 10.9.0.0/16 10.9.0.0/16"]);
    let rest = (
        select(names.interfaces),
        proptest::bool::weighted(0.9),
        proptest::option::weighted(0.2, Just("ee:ee:ee:ee:ee:ee")),
        proptest::bool::weighted(0.15),
        spoof,
    );
    (place, look, rest).prop_map(|((node, id), (own, profiles, addresses, ports), rest)| {
        let mut endpoint = wep(rest.0, addresses);
        endpoint.active = rest.1;
        endpoint.mac = rest.2.map(|mac| mac.parse().unwrap());
        if rest.3 {
            let internal = endpoint.addresses[0].address();
            endpoint.nat = vec![(internal, "172.18.0.9".parse().unwrap())];
        }
        endpoint.spoof = rest.4.split_whitespace().map(|net| net.parse().unwrap()).collect();
        endpoint.labels = labels(own);
        endpoint.profiles = super::make::names(profiles);
        endpoint.ports = ports.iter().copied().map(port).collect();
        put_wep(node, id, endpoint)
    })
}

fn policy_update(names: &Names) -> impl Strategy<Value = Update> + use<> {
    let kinds = [
        PolicyKind::Normal,
        PolicyKind::Normal,
        PolicyKind::Normal,
        PolicyKind::Untracked,
        PolicyKind::PreDnat,
    ];
    let place = (
        proptest::option::weighted(0.3, select(names.named_tiers)),
        proptest::option::weighted(0.2, select(names.named_tiers)),
        select(&[1.0, 1.0, 2.0, f64::INFINITY][..]),
        any::<(bool, bool, bool)>(),
        select(kinds.to_vec()),
        proptest::bool::weighted(0.15),
    );
    (select(names.policies), select(SELECTORS), place, rules(), rules()).prop_map(
        |(id, applies_to, (tier, label, place, types, kind, everywhere), ingress, egress)| {
            let mut policy = policy(applies_to);
            policy.tier = tier.map(Name::from);
            policy.tier_label = label.map(Name::from);
            policy.order = order(place);
            (policy.governs_ingress, policy.governs_egress, policy.apply_on_forward) = types;
            policy.kind = kind;
            policy.needed_everywhere = everywhere;
            policy.ingress = ingress;
            policy.egress = egress;
            put_policy(id, policy)
        },
    )
}

fn other_update(names: &Names) -> impl Strategy<Value = Update> + use<> {
    let place = (select(names.host_endpoints), host(names));
    let interface = select(&[None, Some("eth0"), Some("eth1"), Some("*")][..]);
    let looks = (select(ADDRESSES), select(LABELS), select(PROFILES), select(PORTS));
    let heps = (place, interface, looks);
    let heps = heps.prop_map(|((name, node), interface, (addresses, own, profiles, ports))| {
        let mut endpoint = hep(node, addresses, own);
        endpoint.interface = interface.map(Name::from);
        endpoint.profiles = super::make::names(profiles);
        endpoint.ports = ports.iter().copied().map(port).collect();
        put_hep(name, endpoint)
    });
    let nets = select(&["10.0.0.0/24", "10.0.0.1/32 10.0.0.0/24", "0.0.0.0/0 ::/0"][..]);
    let sets = (select(names.network_sets), nets, select(LABELS))
        .prop_map(|(name, nets, own)| put_netset(name, nets, own));
    let flags = any::<(bool, bool, [bool; 2])>();
    let pools =
        (select(names.pools), select(names.cidrs), flags).prop_map(|(name, cidr, flags)| {
            let mut pool = pool(cidr);
            (pool.nat_outgoing, pool.disable_bgp_export) = (flags.0, flags.1);
            let encap = |on| if on { EncapMode::Always } else { EncapMode::Never };
            (pool.ipip, pool.vxlan) = (encap(flags.2[0]), encap(flags.2[1]));
            put_pool(name, pool)
        });
    let nodes = (host(names), any::<(bool, bool, bool)>());
    let nodes = nodes.prop_map(|(name, (bgp, v4, v6))| {
        let node = Node {
            bgp,
            ipv4: v4.then(|| "172.18.0.1".parse().unwrap()),
            ipv6: v6.then(|| "fd00::1".parse().unwrap()),
            ..Node::default()
        };
        Update::Node(name.into(), Some(Arc::new(node)))
    });
    let mesh = any::<bool>().prop_map(|node_to_node_mesh| {
        let value = BgpConfiguration {
            as_number: None,
            node_to_node_mesh,
            listen_port: None,
            log_severity: None,
        };
        Update::BgpConfiguration("default".into(), Some(Arc::new(value)))
    });
    let states = [AffinityState::Confirmed, AffinityState::Pending, AffinityState::PendingDeletion];
    let affinities = (host(names), select(names.blocks), select(states.to_vec()));
    let affinities = affinities.prop_map(|(host, block, state)| {
        let id = AffinityId { host: host.into(), block: block.parse().unwrap() };
        Update::Affinity(id, Some(Arc::new(Affinity { state })))
    });
    let versions = select(names.versions).prop_map(cluster);
    // What says nothing to the calculation: the settings come by another way, and which blocks are
    // this host's, the affinities say.
    let felix = any::<bool>().prop_map(|on| {
        let parameters = [("Ipv6Support".into(), on.to_string().into())].into();
        let value = FelixConfiguration { parameters };
        Update::FelixConfiguration("default".into(), Some(Arc::new(value)))
    });
    let blocks = (select(names.blocks), host(names)).prop_map(|(block, host)| {
        let cidr = block.parse().unwrap();
        Update::Block(cidr, Some(Arc::new(Block { cidr, host: Some(host.into()) })))
    });
    let others = prop_oneof![felix, blocks];
    prop_oneof![1 => others, 2 => heps, 1 => versions, 1 => sets, 1 => pools, 1 => nodes, 1 => mesh, 1 => affinities]
}

/// An object that comes, changes or goes.
pub(super) fn update(names: &Names) -> impl Strategy<Value = Update> + use<> {
    let profile = (select(names.profiles), rules(), rules());
    let profiles = (profile, select(LABELS)).prop_map(|((name, ingress, egress), own)| {
        put_profile(name, Profile { ingress, egress, labels: labels(own) })
    });
    let actions = select(&[TierAction::Deny, TierAction::Pass][..]);
    let tiers = (select(names.tiers), select(&[1.0, 2.0, 2e6][..]), actions)
        .prop_map(|(name, place, action)| put_tier(name, order(place), action));
    let put = prop_oneof![
        4 => workload(names),
        4 => policy_update(names),
        2 => profiles,
        1 => tiers,
        2 => other_update(names),
    ];
    (put, proptest::bool::weighted(0.25))
        .prop_map(|(put, delete)| if delete { Update::deleted(put.id()) } else { put })
}

/// A kind that nobody draws is one about which nothing is shown.
#[test]
fn every_kind_is_drawn() {
    let mut runner = TestRunner::deterministic();
    let mut kinds = std::collections::HashSet::new();
    for names in [&SMALL, &LARGE] {
        let updates = update(names);
        kinds.extend((0..2000).map(|_| {
            let update = updates.new_tree(&mut runner).unwrap().current();
            std::mem::discriminant(&update)
        }));
    }
    // As many as `Update` has.
    assert_eq!(kinds.len(), 13);
}
