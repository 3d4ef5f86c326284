//! A policy that changes together with the members of a set that it names: no packet is judged by
//! half of the change, whether the agent runs or was down meanwhile.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use calico_agent::desired::{ActiveRule, DesiredState};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, Protocol, TierAction};

use crate::host::{Flavour, Host, Pod, each_dataplane};
use crate::world::*;

/// Pod 1 may not send to this port of pod 2, in any state.
const DENIED: u16 = 55;
/// Pod 1 may send to this port of pod 2, in every state.
const ALLOWED: u16 = 56;

fn udp(action: Action, port: u16) -> ActiveRule {
    ActiveRule { protocol: Some(Protocol::UDP), ..tcp(action, &[port]) }
}

/// Two states that say the same about pod 1 in opposite ways: "allow S" and "deny S, allow everybody",
/// once with a set that it leaves and once with one that it joins. With half of such a change both
/// ports would be the other way round.
fn states(flavour: Flavour, a: &Pod, b: &Pod) -> [DesiredState; 2] {
    let mut one = empty(flavour);
    profile(&mut one, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
    set(&mut one, "s:without", &[3]);
    set(&mut one, "s:with", &[1, 3]);
    policy(
        &mut one,
        "p",
        vec![
            from_set(udp(Action::Allow, DENIED), "s:without"),
            from_set(udp(Action::Allow, ALLOWED), "s:with"),
        ],
    );
    endpoint(&mut one, a, &profiles(&["all"]), true);
    let class = ingress_tiers(vec![tier("t", &["p"], TierAction::Deny)], "all");
    endpoint(&mut one, b, &class, true);
    let mut other = next(&one);
    set(&mut other, "s:without", &[1, 3]);
    set(&mut other, "s:with", &[3]);
    policy(
        &mut other,
        "p",
        vec![
            from_set(udp(Action::Deny, DENIED), "s:without"),
            udp(Action::Allow, DENIED),
            from_set(udp(Action::Deny, ALLOWED), "s:with"),
            udp(Action::Allow, ALLOWED),
        ],
    );
    [one, other]
}

/// Packets of one port: sent, arrived.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<[AtomicU64; 2]>);

impl Count {
    pub(crate) fn get(&self) -> (u64, u64) {
        (self.0[0].load(Ordering::SeqCst), self.0[1].load(Ordering::SeqCst))
    }
}

/// Sends from `a` to `b`, from a new port each time, while `work` is done.
pub(crate) fn flow(a: &Pod, b: &Pod, port: u16, stop: &Arc<AtomicBool>) -> Count {
    let count = Count::default();
    let (stopped, counted) = (Arc::clone(stop), count.clone());
    b.netns.run(move || {
        let socket = UdpSocket::bind(("::", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        std::thread::spawn(move || {
            // What was sent is counted, also when it waits for this thread.
            loop {
                if socket.recv(&mut [0; 8]).is_ok() {
                    counted.0[1].fetch_add(1, Ordering::SeqCst);
                } else if stopped.load(Ordering::SeqCst) {
                    break;
                }
            }
        })
    });
    let (to, stopped, counted) = (b.both(), Arc::clone(stop), count.clone());
    a.netns.run(move || {
        std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                for to in to {
                    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).unwrap();
                    if socket.send_to(b"?", SocketAddr::new(to, port)).is_ok() {
                        counted.0[0].fetch_add(1, Ordering::SeqCst);
                    }
                }
                // Slow enough that what waits for a thread that gets no processor fits into its socket.
                std::thread::sleep(Duration::from_millis(2));
            }
        })
    });
    count
}

/// Goes from state to state and back, `rounds` times, and looks at what passed.
fn back_and_forth(host: &mut Host, flavour: Flavour, rounds: usize, restart: bool) {
    let (a, b) = (host.pod(1), host.pod(2));
    let states = states(flavour, &a, &b);
    host.apply(&states[0], Wake::Start);
    let stop = Arc::new(AtomicBool::new(false));
    let [denied, allowed] = [DENIED, ALLOWED].map(|port| flow(&a, &b, port, &stop));
    let until = |enough: u64| {
        let passes = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            allowed.get().1 >= enough
        });
        assert!(passes, "nothing passes: {:?}", allowed.get());
    };
    until(10);
    let sets = || crate::netns::sh("ipset -n list | sort");
    let before = sets();
    for round in 0..rounds {
        let to = &states[(round + 1) % 2];
        if restart {
            host.restart();
        }
        host.apply(to, if restart { Wake::Start } else { Wake::Desired });
        // For some packets in each of them.
        host.sleep(Duration::from_millis(5));
    }
    until(allowed.get().1 + 10);
    assert_eq!(rounds % 2, 0);
    // nf_tables lets go of a set some time after the rule.
    for _ in 0..10 {
        if sets() == before {
            break;
        }
        host.sleep(Duration::from_millis(600));
        host.apply(&states[0], Wake::Timer);
    }
    assert_eq!(sets(), before, "copies are left");
    stop.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(100));
    let (sent, arrived) = denied.get();
    assert!(sent > 20);
    assert_eq!(arrived, 0, "of {sent} denied packets");
    let (sent, arrived) = allowed.get();
    // The last ones may not have been counted any more.
    assert!(arrived + 4 >= sent, "{arrived} of {sent} allowed packets arrived");
}

#[test]
fn a_policy_that_changes_with_its_sets_is_never_half_in_force() {
    each_dataplane(|host, flavour| back_and_forth(host, flavour, 20, false));
}

#[test]
fn nor_is_one_that_changed_with_its_sets_while_the_agent_was_down() {
    each_dataplane(|host, flavour| back_and_forth(host, flavour, 10, true));
}
