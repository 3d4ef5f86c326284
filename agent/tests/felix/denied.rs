//! Packets that policy denies are reported, with the place that denied them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use calico_agent::denied::{Book, Denied, Follow, Reader};
use calico_agent::desired::{DesiredState, LocalHostEndpoint};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, TierAction};
use tokio::sync::watch;

use crate::host::{Host, Pod, each_dataplane, each_flavour};
use crate::machines::*;
use crate::world::*;

fn next_denied(host: &Host, follow: &mut Follow) -> Option<Denied> {
    host.block_on(async {
        tokio::time::timeout(Duration::from_secs(2), follow.next()).await.ok().flatten()
    })
}

/// Everything that is reported until nothing comes any more: (IPv6, destination port, what denied it).
fn all_denied(host: &Host, follow: &mut Follow) -> BTreeSet<(bool, Option<u16>, String)> {
    std::iter::from_fn(|| next_denied(host, follow))
        .map(|denied| (denied.destination.is_ipv6(), denied.destination_port, denied.by))
        .collect()
}

fn follow(host: &Host, state: &DesiredState) -> Follow {
    let book = Book::default();
    let (desired_tx, desired) = watch::channel(Some(Arc::new(state.clone())));
    let (links_tx, links) = watch::channel(host.links.clone());
    let reading = async {
        let mut reader = Reader::open(5, desired, links, book.clone()).await.unwrap();
        tokio::spawn(async move {
            let _open = (desired_tx, links_tx);
            reader.run().await
        });
    };
    host.block_on(reading);
    book.read().1
}

/// 80 is allowed, 81 denied by a policy, 82 by the end of its tier; 90 goes on to the next tier and
/// to the profile, where it is denied, and 91 is denied by none of them.
fn tiered(state: &mut DesiredState, a: &Pod, b: &Pod) {
    network(state, "net", &[a.n, b.n]);
    let rules =
        vec![tcp(Action::Allow, &[80]), tcp(Action::Deny, &[81]), tcp(Action::Pass, &[90, 91])];
    policy(state, "web", rules);
    profile(state, "closed", vec![tcp(Action::Deny, &[90])], vec![any(Action::Allow)]);
    endpoint(state, a, &profiles(&["net"]), true);
    let tiers = vec![tier("default", &["web"], TierAction::Deny)];
    endpoint(state, b, &ingress_tiers(tiers, "closed"), true);
}

const EXPECTED: [(u16, &str); 4] = [
    (81, "policy web of tier default"),
    (82, "end of tier default: no policy of it allows it"),
    (90, "profile closed"),
    (91, "no policy and no profile allows it"),
];

#[test]
fn each_place_that_denies_is_named() {
    each_dataplane(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        [80, 81, 82, 90, 91].iter().for_each(|&port| b.serve(port));
        let mut state = empty(flavour);
        tiered(&mut state, &a, &b);
        settings(&mut state, |s| s.denied_log = true);
        host.apply(&state, Wake::Start);
        let mut follow = follow(host, &state);
        for to in b.both() {
            assert!(a.reaches(to, 80));
            for (port, _) in EXPECTED {
                assert!(!a.reaches(to, port), "{to} {port}");
            }
        }
        let expected: BTreeSet<_> = [false, true]
            .into_iter()
            .flat_map(|v6| EXPECTED.map(|(port, by)| (v6, Some(port), by.to_owned())))
            .collect();
        let found = all_denied(host, &mut follow);
        assert_eq!(found, expected);

        // A new agent finds its rules, whatever the kernel's spelling of them is.
        host.restart();
        host.apply(&next(&state), Wake::Start);
        assert_eq!(host.felix.counters().iptables_restores.get(), 0);

        assert!(!a.reaches(b.v6(), 81));
        let denied = next_denied(host, &mut follow);
        assert_eq!(denied, None, "equal packets are not told again within the window");
    });
}

#[test]
fn what_reports_comes_and_goes_with_what_denies() {
    each_flavour(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        b.serve(81);
        let mut state = empty(flavour);
        tiered(&mut state, &a, &b);
        let reporting = |host: &Host| host.saved(4).matches("-j NFLOG").count();
        host.apply(&state, Wake::Start);
        assert_eq!(reporting(host), 0, "off");

        let mut on = next(&state);
        settings(&mut on, |s| s.denied_log = true);
        host.apply(&on, Wake::Desired);
        // The policy, the profile and the end of the tier, and the end of either direction.
        assert_eq!(reporting(host), 5, "{}", host.saved(4));
        assert!(a.reaches(b.v4(), 80) && !a.reaches(b.v4(), 81));

        // A policy that no longer denies anything itself.
        let mut mild = next(&on);
        policy(&mut mild, "web", vec![tcp(Action::Allow, &[80])]);
        host.apply(&mild, Wake::Desired);
        assert_eq!(reporting(host), 4);
        assert!(a.reaches(b.v4(), 80) && !a.reaches(b.v4(), 81));

        // No tier any more.
        let mut free = next(&mild);
        endpoint(&mut free, &b, &profiles(&["net"]), true);
        free.policies.clear();
        free.profiles.remove("closed");
        host.apply(&free, Wake::Desired);
        assert_eq!(reporting(host), 2);
        assert!(a.reaches(b.v4(), 81));

        let mut off = next(&free);
        settings(&mut off, |s| s.denied_log = false);
        host.apply(&off, Wake::Desired);
        assert_eq!(reporting(host), 0);
        let left = host.saved(4);
        assert!(!left.contains("cali-dp-") && !left.contains("cali-de-"), "{left}");
    });
}

/// The kernel reports so many a second of each place, and a flood of one hides no other.
#[test]
fn a_flood_is_reported_in_part() {
    each_dataplane(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        let mut state = empty(flavour);
        tiered(&mut state, &a, &b);
        settings(&mut state, |s| (s.denied_log, s.denied_log_rate) = (true, 20));
        host.apply(&state, Wake::Start);
        let mut follow = follow(host, &state);
        let to = b.v4();
        a.netns.run(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            for port in 1_000..3_000 {
                socket.send_to(b"x", (to, port)).unwrap();
            }
        });
        assert!(!a.reaches(to, 81));
        let found = all_denied(host, &mut follow);
        let of_the_flood = found.iter().filter(|(_, port, _)| *port != Some(81)).count();
        assert!((20..60).contains(&of_the_flood), "{of_the_flood}");
        assert!(
            found.contains(&(false, Some(81), "policy web of tier default".to_owned())),
            "{found:?}"
        );
    });
}

/// Policies that are not tracked drop in `raw`, those before the translation in `mangle`, the others in
/// `filter`: whichever it is, the host endpoint is named.
#[test]
fn what_a_host_endpoint_denies_is_reported_from_each_table() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        settings(&mut state, |s| {
            s.denied_log = true;
            s.failsafe_inbound.clear();
            s.failsafe_outbound.clear();
        });
        host_policy(&mut state, "fast", vec![tcp(Action::Deny, &[81])], Vec::new());
        host_policy(&mut state, "early", vec![tcp(Action::Deny, &[2379])], Vec::new());
        let endpoint = LocalHostEndpoint {
            normal: both("web"),
            untracked: both("fast"),
            pre_dnat: one_tier("early"),
            ..on("eth1")
        };
        put(&mut state, "a", endpoint);
        host.apply(&state, Wake::Start);
        let mut follow = follow(host, &state);
        for (to, from) in a.gate().into_iter().zip(a.both()) {
            assert_eq!(a.reaches(to, &PORTS), [80], "{to}");
            assert_eq!(host_reaches(from, &[80, 81]), [80], "{from}");
        }
        let denied: Vec<Denied> = std::iter::from_fn(|| next_denied(host, &mut follow)).collect();
        for one in &denied {
            assert_eq!(one.endpoint.as_deref(), Some("HostEndpoint a"), "{one:?}");
            assert_eq!(one.interface.as_deref(), Some("eth1"), "{one:?}");
        }
        let end = "end of tier default: no policy of it allows it";
        let [fast, early] = ["fast", "early"].map(|name| format!("policy {name} of tier default"));
        let expected: BTreeSet<(&str, u16, &str)> = [
            ("ingress", 22, end),
            ("ingress", 81, &*fast),
            ("ingress", 2379, &*early),
            ("egress", 81, end),
        ]
        .into();
        for v6 in [false, true] {
            let found: BTreeSet<_> = denied
                .iter()
                .filter(|one| one.destination.is_ipv6() == v6)
                .filter_map(|one| Some((&*one.direction, one.destination_port?, &*one.by)))
                .collect();
            assert_eq!(found, expected, "IPv6: {v6}");
        }

        // A new agent finds its rules in every table.
        host.restart();
        host.apply(&next(&state), Wake::Start);
        assert_eq!(host.felix.counters().iptables_restores.get(), 0);
        // And nothing is left with the last host endpoint.
        let mut gone = next(&state);
        gone.host_endpoints = Default::default();
        host.apply(&gone, Wake::Desired);
        assert_eq!(host.saved(4).matches("-j NFLOG").count(), 0, "{}", host.saved(4));
    });
}
