//! What changed while no agent ran: nobody is asked by a stranger's policy on the way, and nobody inherits
//! connections.

use std::net::SocketAddr;
use std::sync::Arc;

use calico_agent::desired::DesiredState;
use calico_agent::reconcile::Wake;
use calico_datastore::model::Action;

use crate::host::{Pod, dial, each_dataplane, on_nftables};
use crate::native::groups;
use crate::netns::sh;
use crate::world::*;

fn allows_all(state: &mut DesiredState, name: &str) {
    profile(state, name, vec![any(Action::Allow)], vec![any(Action::Allow)]);
}

/// The first transaction makes the key of a group lead to another class, and interfaces move after it: so nobody
/// may get the group that somebody of another class is still in.
#[test]
fn when_a_class_became_two_neither_has_its_group() {
    on_nftables(|host, flavour| {
        let pods = [1, 2, 3].map(|n| host.pod(n));
        let [a, b, c] = &pods;
        // The third has a class of its own, which the first one may come to.
        for joins in [false, true] {
            host.restart();
            let mut state = empty(flavour);
            for name in ["old", "one", "two", "other"] {
                allows_all(&mut state, name);
            }
            for (pod, class) in [(a, "old"), (b, "old"), (c, "other")] {
                endpoint(&mut state, pod, &profiles(&[class]), true);
            }
            host.apply(&state, Wake::Start);
            let before = groups();
            let old = &before["calipod1"];
            assert_eq!((old, before.len()), (&before["calipod2"], 3), "{before:?}");

            host.restart();
            let mut state = next(&state);
            let of_a = if joins { "other" } else { "one" };
            for (pod, class) in [(a, of_a), (b, "two")] {
                endpoint(&mut state, pod, &profiles(&[class]), true);
            }
            host.apply(&state, Wake::Start);
            let after = groups();
            assert!(!after.values().any(|group| group == old), "{before:?} {after:?}");
            assert_eq!(after["calipod1"] == after["calipod3"], joins, "{after:?}");
            assert_eq!(after["calipod3"], before["calipod3"], "{after:?}");
        }

        // All of a class came to another: nobody moves.
        host.restart();
        let mut state = empty(flavour);
        allows_all(&mut state, "new");
        for pod in &pods {
            endpoint(&mut state, pod, &profiles(&["new"]), true);
        }
        host.apply(&state, Wake::Start);
        let before = groups();
        host.restart();
        let mut state = next(&state);
        allows_all(&mut state, "newer");
        for pod in &pods {
            endpoint(&mut state, pod, &profiles(&["newer"]), true);
        }
        host.apply(&state, Wake::Start);
        assert_eq!(groups(), before);
    });
}

fn with_prefix(state: &mut DesiredState, pod: &Pod, prefix: &str) {
    let endpoint = state.endpoints.get_mut(&id(pod)).unwrap();
    Arc::make_mut(endpoint).addresses.push(prefix.parse().unwrap());
}

fn tracked() -> String {
    sh("conntrack -f ipv4 -L 2> /dev/null; conntrack -f ipv6 -L 2> /dev/null")
}

/// Where an endpoint has a prefix, the addresses of all of them are elements of another kind, in sets of other
/// names.
#[test]
fn an_address_that_left_is_forgotten_also_where_others_have_prefixes() {
    each_dataplane(|host, flavour| {
        let (a, b, c) = (host.pod(1), host.pod(2), host.pod(3));
        b.serve(80);
        let mut all = empty(flavour);
        allows_all(&mut all, "all");
        for pod in [&a, &b, &c] {
            endpoint(&mut all, pod, &profiles(&["all"]), false);
        }
        for prefix in ["10.66.0.0/28", "fd66::/112"] {
            with_prefix(&mut all, &c, prefix);
        }
        // The prefix stays, or goes with the address: and the sets with it.
        for stays in [true, false] {
            host.restart();
            let mut state = next(&all);
            host.apply(&state, Wake::Start);
            let dialled = |to| (0..4).any(|_| a.netns.run(move || dial(to)).is_ok());
            for to in b.both() {
                assert!(dialled(SocketAddr::new(to, 80)), "{to}");
            }
            assert_eq!(tracked().matches("dport=80 ").count(), 2, "{}", tracked());
            host.restart();
            state.endpoints.remove(&id(&b));
            if !stays {
                state.endpoints.remove(&id(&c));
            }
            host.apply(&next(&state), Wake::Start);
            assert!(!tracked().contains("dport=80"), "{stays}: {}", tracked());
        }
    });
}
