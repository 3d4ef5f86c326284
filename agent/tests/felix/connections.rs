//! Established connections: they outlive a change of policy, and not their endpoint.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, Cidr};

use crate::host::{Pod, dial, each_dataplane};
use crate::world::*;

fn open(from: &Pod, to: SocketAddr) -> TcpStream {
    from.netns.run(move || dial(to)).expect("it is allowed").0
}

fn echoes(mut stream: &TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && matches!(stream.read(&mut [0; 8]), Ok(1))
}

#[test]
fn a_connection_ends_with_its_endpoint_and_not_with_a_policy() {
    each_dataplane(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        profile(&mut state, "none", vec![], vec![any(Action::Allow)]);
        endpoint(&mut state, &a, &profiles(&["all"]), true);
        endpoint(&mut state, &b, &profiles(&["all"]), true);
        host.apply(&state, Wake::Start);
        let open = b.both().map(|to| open(&a, SocketAddr::new(to, 80)));
        assert!(open.iter().all(echoes));

        let mut state = next(&state);
        endpoint(&mut state, &b, &profiles(&["none"]), true);
        host.apply(&state, Wake::Desired);
        assert!(open.iter().all(echoes), "established connections are not asked again");
        for to in b.both() {
            assert!(!a.reaches(to, 80), "a new one is {to}");
        }
        assert!(crate::netns::sh("conntrack -L 2>/dev/null").contains("dport=80"));

        let mut state = next(&state);
        state.endpoints.remove(&id(&b));
        state.classes.remove(&profiles(&["none"]).id());
        host.apply(&state, Wake::Desired);
        assert!(!open.iter().any(echoes), "nothing gets to an endpoint that is gone");
        for family in ["ipv4", "ipv6"] {
            let left = crate::netns::sh(&format!("conntrack -f {family} -L 2>/dev/null"));
            assert!(!left.contains("dport=80"), "{left}");
        }
    });
}

#[test]
fn an_address_that_left_while_nobody_watched_is_forgotten_too() {
    each_dataplane(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        endpoint(&mut state, &a, &profiles(&["all"]), false);
        endpoint(&mut state, &b, &profiles(&["all"]), false);
        host.apply(&state, Wake::Start);
        let _open = open(&a, SocketAddr::new(b.v4(), 80));
        host.restart();
        let mut state = next(&state);
        state.endpoints.remove(&id(&b));
        host.apply(&state, Wake::Start);
        assert!(!crate::netns::sh("conntrack -L 2>/dev/null").contains("dport=80"));
        assert!(!a.reaches(b.v4(), 80));
    });
}

#[test]
fn what_leaves_the_pools_is_masqueraded_and_what_stays_is_not() {
    each_dataplane(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        // A machine outside, which knows no route to pods. The host's own address towards it is
        // what it has to see.
        let outside = crate::netns::Netns::new();
        crate::netns::sh(&format!(
            "ip link add eth9 type veth peer name eth0 netns {}
             ip addr add 198.51.100.1/24 dev eth9; ip -6 addr add 2001:db8::1/64 dev eth9 nodad
             ip link set eth9 up",
            outside.tid
        ));
        outside.sh("sysctl -qw net.ipv6.conf.eth0.accept_dad=0
             ip addr add 198.51.100.2/24 dev eth0; ip -6 addr add 2001:db8::2/64 dev eth0 nodad
             ip link set eth0 up; ip route add 10.65.0.0/16 via 198.51.100.1
             ip -6 route add fd65::/64 via 2001:db8::1");
        outside.run(|| crate::host::serve(80));
        let seen = |to: &str| {
            let to = SocketAddr::new(to.parse().unwrap(), 80);
            a.netns.run(move || dial(to).map(|(_, peer)| peer)).unwrap()
        };
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        endpoint(&mut state, &a, &profiles(&["all"]), false);
        endpoint(&mut state, &b, &profiles(&["all"]), false);
        for pool in ["10.65.0.0/16", "fd65::/64"] {
            state.pools.insert(pool.parse::<Cidr>().unwrap(), false);
        }
        host.apply(&state, Wake::Start);
        assert!(!host.saved(4).contains("cali-nat-outgoing"), "nothing to do, nothing done");
        assert_eq!(
            (seen("198.51.100.2"), seen("2001:db8::2")),
            ("10.65.0.1".into(), "fd65::1".into())
        );

        let mut state = next(&state);
        for pool in ["10.65.0.0/16", "fd65::/64"] {
            state.pools.insert(pool.parse::<Cidr>().unwrap(), true);
        }
        host.apply(&state, Wake::Desired);
        let masqueraded = ("198.51.100.1".to_owned(), "2001:db8::1".to_owned());
        assert_eq!((seen("198.51.100.2"), seen("2001:db8::2")), masqueraded);
        let inside = (seen(&b.v4().to_string()), seen(&b.v6().to_string()));
        assert_eq!(inside, ("10.65.0.1".into(), "fd65::1".into()));
    });
}
