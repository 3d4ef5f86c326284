//! What guests of OpenStack may ask of their host before any policy, and nobody else.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use calico_agent::config::HostAction;
use calico_agent::desired::DesiredState;
use calico_agent::reconcile::{EndpointState, Wake};
use calico_datastore::model::{Action, InterfaceName};
use nix::sys::socket::{setsockopt, sockopt};

use crate::host::{Host, Pod, dial, each_dataplane, receiver};
use crate::world::*;

/// Where the guests look for their metadata.
const METADATA: &str = "169.254.169.254";

/// A guest and a pod that may send nothing at all, on a host that takes nothing from them.
fn closed_world(host: &mut Host, flavour: crate::host::Flavour) -> (Pod, Pod, DesiredState) {
    let (guest, pod) = (host.pod_behind(3, "tapguest3"), host.pod(4));
    let mut state = empty(flavour);
    settings(&mut state, |s| {
        s.interface_prefixes = vec!["cali".to_owned(), "tap".to_owned()];
        s.endpoint_to_host = HostAction::Drop;
    });
    profile(&mut state, "nothing", vec![any(Action::Allow)], vec![]);
    for one in [&guest, &pod] {
        endpoint(&mut state, one, &profiles(&["nothing"]), true);
    }
    (guest, pod, state)
}

/// A datagram comes to the host. Tried again where it should.
fn asks(from: &Pod, source: SocketAddr, to: SocketAddr, at: &UdpSocket, expected: bool) -> bool {
    let interface = "eth0".to_owned();
    at.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    (0..if expected { 5 } else { 1 }).any(|_| {
        let interface = interface.clone();
        from.netns.run(move || {
            let socket = receiver(source);
            socket.set_broadcast(true).unwrap();
            setsockopt(&socket.as_fd(), sockopt::BindToDevice, &interface.into()).unwrap();
            let _ = socket.send_to(b"question", to);
        });
        at.recv(&mut [0; 16]).is_ok()
    })
}

#[test]
fn guests_have_metadata_and_names_and_pods_have_not() {
    each_dataplane(|host, flavour| {
        let (guest, pod, mut state) = closed_world(host, flavour);
        crate::host::serve(8775);
        crate::host::serve(8776);
        let metadata = |from: &Pod| {
            let to = SocketAddr::new(METADATA.parse().unwrap(), 80);
            from.netns.run(move || dial(to).ok().map(|(_, seen)| seen))
        };
        host.apply(&state, Wake::Start);
        assert_eq!(metadata(&guest), Some("10.65.0.3".to_owned()));
        assert_eq!(metadata(&pod), None);
        let host_at = "192.0.2.1".parse().unwrap();
        assert!(!guest.reaches(host_at, 8775), "the service itself answers at its address only");
        assert!(!guest.reaches(METADATA.parse().unwrap(), 81));

        for (own, to) in ["192.0.2.1", "fd99::1"].into_iter().enumerate() {
            let to: IpAddr = to.parse().unwrap();
            for (port, from, passes) in
                [(53, &guest, true), (54, &guest, false), (53, &pod, false), (54, &pod, false)]
            {
                let at = receiver(SocketAddr::new(to, port));
                let source = SocketAddr::new(from.both()[own], 0);
                let came = asks(from, source, SocketAddr::new(to, port), &at, passes);
                assert_eq!(came, passes, "{} to {to} port {port}", from.interface);
            }
        }

        // Somewhere else, or not at all.
        state = next(&state);
        settings(&mut state, |s| {
            s.metadata_address = Some(host_at);
            s.metadata_port = 8776;
        });
        host.apply(&state, Wake::Desired);
        assert_eq!(metadata(&guest), Some("10.65.0.3".to_owned()));
        assert!(guest.reaches(host_at, 8776) && !guest.reaches(host_at, 8775));
        assert!(!pod.reaches(host_at, 8776));
        let saved = (host.saved(4), host.saved(6));
        host.restart();
        host.apply(&next(&state), Wake::Start);
        assert_eq!(host.felix.counters().writes(), 0);
        assert_eq!((host.saved(4), host.saved(6)), saved);
        state = next(&state);
        settings(&mut state, |s| s.metadata_address = None);
        host.apply(&state, Wake::Desired);
        assert_eq!(metadata(&guest), None);
        assert!(!host.saved(4).contains("DNAT"));

        // Without the prefix a guest's interface is nobody's, and nothing is said of any.
        state = next(&state);
        settings(&mut state, |s| s.interface_prefixes = vec!["cali".to_owned()]);
        let report = host.apply(&state, Wake::Desired);
        assert!(!(host.saved(4) + &host.saved(6)).contains("tap+"));
        // Nothing asks its packets, so it is not said to be up, and its file goes.
        let why = "interface tapguest3 does not begin with InterfacePrefix (cali)".to_owned();
        assert_eq!(report.endpoints[&id(&guest)], EndpointState::Error(why));
        assert_eq!(report.endpoints[&id(&pod)], EndpointState::Up);
    });
}

#[test]
fn guests_without_an_address_ask_for_one_and_pods_do_not() {
    each_dataplane(|host, flavour| {
        let (guest, pod, state) = closed_world(host, flavour);
        host.apply(&state, Wake::Start);
        for one in [&guest, &pod] {
            one.netns.sh("ip addr flush dev eth0 scope global; ip route flush dev eth0
                 ip route add default dev eth0");
        }
        let anybody: IpAddr = "0.0.0.0".parse().unwrap();
        let at = receiver(SocketAddr::new(anybody, 67));
        let broadcast = SocketAddr::new("255.255.255.255".parse().unwrap(), 67);
        for (from, port, passes) in
            [(&guest, 68, true), (&guest, 69, false), (&pod, 68, false), (&pod, 69, false)]
        {
            let source = SocketAddr::new(anybody, port);
            let came = asks(from, source, broadcast, &at, passes);
            assert_eq!(came, passes, "DHCP from {} port {port}", from.interface);
        }

        // All DHCP servers and relays on the link (RFC 8415).
        let servers: Ipv6Addr = "ff02::1:2".parse().unwrap();
        let at = receiver(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 547));
        for one in [&guest, &pod] {
            let index = host.links[&one.interface.parse::<InterfaceName>().unwrap()].index;
            at.join_multicast_v6(&servers, index).unwrap();
        }
        for (from, port, passes) in
            [(&guest, 546, true), (&guest, 548, false), (&pod, 546, false), (&pod, 548, false)]
        {
            let source = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            let came = asks(from, source, SocketAddr::new(servers.into(), 547), &at, passes);
            assert_eq!(came, passes, "DHCPv6 from {} port {port}", from.interface);
        }
    });
}
