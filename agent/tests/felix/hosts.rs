//! Host endpoints: what the host's own interfaces let in, out and through.

use std::net::IpAddr;

use calico_agent::config::Failsafe;
use calico_agent::desired::{HostTiers, LocalHostEndpoint};
use calico_agent::reconcile::Wake;
use calico_agent::routes::monitor::Link;
use calico_datastore::model::{Action, Cidr, Name, Protocol};

use crate::host::{each_dataplane, each_flavour};
use crate::machines::*;
use crate::netns::sh;
use crate::world::*;

#[test]
fn what_the_host_receives_and_sends_is_asked_and_fail_safe_ports_stay_open() {
    each_dataplane(|host, flavour| {
        let (a, state) = guarded(host, flavour);
        let other = Machine::new(host, 2);
        other.serve(&PORTS);
        for (to, from) in a.gate().into_iter().zip(a.both()) {
            assert_eq!(a.reaches(to, &PORTS), PORTS, "before: {to}");
            assert_eq!(host_reaches(from, &PORTS), PORTS, "before: {from}");
        }
        host.apply(&state, Wake::Start);
        for (to, from) in a.gate().into_iter().zip(a.both()) {
            assert_eq!(a.reaches(to, &PORTS), [22, 80, 2379], "in: {to}");
            // SSH is fail-safe on the way in only, etcd on both.
            assert_eq!(host_reaches(from, &PORTS), [80, 2379], "out: {from}");
        }
        for (to, from) in other.gate().into_iter().zip(other.both()) {
            assert_eq!(other.reaches(to, &PORTS), PORTS, "another interface: {to}");
            assert_eq!(host_reaches(from, &PORTS), PORTS, "another interface: {from}");
        }
        // The address does not matter, the interface does; and the host talks to itself.
        assert_eq!(a.reaches(other.gate()[0], &PORTS), [22, 80, 2379]);
        assert_eq!(host_reaches(a.gate()[0], &PORTS), PORTS);

        // Explicit lists, and the empty one, are obeyed.
        let mut none = next(&state);
        settings(&mut none, |settings| {
            settings.failsafe_inbound.clear();
            settings.failsafe_outbound.clear();
        });
        host.apply(&none, Wake::Desired);
        for (to, from) in a.gate().into_iter().zip(a.both()) {
            assert_eq!(a.reaches(to, &PORTS), [80], "none: {to}");
            assert_eq!(host_reaches(from, &PORTS), [80], "none: {from}");
        }
        let mut some = next(&none);
        settings(&mut some, |settings| {
            let [v4, v6] = a.both().map(Cidr::host);
            let open = |net, port| Failsafe { protocol: Protocol::TCP, net, port };
            settings.failsafe_inbound = vec![open(Some(v4), 81), open(Some(v6), 22)];
        });
        host.apply(&some, Wake::Desired);
        assert_eq!(a.reaches(a.gate()[0], &PORTS), [80, 81]);
        assert_eq!(a.reaches(a.gate()[1], &PORTS), [22, 80]);

        let mut gone = next(&some);
        gone.host_endpoints = Default::default();
        host.apply(&gone, Wake::Desired);
        assert_eq!(traces(host), [""; 0], "gone with the last one");
        for (to, from) in a.gate().into_iter().zip(a.both()) {
            assert_eq!(a.reaches(to, &PORTS), PORTS, "open again: {to}");
            assert_eq!(host_reaches(from, &PORTS), PORTS, "open again: {from}");
        }
    });
}

#[test]
fn without_policy_profiles_decide_and_without_those_nothing_passes() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        put(&mut state, "a", on("eth1"));
        host.apply(&state, Wake::Start);
        assert_eq!(a.reaches(a.gate()[0], &PORTS), [22, 2379]);
        let mut state = next(&state);
        allow_all(&mut state);
        put(&mut state, "a", LocalHostEndpoint { profiles: vec![Name::from("all")], ..on("eth1") });
        host.apply(&state, Wake::Desired);
        for (to, from) in a.gate().into_iter().zip(a.both()) {
            assert_eq!(a.reaches(to, &PORTS), PORTS, "{to}");
            assert_eq!(host_reaches(from, &PORTS), PORTS, "{from}");
        }
        // One that is listed and is not there.
        let mut state = next(&state);
        let profiles = vec![Name::from("gone")];
        put(&mut state, "a", LocalHostEndpoint { profiles, ..on("eth1") });
        host.apply(&state, Wake::Desired);
        assert_eq!(a.reaches(a.gate()[1], &PORTS), [22, 2379]);
    });
}

#[test]
fn what_passes_through_is_asked_where_a_policy_applies_on_forward() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        let b = Machine::new(host, 2);
        b.serve(&PORTS);
        let (pod, mate) = (host.pod(1), host.pod(2));
        for one in [&pod, &mate] {
            [22, 80, 81, 82].into_iter().for_each(|port| one.serve(port));
        }
        a.serve(&[82]);
        profile(
            &mut state,
            "most",
            vec![tcp(Action::Allow, &[22, 80, 81])],
            vec![any(Action::Allow)],
        );
        for one in [&pod, &mate] {
            endpoint(&mut state, one, &profiles(&["most"]), true);
        }
        host.apply(&state, Wake::Start);
        let pods = [22, 80, 81, 82];
        for (i, to) in b.both().into_iter().enumerate() {
            // The host endpoint polices the host, and nothing that passes through.
            assert_eq!(a.reaches(to, &PORTS), PORTS, "through: {to}");
            assert_eq!(a.reaches(pod.both()[i], &pods), [22, 80, 81], "to a pod: {to}");
            assert_eq!(a.reaches(a.gate()[i], &[81]), [0; 0], "to the host");
            assert!(pod.reaches(a.both()[i], 81), "from a pod");
        }

        let mut state = next(&state);
        host_policy(
            &mut state,
            "through",
            vec![tcp(Action::Allow, &[80, 82])],
            vec![tcp(Action::Allow, &[80, 82])],
        );
        let endpoint =
            LocalHostEndpoint { normal: both("web"), forward: both("through"), ..on("eth1") };
        put(&mut state, "a", endpoint.clone());
        host.apply(&state, Wake::Desired);
        for (i, to) in b.both().into_iter().enumerate() {
            // No port is fail-safe for others.
            assert_eq!(a.reaches(to, &PORTS), [80], "in by it: {to}");
            assert_eq!(b.reaches(a.both()[i], &PORTS), [80], "out by it: {to}");
            assert_eq!(b.reaches(pod.both()[i], &pods), [22, 80, 81], "another way: {to}");
            // Both have to allow it: the interface 80 and 82, the pod 22, 80 and 81.
            assert_eq!(a.reaches(pod.both()[i], &pods), [80], "to a pod: {to}");
            let from_pod: Vec<u16> =
                pods.into_iter().filter(|port| pod.reaches(a.both()[i], *port)).collect();
            assert_eq!(from_pod, [80, 82], "from a pod: {to}");
            // Pods among themselves, and the host and its pods, meet no interface of the host.
            assert!(pod.reaches(mate.both()[i], 81) && host.reaches(pod.both()[i], 81), "{to}");
            assert!(!pod.reaches(mate.both()[i], 82), "{to}");
            assert!(host.reaches(pod.both()[i], 82), "the host is never asked: {to}");
            assert_eq!(a.reaches(a.gate()[i], &PORTS), [22, 80, 2379], "the host itself: {to}");
        }

        // Only the way out is policed.
        let mut state = next(&state);
        let forward = HostTiers { egress: one_tier("through"), ..HostTiers::default() };
        put(&mut state, "a", LocalHostEndpoint { forward, ..endpoint.clone() });
        host.apply(&state, Wake::Desired);
        for (i, to) in b.both().into_iter().enumerate() {
            assert_eq!(a.reaches(to, &PORTS), PORTS, "in by it: {to}");
            assert_eq!(b.reaches(a.both()[i], &PORTS), [80], "out by it: {to}");
        }

        // What every tier passes on passes, whatever profiles say.
        let mut state = next(&state);
        host_policy(&mut state, "through", vec![any(Action::Pass)], vec![any(Action::Pass)]);
        put(&mut state, "a", endpoint);
        host.apply(&state, Wake::Desired);
        assert_eq!(a.reaches(b.both()[0], &PORTS), PORTS);
    });
}

/// How many connections the kernel knows of with that port of the host or the machine.
fn tracked(port: u16) -> usize {
    let list = sh(&format!(
        "conntrack -L -p tcp --dport {port} 2>/dev/null; conntrack -L -f ipv6 -p tcp --dport {port} 2>/dev/null"
    ));
    list.lines().count()
}

#[test]
fn policies_that_do_not_track_come_first_and_leave_no_connection() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        host_policy(
            &mut state,
            "fast",
            vec![tcp(Action::Allow, &[80]), tcp(Action::Deny, &[81, 22])],
            vec![from_port(Action::Allow, 80)],
        );
        allow_all(&mut state);
        let endpoint = LocalHostEndpoint {
            untracked: both("fast"),
            profiles: vec![Name::from("all")],
            ..on("eth1")
        };
        put(&mut state, "a", endpoint.clone());
        host.apply(&state, Wake::Start);
        sh("conntrack -F 2>/dev/null");
        for to in a.gate() {
            // 81 is denied before any profile; 22 is fail-safe; 2379 is not its affair.
            assert_eq!(a.reaches(to, &PORTS), [22, 80, 2379], "{to}");
        }
        assert_eq!(tracked(80), 0, "what is allowed there is not tracked");
        assert!(tracked(2379) >= 2, "all else is");

        // Without fail-safe ports the same policy closes 22, and answers need a rule of their own.
        let mut state = next(&state);
        settings(&mut state, |settings| {
            settings.failsafe_inbound.clear();
            settings.failsafe_outbound.clear();
        });
        host_policy(
            &mut state,
            "fast",
            vec![tcp(Action::Allow, &[80]), tcp(Action::Deny, &[81, 22])],
            vec![from_port(Action::Deny, 80), from_port(Action::Deny, 2379)],
        );
        host.apply(&state, Wake::Desired);
        for to in a.gate() {
            assert_eq!(a.reaches(to, &PORTS), [0; 0], "{to}");
        }
        // And with them answers of fail-safe ports pass there, too.
        let mut state = next(&state);
        settings(&mut state, |settings| *settings = (*empty(flavour).settings).clone());
        host.apply(&state, Wake::Desired);
        for to in a.gate() {
            assert_eq!(a.reaches(to, &PORTS), [22, 2379], "{to}");
        }
        // What it allows is not asked again, on the way through neither.
        let b = Machine::new(host, 2);
        b.serve(&PORTS);
        let mut state = next(&state);
        host_policy(
            &mut state,
            "fast",
            vec![tcp(Action::Allow, &[80]), from_port(Action::Allow, 80)],
            vec![tcp(Action::Allow, &[80]), from_port(Action::Allow, 80)],
        );
        host_policy(&mut state, "no", vec![any(Action::Deny)], Vec::new());
        let forward = HostTiers { ingress: one_tier("no"), ..HostTiers::default() };
        put(&mut state, "a", LocalHostEndpoint { forward, ..endpoint });
        host.apply(&state, Wake::Desired);
        for (to, gate) in b.both().into_iter().zip(a.gate()) {
            assert_eq!(a.reaches(to, &PORTS), [80], "through: {to}");
            assert_eq!(a.reaches(gate, &PORTS), PORTS, "to the host: {gate}");
        }
    });
}

#[test]
fn policies_before_the_translation_of_destinations_see_what_was_sent() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        let b = Machine::new(host, 2);
        b.serve(&PORTS);
        // 8080 and 8081 of the host are 80 of the machine behind it.
        for (family, to) in [(4, "198.51.2.2:80"), (6, "[2001:db8:2::2]:80")] {
            for port in [8080, 8081] {
                host.iptables(family, &format!(
                    "-t nat -A PREROUTING -i eth1 -p tcp --dport {port} -j DNAT --to-destination {to}"
                ));
            }
        }
        let asked = [22, 80, 81, 2379, 8080, 8081];
        allow_all(&mut state);
        put(&mut state, "a", LocalHostEndpoint { profiles: vec![Name::from("all")], ..on("eth1") });
        host.apply(&state, Wake::Start);
        for to in a.gate() {
            assert_eq!(a.reaches(to, &asked), asked, "before: {to}");
        }
        let mut state = next(&state);
        let rules = vec![tcp(Action::Allow, &[8080]), tcp(Action::Deny, &[8081, 81, 22])];
        host_policy(&mut state, "early", rules, Vec::new());
        host_policy(&mut state, "no", vec![any(Action::Deny)], Vec::new());
        let endpoint = LocalHostEndpoint {
            pre_dnat: one_tier("early"),
            forward: HostTiers { ingress: one_tier("no"), ..HostTiers::default() },
            profiles: vec![Name::from("all")],
            ..on("eth1")
        };
        put(&mut state, "a", endpoint);
        host.apply(&state, Wake::Desired);
        for (i, to) in a.gate().into_iter().enumerate() {
            // 8080 is allowed there and not asked again; 22 is fail-safe; all else goes on.
            assert_eq!(a.reaches(to, &asked), [22, 80, 2379, 8080], "{to}");
            assert_eq!(a.reaches(b.both()[i], &PORTS), [0; 0], "what goes on is asked: {to}");
        }
        let mut state = next(&state);
        settings(&mut state, |settings| settings.failsafe_inbound.clear());
        host.apply(&state, Wake::Desired);
        assert_eq!(a.reaches(a.gate()[0], &asked), [80, 2379, 8080], "none");
    });
}

#[test]
fn what_the_host_sends_is_asked_by_where_it_really_goes() {
    each_dataplane(|host, flavour| {
        let (a, state) = guarded(host, flavour);
        let b = Machine::new(host, 2);
        b.serve(&PORTS);
        // Seen from routing these go out by the other interface.
        for (family, from, to) in
            [(4, "198.51.2.9", "198.51.1.2"), (6, "2001:db8:2::9", "2001:db8:1::2")]
        {
            host.iptables(
                family,
                &format!("-t nat -A OUTPUT -d {from} -j DNAT --to-destination {to}"),
            );
            host.iptables(family, &format!("-t nat -A POSTROUTING -d {to} -j MASQUERADE"));
        }
        let away = ["198.51.2.9", "2001:db8:2::9"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(host_reaches(away[0], &PORTS), PORTS, "before");
        host.apply(&state, Wake::Start);
        for (i, to) in away.into_iter().enumerate() {
            assert_eq!(host_reaches(to, &PORTS), [80, 2379], "translated: {to}");
            assert_eq!(host_reaches(b.both()[i], &PORTS), PORTS, "as it is: {to}");
        }
        drop(a);
    });
}

#[test]
fn an_interface_is_found_by_name_by_address_and_among_all() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        let (b, c) = (Machine::new(host, 2), Machine::new(host, 3));
        let pod = host.pod(1);
        pod.serve(81);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        endpoint(&mut state, &pod, &profiles(&["all"]), true);
        host_policy(&mut state, "ssl", vec![tcp(Action::Allow, &[81])], vec![any(Action::Allow)]);
        let by_address = LocalHostEndpoint {
            addresses: vec![b.gate()[1]],
            normal: both("ssl"),
            ..LocalHostEndpoint::default()
        };
        put(&mut state, "b", by_address);
        host.apply(&state, Wake::Start);
        for i in 0..2 {
            assert_eq!(a.reaches(a.gate()[i], &PORTS), [22, 80, 2379], "by name");
            assert_eq!(b.reaches(b.gate()[i], &PORTS), [22, 81, 2379], "by address, both families");
            assert_eq!(c.reaches(c.gate()[i], &PORTS), PORTS, "nobody's");
        }
        // The rest, beside the interfaces of pods; and one more is its from its first packet on.
        let mut state = next(&state);
        put(&mut state, "z", on("*"));
        host.apply(&state, Wake::Desired);
        let d = Machine::new(host, 4);
        for i in 0..2 {
            assert_eq!(a.reaches(a.gate()[i], &PORTS), [22, 80, 2379], "by name");
            assert_eq!(b.reaches(b.gate()[i], &PORTS), [22, 81, 2379], "by address");
            assert_eq!(c.reaches(c.gate()[i], &PORTS), [22, 2379], "all others");
            assert_eq!(d.reaches(d.gate()[i], &PORTS), [22, 2379], "a new one");
            assert_eq!(host_reaches(c.gate()[i], &PORTS), PORTS, "the host itself");
            assert!(host.reaches(pod.both()[i], 81) && pod.reaches(a.gate()[i], 81), "pods");
        }
        // The address moves.
        let link = host.links[&name("eth2")].clone();
        host.links.insert(name("eth2"), Link { addresses: Default::default(), ..link });
        let link = host.links[&name("eth3")].clone();
        let addresses = b.gate().into_iter().collect();
        host.links.insert(name("eth3"), Link { addresses, ..link });
        host.apply(&state, Wake::Links);
        assert_eq!(b.reaches(b.gate()[0], &PORTS), [22, 2379], "all others");
        assert_eq!(c.reaches(c.gate()[0], &PORTS), [22, 81, 2379], "by address");
    });
}

#[test]
fn what_others_change_comes_back_and_a_restart_writes_nothing() {
    each_flavour(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        host_policy(
            &mut state,
            "fast",
            vec![tcp(Action::Allow, &[80])],
            vec![from_port(Action::Allow, 80)],
        );
        host_policy(&mut state, "early", vec![tcp(Action::Deny, &[81])], Vec::new());
        let endpoint = LocalHostEndpoint {
            normal: both("web"),
            forward: both("web"),
            untracked: both("fast"),
            pre_dnat: one_tier("early"),
            ..on("eth1")
        };
        put(&mut state, "a", endpoint);
        host.apply(&state, Wake::Start);
        let right = [host.saved(4), host.saved(6)];
        assert!(
            right[0].contains("-A cali-fhfw-eth1") && right[0].contains("CT --notrack"),
            "{}",
            right[0]
        );
        let writes = host.felix.counters().writes();
        host.apply(&state, Wake::Timer);
        host.restart();
        host.apply(&state, Wake::Start);
        assert_eq!(host.felix.counters().writes(), 0, "of {writes} before");
        for family in [4, 6] {
            host.iptables(family, "-t mangle -F cali-fh-eth1");
            host.iptables(family, "-t raw -D OUTPUT 1");
            host.iptables(family, "-F cali-INPUT");
        }
        assert_eq!(a.reaches(a.gate()[0], &[81]), [81], "a hole");
        host.restart();
        host.apply(&state, Wake::Start);
        assert_eq!([host.saved(4), host.saved(6)], right);
        assert_eq!(a.reaches(a.gate()[0], &[81]), [0; 0]);
    });
}
