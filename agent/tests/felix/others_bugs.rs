//! Failures that others had, each with the number under which it is known: they must not be ours.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use calico_agent::desired::{AddressSet, Member, SetId, SetKind};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, Family, Protocol, TierAction};

use crate::host::{Flavour, Pod, each_flavour};
use crate::netns::sh;
use crate::tampering::{Place, place};
use crate::world::*;

/// calico#10872: after `nft flush ruleset` the rules in the base chains did not come back.
#[test]
fn after_a_flush_of_the_whole_rule_set_the_jumps_are_back() {
    each_flavour(|host, flavour| {
        let place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        let whole = (host.saved(4), host.saved(6));
        for _ in 0..2 {
            match flavour {
                Flavour::Nft => drop(sh("nft flush ruleset")),
                _ => {
                    for (v, table) in
                        [4, 6].into_iter().flat_map(|v| ["raw", "nat", "filter"].map(|t| (v, t)))
                    {
                        host.iptables(v, &format!("-t {table} -F"));
                        host.iptables(v, &format!("-t {table} -X"));
                    }
                }
            }
            assert!(place.a.reaches(place.b.v4(), 81), "nothing decides any more");
            let report = host.apply(&place.state, Wake::Retry);
            assert_eq!(report.drift.len(), 6, "{:?}", report.drift);
            let sorted = |text: &str| {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&host.saved(4)), sorted(&whole.0));
            assert_eq!(sorted(&host.saved(6)), sorted(&whole.1));
            place.works();
        }
    });
}

/// New flows from `a` to a port of `b` that nobody may reach, for as long as `stop` is not set; what
/// arrives is counted.
fn knock(place: &Place, port: u16, stop: &Arc<AtomicBool>) -> (Arc<AtomicU64>, Arc<AtomicU64>) {
    let (sent, heard) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&heard);
    place.b.netns.run(move || {
        let socket = UdpSocket::bind(("::", port)).unwrap();
        std::thread::spawn(move || {
            while socket.recv_from(&mut [0; 8]).is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
    });
    for to in place.b.both() {
        let (stop, sent) = (Arc::clone(stop), Arc::clone(&sent));
        place.a.netns.run(move || {
            std::thread::spawn(move || {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                while !stop.load(Ordering::SeqCst) {
                    let socket = UdpSocket::bind(any).unwrap();
                    if socket.send_to(b"?", SocketAddr::new(to, port)).is_ok() {
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                    std::thread::sleep(Duration::from_micros(500));
                }
            });
        });
    }
    (sent, heard)
}

/// calico#13425: while a table was made again there were no base chains, and packets passed. What is
/// in use is never deleted to be made again: a repair of what others changed is one transaction, and
/// what was denied before it is denied in it and after it.
#[test]
fn a_repair_of_a_part_opens_nothing() {
    each_flavour(|host, flavour| {
        let place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, heard) = knock(&place, 99, &stop);
        for round in 0..20 {
            // Each leaves the denied flow denied: behind it stands another check.
            for family in [4, 6] {
                let tamper = [
                    "-I FORWARD -s 192.0.2.77 -p icmp -j ACCEPT",
                    "-I cali-wl-forward 1 -p icmp -j ACCEPT",
                    "-F cali-pi-web",
                    "-t raw -F cali-mac",
                    "-A cali-pi-web -p icmp -j ACCEPT",
                    "-t raw -D PREROUTING 1",
                ][(round % 6) as usize];
                let tamper = if family == 6 {
                    tamper.replace("192.0.2.77", "2001:db8::7").replace("icmp", "icmpv6")
                } else {
                    tamper.to_owned()
                };
                host.iptables(family, &tamper);
            }
            let report = host.apply(&place.state, Wake::Retry);
            assert_eq!(report.drift.len(), 2, "round {round}: {:?}", report.drift);
        }
        place.works();
        stop.store(true, Ordering::SeqCst);
        host.sleep(Duration::from_millis(300));
        let (sent, passed) = (sent.load(Ordering::SeqCst), heard.load(Ordering::SeqCst));
        assert!(sent > 500, "{sent}");
        assert_eq!(passed, 0, "of {sent}");
        // And they would have been heard.
        let mut open = next(&place.state);
        endpoint(&mut open, &place.b, &profiles(&["all"]), true);
        host.apply(&open, Wake::Desired);
        place.a.netns.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"?", SocketAddr::new(crate::host::v4(2), 99)).unwrap();
        });
        host.sleep(Duration::from_millis(100));
        assert!(heard.load(Ordering::SeqCst) > 0);
    });
}

/// calico#12851: a member to delete that somebody else had deleted undid the whole transaction, for
/// ever.
#[test]
fn a_member_that_is_gone_already_wedges_nothing() {
    each_flavour(|host, flavour| {
        let mut place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        place.works();
        // Somebody takes a member that is about to go, and adds one that is about to come.
        sh("ipset del cali40s:friends 10.65.0.3; ipset del cali60s:friends fd65::3
            ipset add cali40s:friends 10.65.0.9");
        set(&mut place.state, "s:friends", &[1, 4, 5, 9]);
        let after = next(&place.state);
        host.apply(&after, Wake::Desired);
        let sets = sh("ipset save");
        for (member, there) in
            [("65.0.3", false), ("65.0.6", false), ("65.0.9", true), ("65.0.4", true)]
        {
            assert_eq!(
                sets.contains(&format!("add cali40s:friends 10.{member}\n")),
                there,
                "{member}"
            );
        }
        place.works();
        assert_eq!(host.apply(&after, Wake::Retry).drift, []);
        // An endpoint that goes, whose members are gone already.
        sh("ipset flush cali40local-endpoints");
        let mut without = next(&after);
        without.endpoints.remove(&id(&place.a));
        host.apply(&without, Wake::Desired);
        assert!(!place.a.reaches(place.b.v4(), 80));
    });
}

/// Sends from `from` of `pod` and says whether an answer came.
fn answered(pod: &Pod, from: u16, to: SocketAddr) -> bool {
    pod.netns.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
        let socket = UdpSocket::bind((any, from)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        socket.send_to(b"?", to).unwrap();
        socket.recv_from(&mut [0; 8]).is_ok()
    })
}

/// calico#12244: a masqueraded flow got the port of VXLAN, 4789, as its source port, and the check
/// against strangers' tunnels dropped its answers. We program no VXLAN, exempt nothing from connection
/// tracking, and look at established connections before we drop what pods wrap: the answer passes,
/// whatever port the flow has, and a pod that begins to send there is dropped.
#[test]
fn a_flow_from_the_port_of_vxlan_gets_its_answers() {
    const VXLAN: u16 = 4789;
    each_flavour(|host, flavour| {
        let place = place(host, flavour);
        let mut open = place.state.clone();
        for pod in [&place.a, &place.b] {
            endpoint(&mut open, pod, &profiles(&["all"]), true);
        }
        host.apply(&open, Wake::Start);
        let saved = host.saved(4) + &host.saved(6);
        assert!(saved.contains("-j MASQUERADE --random-fully") && !saved.contains("NOTRACK"));
        for port in [53, VXLAN] {
            place.b.netns.run(move || {
                let socket = UdpSocket::bind(("::", port)).unwrap();
                std::thread::spawn(move || {
                    while let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
                        let _ = socket.send_to(b"!", from);
                    }
                });
            });
        }
        for to in place.b.both() {
            assert!(answered(&place.a, VXLAN, SocketAddr::new(to, 53)), "{to}");
            assert!(answered(&place.a, 0, SocketAddr::new(to, 53)), "{to}");
            assert!(!answered(&place.a, 0, SocketAddr::new(to, VXLAN)), "{to}");
        }
    });
}

/// calico#9310: members of `hash:ip,port` with other protocols than TCP and UDP, in both families.
#[test]
fn named_ports_of_every_protocol_that_has_ports() {
    each_flavour(|host, flavour| {
        let mut place = place(host, flavour);
        let protocols = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::UDPLITE];
        let addresses = place.b.both();
        let members = addresses
            .iter()
            .flat_map(|&ip| protocols.map(|protocol| Member::Port(ip, protocol, 80)))
            .collect();
        let named = AddressSet { kind: SetKind::Port, selector: "n:web".into(), members };
        place.state.sets.insert(SetId::new("n:web"), named);
        let rules = protocols.map(|protocol| {
            let mut rule = any(Action::Allow);
            rule.protocol = Some(protocol);
            rule.destination.named_ports = vec![SetId::new("n:web")];
            rule
        });
        policy(&mut place.state, "web", rules.to_vec());
        let class = ingress_tiers(vec![tier("t", &["web"], TierAction::Deny)], "all");
        endpoint(&mut place.state, &place.b, &class, true);
        host.apply(&place.state, Wake::Start);
        let sets = sh("ipset save");
        for family in Family::ALL {
            let head = format!("add cali{}0n:web ", family.number());
            let members: Vec<&str> =
                sets.lines().filter_map(|line| line.strip_prefix(&head)).collect();
            assert_eq!(members.len(), 4, "{members:?}");
            for name in ["tcp:80", "udp:80", "sctp:80", "udplite:80"] {
                assert!(members.iter().any(|member| member.ends_with(name)), "{name}");
            }
        }
        place.works();
        place.b.netns.run(|| {
            for port in [80, 81] {
                let socket = UdpSocket::bind(("::", port)).unwrap();
                std::thread::spawn(move || {
                    while let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
                        let _ = socket.send_to(b"!", from);
                    }
                });
            }
        });
        for to in place.b.both() {
            assert!(answered(&place.a, 0, SocketAddr::new(to, 80)), "{to}");
            assert!(!answered(&place.a, 0, SocketAddr::new(to, 81)), "{to}");
        }
        // Read back they are what they were: nothing is written, nothing reported.
        let writes = host.felix.counters().writes();
        assert_eq!(host.apply(&place.state, Wake::Retry).drift, []);
        assert_eq!(host.felix.counters().writes(), writes);
        host.restart();
        host.apply(&place.state, Wake::Start);
        assert_eq!(host.felix.counters().writes(), 0);
    });
}
