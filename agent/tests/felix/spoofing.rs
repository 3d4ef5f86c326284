//! Who a packet from a pod says it is.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use calico_agent::reconcile::Wake;
use calico_datastore::model::Action;

use crate::host::{Host, Pod, each_flavour, v4, v6};
use crate::world::*;

/// Two pods that may do anything, with their MACs.
fn open_world(host: &mut Host, flavour: calico_agent::config::IptablesBackend) -> (Pod, Pod) {
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
    each_flavour(|host, flavour| {
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
    let receiver = to.netns.run(move || UdpSocket::bind(target).expect("a free port"));
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
