//! Who a packet from a pod says it is.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use calico_agent::desired::DesiredState;
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, Protocol};

use crate::host::{Host, Pod, each_dataplane, each_flavour, receiver, v4, v6};
use crate::world::*;

/// Two pods that may do anything, with their MACs.
fn open_world(host: &mut Host, flavour: crate::host::Flavour) -> (Pod, Pod) {
    let (a, b) = (host.pod(1), host.pod(2));
    b.serve(80);
    let mut state = empty(flavour);
    settings(&mut state, |s| s.endpoint_to_host = calico_agent::config::HostAction::Accept);
    profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
    for pod in [&a, &b] {
        endpoint(&mut state, pod, &profiles(&["all"]), true);
    }
    host.apply(&state, Wake::Start);
    for to in b.both() {
        assert!(a.reaches(to, 80), "{to}");
    }
    (a, b)
}

#[test]
fn a_foreign_source_address_is_dropped() {
    each_flavour(|host, flavour| {
        let (a, b) = open_world(host, flavour);
        // The reverse path is open for these addresses, so only the check of the source is asked.
        crate::netns::sh(
            "ip route add 10.65.0.77/32 dev calipod1; ip -6 route add fd65::77/128 dev calipod1",
        );
        a.netns
            .sh("ip addr add 10.65.0.77/32 dev eth0; ip -6 addr add fd65::77/128 dev eth0 nodad");
        for (from, to) in [(v4(77), b.v4()), (v6(0x77), b.v6())] {
            assert!(!a.reaches_from(from, to, 80), "{from}");
        }
        for (from, to) in [(a.v4(), b.v4()), (a.v6(), b.v6())] {
            assert!(a.reaches_from(from, to, 80), "{from}");
        }
        for family in [4, 6] {
            host.iptables(family, "-t raw -D PREROUTING 1");
            host.iptables(family, "-D FORWARD 1");
        }
        for (from, to) in [(v4(77), b.v4()), (v6(0x77), b.v6())] {
            assert!(a.reaches_from(from, to, 80), "the probe proves something {from}");
        }
    });
}

#[test]
fn a_foreign_mac_is_dropped() {
    each_dataplane(|host, flavour| {
        let (a, b) = open_world(host, flavour);
        let renew = "ip route replace 169.254.1.1 dev eth0
             ip neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
             ip route replace default via 169.254.1.1
             ip -6 addr replace fd65::1/128 dev eth0 nodad
             ip -6 route replace default via fe80::ecee:eeff:feee:eeee dev eth0
             ip -6 neigh replace fe80::ecee:eeff:feee:eeee lladdr ee:ee:ee:ee:ee:ee dev eth0";
        a.netns.sh(&format!("ip link set eth0 address 02:00:00:00:00:99\n{renew}"));
        for to in b.both() {
            assert!(!a.reaches(to, 80), "{to}");
        }
        a.netns.sh(&format!("ip link set eth0 address {}\n{renew}", a.mac()));
        for to in b.both() {
            assert!(a.reaches(to, 80), "its own again {to}");
        }
    });
}

#[test]
fn the_loopback_of_the_host_is_not_the_pods() {
    each_flavour(|host, flavour| {
        let (a, _b) = open_world(host, flavour);
        crate::host::serve(8080);
        // The pod does all it can to send there.
        a.netns.sh(
            "sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1
             ip addr del 127.0.0.1/8 dev lo
             ip route add 127.0.0.0/8 via 169.254.1.1 dev eth0 src 10.65.0.1 || \
               ip route add table local 127.0.0.1/32 via 169.254.1.1 dev eth0 src 10.65.0.1
             ip route del table local 127.0.0.0/8 dev lo 2>/dev/null || true",
        );
        assert_eq!(
            crate::netns::sh("cat /proc/sys/net/ipv4/conf/calipod1/route_localnet").trim(),
            "1"
        );
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(!a.reaches(loopback, 8080));
        assert!(a.reaches("192.0.2.1".parse().unwrap(), 8080), "the host's address answers");
        // What would have happened without us.
        host.iptables(4, "-t raw -D PREROUTING 1");
        assert!(a.reaches(loopback, 8080), "the probe proves something");
    });
}

/// A datagram from one to the other arrives.
fn arrives(from: &Pod, to: &Pod, source: IpAddr, target: SocketAddr) -> bool {
    let receiver = to.netns.run(move || receiver(target));
    from.netns.run(move || {
        let sender = UdpSocket::bind((source, 0)).expect("an own address");
        // A refusal by our own kernel is as good as silence.
        let _ = sender.send_to(b"datagram", target);
    });
    receiver.set_read_timeout(Some(Duration::from_millis(400))).expect("a time");
    receiver.recv(&mut [0; 16]).is_ok()
}

#[test]
fn a_pod_sends_nothing_that_a_host_would_unwrap() {
    each_flavour(|host, flavour| {
        let (a, b) = open_world(host, flavour);
        for (from, to) in [(a.v4(), b.v4()), (a.v6(), b.v6())] {
            assert!(arrives(&a, &b, from, (to, 4790).into()), "{to}");
            assert!(!arrives(&a, &b, from, (to, 4789).into()), "VXLAN to {to}");
        }
        for family in [4, 6] {
            host.iptables(family, "-D FORWARD 1");
        }
        for (from, to) in [(a.v4(), b.v4()), (a.v6(), b.v6())] {
            assert!(arrives(&a, &b, from, (to, 4789).into()), "the probe proves something {to}");
        }
    });
}

/// Gives a pod prefixes that it may send from.
fn list(state: &mut DesiredState, pod: &Pod, prefixes: &[&str]) {
    let mut endpoint = (*state.endpoints[&id(pod)]).clone();
    endpoint.spoof = prefixes.iter().map(|one| one.parse().unwrap()).collect();
    state.endpoints.insert(id(pod), Arc::new(endpoint));
}

/// Two pods with addresses that are not theirs, 10.66.0.5 and 10.67.0.5 and their like, and a policy:
/// UDP to port 5000 only. The first lists the first prefix of each family.
pub(crate) fn spoofing_world(
    host: &mut Host,
    flavour: crate::host::Flavour,
) -> (Pod, Pod, DesiredState) {
    let (a, b) = (host.pod(1), host.pod(2));
    for pod in [&a, &b] {
        // Both have them, so each must take what comes from an address of its own; and neighbour
        // discovery in the name of an address that is not let through would take the others along.
        pod.netns.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
             sysctl -qw net.ipv4.conf.eth0.accept_local=1
             ip -6 neigh replace fe80::ecee:eeff:feee:eeee lladdr ee:ee:ee:ee:ee:ee dev eth0 \
               nud permanent
             for v4 in 10.66.0.5 10.67.0.5; do ip addr add $v4/32 dev eth0; done
             for v6 in fd66::5 fd67::5; do ip -6 addr add $v6/128 dev eth0 nodad; done");
    }
    let mut state = empty(flavour);
    settings(&mut state, |s| {
        s.endpoint_to_host = calico_agent::config::HostAction::Accept;
        s.source_spoofing = true;
    });
    let mut allowed = tcp(Action::Allow, &[5000]);
    allowed.protocol = Some(Protocol::UDP);
    profile(&mut state, "some", vec![any(Action::Allow)], vec![allowed]);
    for pod in [&a, &b] {
        endpoint(&mut state, pod, &profiles(&["some"]), true);
    }
    list(&mut state, &a, &["10.66.0.0/16", "fd66::/64"]);
    (a, b, state)
}

/// Asserts that datagrams arrive, or that none does. One that should has some tries: neighbours may
/// have to be found first.
fn check(from: &Pod, to: &Pod, pairs: [(IpAddr, IpAddr); 2], port: u16, expected: [bool; 2]) {
    for ((source, target), expected) in pairs.into_iter().zip(expected) {
        let tries = if expected { 5 } else { 1 };
        let came = (0..tries).any(|_| arrives(from, to, source, (target, port).into()));
        assert_eq!(came, expected, "{source} → {target} port {port}");
    }
}

fn zip(from: [IpAddr; 2], to: [IpAddr; 2]) -> [(IpAddr, IpAddr); 2] {
    [(from[0], to[0]), (from[1], to[1])]
}

pub(crate) fn addresses(both: [&str; 2]) -> [IpAddr; 2] {
    both.map(|one| one.parse().unwrap())
}

pub(crate) const LISTED: [&str; 2] = ["10.66.0.5", "fd66::5"];
pub(crate) const FOREIGN: [&str; 2] = ["10.67.0.5", "fd67::5"];

#[test]
fn what_an_endpoint_lists_it_may_send_from_and_nobody_else() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = spoofing_world(host, flavour);
        host.apply(&state, Wake::Start);
        let (listed, foreign) = (addresses(LISTED), addresses(FOREIGN));
        let ask = |from: &Pod, to: &Pod, sources, port, expected: bool| {
            check(from, to, zip(sources, to.both()), port, [expected; 2]);
        };
        let rp_filter = || crate::netns::sh("cat /proc/sys/net/ipv4/conf/calipod?/rp_filter");
        assert_eq!(rp_filter(), "0\n1\n", "only where it is needed");
        ask(&a, &b, listed, 5000, true);
        ask(&a, &b, listed, 5001, false); // its policy decides as ever
        ask(&a, &b, foreign, 5000, false);
        ask(&b, &a, listed, 5000, false); // another endpoint's list
        ask(&b, &a, b.both(), 5000, true);
        // To the host, too.
        for (source, to) in LISTED.into_iter().zip(["192.0.2.1", "fd99::1"]) {
            let source: IpAddr = source.parse().unwrap();
            for (port, passes) in [(5000, true), (5001, false)] {
                let to = SocketAddr::new(to.parse().unwrap(), port);
                let receiver = receiver(to);
                a.netns.run(move || {
                    let sender = UdpSocket::bind((source, 0)).expect("an own address");
                    let _ = sender.send_to(b"datagram", to);
                });
                receiver.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
                assert_eq!(receiver.recv(&mut [0; 16]).is_ok(), passes, "{to}");
            }
        }

        // Sources only: what is routed to such an address is for nobody.
        crate::netns::sh(
            "ip route add 10.66.0.5/32 dev calipod1; ip -6 route add fd66::5/128 dev calipod1",
        );
        let own = "ip addr del 10.66.0.5/32 dev eth0; ip -6 addr del fd66::5/128 dev eth0";
        b.netns.sh(own);
        let to_listed = |expected| {
            check(&b, &a, zip(b.both(), listed), 5000, expected);
        };
        to_listed([false; 2]);
        for family in [4, 6] {
            host.iptables(family, "-D FORWARD 1");
        }
        // The probe proves something.
        to_listed([true; 2]);
        host.apply(&state, Wake::Retry);
        b.netns.sh(&format!("{own}; true")
            .replace(" del ", " add ")
            .replace("/128 dev eth0", "/128 dev eth0 nodad"));
        crate::netns::sh("ip route del 10.66.0.5/32; ip -6 route del fd66::5/128");

        // Without what was counted.
        let sets = || crate::netns::sh("ipset save | sed 's/ packets .*//' | sort");
        let (saved, before) = ((host.saved(4), host.saved(6)), sets());
        host.restart();
        state = next(&state);
        host.apply(&state, Wake::Start);
        assert_eq!(host.felix.counters().writes(), 0);

        // The other one comes and goes.
        state = next(&state);
        list(&mut state, &b, &["0.0.0.0/0", "::/0"]);
        host.apply(&state, Wake::Desired);
        ask(&b, &a, foreign, 5000, true); // any
        ask(&a, &b, foreign, 5000, false);
        state = next(&state);
        list(&mut state, &b, &[]);
        host.apply(&state, Wake::Desired);
        ask(&b, &a, foreign, 5000, false);
        assert_eq!((host.saved(4), host.saved(6)), saved);
        assert_eq!(sets(), before);

        // Nothing is left of the last one.
        state = next(&state);
        list(&mut state, &a, &[]);
        host.apply(&state, Wake::Desired);
        ask(&a, &b, listed, 5000, false);
        assert_eq!(rp_filter(), "1\n1\n");
        host.sleep(Duration::from_millis(600));
        host.run(&state, Wake::Timer);
        assert!(!crate::netns::sh("ipset save").contains("spoofed"));
        assert!(!(host.saved(4) + &host.saved(6)).contains("spoofed"));
    });
}

#[test]
fn without_leave_a_list_is_nothing_and_is_told() {
    each_dataplane(|host, flavour| {
        let (a, b, mut state) = spoofing_world(host, flavour);
        settings(&mut state, |s| s.source_spoofing = false);
        let listed = addresses(LISTED);
        let sends = |sources, expected| {
            check(&a, &b, zip(sources, b.both()), 5000, expected);
        };
        let report = host.run(&state, Wake::Start);
        assert_eq!(report.applied, Some(state.generation));
        let told: Vec<_> = report.problems.iter().map(|p| (&*p.subject, &*p.message)).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, "endpoint cni/default/pod1/eth0");
        assert!(told[0].1.contains("WorkloadSourceSpoofing is Disabled"), "{told:?}");
        sends(listed, [false; 2]);
        sends(a.both(), [true; 2]);

        // The kernel's own check may be stricter than we are.
        state = next(&state);
        settings(&mut state, |s| s.source_spoofing = true);
        crate::netns::sh("sysctl -qw net.ipv4.conf.all.rp_filter=1");
        let report = host.run(&state, Wake::Desired);
        let told: Vec<_> = report.problems.iter().map(|p| (&*p.subject, &*p.message)).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, "sysctl net.ipv4.conf.all.rp_filter");
        // IPv6 has no such thing.
        sends(listed, [false, true]);
        crate::netns::sh("sysctl -qw net.ipv4.conf.all.rp_filter=0");
        host.apply(&state, Wake::Retry);
        sends(listed, [true; 2]);
    });
}
