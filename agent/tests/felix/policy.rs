//! Which packets pass: profiles, tiers, verdicts.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use calico_agent::config::{AllowAction, DenyAction, HostAction, InsertMode, RKT_METADATA_PORT};
use calico_agent::desired::{AclClass, AddressSet, DesiredState, Member, SetId, SetKind};
use calico_agent::reconcile::{EndpointState, Wake};
use calico_datastore::model::{Action, IcmpMatch, PortRange, Protocol, TierAction};

use crate::host::{Flavour, Host, Pod, each_dataplane, each_flavour, on_nftables};
use crate::world::*;

#[test]
fn members_of_one_network_talk_and_others_do_not() {
    each_flavour(|host, flavour| {
        let (a, b, c) = (host.pod(1), host.pod(2), host.pod(3));
        b.serve(80);
        for to in b.both() {
            assert!(a.reaches(to, 80) && c.reaches(to, 80), "the wires work before");
        }
        let mut state = empty(flavour);
        network(&mut state, "frontend", &[1, 2]);
        network(&mut state, "backend", &[3]);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["frontend"]), true);
        }
        endpoint(&mut state, &c, &profiles(&["backend"]), true);
        let report = host.apply(&state, Wake::Start);
        assert!(host.saved(4).contains("-A cali-wl-forward"), "{:?}", report.facts);
        assert_eq!(report.endpoints[&id(&a)], EndpointState::Up);
        for to in b.both() {
            assert!(a.reaches(to, 80), "frontend to frontend {to}");
            assert!(!c.reaches(to, 80), "backend to frontend {to}");
            assert!(host.reaches(to, 80), "the host is never asked {to}");
        }
    });
}

/// Ports that every pod answers on.
const PORTS: [u16; 6] = [80, 81, 82, 83, 84, 85];

/// What passed the last tier, or one profile, is not thereby passed in the next profile.
#[test]
fn pass_in_a_profile_is_for_what_it_matches() {
    each_dataplane(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        PORTS.iter().for_each(|&port| b.serve(port));
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        policy(&mut state, "all", vec![any(Action::Pass)]);
        let rules = vec![tcp(Action::Pass, &[81]), tcp(Action::Allow, &[80, 81])];
        profile(&mut state, "some", rules, vec![any(Action::Allow)]);
        endpoint(&mut state, &a, &profiles(&["net"]), false);
        let tiers = vec![tier("first", &["all"], TierAction::Deny)];
        endpoint(&mut state, &b, &ingress_tiers(tiers, "some"), false);
        host.apply(&state, Wake::Start);
        for to in b.both() {
            assert_eq!([80, 81, 82].map(|port| a.reaches(to, port)), [true, false, false], "{to}");
        }
    });
}

#[test]
fn tiers_decide_in_order_and_pass_goes_on() {
    each_dataplane(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        PORTS.iter().for_each(|&port| b.serve(port));
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        // 80: allowed at once, though a later policy of the tier denies it.
        // 81: passed, then denied. 82: passed, then allowed. 83: not decided, goes on to the
        // second tier and is passed there: the profile allows it. 84: logged, then denied.
        // 85: nothing in the second tier decides: its end drops.
        policy(&mut state, "one", vec![tcp(Action::Allow, &[80]), tcp(Action::Pass, &[81, 82])]);
        policy(
            &mut state,
            "two",
            vec![tcp(Action::Log, &[84]), tcp(Action::Deny, &[80, 81, 82, 84])],
        );
        policy(
            &mut state,
            "three",
            vec![tcp(Action::Deny, &[81]), tcp(Action::Allow, &[82]), tcp(Action::Pass, &[83])],
        );
        let class = ingress_tiers(
            vec![
                tier("first", &["one", "two"], TierAction::Pass),
                tier("second", &["three"], TierAction::Deny),
            ],
            "net",
        );
        endpoint(&mut state, &a, &profiles(&["net"]), false);
        endpoint(&mut state, &b, &class, false);
        host.apply(&state, Wake::Start);
        for to in b.both() {
            for (port, passes) in PORTS.into_iter().zip([true, false, true, true, false, false]) {
                assert_eq!(a.reaches(to, port), passes, "{to} {port}");
            }
        }
        // The same without the second tier: pass in the last tier means the profiles.
        let mut state = next(&state);
        let class = ingress_tiers(vec![tier("first", &["one"], TierAction::Deny)], "net");
        endpoint(&mut state, &b, &class, false);
        state.policies.remove(&policy_id("two"));
        state.policies.remove(&policy_id("three"));
        host.apply(&state, Wake::Desired);
        for to in b.both() {
            for (port, passes) in PORTS.into_iter().zip([true, true, true, false, false, false]) {
                assert_eq!(a.reaches(to, port), passes, "{to} {port}");
            }
        }
        assert!(!host.saved(4).contains("cali-pi-two"), "gone with its policy");
    });
}

#[test]
fn every_kind_of_criterion_is_taken_by_the_kernel_and_means_what_it_says() {
    each_dataplane(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        PORTS.iter().for_each(|&port| b.serve(port));
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        // A named port, beside ports by number that need two lists.
        let members = b.both().map(|ip| Member::Port(ip, Protocol::TCP, 81)).into_iter().collect();
        let named = AddressSet { kind: SetKind::Port, selector: Arc::from("n:http"), members };
        state.sets.insert(SetId::new("n:http"), named);
        let mut ports = tcp(Action::Allow, &[]);
        ports.destination.ports = (1000..1020).map(PortRange::single).collect();
        ports.destination.ports.push(PortRange::new(80, 80).unwrap());
        ports.destination.named_ports = vec![SetId::new("n:http")];
        // Several prefixes, wanted and unwanted, on both sides.
        let mut nets = tcp(Action::Allow, &[82, 83]);
        let net = |text: &str| text.parse().unwrap();
        nets.source.nets =
            vec![net("10.65.0.0/30"), net("10.66.0.0/16"), net("fd65::/120"), net("fd66::/16")];
        nets.source.not_nets = vec![net("10.65.0.3/32"), net("fd65::3/128")];
        nets.destination.nets =
            vec![net("10.65.0.2"), net("10.65.0.9"), net("fd65::2"), net("fd65::9")];
        nets.destination.not_ports = vec![PortRange::single(83)];
        // What the kernel must take though no packet here is of it.
        let mut icmp = any(Action::Deny);
        icmp.not_icmp = Some(IcmpMatch { icmp_type: 8, code: Some(0) });
        icmp.source.not_sets =
            vec![SetId::new("n:http")].into_iter().map(|_| SetId::new("s:none")).collect();
        set(&mut state, "s:none", &[]);
        let mut sctp = any(Action::Deny);
        sctp.source.not_ports = (1..=20).map(PortRange::single).collect();
        sctp.protocol = Some(Protocol::SCTP);
        let mut other = any(Action::Deny);
        other.protocol = Protocol::from_number(47);
        let mut not = any(Action::Log);
        not.not_protocol = Some(Protocol::UDPLITE);
        not.destination.not_named_ports = vec![SetId::new("n:http")];
        policy(&mut state, "p", vec![other, sctp, icmp, not, ports, nets]);
        let class = ingress_tiers(vec![tier("default", &["p"], TierAction::Deny)], "all");
        endpoint(&mut state, &a, &profiles(&["all"]), false);
        endpoint(&mut state, &b, &class, false);
        host.apply(&state, Wake::Start);
        for to in b.both() {
            for (port, passes) in PORTS.into_iter().zip([true, true, true, false, false, false]) {
                assert_eq!(a.reaches(to, port), passes, "{to} {port}");
            }
        }
    });
}

#[test]
fn an_endpoint_that_is_down_gets_nothing_and_neither_does_an_unknown_interface() {
    each_dataplane(|host, flavour| {
        let (a, b, c) = (host.pod(1), host.pod(2), host.pod(3));
        b.serve(80);
        c.serve(80);
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        endpoint(&mut state, &a, &profiles(&["all"]), false);
        endpoint(&mut state, &b, &profiles(&["all"]), false);
        host.apply(&state, Wake::Start);
        for to in b.both() {
            assert!(a.reaches(to, 80), "{to}");
            assert!(!c.reaches(to, 80), "from an interface without endpoint {to}");
        }
        for to in c.both() {
            assert!(!a.reaches(to, 80), "to an interface without endpoint {to}");
        }
        let mut state = next(&state);
        let down = AclClass { active: false, ..profiles(&["all"]) };
        endpoint(&mut state, &b, &down, false);
        let report = host.apply(&state, Wake::Desired);
        assert!(matches!(report.endpoints[&id(&b)], EndpointState::Down(_)), "{report:?}");
        for to in b.both() {
            assert!(!a.reaches(to, 80), "down {to}");
        }
    });
}

#[test]
fn a_pod_reaches_its_host_as_the_settings_say() {
    each_flavour(|host, flavour| {
        let a = host.pod(1);
        crate::host::serve(80);
        let addresses: [std::net::IpAddr; 2] =
            ["192.0.2.1".parse().unwrap(), "fd99::1".parse().unwrap()];
        let mut state = empty(flavour);
        profile(&mut state, "out", vec![], vec![any(Action::Allow)]);
        profile(&mut state, "none", vec![], vec![]);
        endpoint(&mut state, &a, &profiles(&["out"]), true);
        for family in [4, 6] {
            // The host's own rule, behind ours: it decides what we leave to it.
            host.iptables(family, "-A INPUT -i cali+ -p tcp --dport 80 -j DROP");
        }
        let mut wake = Wake::Start;
        for (action, passes) in
            [(HostAction::Drop, false), (HostAction::Accept, true), (HostAction::Return, false)]
        {
            state = next(&state);
            settings(&mut state, |s| s.endpoint_to_host = action);
            host.apply(&state, wake);
            wake = Wake::Desired;
            for to in addresses {
                assert_eq!(a.reaches(to, 80), passes, "{action:?} {to}");
            }
        }
        for family in [4, 6] {
            host.iptables(family, "-D INPUT -i cali+ -p tcp --dport 80 -j DROP");
        }
        for to in addresses {
            assert!(a.reaches(to, 80), "returned to the host's rules, which allow {to}");
        }
        // Policy comes before any of them.
        let mut state = next(&state);
        settings(&mut state, |s| s.endpoint_to_host = HostAction::Accept);
        endpoint(&mut state, &a, &profiles(&["none"]), true);
        host.apply(&state, Wake::Desired);
        for to in addresses {
            assert!(!a.reaches(to, 80), "denied by its profile {to}");
        }
    });
}

#[test]
fn the_metadata_service_of_rkt_is_reached_where_policy_allows_it() {
    each_flavour(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        for port in [80, RKT_METADATA_PORT] {
            crate::host::serve(port);
        }
        let here: std::net::IpAddr = "192.0.2.1".parse().unwrap();
        let mut state = empty(flavour);
        profile(&mut state, "out", vec![], vec![any(Action::Allow)]);
        profile(&mut state, "none", vec![], vec![]);
        endpoint(&mut state, &a, &profiles(&["out"]), true);
        endpoint(&mut state, &b, &profiles(&["none"]), true);
        let mut wake = Wake::Start;
        for (action, on, reached) in [
            (HostAction::Drop, false, false),
            (HostAction::Drop, true, true),
            // The host's own rules would drop it.
            (HostAction::Return, true, true),
            (HostAction::Return, false, false),
        ] {
            if (action, on) == (HostAction::Return, true) {
                host.iptables(4, "-A INPUT -i cali+ -p tcp -j DROP");
            }
            state = next(&state);
            settings(&mut state, |s| {
                s.endpoint_to_host = action;
                s.rkt_metadata_service = on;
            });
            host.apply(&state, wake);
            wake = Wake::Desired;
            assert_eq!(a.reaches(here, RKT_METADATA_PORT), reached, "{action:?} {on}");
            assert!(!a.reaches(here, 80), "another port: {action:?} {on}");
            assert!(!b.reaches(here, RKT_METADATA_PORT), "denied by its profile: {action:?} {on}");
        }
    });
}

#[test]
fn a_denied_packet_may_be_answered_and_an_allowed_one_left_to_others() {
    each_flavour(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        b.serve(81);
        let mut state = empty(flavour);
        settings(&mut state, |s| {
            s.filter_deny = DenyAction::Reject;
            s.filter_allow = AllowAction::Return;
            s.insert_mode = InsertMode::Append;
            s.mark_mask = 0xf0;
        });
        for family in [4, 6] {
            // Before ours, because ours are appended; and behind ours, because ours return.
            host.iptables(family, "-A FORWARD -p tcp --dport 82 -j ACCEPT");
        }
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        policy(&mut state, "p", vec![tcp(Action::Allow, &[80, 81])]);
        let class = ingress_tiers(vec![tier("default", &["p"], TierAction::Deny)], "all");
        endpoint(&mut state, &a, &profiles(&["all"]), false);
        endpoint(&mut state, &b, &class, false);
        host.apply(&state, Wake::Start);
        b.serve(82);
        for family in [4, 6] {
            host.iptables(family, "-A FORWARD -p tcp --dport 81 -j DROP");
        }
        for to in b.both() {
            assert!(a.reaches(to, 80), "allowed {to}");
            assert!(!a.reaches(to, 81), "allowed by us, dropped behind us {to}");
            assert!(a.reaches(to, 82), "accepted before us {to}");
            // Longer than one retransmission: an error that comes while the sender is still inside
            // connect() is not heard.
            let to = SocketAddr::new(to, 83);
            let answer =
                a.netns.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(5)));
            let kind = answer.expect_err("denied").kind();
            assert_eq!(kind, std::io::ErrorKind::ConnectionRefused, "rejected {to}");
        }
    });
}

/// A rule that changes together with its set: neither the old rule with the new members nor the
/// new rule with the old ones may decide. Packets are sent without a pause while it changes.
#[test]
fn no_packet_passes_between_two_states_that_both_deny_it() {
    each_dataplane(|host, flavour| {
        // "Allow 7" and "deny 7 and 1", then back.
        nothing_passes(host, flavour, |state, _, second| {
            let (members, action): (&[u8], _) =
                if second { (&[7, 1], Action::Deny) } else { (&[7], Action::Allow) };
            set(state, "s:x", members);
            policy(state, "p", vec![from_set(any(action), "s:x")]);
        });
    });
}

/// The same where a policy comes to all endpoints of a class: they are in the class without it until they
/// are in the one with it, and that one asks for the set as it was.
#[test]
fn nor_where_a_policy_comes_to_a_whole_class() {
    on_nftables(|host, flavour| {
        nothing_passes(host, flavour, |state, b, second| {
            set(state, "s:x", if second { &[7, 1] } else { &[7] });
            policy(state, "p", vec![from_set(any(Action::Allow), "s:x")]);
            state.policies.remove(&policy_id("q"));
            let mut asked = vec!["p"];
            if second {
                policy(state, "q", vec![from_set(any(Action::Deny), "s:x")]);
                asked.insert(0, "q");
            }
            let class = ingress_tiers(vec![tier("default", &asked, TierAction::Deny)], "all");
            endpoint(state, b, &class, false);
        });
    });
}

/// Sends from 1 to `b` without a pause while the state becomes the second one and the first one again.
fn nothing_passes(host: &mut Host, flavour: Flavour, become_it: fn(&mut DesiredState, &Pod, bool)) {
    let (a, b) = (host.pod(1), host.pod(2));
    b.netns.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:53").unwrap();
        std::thread::spawn(move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
                let _ = socket.send_to(b"!", from);
            }
        });
    });
    let mut state = empty(flavour);
    profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
    let class = ingress_tiers(vec![tier("default", &["p"], TierAction::Deny)], "all");
    endpoint(&mut state, &a, &profiles(&["all"]), false);
    endpoint(&mut state, &b, &class, false);
    become_it(&mut state, &b, false);
    host.apply(&state, Wake::Start);
    let to = SocketAddr::new(b.v4(), 53);
    let stop = Arc::new(AtomicBool::new(false));
    let (answers, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let shared = (Arc::clone(&stop), Arc::clone(&answers), Arc::clone(&sent));
    let sender = a.netns.run(move || {
        std::thread::spawn(move || {
            let (stop, answers, sent) = shared;
            // A new flow each time: an established one is not asked again. Nobody waits for an
            // answer: the sockets of the last hundred flows are looked at again and again.
            let mut flows = VecDeque::new();
            while !stop.load(Ordering::Relaxed) {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.send_to(b"?", to);
                sent.fetch_add(1, Ordering::Relaxed);
                flows.push_back(socket);
                let answered = flows.iter().filter(|s| s.recv_from(&mut [0; 8]).is_ok());
                answers.fetch_add(answered.count() as u64, Ordering::Relaxed);
                if flows.len() > 100 {
                    flows.pop_front();
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        })
    });
    // What takes a fraction of a millisecond has to be done more often to be met by a packet.
    let rounds = if flavour == Flavour::Nftables { 1500 } else { 20 };
    let mut round = 0;
    while round < rounds || sent.load(Ordering::Relaxed) <= 100 {
        round += 1;
        let mut after = next(&state);
        become_it(&mut after, &b, round % 2 == 0);
        host.apply(&after, Wake::Desired);
        state = after;
    }
    let denied = sent.load(Ordering::Relaxed);
    assert_eq!(answers.load(Ordering::Relaxed), 0, "of {denied}");
    assert!(denied > 100, "{denied}");
    // And the sender can be answered.
    let mut after = next(&state);
    become_it(&mut after, &b, false);
    policy(&mut after, "p", vec![any(Action::Allow)]);
    host.apply(&after, Wake::Desired);
    host.sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    let _ = sender.join();
    assert!(answers.load(Ordering::Relaxed) > 0);
}
