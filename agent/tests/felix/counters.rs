//! Packets of each endpoint are counted, allowed and denied, although endpoints share all chains.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calico_agent::config::{DenyAction, HostAction};
use calico_agent::desired::{DesiredState, HostTiers, LocalHostEndpoint};
use calico_agent::felix::tally::{Counts, EndpointCounters, Tally};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, PortRange, Protocol, TierAction};

use crate::host::{Flavour, Host, Pod, each_dataplane, receiver, v4, v6};
use crate::machines::*;
use crate::netns::{Netns, sh};
use crate::world::*;

/// Bytes of a datagram without headers, and with those of IPv4 and IPv6 together.
pub(crate) const PAYLOAD: usize = 100;
const BOTH: u64 = 128 + 148;

/// In both families: in allowed, in denied, out allowed, out denied.
type Packets = [u64; 4];

/// What is read of the kernel by somebody who knows nothing of before.
fn read(host: &Host, state: &DesiredState, pod: &Pod) -> Option<EndpointCounters> {
    read_with(&Tally::new(host.felix.changes()), host, state, pod)
}

fn read_with(
    tally: &Tally,
    host: &Host,
    state: &DesiredState,
    pod: &Pod,
) -> Option<EndpointCounters> {
    host.block_on(tally.ask(state)).unwrap().get(&id(pod)).copied()
}

fn counts(counters: &EndpointCounters) -> [Counts; 4] {
    let EndpointCounters { ingress, egress } = counters;
    [ingress.allowed, ingress.denied, egress.allowed, egress.denied]
}

/// Waits until the kernel has counted so many of each family: datagrams of ours, or others of that many
/// bytes.
#[track_caller]
fn expect(host: &Host, state: &DesiredState, pod: &Pod, packets: Packets) {
    expect_with(&Tally::new(host.felix.changes()), host, state, pod, packets);
}

#[track_caller]
fn expect_with(tally: &Tally, host: &Host, state: &DesiredState, pod: &Pod, packets: Packets) {
    let wanted = packets.map(|n| Counts { packets: 2 * n, bytes: n * BOTH });
    let found = || read_with(tally, host, state, pod).map(|counters| counts(&counters));
    for _ in 0..50 {
        if found() == Some(wanted) {
            // Nothing comes behind it.
            host.sleep(Duration::from_millis(20));
            break;
        }
        host.sleep(Duration::from_millis(20));
    }
    assert_eq!(found(), Some(wanted), "in, in denied, out, out denied of pod {}", pod.n);
}

/// Sends so many datagrams to a port, in each family.
fn send(from: &Netns, own: [IpAddr; 2], to: [IpAddr; 2], port: u16, times: usize) {
    from.run(move || {
        for (own, to) in own.into_iter().zip(to) {
            let socket = receiver(SocketAddr::new(own, 0));
            for _ in 0..times {
                // An ICMP error of the datagram before may be told here.
                let _ = socket.send_to(&[0; PAYLOAD], (to, port));
            }
        }
    });
}

fn from_pod(from: &Pod, to: [IpAddr; 2], port: u16, times: usize) {
    send(&from.netns, from.both(), to, port, times);
}

/// Takes datagrams until the test ends, and says nothing.
fn listen(netns: &Netns, ports: &[u16]) {
    let ports = ports.to_vec();
    netns.run(move || {
        for port in ports {
            let socket = receiver(format!("[::]:{port}").parse().unwrap());
            std::thread::spawn(move || {
                let mut buffer = [0; 200];
                while socket.recv(&mut buffer).is_ok() {}
            });
        }
    });
}

fn udp(action: Action, port: u16) -> calico_agent::desired::ActiveRule {
    let mut rule = any(action);
    rule.protocol = Some(Protocol::UDP);
    rule.destination.ports = vec![PortRange::single(port)];
    rule
}

/// Two pods of one class: to them 80 is allowed, 81 denied by a policy and all else by the end of its tier;
/// from them 99 is denied. A third may do anything.
fn world(host: &mut Host, flavour: Flavour) -> ([Pod; 3], DesiredState) {
    let pods = [host.pod(1), host.pod(2), host.pod(3)];
    let mut state = empty(flavour);
    policy(&mut state, "web", vec![udp(Action::Allow, 80), udp(Action::Deny, 81)]);
    let from = vec![udp(Action::Deny, 99), any(Action::Allow)];
    profile(&mut state, "some", vec![], from);
    profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
    let tiers = vec![tier("default", &["web"], TierAction::Deny)];
    for pod in &pods[..2] {
        endpoint(&mut state, pod, &ingress_tiers(tiers.clone(), "some"), true);
    }
    endpoint(&mut state, &pods[2], &profiles(&["all"]), true);
    (pods, state)
}

/// The same, and nobody says that nobody listens: an ICMP error is a packet, too.
pub(crate) fn quiet_world(host: &mut Host, flavour: Flavour) -> ([Pod; 3], DesiredState) {
    let (pods, state) = world(host, flavour);
    for pod in &pods {
        listen(&pod.netns, &[80, 90]);
    }
    (pods, state)
}

fn host_addresses() -> [IpAddr; 2] {
    ["192.0.2.1", "fd99::1"].map(|text| text.parse().unwrap())
}

/// Every way that a packet of an endpoint can go. Returns what each of the three has to have.
fn every_way(host: &Host, [a, b, c]: &[Pod; 3], state: &DesiredState) -> [Packets; 3] {
    from_pod(c, a.both(), 80, 3);
    from_pod(c, a.both(), 81, 2);
    from_pod(c, a.both(), 82, 1);
    from_pod(c, b.both(), 80, 5);
    from_pod(c, b.both(), 81, 4);
    expect(host, state, a, [3, 3, 0, 0]);
    expect(host, state, b, [5, 4, 0, 0]);
    expect(host, state, c, [0, 0, 15, 0]);
    // From them. What is denied to them reaches nobody, and the other is not asked.
    from_pod(a, c.both(), 90, 2);
    from_pod(a, c.both(), 99, 7);
    from_pod(b, c.both(), 99, 1);
    from_pod(b, a.both(), 80, 1);
    from_pod(b, a.both(), 81, 2);
    expect(host, state, a, [4, 5, 2, 7]);
    expect(host, state, b, [5, 4, 3, 1]);
    expect(host, state, c, [2, 0, 15, 0]);
    // To the host: allowed by policy, denied by it, and a tunnel, which is dropped whatever policy says.
    from_pod(a, host_addresses(), 90, 4);
    from_pod(a, host_addresses(), 99, 1);
    from_pod(b, host_addresses(), 4789, 2);
    from_pod(b, c.both(), 4789, 1);
    expect(host, state, a, [4, 5, 6, 8]);
    expect(host, state, b, [5, 4, 3, 4]);
    expect(host, state, c, [2, 0, 15, 0]);
    // What the host sends is not asked; what has another source is nobody's.
    let own = host_addresses();
    for (own, to) in own.into_iter().zip(b.both()) {
        receiver(SocketAddr::new(own, 0)).send_to(&[0; PAYLOAD], (to, 90)).unwrap();
    }
    a.netns.sh("ip addr add 10.65.0.77/32 dev lo; ip -6 addr add fd65::77/128 dev eth0 nodad");
    send(&a.netns, [v4(77), v6(0x77)], c.both(), 90, 3);
    // Answers are of a connection that was allowed: the same from a port of its own would be denied.
    let sockets = a.both().map(|to| {
        let from = if to.is_ipv4() { c.v4() } else { c.v6() };
        c.netns.run(move || {
            let socket = receiver(SocketAddr::new(from, 99));
            socket.send_to(&[0; PAYLOAD], (to, 83)).unwrap();
            socket
        })
    });
    drop(sockets);
    expect(host, state, a, [4, 6, 6, 8]);
    expect(host, state, c, [2, 0, 16, 0]);
    [[4, 6, 6, 8], [5, 4, 3, 4], [2, 0, 16, 0]]
}

#[test]
fn each_endpoint_has_its_own_counts_although_chains_are_shared() {
    each_dataplane(|host, flavour| {
        let (pods, state) = quiet_world(host, flavour);
        let report = host.apply(&state, Wake::Start);
        assert_eq!(state.endpoints[&id(&pods[0])].class, state.endpoints[&id(&pods[1])].class);
        assert_eq!(report.drift, []);
        let counted = every_way(host, &pods, &state);
        let all = |host: &Host, state: &DesiredState| {
            for (pod, packets) in pods.iter().zip(counted) {
                expect(host, state, pod, packets);
            }
        };

        // What is counted is no change of somebody else, and a new agent goes on where the old one was.
        assert_eq!(host.apply(&state, Wake::Retry).drift, []);
        host.restart();
        host.apply(&next(&state), Wake::Start);
        let counters = host.felix.counters();
        assert_eq!((counters.iptables_restores.get(), counters.ipset_restores.get()), (0, 0));
        all(host, &state);

        // Sets that take the place of others go on where those were.
        let mut larger = next(&state);
        settings(&mut larger, |s| s.max_ipset_size /= 2);
        host.apply(&larger, Wake::Desired);
        if flavour != Flavour::Nftables {
            assert!(sh("ipset list -t cali40denied-from").contains("maxelem 524288"));
        }
        all(host, &larger);

        // Another class is the same endpoint; one that goes takes its counts with it.
        let mut state = next(&larger);
        endpoint(&mut state, &pods[1], &profiles(&["all"]), true);
        host.apply(&state, Wake::Desired);
        all(host, &state);
        from_pod(&pods[2], pods[1].both(), 90, 1);
        expect(
            host,
            &state,
            &pods[1],
            [counted[1][0] + 1, counted[1][1], counted[1][2], counted[1][3]],
        );
        let mut gone = next(&state);
        gone.endpoints.remove(&id(&pods[1]));
        host.apply(&gone, Wake::Desired);
        assert_eq!(read(host, &gone, &pods[1]), None);
        expect(host, &gone, &pods[0], counted[0]);
    });
}

/// Wherever a packet is dropped, rejected or reported, it is counted once.
#[test]
fn what_is_rejected_and_what_is_reported_is_counted_too() {
    each_dataplane(|host, flavour| {
        let (pods, mut state) = quiet_world(host, flavour);
        settings(&mut state, |s| {
            s.filter_deny = DenyAction::Reject;
            s.denied_log = true;
        });
        host.apply(&state, Wake::Start);
        every_way(host, &pods, &state);
        // The host takes nothing from pods, whatever their policy says.
        let [a, ..] = &pods;
        let before = counts(&read(host, &state, a).unwrap());
        let mut state = next(&state);
        settings(&mut state, |s| s.endpoint_to_host = HostAction::Drop);
        host.apply(&state, Wake::Desired);
        from_pod(a, host_addresses(), 90, 2);
        let [i, i_denied, out, denied] = before.map(|counts| counts.packets / 2);
        expect(host, &state, a, [i, i_denied, out, denied + 2]);
    });
}

#[test]
fn other_prefixes_of_an_endpoint_are_the_endpoints_packets() {
    each_dataplane(|host, flavour| {
        let (pods, mut state) = quiet_world(host, flavour);
        let [a, _, c] = &pods;
        settings(&mut state, |s| s.source_spoofing = true);
        let mut one = calico_agent::desired::LocalEndpoint::clone(&state.endpoints[&id(a)]);
        one.spoof = vec!["198.18.0.0/24".parse().unwrap(), "fd18::/64".parse().unwrap()];
        state.endpoints.insert(id(a), Arc::new(one));
        host.apply(&state, Wake::Start);
        a.netns.sh("ip addr add 198.18.0.7/32 dev lo; ip -6 addr add fd18::7/128 dev eth0 nodad");
        let own = ["198.18.0.7", "fd18::7"].map(|text| text.parse().unwrap());
        send(&a.netns, own, c.both(), 90, 3);
        send(&a.netns, own, c.both(), 99, 2);
        from_pod(a, c.both(), 90, 1);
        expect(host, &state, a, [0, 0, 4, 2]);
        expect(host, &state, c, [4, 0, 0, 0]);
    });
}

/// Policies are shared by pods and host endpoints, and so are the places that deny.
#[test]
fn what_a_host_endpoint_denies_on_the_way_is_counted_once() {
    each_dataplane(|host, flavour| {
        let (pods, mut state) = quiet_world(host, flavour);
        let [a, _, c] = &pods;
        let outside = Machine::new(host, 1);
        listen(&outside.netns, &[98]);
        let rules = Arc::clone(&state.policies[&policy_id("web")]);
        state.host_endpoints.policies.insert(policy_id("web"), rules);
        let from = vec![udp(Action::Deny, 99), any(Action::Allow)];
        host_policy(&mut state, "out", vec![], from);
        let forward = HostTiers { ingress: one_tier("web"), egress: one_tier("out") };
        put(&mut state, "a", LocalHostEndpoint { forward, ..on("eth1") });
        host.apply(&state, Wake::Start);
        let send = |to: [IpAddr; 2], port, times| {
            send(&outside.netns, outside.both(), to, port, times);
        };
        // Both let it in.
        send(a.both(), 80, 3);
        // The host endpoint does not; the third pod would.
        send(c.both(), 81, 2);
        send(a.both(), 81, 4);
        expect(host, &state, a, [3, 4, 0, 0]);
        expect(host, &state, c, [0, 2, 0, 0]);
        // Only the host endpoint minds what the third pod sends.
        from_pod(c, outside.both(), 99, 2);
        from_pod(c, outside.both(), 98, 1);
        from_pod(a, outside.both(), 99, 1);
        expect(host, &state, c, [0, 2, 1, 2]);
        expect(host, &state, a, [3, 4, 0, 1]);
        // From pod to pod it has no say.
        from_pod(c, a.both(), 80, 1);
        from_pod(c, a.both(), 81, 1);
        expect(host, &state, a, [4, 5, 0, 1]);
        expect(host, &state, c, [0, 2, 3, 2]);
    });
}

/// Also those of an agent that did not count are taken over without a packet lost.
#[test]
fn counting_is_switched_on_and_off_without_a_gap() {
    each_dataplane(|host, flavour| {
        let (pods, mut state) = world(host, flavour);
        let [a, _, c] = &pods;
        settings(&mut state, |s| s.endpoint_counters = false);
        host.apply(&state, Wake::Start);
        assert_eq!(read(host, &state, a), None);
        assert!(
            !sh("ipset save; iptables-legacy-save; iptables-nft-save 2> /dev/null")
                .contains("counters")
        );

        // A datagram each millisecond to each family, all of which have to come through.
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let streams = [(c.v4(), a.v4()), (c.v6(), a.v6())].map(|(from, to)| {
            let socket = a.netns.run(move || receiver(SocketAddr::new(to, 80)));
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let received = std::thread::spawn(move || {
                let mut buffer = [0; 200];
                std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count()
            });
            let sending = c.netns.run(move || receiver(SocketAddr::new(from, 0)));
            (received, sending, to)
        });
        let senders = c.netns.run(move || {
            std::thread::spawn(move || {
                let mut sent = 0;
                while !ended.load(Ordering::Relaxed) {
                    for (_, socket, to) in &streams {
                        socket.send_to(&[0; PAYLOAD], (*to, 80)).unwrap();
                        // And a new connection.
                        let own = SocketAddr::new(socket.local_addr().unwrap().ip(), 0);
                        receiver(own).send_to(&[0; PAYLOAD], (*to, 80)).unwrap();
                    }
                    sent += 2;
                    std::thread::sleep(Duration::from_millis(1));
                }
                (sent, streams)
            })
        });
        let mut now = state.clone();
        for round in 0..6 {
            now = next(&now);
            settings(&mut now, |s| s.endpoint_counters = round % 2 == 0);
            assert_eq!(host.apply(&now, Wake::Desired).drift, []);
            host.sleep(Duration::from_millis(50));
            assert_eq!(read(host, &now, a).is_some(), round % 2 == 0);
        }
        now = next(&now);
        settings(&mut now, |s| s.endpoint_counters = true);
        host.apply(&now, Wake::Desired);
        // Fewer packets than one in each millisecond where others are busy.
        let counted = |now: &DesiredState| read(host, now, a).unwrap().ingress;
        let end = Instant::now() + Duration::from_secs(10);
        while counted(&now).allowed.packets <= 50 && Instant::now() < end {
            host.sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        let (sent, streams) = senders.join().unwrap();
        for (received, _, to) in streams {
            assert_eq!(received.join().unwrap(), sent, "{to}");
        }
        let counted = counted(&now);
        assert!(counted.allowed.packets > 50 && counted.denied.packets == 0, "{counted:?}");
        // What is off leaves nothing.
        let mut off = next(&now);
        settings(&mut off, |s| s.endpoint_counters = false);
        host.apply(&off, Wake::Desired);
        assert!(!sh("ipset save").contains("counters"));
        assert!(!host.saved(4).contains("counters") && !host.saved(6).contains("cali-drop"));
    });
}

/// Somebody who tampers with the sets makes no number smaller while the agent runs.
#[test]
fn no_number_gets_smaller_while_the_agent_runs() {
    each_dataplane(|host, flavour| {
        let (pods, state) = quiet_world(host, flavour);
        let [a, _, c] = &pods;
        host.apply(&state, Wake::Start);
        let tally = Tally::new(host.felix.changes());
        from_pod(c, a.both(), 80, 4);
        from_pod(c, a.both(), 81, 3);
        expect_with(&tally, host, &state, a, [4, 3, 0, 0]);
        sh(if flavour == Flavour::Nftables {
            "for f in 4 6; do nft flush set inet calico received$f; nft flush set inet calico denied-to$f; done"
        } else {
            "for f in 4 6; do ipset flush cali${f}0local-receivers; ipset flush cali${f}0denied-to; done"
        });
        assert_eq!(host.apply(&state, Wake::Retry).drift.len(), 4);
        from_pod(c, a.both(), 80, 1);
        from_pod(c, a.both(), 81, 1);
        expect(host, &state, a, [1, 1, 0, 0]);
        expect_with(&tally, host, &state, a, [5, 4, 0, 0]);
    });
}
