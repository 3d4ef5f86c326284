//! Counted probes under change: of a flow that every state allows no packet is lost, of one that
//! every state denies none passes. `CHURN_SECONDS` says for how long.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use calico_agent::desired::{DesiredState, SetId};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, Protocol, TierAction};
use nix::sys::socket::{setsockopt, sockopt};

use crate::host::{Flavour, Host, Pod, each_dataplane};
use crate::world::*;

/// What is sent to these ports of a pod: 53 from a new port each time, 54 as one long flow, both
/// allowed; 55 from a new port each time, denied.
const PORTS: [u16; 3] = [53, 54, 55];

/// Packets by port.
type Counts = Arc<[AtomicU64; 3]>;

fn numbers(counts: &Counts) -> [u64; 3] {
    std::array::from_fn(|i| counts[i].load(Ordering::SeqCst))
}

fn receive(pod: &Pod, counts: &Counts) {
    for (i, port) in PORTS.into_iter().enumerate() {
        let counts = Arc::clone(counts);
        pod.netns.run(move || {
            let socket = UdpSocket::bind(("::", port)).unwrap();
            // On a busy machine the thread may not run for a while: what arrived then was allowed.
            setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
            std::thread::spawn(move || {
                while let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
                    counts[i].fetch_add(1, Ordering::SeqCst);
                    // The long flow is answered, so that it is established.
                    let _ = socket.send_to(b"!", from);
                }
            });
        });
    }
}

/// Packets that arrived and found no room, on any port of a pod.
fn overflown(pod: &Pod) -> String {
    pod.netns.sh("awk 'NR > 1 && $NF > 0 { print $2, $NF }' /proc/net/udp6")
}

/// What was heard, once nothing more comes. On a busy machine a thread may not run for half a second.
fn settled(host: &Host, counts: &Counts) -> [u64; 3] {
    let mut last = numbers(counts);
    loop {
        host.sleep(Duration::from_secs(1));
        let now = numbers(counts);
        if now == last {
            return now;
        }
        last = now;
    }
}

/// One thread for each address of the receiver, until it is told to stop.
fn send(pod: &Pod, to: &Pod, counts: &Counts, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let start = |address: IpAddr| {
        let (counts, stop) = (Arc::clone(counts), Arc::clone(stop));
        pod.netns.run(move || {
            std::thread::spawn(move || {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let long = UdpSocket::bind(any).unwrap();
                while !stop.load(Ordering::SeqCst) {
                    for (i, port) in PORTS.into_iter().enumerate() {
                        let new = UdpSocket::bind(any).unwrap();
                        let socket = if port == 54 { &long } else { &new };
                        // The kernel may refuse for lack of room; then nothing was sent.
                        if socket.send_to(b"?", SocketAddr::new(address, port)).is_ok() {
                            counts[i].fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
        })
    };
    to.both().into_iter().map(start).collect()
}

/// Ends who sends. On a busy machine they may send once more, long after they were told.
fn end(senders: Vec<JoinHandle<()>>, stop: &AtomicBool) {
    stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.join().unwrap();
    }
}

fn udp(action: Action, ports: &[u16]) -> calico_agent::desired::ActiveRule {
    calico_agent::desired::ActiveRule { protocol: Some(Protocol::UDP), ..tcp(action, ports) }
}

/// Another state in which pod 1 may send to ports 53 and 54 of pod 2 and not to port 55. A rule and
/// the members of a set that it names do not change in one step: such a policy is closed between.
pub(crate) fn vary(state: &mut DesiredState, round: u32, a: &Pod, b: &Pod, others: &[Pod]) {
    match round % 6 {
        0 => {
            // The allowing set: others come and go.
            let members: Vec<u8> = (1..=1 + (round / 6 % 5) as u8).collect();
            set(state, "s:allowed", &members);
        }
        1 => {
            // Rules before and after.
            let mut rules = vec![udp(Action::Deny, &[55]), udp(Action::Log, &[99])];
            rules.truncate(1 + (round / 6 % 2) as usize);
            let extra: Vec<u16> = (100..100 + (round % 40) as u16).collect();
            rules.push(tcp(Action::Allow, &extra));
            rules.push(from_set(udp(Action::Allow, &[53, 54]), "s:allowed"));
            policy(state, "one", rules);
        }
        2 | 5 => {
            // The receiver's class: other policies, other tiers.
            let classes = [
                vec![tier("t", &["one"], TierAction::Deny)],
                vec![tier("t", &["pass", "one"], TierAction::Deny)],
                vec![tier("s", &["pass"], TierAction::Pass), tier("t", &["one"], TierAction::Deny)],
                vec![tier("t", &["two"], TierAction::Deny)],
            ];
            let class = ingress_tiers(classes[(round / 3 % 4) as usize].clone(), "all");
            endpoint(state, b, &class, round.is_multiple_of(2));
        }
        3 => {
            // The sender's class and MAC.
            let names: &[&str] = if round.is_multiple_of(2) { &["all"] } else { &["all", "none"] };
            endpoint(state, a, &profiles(names), round.is_multiple_of(4));
        }
        _ => {
            // Other endpoints come and go, with classes of their own.
            for (i, pod) in others.iter().enumerate() {
                if (round / 6 + i as u32).is_multiple_of(2) {
                    endpoint(state, pod, &profiles(&["none"]), true);
                } else {
                    state.endpoints.remove(&id(pod));
                }
            }
            let used: Vec<_> = state.endpoints.values().map(|e| e.class.clone()).collect();
            let kept = state.classes.iter().filter(|(id, _)| used.contains(id));
            state.classes = kept.map(|(id, class)| (id.clone(), Arc::clone(class))).collect();
        }
    }
}

/// What [`vary`] begins with.
pub(crate) fn churned(flavour: Flavour, a: &Pod, b: &Pod) -> DesiredState {
    let mut state = empty(flavour);
    profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
    profile(&mut state, "none", vec![], vec![]);
    policy(&mut state, "pass", vec![tcp(Action::Pass, &[1])]);
    set(&mut state, "s:allowed", &[1]);
    set(&mut state, "s:two", &[1]);
    let allow = |set: &str| vec![from_set(udp(Action::Allow, &[53, 54]), set)];
    policy(&mut state, "one", allow("s:allowed"));
    policy(&mut state, "two", allow("s:two"));
    endpoint(&mut state, a, &profiles(&["all"]), true);
    let class = ingress_tiers(vec![tier("t", &["one"], TierAction::Deny)], "all");
    endpoint(&mut state, b, &class, true);
    state
}

fn seconds() -> u64 {
    std::env::var("CHURN_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

#[test]
fn no_packet_gets_another_verdict_while_everything_around_it_changes() {
    each_dataplane(|host: &mut Host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        let others = [host.pod(3), host.pod(4)];
        let mut state = churned(flavour, &a, &b);
        host.apply(&state, Wake::Start);

        let (received, sent) = (Counts::default(), Counts::default());
        let stop = Arc::new(AtomicBool::new(false));
        receive(&b, &received);
        let senders = send(&a, &b, &sent, &stop);
        let until = Instant::now() + Duration::from_secs(seconds());
        let mut round = 0;
        while Instant::now() < until {
            let mut after = next(&state);
            vary(&mut after, round, &a, &b, &others);
            // Sometimes the kernel is read again in between, and sometimes the agent is another.
            let wake = match round % 50 {
                20 => Wake::Retry,
                40 => {
                    host.restart();
                    Wake::Start
                }
                _ => Wake::Desired,
            };
            let report = host.run(&after, wake);
            assert_eq!(report.drift, [], "round {round}");
            state = after;
            round += 1;
        }
        end(senders, &stop);
        let heard = Arc::clone(&received);
        let received = settled(host, &received);
        let sent = numbers(&sent);
        println!("{flavour:?}: {round} changes; sent {sent:?}, received {received:?}");
        assert_eq!(overflown(&b), "", "the receiver was too slow: nothing is proved");
        assert_eq!(received[..2], sent[..2], "allowed, after {round} changes");
        assert_eq!(received[2], 0, "denied, after {round} changes");
        assert!(round > 20 && sent.iter().all(|n| *n > 200), "{round} {sent:?}");
        assert!(state.sets.contains_key(&SetId::new("s:two")));
        // And the denied one could have been heard.
        let mut open = next(&state);
        endpoint(&mut open, &b, &profiles(&["all"]), true);
        host.apply(&open, Wake::Desired);
        let counts = Counts::default();
        let stop = Arc::new(AtomicBool::new(false));
        let senders = send(&a, &b, &counts, &stop);
        host.sleep(Duration::from_millis(100));
        end(senders, &stop);
        assert!(settled(host, &heard)[2] > 0);
    });
}
