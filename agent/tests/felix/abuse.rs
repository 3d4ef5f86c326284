//! What operators and other programs do to a host: nothing wedges, nothing opens.

use std::time::{Duration, Instant};

use calico_agent::desired::{DesiredState, Member, SetId};
use calico_agent::exec::Exec;
use calico_agent::felix::Felix;
use calico_agent::reconcile::{EndpointState, Problem, Wake};
use calico_datastore::model::{Action, Cidr, TierAction};

use crate::host::{Flavour, Host, Pod, each_dataplane, each_flavour};
use crate::netns::sh;
use crate::probing::alone;
use crate::world::*;

/// Two pods that may talk to each other, and the second answers on port 80.
fn small_world(host: &mut Host, flavour: Flavour) -> (Pod, Pod, DesiredState) {
    let (a, b) = (host.pod(1), host.pod(2));
    b.serve(80);
    let mut state = empty(flavour);
    network(&mut state, "net", &[1, 2]);
    for pod in [&a, &b] {
        endpoint(&mut state, pod, &profiles(&["net"]), true);
    }
    (a, b, state)
}

fn crowd(state: &mut DesiredState, set: &str, n: u32) {
    let set = state.sets.get_mut(&SetId::new(set)).unwrap();
    for i in 0..n {
        let address = std::net::Ipv4Addr::from(0x0a42_0000 + i);
        set.members.insert(Member::Net(Cidr::host(address.into())));
    }
}

#[test]
fn a_set_without_room_closes_what_names_it_and_nothing_else() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        let c = host.pod(3);
        c.serve(80);
        settings(&mut state, |s| {
            s.max_ipset_size = 100;
            s.ipsets_refresh = Duration::from_millis(20);
        });
        // "Allow whoever is not in S", and the denied one is the last that would get in.
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        set(&mut state, "s:denied", &[1]);
        let mut rule = tcp(Action::Allow, &[80]);
        rule.source.not_sets = vec![SetId::new("s:denied")];
        policy(&mut state, "p", vec![rule]);
        let class = ingress_tiers(vec![tier("default", &["p"], TierAction::Deny)], "all");
        endpoint(&mut state, &c, &class, true);
        let fine = state.clone();
        crowd(&mut state, "s:denied", 2000);
        for (started, wake) in [(true, Wake::Start), (false, Wake::Desired)] {
            if !started {
                host.apply(&next(&fine), Wake::Desired);
                assert!(b.reaches(c.v6(), 80) && !a.reaches(c.v6(), 80));
                assert!(b.reaches(c.v4(), 80) && !a.reaches(c.v4(), 80));
            }
            let begin = Instant::now();
            let report = host.run(&state, wake);
            assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
            let subjects: Vec<_> = report.problems.iter().map(|p| p.subject.as_str()).collect();
            assert_eq!(subjects, ["address set cali40s:denied"], "{report:#?}");
            assert_eq!(report.endpoints[&id(&b)], EndpointState::Up);
            assert!(a.reaches(b.v4(), 80), "what does not name it works");
            assert!(!a.reaches(c.v4(), 80) && !b.reaches(c.v4(), 80), "what names it is closed");
            assert!(b.reaches(c.v6(), 80) && !a.reaches(c.v6(), 80), "IPv6 has its own set");
            // A change elsewhere does not open it.
            let mut other = next(&state);
            endpoint(&mut other, &b, &profiles(&["net"]), !started);
            let report = host.run(&other, Wake::Desired);
            assert_eq!(report.problems.len(), 1, "{report:#?}");
            assert!(!a.reaches(c.v4(), 80) && !b.reaches(c.v4(), 80));
            // Nor does a change of rule and members at once, which closes and opens policies.
            let mut both = next(&other);
            crowd(&mut both, "s:denied", 2001 + u32::from(started));
            let mut rule = tcp(Action::Allow, &[80, 81]);
            rule.source.not_sets = vec![SetId::new("s:denied")];
            policy(&mut both, "p", vec![rule]);
            host.run(&both, Wake::Desired);
            assert!(!a.reaches(c.v4(), 80) && !b.reaches(c.v4(), 80));
        }
        // Room again.
        let state = next(&fine);
        host.run(&state, Wake::Desired);
        host.sleep(Duration::from_millis(30));
        let report = host.run(&state, Wake::Timer);
        assert_eq!(report.problems, []);
        assert!(b.reaches(c.v4(), 80) && !a.reaches(c.v4(), 80));
    });
}

#[test]
fn an_endpoint_that_no_set_has_room_for_is_an_error_and_dropped() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        settings(&mut state, |s| s.max_ipset_size = 64);
        let mut filler = state.endpoints[&id(&b)].as_ref().clone();
        filler.mac = None;
        for n in 10..90 {
            filler.interface = format!("calia{n}").parse().unwrap();
            filler.addresses = vec![Cidr::host(crate::host::v4(n))];
            state.endpoints.insert(id_of(n), std::sync::Arc::new(filler.clone()));
        }
        let report = host.run(&state, Wake::Start);
        let errors = report.endpoints.values().filter(|s| matches!(s, EndpointState::Error(_)));
        assert_eq!(errors.count(), 82 - 64, "{report:#?}");
        let subjects: Vec<_> = report.problems.iter().map(|p| p.subject.as_str()).collect();
        assert!(subjects.contains(&"address set cali40local-endpoints"), "{subjects:?}");
        let up = |p: &Pod| report.endpoints[&id(p)] == EndpointState::Up;
        assert_eq!(a.reaches(b.v4(), 80), up(&a) && up(&b));
    });
}

#[test]
fn a_held_lock_blames_no_policy_and_is_waited_for() {
    // A lock of its own: the usual one is shared by all network namespaces, and others need it.
    let lock = tempfile::NamedTempFile::new().unwrap();
    let with = format!("env XTABLES_LOCKFILE={}", lock.path().display());
    alone(&with, "abuse::child_with_a_held_lock");
}

#[test]
#[ignore = "run by the test above"]
fn child_with_a_held_lock() {
    each_flavour(|host, flavour| {
        if flavour != Flavour::Legacy {
            return; // nf_tables has no such lock.
        }
        let (a, b, mut state) = small_world(host, flavour);
        host.apply(&state, Wake::Start);
        sh("flock $XTABLES_LOCKFILE sleep 7 > /dev/null 2>&1 &
            sleep 0.2");
        let begin = Instant::now();
        let mut after = next(&state);
        policy(&mut after, "p", vec![tcp(Action::Allow, &[80])]);
        let class = ingress_tiers(vec![tier("default", &["p"], TierAction::Deny)], "net");
        endpoint(&mut after, &b, &class, true);
        let report = host.run(&after, Wake::Desired);
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(6), "waited once, not for each chain: {took:?}");
        assert!(report.retry && report.applied.is_none(), "{report:#?}");
        assert!(report.problems.iter().all(|p| p.subject.contains("table")), "{report:#?}");
        let named = |p: &Problem| {
            p.message.contains("flock (process ") && p.message.ends_with("holds the xtables lock")
        };
        assert!(report.problems.iter().all(named), "{report:#?}");
        assert!(a.reaches(b.v4(), 80), "the old rules are in force");
        // As the loop does: again until it is free, without a word about what others did.
        let mut report = host.run(&after, Wake::Retry);
        while report.applied.is_none() {
            assert!(begin.elapsed() < Duration::from_secs(15), "{report:#?}");
            host.sleep(Duration::from_millis(100));
            report = host.run(&after, Wake::Retry);
        }
        assert_eq!((report.problems, report.drift), (vec![], vec![]));
        assert!(begin.elapsed() > Duration::from_secs(6));
        assert!(a.reaches(b.v4(), 80));
        state = next(&after);
        host.apply(&state, Wake::Retry);
        // What is left of it when another dataplane takes over goes by retries alone.
        sh("flock $XTABLES_LOCKFILE sleep 4 > /dev/null 2>&1 &
            sleep 0.2");
        state = next(&state);
        settings(&mut state, |s| choose(s, Flavour::Nftables));
        let mut report = host.run(&state, Wake::Desired);
        assert!(report.retry && report.applied.is_some(), "{report:#?}");
        assert!(report.problems.iter().any(named), "{report:#?}");
        for _ in 0..30 {
            if !report.retry {
                break;
            }
            host.sleep(Duration::from_millis(100));
            report = host.run(&state, Wake::Retry);
        }
        assert_eq!(report.problems, []);
        assert_eq!(sh("set +e; iptables-legacy-save | grep cali; ipset -n list; true"), "");
    });
}

#[test]
fn what_is_switched_off_passes_nothing_and_leaves_nothing() {
    each_dataplane(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["net"]), true);
        }
        crate::host::serve(8080);
        let (host4, host6) = ("192.0.2.1".parse().unwrap(), "fd99::1".parse().unwrap());
        // From nothing: what nobody decides about does not pass.
        settings(&mut state, |s| s.ipv6 = false);
        assert!(a.reaches(b.v6(), 80) && a.reaches(host6, 8080), "the wires work before");
        for round in 0..2 {
            let report = host.apply(&state, if round == 0 { Wake::Start } else { Wake::Desired });
            assert_eq!(report.endpoints[&id(&a)], EndpointState::Up);
            assert!(a.reaches(b.v4(), 80) && a.reaches(host4, 8080));
            assert!(!a.reaches(b.v6(), 80) && !a.reaches(host6, 8080));
            let saved = host.saved(6);
            assert!(!saved.contains("cali-pri-") && !saved.contains("match-set"), "{saved}");
            assert!(!sh("ipset save").contains("cali6"));
            // On, and off again.
            let mut on = next(&state);
            settings(&mut on, |s| s.ipv6 = true);
            host.apply(&on, Wake::Desired);
            assert!(a.reaches(b.v6(), 80) && a.reaches(host6, 8080));
            state = next(&on);
            settings(&mut state, |s| s.ipv6 = false);
            host.run(&state, Wake::Desired);
            // nf_tables lets go of sets a moment after the rules are gone.
            host.sleep(Duration::from_millis(600));
            host.apply(&state, Wake::Timer);
        }
    });
}

#[test]
fn whatever_is_flushed_comes_back_and_a_change_in_between_wedges_nothing() {
    const WRECKS: [&str; 6] = [
        "for i in iptables ip6tables; do $i-TOOL -w -F; done",
        "for i in iptables ip6tables; do for t in raw filter nat; do $i-TOOL -w -t $t -F; $i-TOOL -w -t $t -X; done; done",
        "nft flush ruleset",
        "for i in iptables ip6tables; do for t in raw filter nat; do $i-TOOL -w -t $t -F; $i-TOOL -w -t $t -X; done; done; sleep 0.3; ipset destroy",
        "ipset flush",
        "ipset destroy 2> /dev/null || true",
    ];
    each_flavour(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        let c = host.pod(3);
        settings(&mut state, |s| {
            s.iptables_refresh = Duration::from_millis(20);
            s.iptables_post_write_check = Duration::from_millis(20);
            s.ipsets_refresh = Duration::from_millis(20);
        });
        endpoint(&mut state, &c, &profiles(&["other"]), true);
        profile(&mut state, "other", vec![], vec![any(Action::Allow)]);
        host.apply(&state, Wake::Start);
        for wreck in WRECKS {
            for change in [false, true] {
                sh(&wreck.replace("TOOL", host.tool()));
                if change {
                    state = next(&state);
                    policy(&mut state, "p", vec![tcp(Action::Allow, &[81])]);
                    let tiers = vec![tier("default", &["p"], TierAction::Pass)];
                    let class = ingress_tiers(tiers, "net");
                    endpoint(&mut state, &b, &class, true);
                    set(&mut state, "s:net", &[1, 2, 9]);
                    host.run(&state, Wake::Desired);
                }
                host.sleep(Duration::from_millis(30));
                let report = host.run(&state, Wake::Timer);
                let report = if report.retry { host.run(&state, Wake::Retry) } else { report };
                assert_eq!(report.problems, [], "{wreck} {change}");
                for to in b.both() {
                    assert!(a.reaches(to, 80) && !c.reaches(to, 80), "{wreck} {change} {to}");
                }
                state = next(&state);
                endpoint(&mut state, &b, &profiles(&["net"]), true);
                state.policies.remove(&policy_id("p"));
                set(&mut state, "s:net", &[1, 2]);
                host.run(&state, Wake::Desired);
            }
        }
    });
}

#[test]
fn a_read_only_proc_is_one_standing_problem() {
    each_dataplane(|host, flavour| {
        let (_a, b, mut state) = small_world(host, flavour);
        let c = host.pod(3);
        let dir = tempfile::tempdir().unwrap();
        // A directory where a file should be can be neither read nor written, by root neither.
        for pod in 1..=3 {
            let path = dir.path().join(format!("net/ipv4/conf/calipod{pod}/proxy_arp"));
            std::fs::create_dir_all(path).unwrap();
        }
        host.felix = Felix::new(Exec::default(), dir.path().to_owned());
        let said = |report: &calico_agent::reconcile::Report| -> Vec<String> {
            report.problems.iter().map(|p| p.message.clone()).collect()
        };
        let first = host.run(&state, Wake::Start);
        assert_eq!(first.problems.len(), 1, "{:#?}", first.problems);
        assert_eq!(first.applied, Some(state.generation), "policy is in force");
        endpoint(&mut state, &c, &profiles(&["net"]), false);
        let second = host.run(&next(&state), Wake::Desired);
        assert_eq!(said(&first), said(&second), "said once, and not taken back");
        drop(b);
    });
}

#[test]
fn a_prefix_of_fifteen_characters_is_a_whole_name() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        settings(&mut state, |s| {
            s.interface_prefixes = vec!["cali".to_owned(), "fifteenlettersx".to_owned()];
        });
        host.apply(&state, Wake::Start);
        assert!(a.reaches(b.v4(), 80));
        assert!(host.saved(4).contains("-i fifteenlettersx -"), "{}", host.saved(4));
    });
}

#[test]
fn another_mark_mask_moves_every_bit_at_once() {
    each_flavour(|host, flavour| {
        let (a, b, state) = small_world(host, flavour);
        let c = host.pod(3);
        host.apply(&state, Wake::Start);
        for mask in [0x0000_00f0, 0xff00_0000, 0xffff_0000] {
            let mut after = next(&state);
            settings(&mut after, |s| s.mark_mask = mask);
            host.apply(&after, Wake::Desired);
            assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80), "{mask:#x}");
            assert!(!c.reaches(b.v4(), 80) && !c.reaches(b.v6(), 80), "{mask:#x}");
            let bit = mask & mask.wrapping_neg();
            assert!(host.saved(4).contains(&format!("--set-xmark {bit:#x}/{bit:#x}")));
        }
    });
}
