//! Translated addresses: those that pods are reached by, and those that they leave with.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use calico_agent::desired::DesiredState;
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, PortRange};

use crate::host::{Host, Pod, dial, each_dataplane};
use crate::netns::{Netns, sh};
use crate::world::*;

/// The external addresses.
pub(crate) const EXTERNAL: [&str; 2] = ["203.0.113.7", "2001:db8:f::7"];
/// A machine outside, which routes external addresses and pods to the host.
pub(crate) const OUTSIDE: [&str; 2] = ["198.51.100.2", "2001:db8::2"];

pub(crate) fn outside() -> Netns {
    let outside = Netns::new();
    sh(&format!(
        "ip link add eth9 type veth peer name eth0 netns {}
         ip addr add 198.51.100.1/24 dev eth9; ip -6 addr add 2001:db8::1/64 dev eth9 nodad
         ip link set eth9 up",
        outside.tid
    ));
    outside.sh("sysctl -qw net.ipv6.conf.eth0.accept_dad=0
         ip addr add 198.51.100.2/24 dev eth0; ip -6 addr add 2001:db8::2/64 dev eth0 nodad
         ip link set eth0 up; ip route add default via 198.51.100.1
         ip -6 route add default via 2001:db8::1");
    outside.run(|| crate::host::serve(80));
    outside
}

/// The address that the other end saw. Tried again: a neighbour may have to be found first.
fn seen(from: &Netns, to: &str, port: u16) -> Option<String> {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    from.run(move || (0..4).find_map(|_| dial(to).ok().map(|(_, peer)| peer)))
}

/// Nobody answers.
fn is_silent(from: &Netns, to: &str, port: u16) -> bool {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    from.run(move || dial(to).is_err())
}

pub(crate) fn give(state: &mut DesiredState, pod: &Pod, external: &[&str]) {
    let mut endpoint = (*state.endpoints[&id(pod)]).clone();
    endpoint.nat = external
        .iter()
        .map(|one| one.parse::<IpAddr>().unwrap())
        .map(|one| (if one.is_ipv4() { pod.v4() } else { pod.v6() }, one))
        .collect();
    state.endpoints.insert(id(pod), Arc::new(endpoint));
}

/// The routes, which another part of the agent makes.
pub(crate) fn lead_to(pod: &Pod) {
    let interface = &pod.interface;
    let [v4, v6] = EXTERNAL;
    sh(&format!("ip route replace {v4} dev {interface}; ip -6 route replace {v6} dev {interface}"));
}

/// Two pods that send what they like, and take TCP to port 80.
pub(crate) fn world(host: &mut Host, flavour: crate::host::Flavour) -> (Pod, Pod, DesiredState) {
    let (a, b) = (host.pod(1), host.pod(2));
    for pod in [&a, &b] {
        pod.serve(80);
        pod.serve(81);
    }
    let mut state = empty(flavour);
    settings(&mut state, |s| s.floating_ips = true);
    profile(&mut state, "web", vec![tcp(Action::Allow, &[80])], vec![any(Action::Allow)]);
    for pod in [&a, &b] {
        endpoint(&mut state, pod, &profiles(&["web"]), true);
    }
    (a, b, state)
}

#[test]
fn an_external_address_leads_to_its_pod_and_to_its_policy() {
    each_dataplane(|host, flavour| {
        let (a, b, mut state) = world(host, flavour);
        let outside = outside();
        host.apply(&state, Wake::Start);
        lead_to(&b);
        assert!(!host.saved(4).contains("cali-fip"), "nothing to do, nothing done");
        for external in EXTERNAL {
            assert!(is_silent(&outside, external, 80), "{external} is nobody's");
        }

        state = next(&state);
        give(&mut state, &b, &EXTERNAL);
        let report = host.apply(&state, Wake::Desired);
        assert_eq!(report.facts["external addresses"], "2 in force");
        for (external, (source, own)) in EXTERNAL.into_iter().zip(OUTSIDE.into_iter().zip(a.both()))
        {
            // Its policy decides, and sees who really sends.
            assert_eq!(seen(&outside, external, 80).as_deref(), Some(source));
            assert!(is_silent(&outside, external, 81), "policy allows port 80 only");
            assert_eq!(seen(&a.netns, external, 80), Some(own.to_string()));
            assert!(is_silent(&a.netns, external, 81));
            // The host itself is never asked for policy.
            assert!(host.reaches(external.parse().unwrap(), 81), "{external}");
            // To itself it comes as its external address, more than once.
            for _ in 0..3 {
                assert_eq!(seen(&b.netns, external, 80).as_deref(), Some(external));
            }
            assert!(is_silent(&b.netns, external, 81));
        }
        // What it sends by itself keeps its address, as in the original.
        for (to, own) in OUTSIDE.into_iter().zip(b.both()) {
            assert_eq!(seen(&b.netns, to, 80), Some(own.to_string()));
        }
        // Nothing is written for what is there already, and another start finds nothing to do.
        let saved = (host.saved(4), host.saved(6));
        host.restart();
        host.apply(&next(&state), Wake::Start);
        assert_eq!(host.felix.counters().writes(), 0);
        assert_eq!((host.saved(4), host.saved(6)), saved);
    });
}

#[test]
fn a_connection_does_not_outlive_the_way_it_came() {
    each_dataplane(|host, flavour| {
        let (a, b, mut state) = world(host, flavour);
        let outside = outside();
        give(&mut state, &b, &EXTERNAL);
        lead_to(&b);
        host.apply(&state, Wake::Start);
        let open = |to: IpAddr| {
            let to = SocketAddr::new(to, 80);
            outside.run(move || dial(to).expect("it is allowed").0)
        };
        let entries = |what: &str| {
            let list = |family| sh(&format!("conntrack -f {family} -L 2>/dev/null"));
            [list("ipv4"), list("ipv6")].concat().matches(what).count()
        };
        let _by_external = EXTERNAL.map(|to| open(to.parse().unwrap()));
        let _by_own = b.both().map(open);
        for external in EXTERNAL {
            assert_ne!(entries(&format!("dst={external} ")), 0, "{external}");
        }

        // It moves.
        state = next(&state);
        give(&mut state, &b, &[]);
        give(&mut state, &a, &EXTERNAL);
        lead_to(&a);
        host.apply(&state, Wake::Desired);
        for (external, own) in EXTERNAL.into_iter().zip(b.both()) {
            assert_eq!(entries(&format!("dst={external} ")), 0, "{external}");
            assert_ne!(entries(&format!("dst={own} ")), 0, "others stay {own}");
            assert_eq!(seen(&a.netns, external, 80).as_deref(), Some(external), "a has it now");
        }

        // It moves while no agent runs; another start alone cuts nothing.
        let _by_external = EXTERNAL.map(|to| open(to.parse().unwrap()));
        host.restart();
        host.apply(&next(&state), Wake::Start);
        for external in EXTERNAL {
            assert_ne!(entries(&format!("dst={external} ")), 0, "{external}");
        }
        state = next(&state);
        give(&mut state, &a, &[]);
        give(&mut state, &b, &EXTERNAL);
        lead_to(&b);
        host.restart();
        host.apply(&state, Wake::Start);
        for external in EXTERNAL {
            assert_eq!(entries(&format!("dst={external} ")), 0, "{external}");
            assert_eq!(seen(&b.netns, external, 80).as_deref(), Some(external), "b has it again");
        }

        // It goes while no agent runs.
        let _by_external = EXTERNAL.map(|to| open(to.parse().unwrap()));
        let before = state.clone();
        state = next(&state);
        give(&mut state, &b, &[]);
        host.restart();
        host.apply(&state, Wake::Start);
        for external in EXTERNAL {
            assert_eq!(entries(&format!("dst={external} ")), 0, "{external} is nobody's");
        }
        state = DesiredState { generation: state.generation + 1, ..before };
        host.apply(&state, Wake::Desired);

        // It goes with its endpoint, and nothing is left.
        state = next(&state);
        state.endpoints.remove(&id(&b));
        host.apply(&state, Wake::Desired);
        assert!(!host.saved(4).contains("cali-fip") && !host.saved(6).contains("cali-fip"));
        for external in EXTERNAL {
            assert!(is_silent(&outside, external, 80), "{external}");
            assert_eq!(entries(&format!("dst={external} ")), 0, "{external}");
        }
    });
}

#[test]
fn of_two_that_ask_for_an_address_one_has_it_and_the_other_is_named() {
    each_dataplane(|host, flavour| {
        let (a, b, mut state) = world(host, flavour);
        give(&mut state, &a, &EXTERNAL);
        give(&mut state, &b, &[EXTERNAL[0], EXTERNAL[1], &a.v4().to_string()]);
        let report = host.run(&state, Wake::Start);
        assert_eq!(report.applied, Some(state.generation));
        let told: Vec<String> =
            report.problems.iter().map(|p| format!("{}: {}", p.subject, p.message)).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        for (address, why) in [
            (EXTERNAL[0], "host/cni/default/pod1/eth0 has it"),
            (EXTERNAL[1], "host/cni/default/pod1/eth0 has it"),
            ("10.65.0.1", "own address of endpoint host/cni/default/pod1/eth0"),
        ] {
            let line = told.iter().find(|line| line.contains(&format!("address {address} is")));
            let line = line.unwrap_or_else(|| panic!("{address}: {told:?}"));
            assert!(line.starts_with("endpoint cni/default/pod2/eth0: "), "{line}");
            assert!(line.contains(why), "{line}");
        }
        let answers = |host: &Host| {
            EXTERNAL.map(|to| {
                assert!(host.reaches(to.parse().unwrap(), 80), "{to}");
                // A pod sees the external address when it meets itself.
                [&a, &b].map(|pod| seen(&pod.netns, to, 80).as_deref() == Some(to))
            })
        };
        lead_to(&a);
        assert_eq!(answers(host), [[true, false]; 2]);
        assert!(host.reaches(a.v4(), 80), "an own address stays where it is");
        assert_eq!(seen(&b.netns, "10.65.0.1", 80), Some("10.65.0.2".to_owned()));

        // One whose interface is down leaves it to the next.
        let name = a.interface.parse().unwrap();
        let mut link = host.links[&name].clone();
        link.up = false;
        host.links.insert(name, link);
        lead_to(&b);
        let report = host.run(&state, Wake::Links);
        assert_eq!(answers(host), [[false, true]; 2]);
        assert!(report.problems.iter().all(|p| !p.message.contains("pod2/eth0: ")));

        // Switched off nobody has any, and that is no problem.
        state = next(&state);
        settings(&mut state, |s| s.floating_ips = false);
        let report = host.apply(&state, Wake::Desired);
        assert_eq!(
            report.facts["external addresses"],
            "0 in force, 5 not: FloatingIPs is Disabled"
        );
        assert!(!host.saved(4).contains("cali-fip"));
    });
}

/// The source that a machine outside sees of a TCP connection and of a datagram.
fn sources(pod: &Pod, outside: &Netns, to: IpAddr) -> Option<[SocketAddr; 2]> {
    let tcp = outside.run(move || TcpListener::bind((to, 0)).expect("an own address"));
    let udp = outside.run(move || UdpSocket::bind((to, 0)).expect("an own address"));
    let (tcp_at, udp_at) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    // Kept until its peer is known.
    let stream =
        pod.netns.run(move || TcpStream::connect_timeout(&tcp_at, Duration::from_secs(1)).ok())?;
    let (_, peer) = tcp.accept().ok()?;
    drop(stream);
    pod.netns
        .run(move || {
            let any: SocketAddr =
                if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
            UdpSocket::bind(any)?.send_to(b"datagram", udp_at)
        })
        .ok()?;
    udp.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let (_, sender) = udp.recv_from(&mut [0; 16]).ok()?;
    Some([peer, sender])
}

/// An ICMP echo is answered. Three are sent: a neighbour may have to be found first.
fn pings(pod: &Pod, to: IpAddr) -> bool {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    pod.netns.sh("sysctl -qw net.ipv4.ping_group_range='0 0'");
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    pod.netns.run(move || {
        let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
        let echo = UdpSocket::from(fd);
        echo.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        let mut answer = [0; 64];
        (0..3).any(|_| {
            let sent = echo.send_to(&[request, 0, 0, 0, 0, 0, 0, 1], (to, 0));
            sent.is_ok() && echo.recv(&mut answer).is_ok() && answer[0] == reply
        })
    })
}

#[test]
fn what_leaves_the_pools_has_the_address_and_the_ports_of_the_settings() {
    each_dataplane(|host, flavour| {
        let (a, _b, mut state) = world(host, flavour);
        let outside = outside();
        // Nothing comes back to a pod's own address.
        outside.sh("ip route del default; ip -6 route del default");
        sh(
            "ip addr add 198.51.100.9/32 dev eth9; ip -6 addr add 2001:db8::9/128 dev eth9 nodad preferred_lft 0",
        );
        for pool in ["10.65.0.0/16", "fd65::/64"] {
            state.pools.insert(pool.parse().unwrap(), true);
        }
        host.apply(&state, Wake::Start);
        let to = OUTSIDE.map(|one| one.parse::<IpAddr>().unwrap());
        let seen = |a: &Pod| to.map(|to| sources(a, &outside, to).expect("both arrive"));
        let ips =
            |seen: [[SocketAddr; 2]; 2]| seen.map(|both| both.map(|one| one.ip().to_string()));
        let interface = ["198.51.100.1", "2001:db8::1"].map(|one| [one; 2]);
        assert_eq!(ips(seen(&a)), interface);

        let (first, last) = (40_000, 40_007);
        state = next(&state);
        settings(&mut state, |s| s.nat_port_range = PortRange::new(first, last));
        host.apply(&state, Wake::Desired);
        for _ in 0..3 {
            let seen = seen(&a);
            assert!(
                seen.iter().flatten().all(|one| (first..=last).contains(&one.port())),
                "{seen:?}"
            );
            assert_eq!(ips(seen), interface);
        }
        // What has no ports is translated too, or no answer would come.
        assert!(to.iter().all(|to| pings(&a, *to)));

        // One address of each family, and of IPv6 alone.
        for (addresses, expected) in [
            (["198.51.100.9", "2001:db8::9"].as_slice(), ["198.51.100.9", "2001:db8::9"]),
            (&["2001:db8::9"], ["198.51.100.1", "2001:db8::9"]),
        ] {
            state = next(&state);
            settings(&mut state, |s| {
                s.nat_outgoing_addresses =
                    addresses.iter().map(|one| one.parse().unwrap()).collect();
            });
            host.apply(&state, Wake::Desired);
            let seen = seen(&a);
            assert!(
                seen.iter().flatten().all(|one| (first..=last).contains(&one.port())),
                "{seen:?}"
            );
            assert_eq!(ips(seen), expected.map(|one| [one; 2]));
            assert!(to.iter().all(|to| pings(&a, *to)));
            host.restart();
            state = next(&state);
            host.apply(&state, Wake::Start);
            assert_eq!(host.felix.counters().writes(), 0, "it is known again");
        }

        // Without ports any.
        state = next(&state);
        settings(&mut state, |s| s.nat_port_range = None);
        host.apply(&state, Wake::Desired);
        let seen = seen(&a);
        assert!(seen.iter().flatten().any(|one| !(first..=last).contains(&one.port())), "{seen:?}");

        // Nothing of it without a pool.
        state = next(&state);
        for pool in ["10.65.0.0/16", "fd65::/64"] {
            state.pools.insert(pool.parse().unwrap(), false);
        }
        host.apply(&state, Wake::Desired);
        assert!(to.iter().all(|to| !pings(&a, *to)), "its own address has no way back");
    });
}

#[test]
fn only_what_leaves_by_the_interface_of_the_settings_is_masqueraded() {
    each_dataplane(|host, flavour| {
        let (a, _b, mut state) = world(host, flavour);
        let outside = outside();
        sh(&format!(
            "ip link add ens8 type veth peer name eth1 netns {}
             ip addr add 198.51.101.1/24 dev ens8; ip -6 addr add 2001:db8:1::1/64 dev ens8 nodad
             ip link set ens8 up",
            outside.tid
        ));
        outside.sh("sysctl -qw net.ipv6.conf.eth1.accept_dad=0
             ip addr add 198.51.101.2/24 dev eth1; ip -6 addr add 2001:db8:1::2/64 dev eth1 nodad
             ip link set eth1 up");
        for pool in ["10.65.0.0/16", "fd65::/64"] {
            state.pools.insert(pool.parse().unwrap(), true);
        }
        let mut wake = Wake::Start;
        let (own4, own6) = (a.v4().to_string(), a.v6().to_string());
        for (filter, by_eth9, by_ens8) in [
            (Some("eth9"), true, false),
            (Some("ens+"), false, true),
            (None, true, true),
            (Some("nowhere"), false, false),
        ] {
            state = next(&state);
            settings(&mut state, |s| s.nat_outgoing_interface = filter.map(str::to_owned));
            host.apply(&state, wake);
            wake = Wake::Desired;
            for (to, translated, masked, own) in [
                ("198.51.100.2", by_eth9, "198.51.100.1", &own4),
                ("2001:db8::2", by_eth9, "2001:db8::1", &own6),
                ("198.51.101.2", by_ens8, "198.51.101.1", &own4),
                ("2001:db8:1::2", by_ens8, "2001:db8:1::1", &own6),
            ] {
                let expected = if translated { masked } else { own };
                let peer = seen(&a.netns, to, 80);
                assert_eq!(peer.as_deref(), Some(expected), "{filter:?} to {to}");
            }
        }
    });
}
