//! Programs that go missing while the agent runs, and come back.

use calico_agent::reconcile::{EndpointState, Wake};
use calico_datastore::model::{Action, TierAction};

use crate::host::each_flavour;
use crate::netns::sh;
use crate::probing::alone;
use crate::world::*;

/// The original's most frequent failure: a set made by a newer ipset than the one at hand.
#[test]
fn a_set_of_somebody_else_that_the_tool_cannot_print_is_no_reason_to_fail() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let real = sh("command -v ipset");
    sh(&format!(
        r#"ln -s /usr/bin/* /usr/sbin/* {path} 2> /dev/null || true; rm {path}/ipset
           cat > {path}/ipset <<'END'
#!/bin/sh
if test "$*" = save && {real} list -n | grep -q newer; then
    {real} save | head -n 1
    echo "ipset v7.11: Kernel and userspace incompatible: settype hash:net with revision 9 not supported by userspace." >&2
    exit 1
fi
exec {real} "$@"
END
           chmod +x {path}/ipset"#,
        real = real.trim()
    ));
    alone(&format!("env PATH={path}"), "tools::child_with_an_old_ipset");
}

#[test]
#[ignore = "run by the test above"]
fn child_with_an_old_ipset() {
    each_flavour(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["net"]), true);
        }
        sh("ipset create newer hash:net; ! ipset save 2> /dev/null");
        host.apply(&state, Wake::Start);
        assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80));
        sh("ipset del cali40s:net 10.65.0.1");
        assert!(!a.reaches(b.v4(), 80));
        let drift = host.apply(&state, Wake::Retry).drift;
        assert_eq!(drift.len(), 1, "{drift:?}");
        assert!(a.reaches(b.v4(), 80));
        let writes = host.felix.counters().writes();
        assert_eq!(host.apply(&state, Wake::Retry).drift, []);
        assert_eq!(host.felix.counters().writes(), writes);
        sh("ipset list -n | grep -q newer");
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
        for (pattern, part) in [("ip*tables*-restore", "table"), ("ipset", "address sets")] {
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
        // Without conntrack policy is in force all the same.
        let gone = without("conntrack");
        let mut state = next(&old);
        state.endpoints.remove(&id(&b));
        let report = host.run(&state, Wake::Desired);
        assert_eq!(report.applied, Some(state.generation));
        let subjects: Vec<_> = report.problems.iter().map(|p| p.subject.as_str()).collect();
        assert_eq!(subjects, ["conntrack"]);
        assert!(!a.reaches(b.v4(), 80));
        drop(gone);
        host.apply(&next(&state), Wake::Desired);
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
