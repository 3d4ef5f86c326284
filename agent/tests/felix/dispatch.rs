//! By what nftables finds the class of a pod: the group of its interface, or its name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calico_agent::config::NftablesDispatch;
use calico_agent::desired::DesiredState;
use calico_agent::felix::watch::{Changes, Watch};
use calico_agent::reconcile::{Report, Wake};
use calico_agent::status::systemd::Watchdog;
use calico_datastore::model::{Action, Protocol, TierAction};

use crate::host::{Host, on_nftables};
use crate::native::{decides, groups, table, world};
use crate::netns::sh;
use crate::together::flow;
use crate::world::*;

const ALLOWED: u16 = 5001;
const DENIED: u16 = 5002;

fn asked(state: &DesiredState, dispatch: NftablesDispatch) -> DesiredState {
    let mut state = next(state);
    settings(&mut state, |s| s.nftables_dispatch = dispatch);
    state
}

/// By what the table finds pods.
fn key() -> &'static str {
    let text = sh("nft list map inet calico pods-from");
    let by_group = text.contains("type devgroup : verdict");
    assert_ne!(by_group, text.contains("type ifname : verdict"), "{text}");
    if by_group { "group" } else { "name" }
}

fn said(report: &Report) -> &str {
    &report.facts["dataplane"]
}

#[test]
fn the_setting_may_change_while_packets_pass() {
    use NftablesDispatch::{Auto, Groups, Interfaces};
    on_nftables(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        let mut deny = tcp(Action::Deny, &[DENIED]);
        deny.protocol = Some(Protocol::UDP);
        policy(&mut state, "p", vec![deny, any(Action::Pass)]);
        let tiers = vec![tier("t", &["p"], TierAction::Deny)];
        endpoint(&mut state, &a, &profiles(&["net"]), true);
        endpoint(&mut state, &b, &ingress_tiers(tiers, "net"), true);
        host.apply(&state, Wake::Start);
        assert_eq!((key(), groups().len()), ("group", 2));
        let stop = Arc::new(AtomicBool::new(false));
        let [denied, allowed] = [DENIED, ALLOWED].map(|port| flow(&a, &b, port, &stop));
        host.sleep(Duration::from_millis(100));
        for _ in 0..5 {
            for (dispatch, by, placed) in [
                (Interfaces, "name", 0),
                (Groups, "group", 2),
                (Interfaces, "name", 0),
                (Auto, "group", 2),
            ] {
                state = asked(&state, dispatch);
                // What was by names stays so at a start, unless groups are asked for.
                let report = host.apply(&state, Wake::Desired);
                assert_eq!((key(), groups().len()), (by, placed), "{dispatch:?}");
                let why = "; pods by the names of interfaces: the settings ask for it";
                assert_eq!(said(&report).ends_with(why), dispatch == Interfaces, "{report:?}");
                host.sleep(Duration::from_millis(20));
            }
        }
        stop.store(true, Ordering::SeqCst);
        host.sleep(Duration::from_millis(500));
        let (sent, arrived) = denied.get();
        assert!(sent > 100);
        assert_eq!(arrived, 0, "of {sent} denied packets");
        let (sent, arrived) = allowed.get();
        assert!(sent > 100);
        assert!(arrived + 4 >= sent, "{arrived} of {sent} allowed packets arrived");
    });
}

#[test]
fn by_names_all_is_as_by_groups_and_groups_are_nobodys_business() {
    on_nftables(|host, flavour| {
        let (a, b, state) = world(host, flavour);
        let mut state = asked(&state, NftablesDispatch::Interfaces);
        sh("ip link set calipod2 group 77");
        host.apply(&state, Wake::Start);
        decides(&a, &b);
        assert_eq!(groups().values().collect::<Vec<_>>(), ["77"]);
        // Another pod, another class, and one that goes.
        let c = host.pod(3);
        c.serve(80);
        endpoint(&mut state, &c, &profiles(&["net"]), true);
        network(&mut state, "net", &[1, 2, 3]);
        host.apply(&next(&state), Wake::Desired);
        assert!(c.reaches(b.v4(), 80) && c.reaches(b.v6(), 80) && !c.reaches(b.v4(), 81));
        endpoint(&mut state, &c, &ingress_tiers(Vec::new(), "none"), true);
        host.apply(&next(&state), Wake::Desired);
        assert!(!c.reaches(b.v4(), 80), "its profile is not there");
        state.endpoints.remove(&id_of(3));
        host.apply(&next(&state), Wake::Desired);
        assert!(!table().iter().any(|line| line.contains("calipod3")), "{:#?}", table());
        // A start finds it as it is.
        let before = table();
        host.restart();
        host.apply(&state, Wake::Start);
        assert_eq!((table(), host.felix.counters().writes()), (before, 0));
        decides(&a, &b);
        assert_eq!(groups().values().collect::<Vec<_>>(), ["77"]);
        // Who insists on groups gets them.
        state = asked(&state, NftablesDispatch::Groups);
        host.apply(&state, Wake::Desired);
        assert_eq!((key(), groups().len()), ("group", 2));
        decides(&a, &b);
    });
}

#[test]
fn groups_that_somebody_had_given_before_are_left_to_them() {
    on_nftables(|host, flavour| {
        let (a, b, state) = world(host, flavour);
        sh("ip link set calipod2 group 77; ip link set lo group 5");
        let report = host.apply(&state, Wake::Start);
        let why = "names of interfaces: somebody had put calipod2 into the group 77";
        assert!(said(&report).ends_with(why), "{report:?}");
        assert_eq!(
            (key(), groups().values().collect::<Vec<_>>()),
            ("name", vec![&"77".to_owned()])
        );
        decides(&a, &b);
        // It stays so, also when the group is gone.
        sh("ip link set calipod2 group 0");
        host.restart();
        let report = host.apply(&next(&state), Wake::Start);
        assert!(said(&report).ends_with("it was so when the agent started"), "{report:?}");
        assert_eq!((key(), host.felix.counters().writes()), ("name", 0));
    });
}

/// Somebody changes the group, and what is noticed is repaired, once.
fn quarrel(host: &mut Host, watch: &mut Watch, changes: &Changes, state: &DesiredState) -> Report {
    let mut watchdog = Watchdog::new();
    sh("ip link set calipod2 group 77");
    let (heartbeat, notify) = (watchdog.register("watch"), changes.notify());
    host.block_on(async {
        tokio::select! {
            biased;
            () = watch.run(heartbeat) => {}
            () = notify.notified() => {}
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
    });
    host.run(state, Wake::Kernel)
}

#[test]
fn who_changes_groups_again_and_again_gets_them() {
    on_nftables(|host, flavour| {
        let (a, b, state) = world(host, flavour);
        let changes = host.felix.changes();
        let mut watch = host.block_on(async { Watch::open(&host.felix) });
        host.apply(&state, Wake::Start);
        for n in 0..6 {
            let report = quarrel(host, &mut watch, &changes, &state);
            let told =
                report.problems.iter().any(|one| one.subject == "group of interface calipod2");
            assert_eq!(told, n == 5, "{n}: {report:?}");
            if told {
                assert_eq!(report.wake_after, Some(Duration::ZERO));
            }
            assert_eq!(groups().len(), 2, "{n}");
            assert_ne!(groups()["calipod2"], "77", "{n}");
        }
        let report = host.run(&state, Wake::Timer);
        let why = "somebody else keeps changing the group of interface calipod2";
        assert!(said(&report).ends_with(why), "{report:?}");
        assert_eq!((key(), groups().len()), ("name", 0));
        decides(&a, &b);
        quarrel(host, &mut watch, &changes, &state);
        assert_eq!(groups().values().collect::<Vec<_>>(), ["77"]);
        decides(&a, &b);
    });
}

#[test]
fn a_start_that_finds_all_as_it_should_be_watches_over_it() {
    on_nftables(|host, flavour| {
        let (a, b, state) = world(host, flavour);
        host.apply(&state, Wake::Start);
        host.restart();
        let changes = host.felix.changes();
        let mut watch = host.block_on(async { Watch::open(&host.felix) });
        host.apply(&state, Wake::Start);
        assert_eq!(host.felix.counters().writes(), 0);
        let report = quarrel(host, &mut watch, &changes, &state);
        assert_eq!(report.drift.len(), 1, "{report:?}");
        assert_ne!(groups()["calipod2"], "77");
        decides(&a, &b);
    });
}

#[test]
fn the_table_is_read_at_an_interval_of_its_own() {
    on_nftables(|host, flavour| {
        let (a, b, mut state) = world(host, flavour);
        settings(&mut state, |s| {
            s.iptables_refresh = Duration::from_millis(1);
            s.nftables_refresh = Duration::ZERO;
        });
        let report = host.apply(&state, Wake::Start);
        assert_eq!(report.wake_after, None, "never");
        state = next(&state);
        settings(&mut state, |s| s.nftables_refresh = Duration::from_millis(40));
        let report = host.apply(&state, Wake::Desired);
        assert!(report.wake_after.is_some_and(|after| after <= Duration::from_millis(40)));
        // Nobody listens here: it is the clock that finds it.
        sh("nft flush chain inet calico forward-to-pod");
        assert!(a.reaches(b.v4(), 81));
        host.sleep(Duration::from_millis(50));
        host.apply(&state, Wake::Timer);
        decides(&a, &b);
    });
}
