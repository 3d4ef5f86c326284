//! Any order and any batching of any updates ends equal to the oracle, and diffs lead from one
//! state to the next. `PROPTEST_CASES` sets the number of cases (256 without it).

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_datastore::model::{
    Action, Affinity, AffinityId, AffinityState, BgpConfiguration, EncapMode, Name, Node, Peer,
    PolicyKind, Ports, Profile, Protocol, Rule, TierAction, Unevaluable, Update,
};
use proptest::prelude::*;
use proptest::sample::select;

use super::make::*;
use super::{Bench, HOST, assert_same};
use crate::acl::Calculator;
use crate::desired::{Change, DesiredDiff, DesiredState, Member};

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
const POLICIES: &[&str] = &["a", "default.a", "t1.b", "t2.c", "n/a", "t1.a", "z"];
const ADDRESSES: &[&str] =
    &["10.0.0.1", "10.0.0.2", "10.0.0.1 10.0.0.2", "10.0.0.2 fd00::2", "10.0.0.3 10.0.0.3"];
const PORTS: &[&[&str]] =
    &[&[], &["http/tcp/80"], &["http/tcp/80", "http/udp/80"], &["http/tcp/81"]];

fn peer() -> impl Strategy<Value = Peer> {
    let selectors = || proptest::option::weighted(0.4, select(SELECTORS).prop_map(selector));
    let ports = || {
        let named = proptest::collection::vec(select(&["http", "dns"][..]), 0..2);
        (named, any::<bool>()).prop_map(|(named, number)| Ports {
            ranges: number
                .then(|| calico_datastore::model::PortRange::single(8))
                .into_iter()
                .collect(),
            named: named.into_iter().map(Name::from).collect(),
        })
    };
    (selectors(), selectors(), ports(), proptest::option::weighted(0.2, ports())).prop_map(
        |(selector, not_selector, ports, not_ports)| Peer {
            selector,
            not_selector,
            ports,
            not_ports: not_ports.unwrap_or_default(),
            ..Peer::default()
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = select(&[Action::Allow, Action::Deny, Action::Pass, Action::Log][..]);
    let protocol =
        proptest::option::of(select(&[Protocol::TCP, Protocol::UDP, Protocol::ICMP][..]));
    let unevaluable = proptest::option::weighted(0.1, Just(Unevaluable::Services));
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

fn workload() -> impl Strategy<Value = Update> {
    let place = (select(&[HOST, HOST, "host-b"][..]), select(&["0", "1", "2", "3"][..]));
    let look = (select(LABELS), select(PROFILES), select(ADDRESSES), select(PORTS));
    let rest = (select(&["0", "1", "2"][..]), proptest::bool::weighted(0.9));
    (place, look, rest).prop_map(|((node, id), (own, profiles, addresses, ports), rest)| {
        let mut endpoint = wep(rest.0, addresses);
        endpoint.active = rest.1;
        endpoint.labels = labels(own);
        endpoint.profiles = names(profiles);
        endpoint.ports = ports.iter().copied().map(port).collect();
        put_wep(node, id, endpoint)
    })
}

fn policy_update() -> impl Strategy<Value = Update> {
    let kinds = [PolicyKind::Normal, PolicyKind::Normal, PolicyKind::Normal, PolicyKind::Untracked];
    let place = (
        proptest::option::weighted(0.3, select(&["default", "t1", "t9"][..])),
        select(&[1.0, 1.0, 2.0, f64::INFINITY][..]),
        (any::<bool>(), any::<bool>()),
        select(kinds.to_vec()),
    );
    (select(POLICIES), select(SELECTORS), place, rules(), rules()).prop_map(
        |(id, applies_to, (tier, place, types, kind), ingress, egress)| {
            let mut policy = policy(applies_to);
            policy.tier = tier.map(Name::from);
            policy.order = order(place);
            (policy.governs_ingress, policy.governs_egress) = types;
            policy.kind = kind;
            policy.ingress = ingress;
            policy.egress = egress;
            put_policy(id, policy)
        },
    )
}

fn other_update() -> impl Strategy<Value = Update> {
    let host = (select(&[HOST, "host-b"][..]), select(ADDRESSES), select(LABELS), select(PORTS));
    let heps = host.prop_map(|(node, addresses, own, ports)| {
        let mut endpoint = hep(node, addresses, own);
        endpoint.ports = ports.iter().copied().map(port).collect();
        put_hep("h", endpoint)
    });
    let nets = select(&["10.0.0.0/24", "10.0.0.1/32 10.0.0.0/24", "0.0.0.0/0 ::/0"][..]);
    let sets = (select(&["s", "r"][..]), nets, select(LABELS))
        .prop_map(|(name, nets, own)| put_netset(name, nets, own));
    let cidrs = select(&["10.0.0.0/16", "10.1.0.0/16"][..]);
    let flags = any::<(bool, bool, bool)>();
    let pools = (select(&["pa", "pb", "pc"][..]), cidrs, flags).prop_map(|(name, cidr, flags)| {
        let mut pool = pool(cidr);
        (pool.nat_outgoing, pool.disable_bgp_export) = (flags.0, flags.1);
        pool.ipip = if flags.2 { EncapMode::Always } else { EncapMode::Never };
        put_pool(name, pool)
    });
    let nodes = (select(&[HOST, "host-b", "host-c"][..]), any::<(bool, bool, bool)>());
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
    let affinities =
        (select(&[HOST, "host-b"][..]), select(states.to_vec())).prop_map(|(h, state)| {
            let id = AffinityId { host: h.into(), block: "10.0.0.0/26".parse().unwrap() };
            Update::Affinity(id, Some(Arc::new(Affinity { state })))
        });
    prop_oneof![heps, sets, pools, nodes, mesh, affinities]
}

pub(super) fn update() -> impl Strategy<Value = Update> {
    let profile = (select(&["p1", "p2", "projectcalico-default-allow"][..]), rules(), rules());
    let profiles = (profile, select(LABELS)).prop_map(|((name, ingress, egress), own)| {
        put_profile(name, Profile { ingress, egress, labels: labels(own) })
    });
    let actions = select(&[TierAction::Deny, TierAction::Pass][..]);
    let tiers = (select(&["default", "t1", "t2"][..]), select(&[1.0, 2.0, 2e6][..]), actions)
        .prop_map(|(name, place, action)| put_tier(name, order(place), action));
    let put = prop_oneof![
        4 => workload(),
        4 => policy_update(),
        2 => profiles,
        1 => tiers,
        2 => other_update(),
    ];
    (put, proptest::bool::weighted(0.25))
        .prop_map(|(put, delete)| if delete { Update::deleted(put.id()) } else { put })
}

/// Does what a dataplane does with a diff.
fn patch(old: &DesiredState, diff: &DesiredDiff, new: &DesiredState) -> DesiredState {
    fn map<K: Ord + Clone, V: Clone + PartialEq + std::fmt::Debug>(
        old: &imbl::OrdMap<K, V>,
        changes: &[(K, Change<V>)],
    ) -> imbl::OrdMap<K, V> {
        let mut map = old.clone();
        for (key, change) in changes {
            match change {
                Change::Added(new) => assert_eq!(map.insert(key.clone(), new.clone()), None),
                Change::Removed(old) => assert_eq!(map.remove(key).as_ref(), Some(old)),
                Change::Updated { old, new } => {
                    assert_ne!(old, new);
                    assert_eq!(map.insert(key.clone(), new.clone()).as_ref(), Some(old));
                }
            }
        }
        map
    }
    let mut sets: BTreeMap<_, _> = old.sets.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    for id in &diff.sets_removed {
        assert!(sets.remove(id).is_some());
    }
    for (id, set) in &diff.sets_added {
        assert!(sets.insert(id.clone(), set.clone()).is_none());
    }
    for (id, change) in &diff.sets_changed {
        let members = &mut sets.get_mut(id).unwrap().members;
        assert!(!change.added.is_empty() || !change.removed.is_empty());
        change.removed.iter().for_each(|member| assert!(members.remove(member).is_some()));
        change.added.iter().for_each(|member: &Member| assert!(members.insert(*member).is_none()));
    }
    assert_eq!(diff.pools, old.pools != new.pools);
    assert_eq!(diff.blocks, old.blocks != new.blocks);
    assert_eq!(diff.bgp, old.bgp != new.bgp);
    assert_eq!(diff.settings, old.settings != new.settings);
    DesiredState {
        endpoints: map(&old.endpoints, &diff.endpoints),
        classes: map(&old.classes, &diff.classes),
        policies: map(&old.policies, &diff.policies),
        profiles: map(&old.profiles, &diff.profiles),
        notices: map(&old.notices, &diff.notices),
        sets: sets.into_iter().collect(),
        ..new.clone()
    }
}

proptest! {
    /// After every batch the state is the oracle's, and the diff leads there from the one before.
    #[test]
    fn every_batch_ends_equal_to_the_oracle(
        batches in proptest::collection::vec(proptest::collection::vec(update(), 1..6), 1..16),
    ) {
        let mut bench = Bench::new();
        let mut last = Arc::new(DesiredState::default());
        for batch in batches {
            let state = bench.apply(batch);
            let diff = state.diff(&last);
            assert_same(&patch(&last, &diff, &state), &state);
            let changed = !diff.is_empty() || !diff.notices.is_empty();
            if last.generation > 0 {
                assert_eq!(state.generation, last.generation + u64::from(changed));
                assert_eq!(Arc::ptr_eq(&state, &last), !changed);
            }
            last = state;
        }
        // Back to nothing: whatever was counted has gone again.
        let ids: Vec<_> = bench.world.snapshot().map(|update| update.id()).collect();
        let state = bench.apply(ids.into_iter().map(Update::deleted));
        assert!(state.has_content_of(&bench.world.desired(&Name::from(HOST))));
        assert!(state.endpoints.is_empty() && state.sets.is_empty() && state.notices.is_empty());
        bench.calculator.assert_nothing_left();
    }

    /// The same objects in another order and as one batch make the same state.
    #[test]
    fn the_order_of_arrival_does_not_matter(
        (updates, shuffled) in proptest::collection::vec(update(), 1..40).prop_flat_map(|updates| {
            let mut world = super::World::default();
            updates.iter().for_each(|update| world.apply(update));
            let objects: Vec<Update> = world.snapshot().collect();
            (Just(updates), Just(objects).prop_shuffle())
        }),
        split in 0usize..40,
    ) {
        let mut bench = Bench::new();
        let state = bench.apply(updates);
        let mut other = Calculator::new(Name::from(HOST));
        let split = split.min(shuffled.len());
        other.apply(shuffled[..split].to_vec());
        let _ = other.desired(Arc::clone(&bench.settings), 0);
        other.apply(shuffled[split..].to_vec());
        assert_same(&other.desired(Arc::clone(&bench.settings), 0), &state);
    }
}
