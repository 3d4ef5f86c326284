//! The tables of a running Felix, and the packets of a connection.

use std::net::IpAddr;
use std::sync::Arc;

use calico_agent::desired::{DesiredState, LocalHostEndpoint, Member};
use calico_agent::felix::rendered::rendered;
use calico_agent::reconcile::{Wake, World};
use calico_datastore::model::{Action, Cidr, Family, Protocol, TierAction};
use calico_ruleset::{Fate, Host as Machine, Outcome, Packet, Ruleset, State};

use crate::host::{Host, each_flavour};
use crate::machines::{allow_all, both, host_policy, on, one_tier, put};
use crate::netns::sh;
use crate::world::*;

const FAMILIES: [(Family, calico_ruleset::Family, u8); 2] =
    [(Family::V4, calico_ruleset::Family::V4, 4), (Family::V6, calico_ruleset::Family::V6, 6)];

/// What the tools print of the kernel, read.
fn printed(host: &Host, family: calico_ruleset::Family, version: u8) -> Ruleset {
    let saved = host.saved(version);
    Ruleset::parse(family, &saved, &sh("ipset save")).unwrap_or_else(|e| panic!("{e}\n{saved}"))
}

/// The rules that matched, without their spelling: table, chain, place.
fn way(ruleset: &Ruleset, outcome: &Outcome) -> Vec<(String, String, usize)> {
    let place = |at: &calico_ruleset::RuleAt| {
        let (chain, place) = ruleset.place(*at);
        (at.table.to_string(), chain.to_owned(), place)
    };
    outcome.matched.iter().map(place).collect()
}

fn state(flavour: crate::host::Flavour, pods: &[crate::host::Pod; 2]) -> DesiredState {
    let mut state = empty(flavour);
    network(&mut state, "net", &[1, 2]);
    set(&mut state, "s:one", &[1]);
    let mut web = tcp(Action::Allow, &(80..100).step_by(2).chain(200..210).collect::<Vec<_>>());
    web.source.nets = vec![
        "10.65.0.0/30".parse().unwrap(),
        "198.51.100.0/24".parse().unwrap(),
        "fd65::/64".parse().unwrap(),
        "2001:db8::/32".parse().unwrap(),
    ];
    let mut not_one = any(Action::Deny);
    not_one.protocol = Some(Protocol::UDP);
    not_one.source.not_sets = vec![calico_agent::desired::SetId::new("s:one")];
    policy(&mut state, "web", vec![any(Action::Log), not_one, web]);
    policy(&mut state, "rest", vec![any(Action::Pass)]);
    let tiers =
        vec![tier("t1", &["web"], TierAction::Pass), tier("t2", &["rest"], TierAction::Deny)];
    endpoint(&mut state, &pods[0], &profiles(&["net"]), true);
    endpoint(&mut state, &pods[1], &ingress_tiers(tiers, "net"), false);
    for (pool, masquerade) in [("10.65.0.0/16", true), ("fd65::/64", true), ("10.66.0.0/16", false)]
    {
        state.pools.insert(pool.parse::<Cidr>().unwrap(), masquerade);
    }
    police(&mut state);
    assert!(state.sets.values().all(|set| set.members.iter().all(|m| matches!(m, Member::Net(_)))));
    state
}

/// A host endpoint on the interface to the outside, with policies at every hook, and one of all others.
fn police(state: &mut DesiredState) {
    let each = |action, port| vec![tcp(action, &[port]), any(Action::Pass)];
    for (name, action, port) in [
        ("raw", Action::Allow, 80),
        ("early", Action::Deny, 81),
        ("own", Action::Allow, 200),
        ("through", Action::Deny, 209),
    ] {
        host_policy(state, name, each(action, port), each(action, port));
    }
    allow_all(state);
    let endpoint = LocalHostEndpoint {
        untracked: both("raw"),
        pre_dnat: one_tier("early"),
        normal: both("own"),
        forward: both("through"),
        profiles: vec!["all".into()],
        ..on("eth9")
    };
    put(state, "out", endpoint);
    put(state, "rest", LocalHostEndpoint { normal: both("own"), ..on("*") });
}

/// Packets between pods, the host and the outside, in every state.
fn packets(v6: bool) -> Vec<Packet> {
    let all = if v6 {
        ["fd65::1", "fd65::2", "fd65::9", "2001:db8::7", "fd99::1", "fe80::1"]
    } else {
        ["10.65.0.1", "10.65.0.2", "10.65.0.9", "198.51.100.7", "192.0.2.1", "127.0.0.1"]
    };
    let all: Vec<IpAddr> = all.iter().map(|text| text.parse().unwrap()).collect();
    let mut out = Vec::new();
    for &source in &all {
        for &destination in &all {
            let mut kinds =
                vec![Packet::new(source, destination, 4), Packet::new(source, destination, 47)];
            kinds.extend(
                [80, 81, 200, 209, 4789, 18112]
                    .map(|port| Packet::tcp(source, destination, 40_000, port)),
            );
            kinds.extend([53, 4789].map(|port| Packet::udp(source, destination, 40_000, port)));
            kinds.extend(
                [0, 8, 128, 134, 135, 143].map(|kind| Packet::icmp(source, destination, kind, 0)),
            );
            for kind in kinds {
                for state in [State::New, State::Established, State::Invalid] {
                    let kind = kind.clone().with_state(state);
                    out.push(kind.clone());
                    for (name, mac) in [
                        ("calipod1", 1),
                        ("calipod1", 9),
                        ("calipod2", 2),
                        ("caliother", 1),
                        ("eth9", 7),
                    ] {
                        out.push(kind.clone().into_interface(name).with_mac([2, 0, 0, 0, 0, mac]));
                    }
                }
            }
        }
    }
    out
}

fn machine(v6: bool) -> Machine {
    let mut machine = Machine::default();
    let (own, pods, rest) = if v6 {
        ("fd99::1", ["fd65::1", "fd65::2"], "::/0")
    } else {
        ("192.0.2.1", ["10.65.0.1", "10.65.0.2"], "0.0.0.0/0")
    };
    machine.address(own.parse().unwrap()).route(rest, "eth9").unwrap();
    machine.route(pods[0], "calipod1").unwrap().route(pods[1], "calipod2").unwrap();
    machine
}

#[test]
fn what_the_kernel_holds_means_what_was_rendered() {
    each_flavour(|host, flavour| {
        let pods = [host.pod(1), host.pod(2)];
        let state = state(flavour, &pods);
        host.apply(&state, Wake::Start);
        let world = World { desired: Arc::new(state), links: host.links.clone() };
        let mut counts = [0, 0];
        for (family, own, version) in FAMILIES {
            let text = rendered(&world, family).unwrap();
            let ours = Ruleset::parse(own, &text.tables, &text.sets).unwrap();
            let theirs = printed(host, own, version);
            assert_eq!(ours.len(), theirs.len(), "{}\n{}", text.tables, host.saved(version));
            let v6 = family == Family::V6;
            let machine = machine(v6);
            for packet in packets(v6) {
                let rendered = ours.walk(&machine, &packet).unwrap();
                let held = theirs.walk(&machine, &packet).unwrap();
                assert_eq!(way(&ours, &rendered), way(&theirs, &held), "{packet:?}");
                assert_eq!(
                    (&rendered.fate, rendered.mark, rendered.masqueraded),
                    (&held.fate, held.mark, held.masqueraded)
                );
                counts[usize::from(held.fate.passed())] += 1;
            }
        }
        assert!(counts.iter().all(|n| *n > 1000), "{counts:?}");
    });
}

#[test]
fn the_packets_of_a_connection_are_new_once() {
    each_flavour(|host, _| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.netns.run(|| echo(5000));
        for (_, family, version) in FAMILIES {
            let (from, to) = if version == 4 { (a.v4(), b.v4()) } else { (a.v6(), b.v6()) };
            let rules = |chain: &str, way: &str| {
                ["NEW", "ESTABLISHED", "RELATED,INVALID,UNTRACKED"]
                    .map(|state| {
                        format!(
                            "-A {chain} -p udp -m udp {way} 5000 -m conntrack --ctstate {state}\n"
                        )
                    })
                    .concat()
            };
            let tables = format!(
                "*nat\n:t-nat - [0:0]\n-A PREROUTING -p udp -j t-nat\n-A t-nat -p udp -m udp --dport 5000\nCOMMIT\n\
                 *filter\n:t-to - [0:0]\n:t-back - [0:0]\n-A FORWARD -p udp -j t-to\n-A FORWARD -p udp -j t-back\n{}{}COMMIT\n",
                rules("t-to", "--dport"),
                rules("t-back", "--sport"),
            );
            let v = if version == 4 { "" } else { "6" };
            sh(&format!("ip{v}tables-{}-restore <<'END'\n{tables}END", host.tool()));
            a.netns.run(move || ask_twice(to));
            let ruleset = Ruleset::parse(family, &tables, "").unwrap();
            let mut machine = Machine::default();
            machine
                .route(&from.to_string(), "calipod1")
                .unwrap()
                .route(&to.to_string(), "calipod2")
                .unwrap();
            let there = Packet::udp(from, to, 40_000, 5000).into_interface("calipod1");
            let back = Packet::udp(to, from, 5000, 40_000).into_interface("calipod2");
            let walk = [
                there.clone(),
                back.clone().with_state(State::Established),
                there.with_state(State::Established),
                back.with_state(State::Established),
            ];
            let mut expected = crate::random::Counts::new();
            for packet in &walk {
                let outcome = ruleset.walk(&machine, packet).unwrap();
                assert!(matches!(outcome.fate, Fate::Sent(_)));
                for at in way(&ruleset, &outcome)
                    .into_iter()
                    .filter(|(_, chain, _)| chain.starts_with("t-"))
                {
                    *expected.entry(at).or_default() += 1;
                }
            }
            let saved = host.saved_with_counters(version);
            let mut kernel = crate::random::counted(&saved);
            kernel.retain(|(_, chain, _), _| chain.starts_with("t-"));
            assert_eq!(kernel, expected, "{saved}");
            // New at two hooks, and three times known.
            assert_eq!(kernel.values().sum::<u64>(), 5);
        }
    });
}

/// Answers every datagram with itself.
fn echo(port: u16) {
    // Of both families.
    let socket = std::net::UdpSocket::bind(("::", port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    });
}

/// Two questions of one connection, each answered.
fn ask_twice(to: IpAddr) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = std::net::UdpSocket::bind(any).unwrap();
    socket.connect((to, 5000)).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    for _ in 0..2 {
        socket.send(b"x").unwrap();
        socket.recv(&mut [0; 8]).unwrap();
    }
}
