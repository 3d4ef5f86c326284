//! What a diff says, and what it costs.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;
use crate::desired::SetKind;

/// A key that counts how often it is compared.
#[derive(Clone, Debug)]
struct Key {
    number: u32,
    compared: Arc<AtomicU64>,
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compared.fetch_add(1, Relaxed);
        self.number.cmp(&other.number)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

/// A value that counts how often its content is compared.
#[derive(Debug)]
struct Value {
    content: u32,
    compared: Arc<AtomicU64>,
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.compared.fetch_add(1, Relaxed);
        self.content == other.content
    }
}

impl Eq for Value {}

/// A counter, and keys and values that count with it.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn key(&self, number: u32) -> Key {
        Key { number, compared: Arc::clone(&self.0) }
    }

    fn value(&self, content: u32) -> Arc<Value> {
        Arc::new(Value { content, compared: Arc::clone(&self.0) })
    }

    fn count<T>(&self, what: impl FnOnce() -> T) -> (T, u64) {
        self.0.store(0, Relaxed);
        let result = what();
        (result, self.0.load(Relaxed))
    }
}

/// The most keys that a node of `imbl`'s tree holds; one path of a change has to be compared.
const NODE: u64 = 64;

/// Sizes over three orders of magnitude, and places at the edges and inside.
fn sizes() -> impl Iterator<Item = (u32, u32)> {
    let places = |size| [0, 1, size / 3, size / 2, size - 2, size - 1].map(|place| (size, place));
    [100, 1_000, 10_000, 100_000].into_iter().flat_map(places)
}

#[test]
fn one_changed_value_costs_one_node_of_keys_whatever_the_size() {
    for (size, place) in sizes() {
        let (keys, values) = (Counter::default(), Counter::default());
        let old: OrdMap<Key, Arc<Value>> =
            (0..size).map(|n| (keys.key(n), values.value(n))).collect();
        let mut new = old.clone();
        new.insert(keys.key(place), values.value(size));
        let ((diff, key_cost), value_cost) = values.count(|| keys.count(|| map_diff(&old, &new)));
        assert!(matches!(&diff[..], [(key, Change::Updated { .. })] if key.number == place));
        assert!(key_cost <= 2 * NODE, "{size}: {key_cost} comparisons of keys");
        // Neighbours in the changed node are the same allocation: their content is not looked at.
        assert!(value_cost <= 1, "{size}: {value_cost} comparisons of values");
    }
}

#[test]
fn one_member_more_or_less_costs_a_few_nodes_whatever_the_size() {
    for (size, place) in sizes() {
        let counter = Counter::default();
        let old: OrdSet<Key> = (0..size).map(|n| counter.key(2 * n)).collect();
        let mut more = old.clone();
        more.insert(counter.key(2 * place + 1));
        let ((added, removed), cost) = counter.count(|| set_diff(&old, &more));
        assert_eq!((added[0].number, added.len(), removed.len()), (2 * place + 1, 1, 0));
        assert!(cost <= 6 * NODE, "{size}: {cost} comparisons");
        let mut less = old.clone();
        less.remove(&counter.key(2 * place));
        let ((added, removed), cost) = counter.count(|| set_diff(&old, &less));
        assert_eq!((removed[0].number, removed.len(), added.len()), (2 * place, 1, 0));
        assert!(cost <= 6 * NODE, "{size}: {cost} comparisons");
    }
}

#[test]
fn many_changes_cost_in_proportion() {
    let counter = Counter::default();
    let old: OrdSet<Key> = (0..100_000).map(|n| counter.key(n)).collect();
    let mut new = old.clone();
    for n in 0..50 {
        new.remove(&counter.key(n * 2_000));
    }
    let ((_, removed), cost) = counter.count(|| set_diff(&old, &new));
    assert_eq!(removed.len(), 50);
    assert!(cost <= 50 * 6 * NODE, "{cost} comparisons");
    // The counter counts: made anew the same members share nothing.
    let rebuilt: OrdSet<Key> = (0..100_000).map(|n| counter.key(n)).collect();
    let (_, cost) = counter.count(|| set_diff(&old, &rebuilt));
    assert!(cost >= 100_000, "{cost} comparisons");
}

#[test]
fn equal_states_are_recognised_without_looking() {
    let counter = Counter::default();
    let old: OrdMap<Key, u32> = (0..10_000).map(|n| (counter.key(n), n)).collect();
    let new = old.clone();
    let (same, cost) = counter.count(|| same_map(&old, &new) && map_diff(&old, &new).is_empty());
    assert!(same);
    assert_eq!(cost, 0);
}

fn set(members: &[&str]) -> AddressSet {
    AddressSet {
        kind: SetKind::Net,
        selector: Arc::from("all()"),
        members: members.iter().map(|net| Member::Net(net.parse().unwrap())).collect(),
    }
}

#[test]
fn sets_are_added_changed_and_removed() {
    let state = |sets: &[(&str, &[&str])]| DesiredState {
        sets: sets.iter().map(|(id, members)| (SetId::new(*id), set(members))).collect(),
        ..DesiredState::default()
    };
    let old = state(&[("a", &["10.0.0.1"]), ("b", &["10.0.0.1", "10.0.0.2"]), ("c", &[])]);
    let new = state(&[("b", &["10.0.0.2", "fd00::/64"]), ("c", &[]), ("d", &["10.0.0.1"])]);
    let diff = new.diff(&old);
    assert_eq!(diff.sets_removed, [SetId::new("a")]);
    assert_eq!(diff.sets_added, [(SetId::new("d"), set(&["10.0.0.1"]))]);
    let change = SetChange {
        added: vec![Member::Net("fd00::/64".parse().unwrap())],
        removed: vec![Member::Net("10.0.0.1".parse().unwrap())],
    };
    assert_eq!(diff.sets_changed, [(SetId::new("b"), change)]);
    assert!(!diff.is_empty());
    assert!(new.diff(&new).is_empty());
}

#[test]
fn parts_without_a_list_are_flags() {
    let old = DesiredState::default();
    let pools =
        DesiredState { pools: OrdMap::unit("10.0.0.0/8".parse().unwrap(), true), ..old.clone() };
    let overlays = OrdMap::unit("10.0.0.0/8".parse().unwrap(), crate::desired::Overlay::Vxlan);
    let overlays = DesiredState { overlays, ..old.clone() };
    let block = "10.0.0.0/26".parse().unwrap();
    let blocks = DesiredState { blocks: OrdSet::unit(block), ..old.clone() };
    let router = super::super::BgpState { listen_port: Some(1179), ..Default::default() };
    let bgp = DesiredState { bgp: Arc::new(router), ..old.clone() };
    let settings = crate::config::Settings { ipv6: false, ..Default::default() };
    let settings = DesiredState { settings: Arc::new(settings), ..old.clone() };
    let profiles = OrdMap::unit("p".into(), Arc::default());
    let host = HostEndpoints { profiles, ..Default::default() };
    let host = DesiredState { host_endpoints: host, ..old.clone() };
    let states = [&pools, &blocks, &bgp, &settings, &host, &overlays];
    assert!(old.diff(&old).is_empty());
    for (changed, new) in states.into_iter().enumerate() {
        let diff = new.diff(&old);
        let flags = [diff.pools, diff.blocks, diff.bgp, diff.settings, !diff.hosts.is_empty()];
        let flags = flags.into_iter().chain([diff.overlays]).enumerate();
        assert!(flags.clone().all(|(at, flag)| flag == (at == changed)), "{changed}: {flags:?}");
        assert!(!diff.is_empty());
        assert_eq!(new.has_content_of(&old), changed == 3, "settings are no content");
    }
}

#[test]
fn notices_are_told_once() {
    let old = DesiredState {
        notices: [("a", "x"), ("b", "y")]
            .into_iter()
            .map(|(subject, text)| (Arc::from(subject), Arc::from(text)))
            .collect(),
        ..DesiredState::default()
    };
    let mut new = old.clone();
    new.notices.insert("a".into(), "z".into());
    new.notices.remove("b");
    let diff = new.diff(&old);
    assert!(matches!(
        &diff.notices[..],
        [(a, Change::Updated { .. }), (b, Change::Removed(_))] if (&**a, &**b) == ("a", "b")
    ));
    assert!(diff.is_empty(), "a notice changes nothing that is programmed");
}
