//! States that come from disk: what the kernel was given before a restart of the agent, and what is
//! in force after a boot until the datastore has answered.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use calico_agent::config::IptablesBackend;
use calico_agent::desired::{DesiredState, Origin};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, Protocol, TierAction};

use crate::host::{Host, Pod, each_flavour};
use crate::world::*;

const PORT: u16 = 55;

fn udp(action: Action) -> calico_agent::desired::ActiveRule {
    calico_agent::desired::ActiveRule { protocol: Some(Protocol::UDP), ..tcp(action, &[PORT]) }
}

/// Two states that both deny pod 1 the way to pod 2: "allow S", which it is not in, and "deny S, allow
/// everybody", which it is in.
fn states(flavour: IptablesBackend, a: &Pod, b: &Pod) -> [DesiredState; 2] {
    let mut one = empty(flavour);
    profile(&mut one, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
    set(&mut one, "s:some", &[3]);
    policy(&mut one, "p", vec![from_set(udp(Action::Allow), "s:some")]);
    endpoint(&mut one, a, &profiles(&["all"]), true);
    let class = ingress_tiers(vec![tier("t", &["p"], TierAction::Deny)], "all");
    endpoint(&mut one, b, &class, true);
    let mut other = next(&one);
    set(&mut other, "s:some", &[1, 3]);
    policy(&mut other, "p", vec![from_set(udp(Action::Deny), "s:some"), udp(Action::Allow)]);
    [one, other]
}

/// Sends from `a` to `b`, from a new port each time, while `work` is done; returns how many arrived.
fn arrived(a: &Pod, b: &Pod, work: impl FnOnce()) -> u64 {
    let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, stopped) = (Arc::clone(&count), Arc::clone(&stop));
    let receiver = b.netns.run(move || {
        let socket = UdpSocket::bind(("::", PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if socket.recv(&mut [0; 8]).is_ok() {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
    });
    let (to, stopped) = (b.both(), Arc::clone(&stop));
    let sender = a.netns.run(move || {
        std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                for to in to {
                    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).unwrap();
                    let _ = socket.send_to(b"?", SocketAddr::new(to, PORT));
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        })
    });
    work();
    std::thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::SeqCst);
    sender.join().unwrap();
    receiver.join().unwrap();
    count.load(Ordering::SeqCst)
}

/// Goes from state to state, with another agent each time; returns how many packets passed.
fn back_and_forth(host: &mut Host, flavour: IptablesBackend, knows: bool) -> u64 {
    let (a, b) = (host.pod(1), host.pod(2));
    let states = states(flavour, &a, &b);
    host.apply(&states[0], Wake::Start);
    arrived(&a, &b, || {
        for round in 0..12 {
            let [from, to] = [&states[round % 2], &states[(round + 1) % 2]];
            host.restart();
            if knows {
                host.felix.expect(Arc::new(from.clone()));
            }
            host.apply(to, Wake::Start);
        }
    })
}

#[test]
fn a_policy_that_changed_with_its_set_while_the_agent_was_down_is_closed_between() {
    each_flavour(|host, flavour| {
        assert_eq!(back_and_forth(host, flavour, true), 0);
    });
}

#[test]
fn without_what_was_on_disk_the_same_change_is_open_for_a_moment() {
    each_flavour(|host, flavour| {
        let passed = back_and_forth(host, flavour, false);
        assert!(passed > 0, "the test above cannot fail");
    });
}

#[test]
fn what_the_kernel_does_not_hold_is_not_believed() {
    each_flavour(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["net"]), true);
        }
        // The disk says that this is in force, and the kernel holds something else, or nothing.
        let mut claimed = next(&state);
        policy(&mut claimed, "p", vec![any(Action::Allow)]);
        let class = ingress_tiers(vec![tier("t", &["p"], TierAction::Deny)], "net");
        endpoint(&mut claimed, &b, &class, true);
        let mut denied = next(&claimed);
        profile(&mut denied, "net", vec![], vec![]);
        for (expected, wanted, open) in [
            (&claimed, &state, true),
            (&claimed, &denied, false),
            (&state, &claimed, true),
            (&claimed, &denied, false),
        ] {
            host.restart();
            host.felix.expect(Arc::new(expected.clone()));
            host.apply(wanted, Wake::Start);
            assert_eq!(a.reaches(b.v4(), 80), open, "state {}", wanted.generation);
            assert_eq!(a.reaches(b.v6(), 80), open, "state {}", wanted.generation);
            // Nothing is left to do.
            let before = host.felix.counters().writes();
            host.apply(wanted, Wake::Start);
            assert_eq!(host.felix.counters().writes(), before);
        }
    });
}

#[test]
fn a_state_from_disk_gives_and_takes_nothing() {
    each_flavour(|host, flavour| {
        let (a, b, c) = (host.pod(1), host.pod(2), host.pod(3));
        b.serve(80);
        c.serve(80);
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["net"]), true);
        }
        let mut newer = next(&state);
        network(&mut newer, "more", &[1, 2, 3]);
        endpoint(&mut newer, &c, &profiles(&["more"]), true);
        host.apply(&newer, Wake::Start);
        let chains = |host: &Host| -> usize {
            [4, 6].map(|family| host.saved(family).matches("\n:cali").count()).iter().sum()
        };
        let sets = || crate::netns::sh("ipset -n list").lines().count();
        let (many_chains, many_sets) = (chains(host), sets());

        host.restart();
        let origin = Origin::Stored { since: 0 };
        let stored = DesiredState { generation: 0, origin, ..state.clone() };
        host.apply(&stored, Wake::Start);
        assert_eq!((chains(host), sets()), (many_chains, many_sets));
        assert!(a.reaches(b.v4(), 80) && !a.reaches(c.v4(), 80), "an endpoint that nobody knows");
        // The datastore says the same: now everything else goes, without another look being due.
        host.apply(&state, Wake::Desired);
        assert!(chains(host) < many_chains && sets() < many_sets);
        assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80) && !a.reaches(c.v4(), 80));
    });
}
