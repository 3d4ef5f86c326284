//! Another dataplane on a running host: no packet is decided otherwise, and nothing of the old one is left.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calico_agent::desired::DesiredState;
use calico_agent::exec::Exec;
use calico_agent::felix::preview::preview;
use calico_agent::reconcile::{Wake, World};
use calico_datastore::model::{Action, Protocol};

use crate::host::{Flavour, Host, each_dataplane, on_nftables};
use crate::netns::sh;
use crate::together::flow;
use crate::world::*;

const ALLOWED: u16 = 5001;
const DENIED: u16 = 5002;

/// What is left of every dataplane but this one.
fn left_of_others(flavour: Flavour) -> String {
    let mut scripts = Vec::new();
    if flavour != Flavour::Legacy {
        scripts.push("iptables-legacy-save | grep cali; ip6tables-legacy-save | grep cali");
    }
    if flavour != Flavour::Nft {
        scripts.push("iptables-nft-save | grep cali; ip6tables-nft-save | grep cali");
    }
    if flavour == Flavour::Nftables {
        scripts.push("ipset -n list");
    } else {
        scripts.push("nft list tables | grep 'inet calico'; ip -o link | grep ' group [0-9]'");
    }
    scripts.into_iter().map(|script| sh(&format!("set +e; {script}; true"))).collect()
}

fn asked(state: &DesiredState, flavour: Flavour) -> DesiredState {
    let mut state = next(state);
    settings(&mut state, |s| choose(s, flavour));
    state
}

/// Until what an earlier dataplane left is gone: nf_tables lets go of address sets some time later.
fn settle(host: &mut Host, state: &DesiredState, flavour: Flavour) {
    for _ in 0..30 {
        if left_of_others(flavour).is_empty() {
            return;
        }
        host.sleep(Duration::from_millis(100));
        host.run(state, Wake::Retry);
    }
    assert_eq!(left_of_others(flavour), "");
}

#[test]
fn another_dataplane_takes_over_without_a_packet_decided_otherwise() {
    each_dataplane(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        let mut deny = tcp(Action::Deny, &[DENIED]);
        deny.protocol = Some(Protocol::UDP);
        policy(&mut state, "p", vec![deny, any(Action::Pass)]);
        let tiers = vec![tier("t", &["p"], calico_datastore::model::TierAction::Deny)];
        endpoint(&mut state, &a, &profiles(&["net"]), true);
        endpoint(&mut state, &b, &ingress_tiers(tiers, "net"), true);
        state.pools.insert("10.65.0.0/16".parse().unwrap(), true);
        host.apply(&state, Wake::Start);
        let stop = Arc::new(AtomicBool::new(false));
        let [denied, allowed] = [DENIED, ALLOWED].map(|port| flow(&a, &b, port, &stop));
        host.sleep(Duration::from_millis(100));
        let others = [Flavour::Legacy, Flavour::Nft, Flavour::Nftables];
        for other in others.into_iter().filter(|other| *other != flavour) {
            for to in [other, flavour] {
                state = asked(&state, to);
                host.run(&state, Wake::Desired);
                settle(host, &state, to);
                let report = host.apply(&state, Wake::Desired);
                let said = report.facts["dataplane"].clone();
                assert!(said.ends_with(": the settings ask for it"), "{said}");
                host.sleep(Duration::from_millis(50));
            }
        }
        // Also when it is told by a restart.
        for other in others.into_iter().filter(|other| *other != flavour) {
            for to in [other, flavour] {
                state = asked(&state, to);
                host.restart();
                host.run(&state, Wake::Start);
                settle(host, &state, to);
                host.sleep(Duration::from_millis(50));
            }
        }
        stop.store(true, Ordering::SeqCst);
        host.sleep(Duration::from_millis(500));
        let (sent, arrived) = denied.get();
        assert!(sent > 100);
        assert_eq!(arrived, 0, "of {sent} denied packets");
        let (sent, arrived) = allowed.get();
        assert!(sent > 100);
        // The last ones may not have been counted any more.
        assert!(arrived + 4 >= sent, "{arrived} of {sent} allowed packets arrived");
    });
}

/// nf_tables lets go of the sets of deleted rules some time later. Here it is somebody's rules that hold them,
/// so that it is surely later.
#[test]
fn hundreds_of_sets_that_are_still_in_use_go_by_retries_alone() {
    on_nftables(|host, _| {
        let pod = host.pod(1);
        let mut state = empty(Flavour::Nft);
        network(&mut state, "net", &[1]);
        endpoint(&mut state, &pod, &profiles(&["net"]), true);
        host.apply(&state, Wake::Start);
        sh("seq -f 'create cali40s:old%g hash:net' 600 | ipset restore
            {
                echo '*filter'; echo ':THEIRS - [0:0]'
                seq -f '-A THEIRS -m set --match-set cali40s:old%g src -j ACCEPT' 600
                echo COMMIT
            } | iptables-nft-restore --noflush");
        state = asked(&state, Flavour::Nftables);
        for wake in [Wake::Desired, Wake::Retry, Wake::Retry] {
            let report = host.run(&state, wake);
            assert_eq!(report.problems, [], "too soon to say anything");
            assert!(report.retry, "nobody else wakes it");
        }
        sh("iptables-nft -F THEIRS; iptables-nft -X THEIRS");
        let mut retry = true;
        for _ in 0..30 {
            if !retry {
                break;
            }
            host.sleep(Duration::from_millis(100));
            retry = host.run(&state, Wake::Retry).retry;
        }
        assert_eq!(left_of_others(Flavour::Nftables), "");
        host.apply(&state, Wake::Desired);
    });
}

#[test]
fn a_plan_shows_what_would_take_over_and_writes_nothing() {
    on_nftables(|host, _| {
        let (a, b) = (host.pod(1), host.pod(2));
        let mut state = empty(Flavour::Nft);
        network(&mut state, "net", &[1, 2]);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["net"]), true);
        }
        host.apply(&state, Wake::Start);
        let plan = |host: &Host, state: &DesiredState| {
            let world = World { desired: Arc::new(state.clone()), links: host.links.clone() };
            let exec = Exec::default();
            host.block_on(preview(&exec, PathBuf::from("/proc/sys"), &world)).unwrap()
        };
        let look = || {
            sh("iptables-nft-save | grep -v '^[#:]'; ipset -n list; ip -o link; nft list tables")
        };
        let before = look();
        let state = asked(&state, Flavour::Nftables);
        let takeover = plan(host, &state);
        assert_eq!(takeover.dataplane, "nftables: the settings ask for it");
        assert!(takeover.nftables.iter().any(|line| line.contains("chain forward-to-pod")));
        assert_eq!(takeover.groups.len(), 2);
        assert!(takeover.tables.iter().any(|table| table.text.contains("-X cali-FORWARD")));
        assert!(!takeover.after.is_empty() && takeover.before.is_empty());
        assert_eq!(look(), before, "it wrote");

        host.run(&state, Wake::Desired);
        settle(host, &state, Flavour::Nftables);
        let nothing = plan(host, &state);
        assert!(nothing.nftables.is_empty() && nothing.nftables_after.is_empty(), "{nothing:?}");
        assert!(nothing.groups.is_empty() && nothing.tables.is_empty() && nothing.after.is_empty());

        let back = plan(host, &asked(&state, Flavour::Legacy));
        assert_eq!(back.nftables_after, ["delete table inet calico"]);
        assert!(back.groups.len() == 2 && back.groups.iter().all(|one| one.to == 0));
    });
}
