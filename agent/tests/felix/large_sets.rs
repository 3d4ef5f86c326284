//! Sets of 100,000 members in the kernel.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use calico_agent::desired::{AclClass, AddressSet, DesiredState, Member, SetId, SetKind};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, Cidr, TierAction};
use imbl::OrdSet;

use crate::host::{each_flavour, on_nftables};
use crate::netns::sh;
use crate::world::*;

const SET: &str = "s:blocked";

/// 100,000 networks of different lengths that no pod is in: each block of 16 addresses is a member,
/// and so are some of the addresses and networks inside of one another.
fn strangers() -> OrdSet<Member> {
    let v4 = |n: u32, len| Cidr::new(Ipv4Addr::from((20 << 24) + n).into(), len).unwrap();
    let v6 = |n: u32, len| {
        let address = (0x2001_0db8_u128 << 96) + (u128::from(n) << 32);
        Cidr::new(Ipv6Addr::from(address).into(), len).unwrap()
    };
    let blocks = (0..50_000).map(|n| v4(n * 16, 28));
    let inside = (0..30_000).map(|n| v4(n * 16 + 5, 32));
    let outside = (0..1_000).map(|n| v4(n * 256, 24));
    let others = (0..14_000).map(|n| v6(n * 256, 88)).chain((0..5_000).map(|n| v6(n, 128)));
    blocks.chain(inside).chain(outside).chain(others).map(Member::Net).collect()
}

fn with(state: &DesiredState, change: impl FnOnce(&mut OrdSet<Member>)) -> DesiredState {
    let mut state = next(state);
    let set = state.sets.get_mut(&SetId::new(SET)).unwrap();
    change(&mut set.members);
    state
}

fn net(text: &str) -> Member {
    Member::Net(text.parse().unwrap())
}

/// What one member costs does not depend on how many there are, and members inside of members count
/// each for itself.
#[test]
fn a_network_set_of_a_hundred_thousand_is_enforced_and_changed_member_by_member() {
    each_flavour(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        let mut state = empty(flavour);
        let members = strangers();
        assert_eq!(members.len(), 100_000);
        state.sets.insert(
            SetId::new(SET),
            AddressSet { kind: SetKind::Net, selector: SET.into(), members },
        );
        let rules = vec![from_set(any(Action::Deny), SET), any(Action::Allow)];
        policy(&mut state, "block", rules);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        endpoint(&mut state, &a, &profiles(&["all"]), true);
        let tiers = vec![tier("t", &["block"], TierAction::Deny)];
        endpoint(&mut state, &b, &ingress_tiers(tiers, "all"), true);
        host.apply(&state, Wake::Start);
        let held = |family: &str| {
            let sets = sh("ipset list -n").lines().map(str::to_owned).collect::<Vec<_>>();
            let of_family = sets.iter().filter(|name| name.contains(family));
            of_family
                .map(|name| {
                    sh(&format!("ipset list {name} -t | sed -n 's/^Number of entries: //p'"))
                })
                .filter_map(|text| text.trim().parse::<usize>().ok())
                .max()
        };
        assert_eq!((held("cali40"), held("cali60")), (Some(81_000), Some(19_000)));
        let passes = || b.both().map(|to| a.reaches(to, 80));
        assert_eq!(passes(), [true, true], "in no member");

        let counters = host.felix.counters();
        let mut last = state;
        // Around one pod, member by member: (member, is it to be there, what passes then).
        let steps = [
            ("10.65.0.1/32", true, [false, true]),
            ("10.65.0.0/24", true, [false, true]),
            ("10.65.0.1/32", false, [false, true]),
            ("fd65::/64", true, [false, false]),
            ("10.65.0.0/24", false, [true, false]),
            ("::/0", true, [true, false]),
            ("fd65::/64", false, [true, false]),
            ("::/0", false, [true, true]),
        ];
        for (text, there, expected) in steps {
            let changed = with(&last, |members| {
                let before = members.len();
                if there {
                    members.insert(net(text));
                } else {
                    members.remove(&net(text));
                }
                assert_ne!(members.len(), before, "{text}");
            });
            let before = (counters.ipset_lines.get(), counters.ipset_saves.get());
            host.apply(&changed, Wake::Desired);
            let sent = counters.ipset_lines.get() - before.0;
            // A member; or the two halves of everything, which is no member of a set in the kernel.
            assert!((1..=2).contains(&sent), "{text}: {sent} lines");
            assert_eq!(counters.ipset_saves.get(), before.1, "{text}: nothing is read");
            host.sleep(Duration::from_millis(20));
            assert_eq!(passes(), expected, "{text} {}", if there { "added" } else { "removed" });
            last = changed;
        }

        // An agent that starts again finds all as it should be, and the kernel is told nothing.
        host.restart();
        host.apply(&next(&last), Wake::Start);
        assert_eq!(host.felix.counters().ipset_restores.get(), 0);
        assert_eq!(passes(), [true, true]);
    });
}

/// A pod that brings a class of its own is written, and one element for it in the set that its rules
/// ask: whoever was in the rules before goes on asking the same set. The same for what came while the
/// agent was down. Only a set that changes with rules that packets are in is written anew.
#[test]
fn a_pod_with_a_class_of_its_own_joins_a_large_set_as_one_element() {
    on_nftables(|host, flavour| {
        let a = host.pod(1);
        a.serve(80);
        let mut state = empty(flavour);
        let members = strangers();
        let set = AddressSet { kind: SetKind::Net, selector: SET.into(), members };
        state.sets.insert(SetId::new(SET), set);
        policy(&mut state, "block", vec![from_set(any(Action::Deny), SET), any(Action::Allow)]);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        let asked = |more: &str| {
            let tiers = vec![tier("t", &["block"], TierAction::Deny)];
            AclClass { egress: profiles(&["all", more]).egress, ..ingress_tiers(tiers, "all") }
        };
        endpoint(&mut state, &a, &asked("all"), true);
        host.apply(&state, Wake::Start);
        let bytes = host.felix.counters().nftables_bytes.get();
        assert!(bytes > 1_000_000, "{bytes} bytes for all");

        // The agent runs.
        let b = host.pod(2);
        b.serve(80);
        profile(&mut state, "two", Vec::new(), Vec::new());
        endpoint(&mut state, &b, &asked("two"), true);
        let mut state = with(&state, |members| {
            members.insert(net("10.65.0.2/32"));
        });
        host.apply(&state, Wake::Desired);
        let sent = host.felix.counters().nftables_bytes.get() - bytes;
        assert!(sent < 10_000, "{sent} bytes for a pod and a member");
        assert!(!b.reaches(a.v4(), 80) && a.reaches(b.v4(), 80));

        // It was down.
        let c = host.pod(3);
        c.serve(80);
        profile(&mut state, "three", Vec::new(), Vec::new());
        endpoint(&mut state, &c, &asked("three"), true);
        let mut state = with(&state, |members| {
            members.insert(net("10.65.0.3/32"));
        });
        host.restart();
        host.apply(&state, Wake::Start);
        let sent = host.felix.counters().nftables_bytes.get();
        assert!(sent < 10_000, "{sent} bytes for a pod and a member");
        assert!(!c.reaches(a.v4(), 80) && !c.reaches(b.v4(), 80) && a.reaches(c.v4(), 80));

        // The rule that asks changes, too.
        policy(&mut state, "block", vec![from_set(any(Action::Allow), SET)]);
        let state = with(&state, |members| {
            members.remove(&net("10.65.0.2/32"));
        });
        host.restart();
        host.apply(&state, Wake::Start);
        let sent = host.felix.counters().nftables_bytes.get();
        assert!(sent > 1_000_000, "{sent} bytes for a set that is made anew");
        assert!(c.reaches(a.v4(), 80) && !b.reaches(a.v4(), 80));
    });
}
