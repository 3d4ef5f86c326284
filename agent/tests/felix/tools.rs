//! Programs that go missing while the agent runs, and come back.

use calico_agent::reconcile::{EndpointState, Wake};
use calico_datastore::model::{Action, TierAction};

use crate::host::each_flavour;
use crate::netns::sh;
use crate::probing::alone;
use crate::world::*;

/// The original's most frequent failure was an ipset that did not fit the kernel.
#[test]
fn neither_ipset_nor_conntrack_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let real = sh("command -v ipset; command -v conntrack");
    let (ipset, conntrack) = real.trim().split_once('\n').unwrap();
    sh(&format!(
        "ln -s /usr/bin/* /usr/sbin/* {path} 2> /dev/null || true; rm {path}/ipset {path}/conntrack"
    ));
    alone(
        &format!("env PATH={path} IPSET={ipset} CONNTRACK={conntrack}"),
        "tools::child_without_ipset_and_conntrack",
    );
}

#[test]
#[ignore = "run by the test above"]
fn child_without_ipset_and_conntrack() {
    sh("! command -v ipset; ! command -v conntrack; test -n \"$($IPSET --version)\"");
    each_flavour(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["net"]), true);
        }
        // Whatever others keep there.
        sh("$IPSET create newer hash:ip,port,ip; $IPSET create cali-other hash:ip timeout 9");
        host.apply(&state, Wake::Start);
        assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80));
        sh("$IPSET del cali40s:net 10.65.0.1");
        assert!(!a.reaches(b.v4(), 80));
        let drift = host.apply(&state, Wake::Retry).drift;
        assert_eq!(drift.len(), 1, "{drift:?}");
        assert!(a.reaches(b.v4(), 80));
        let writes = host.felix.counters().writes();
        assert_eq!(host.apply(&state, Wake::Retry).drift, []);
        assert_eq!(host.felix.counters().writes(), writes);
        let tracked = || sh("$CONNTRACK -L 2> /dev/null; $CONNTRACK -L -f ipv6 2> /dev/null");
        assert!(tracked().contains("dport=80"));
        let mut state = next(&state);
        state.endpoints.remove(&id(&b));
        host.apply(&state, Wake::Desired);
        assert!(!tracked().contains("dport=80"), "{}", tracked());
        sh("$IPSET list -n | grep -q newer");
    });
}

#[test]
fn a_program_that_goes_missing_is_named_and_nothing_is_blamed_for_it() {
    // A directory with every program, from which the child takes some away.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    sh(&format!("ln -s /usr/bin/* /usr/sbin/* {path} 2> /dev/null || true"));
    alone(&format!("env PATH={path}"), "tools::child_without_programs");
}

/// Takes programs away until it is dropped.
fn without(pattern: &str) -> impl Drop {
    struct Back(String);
    impl Drop for Back {
        fn drop(&mut self) {
            sh(&self.0);
        }
    }
    let dir = std::env::var("PATH").unwrap();
    sh(&format!("mkdir -p {dir}/away; mv {dir}/{pattern} {dir}/away"));
    Back(format!("mv {dir}/away/* {dir}"))
}

#[test]
#[ignore = "run by the test above"]
fn child_without_programs() {
    each_flavour(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["net"]), true);
        }
        host.apply(&state, Wake::Start);
        let old = state.clone();
        profile(&mut state, "more", vec![], vec![]);
        endpoint(&mut state, &b, &profiles(&["net", "more"]), true);
        let state = next(&state);
        for (pattern, part) in [("ip*tables*-restore", "table")] {
            let gone = without(pattern);
            let report = host.run(&state, Wake::Desired);
            assert!(report.retry && report.applied.is_none(), "{report:#?}");
            assert!(!report.problems.is_empty());
            for problem in &report.problems {
                assert!(problem.subject.contains(part), "{problem:?}");
                assert!(problem.message.contains("cannot start ip"), "{problem:?}");
            }
            assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80), "without {pattern}");
            drop(gone);
            let report = host.run(&state, Wake::Retry);
            assert_eq!(report.problems, [], "{pattern}");
            assert_eq!(report.endpoints[&id(&b)], EndpointState::Up);
            host.apply(&next(&old), Wake::Desired);
        }
    });
}

#[test]
fn a_family_that_cannot_be_written_closes_nothing_of_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    sh(&format!("ln -s /usr/bin/* /usr/sbin/* {path} 2> /dev/null || true"));
    alone(&format!("env PATH={path}"), "tools::child_without_one_family");
}

/// A rule changes together with the members of the set that it names: the policy is closed between.
#[test]
#[ignore = "run by the test above"]
fn child_without_one_family() {
    each_flavour(|host, flavour| {
        let (a, b, c) = (host.pod(1), host.pod(2), host.pod(3));
        b.serve(80);
        b.serve(81);
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        set(&mut state, "s:some", &[1, 3]);
        // Who is named is denied.
        policy(&mut state, "p", vec![from_set(tcp(Action::Deny, &[80]), "s:some")]);
        for pod in [&a, &c] {
            endpoint(&mut state, pod, &profiles(&["all"]), true);
        }
        let class = ingress_tiers(vec![tier("t", &["p"], TierAction::Pass)], "all");
        endpoint(&mut state, &b, &class, true);
        host.apply(&state, Wake::Start);
        assert!(!a.reaches(b.v4(), 80) && !c.reaches(b.v6(), 80) && c.reaches(b.v4(), 81));

        // Who is named is allowed, and pod 3 is not named any more.
        let before = state.clone();
        let mut state = next(&state);
        set(&mut state, "s:some", &[1]);
        let allow = from_set(tcp(Action::Allow, &[80]), "s:some");
        policy(&mut state, "p", vec![allow, tcp(Action::Deny, &[80])]);
        let gone = without("ip6tables*-restore");
        let report = host.run(&state, Wake::Desired);
        assert!(report.retry && report.applied.is_none(), "{report:#?}");
        assert!(
            report.problems.iter().all(|p| p.subject.contains("IPv6")),
            "{:?}",
            report.problems
        );
        for again in [false, true] {
            if again {
                host.run(&state, Wake::Retry);
            }
            assert!(a.reaches(b.v4(), 80) && !c.reaches(b.v4(), 80), "IPv4, again: {again}");
            assert!(c.reaches(b.v4(), 81), "IPv4, again: {again}");
            // As before.
            assert!(!a.reaches(b.v6(), 80) && !c.reaches(b.v6(), 80), "IPv6, again: {again}");
        }
        drop(gone);
        host.apply(&state, Wake::Retry);
        for to in b.both() {
            assert!(a.reaches(to, 80) && !c.reaches(to, 80) && c.reaches(to, 81));
        }
        host.apply(&next(&before), Wake::Desired);
        assert!(!a.reaches(b.v4(), 80) && !a.reaches(b.v6(), 80));
    });
}
