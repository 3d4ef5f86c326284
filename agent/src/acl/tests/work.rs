//! Work grows with what changed, counted in selectors evaluated.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use calico_datastore::model::{Cidr, NetworkSet, Policy, Update};

use super::make::*;
use super::{Calculator, HOST, Settings};

/// A cluster of `groups` groups of `each` endpoints. Each group has one policy that lets in its own
/// group; one endpoint of every tenth group is on this host.
fn cluster(groups: usize, each: usize) -> Vec<Update> {
    let mut updates = Vec::new();
    for group in 0..groups {
        for member in 0..each {
            let node = if member == 0 && group % 10 == 0 { HOST } else { "host-b" };
            let [a, b] = [group, member].map(|n| (n / 250, n % 250));
            let address = format!("10.{}.{}.{}", a.0 * 8 + b.0, a.1, b.1);
            updates.push(member_of(node, &format!("{group}x{member}"), group, &address));
        }
        updates.push(policy_of(group));
    }
    updates
}

fn member_of(node: &str, workload: &str, group: usize, address: &str) -> Update {
    let mut endpoint = wep(workload, address);
    endpoint.labels = labels(&format!("app=app-{group} ns=default"));
    put_wep(node, workload, endpoint)
}

fn policy_of(group: usize) -> Update {
    let own = format!("ns == 'default' && app == 'app-{group}'");
    put_policy(&format!("p{group}"), Policy { ingress: vec![allow_from(&own)], ..policy(&own) })
}

/// How many evaluations each of some changes costs in a cluster.
fn costs(groups: usize) -> Vec<(&'static str, u64)> {
    let mut calculator = Calculator::new(HOST.into());
    let settings = Arc::new(Settings::default());
    calculator.apply(cluster(groups, 3));
    let state = calculator.desired(Arc::clone(&settings), 0);
    assert_eq!(state.endpoints.len(), groups.div_ceil(10));
    assert_eq!(state.sets.len(), groups.div_ceil(10));
    let changes = [
        ("an endpoint of a group that there is", member_of("host-b", "new", 0, "10.200.0.1")),
        ("a local endpoint of a group that there is", member_of(HOST, "new", 0, "10.200.0.1")),
        ("the same with another address", member_of(HOST, "new", 0, "10.200.0.2")),
        ("an endpoint of a new group", member_of("host-b", "other", groups, "10.200.0.3")),
        ("a policy with another selector", {
            let own = "ns == 'default' && app == 'app-10'";
            put_policy("p0", Policy { ingress: vec![allow_from(own)], ..policy(own) })
        }),
        ("a policy for an app that is not here", policy_of(groups)),
        ("its end", no_policy(&format!("p{groups}"))),
        ("an endpoint goes", no_wep(HOST, "new")),
    ];
    let cost = |(what, update)| {
        let before = calculator.selector_evaluations();
        calculator.apply([update]);
        let _ = calculator.desired(Arc::clone(&settings), 0);
        (what, calculator.selector_evaluations() - before)
    };
    changes.into_iter().map(cost).collect()
}

#[test]
fn a_change_costs_the_same_in_a_small_and_in_a_large_cluster() {
    let (small, large) = (costs(20), costs(400));
    assert_eq!(small, large);
    for (what, evaluations) in large {
        assert!(evaluations <= 3, "{what}: {evaluations} evaluations");
    }
}

#[test]
fn a_first_snapshot_asks_each_selector_only_about_its_own_label() {
    let mut calculator = Calculator::new(HOST.into());
    calculator.apply(cluster(400, 3));
    let _ = calculator.desired(Arc::new(Settings::default()), 0);
    // 40 local groups against their policy, 40 active rule selectors against their group; asked
    // about everything it would be 400 × 40 and more.
    assert!(calculator.selector_evaluations() <= 400, "{}", calculator.selector_evaluations());
}

/// A network set of `size` members that the labels `b` make a member of one set, with `change` done
/// to its nets.
fn netset(size: u32, labelled: &str, change: impl Fn(&mut Vec<Cidr>)) -> Update {
    let net = |number: u32| Cidr::host(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number)));
    let mut nets: Vec<Cidr> = (0..size).map(net).collect();
    change(&mut nets);
    let set = NetworkSet { nets, labels: labels(labelled), profiles: Vec::new() };
    Update::NetworkSet(netset_id("s"), Some(Arc::new(set)))
}

#[test]
fn one_cidr_of_a_large_network_set_costs_one_cidr() {
    const SIZE: u32 = 100_000;
    let settings = Arc::new(Settings::default());
    let mut calculator = Calculator::new(HOST.into());
    // Two sets that it is in, one that it is not in.
    let rules = ["has(b)", "has(b) || has(c)", "has(c)"].map(allow_from).to_vec();
    calculator.apply([
        put_policy("p", Policy { ingress: rules, ..policy("all()") }),
        put_wep(HOST, "w", wep("w", "192.168.0.1")),
        netset(SIZE, "b", |_| {}),
    ]);
    let mut last = calculator.desired(Arc::clone(&settings), 0);
    let other: Cidr = "10.200.0.0/16".parse().unwrap();
    type Edit<'a> = &'a dyn Fn(&mut Vec<Cidr>);
    let edits: [(&str, Edit<'_>, [usize; 2]); 8] = [
        ("one in the middle is another", &|nets| nets[50_000] = other, [1, 1]),
        ("it goes back", &|_| {}, [1, 1]),
        ("one more at the end", &|nets| nets.push(other), [1, 0]),
        ("one more at the beginning instead", &|nets| nets.insert(0, other), [0, 0]),
        ("and once more", &|nets| nets.splice(0..0, [other, other]).for_each(drop), [0, 0]),
        ("neither", &|_| {}, [0, 1]),
        ("the last is gone", &|nets| nets.truncate(99_999), [0, 1]),
        ("it comes back, in another order", &|nets| nets.reverse(), [1, 0]),
    ];
    for (what, edit, [added, removed]) in edits {
        let update = netset(SIZE, "b", edit);
        let before = calculator.members_touched();
        calculator.apply([update]);
        let state = calculator.desired(Arc::clone(&settings), 0);
        let touched = calculator.members_touched() - before;
        assert!(touched <= 4, "{what}: {touched} members touched for two sets");
        let changes = state.diff(&last).sets_changed;
        let counts: Vec<_> =
            changes.iter().map(|(_, change)| [change.added.len(), change.removed.len()]).collect();
        let expected = if added + removed == 0 { vec![] } else { vec![[added, removed]; 2] };
        assert_eq!(counts, expected, "{what}");
        last = state;
    }
    // Labels that bring it into another set: that one as a whole, and the others as before.
    let before = calculator.members_touched();
    calculator.apply([netset(SIZE, "b c", |nets| nets[0] = other)]);
    let _ = calculator.desired(Arc::clone(&settings), 0);
    let touched = calculator.members_touched() - before;
    assert!((100_000..=100_006).contains(&touched), "{touched}");
}
