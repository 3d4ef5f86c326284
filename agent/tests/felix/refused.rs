//! A policy that the kernel refuses: it is closed, alone, and opens when it says something else.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

use calico_agent::desired::SetId;
use calico_agent::reconcile::{EndpointState, Wake};
use calico_datastore::model::{Action, TierAction};

use crate::host::{Pod, dial, on_nftables};
use crate::netns::sh;
use crate::world::*;

/// Selectors in one rule: nf_tables takes 128 expressions a rule, and each of these is two.
const SELECTORS: usize = 70;

#[test]
fn a_policy_that_nf_tables_refuses_is_closed_alone_and_opens_when_it_is_mended() {
    play(None, "rule 2 of chain pi-p");
}

/// Such a one has no chain of its own: its rules are in a chain of those who ask it.
#[test]
fn a_policy_that_passes_and_is_refused_is_closed_in_the_same_way() {
    play(Some(82), "rule 2 of chain ");
}

/// What somebody else made is in the way of the rest, and goes with it in one: the policy that was closed in
/// the first try is refused again, and no reason to give up.
#[test]
fn a_policy_is_closed_although_something_is_in_the_way_of_the_rest() {
    on_nftables(|host, flavour| {
        let (a, b, c) = (host.pod(1), host.pod(2), host.pod(3));
        c.serve(80);
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        let fine = || vec![tcp(Action::Allow, &[80])];
        policy(&mut state, "p", fine());
        policy(&mut state, "other", fine());
        endpoint(&mut state, &a, &profiles(&["all"]), true);
        let asks = |policy| ingress_tiers(vec![tier("t", &[policy], TierAction::Deny)], "all");
        endpoint(&mut state, &b, &asks("p"), true);
        endpoint(&mut state, &c, &asks("other"), true);
        for n in 0..SELECTORS {
            set(&mut state, &format!("s{n}"), &[1]);
        }
        host.apply(&state, Wake::Start);
        let mut bad = next(&state);
        let mut refused = tcp(Action::Allow, &[80]);
        refused.source.sets = (0..SELECTORS).map(|n| SetId::new(format!("s{n}"))).collect();
        policy(&mut bad, "p", vec![refused]);
        host.restart();
        // Fifteen chains lead to those of classes, which are empty: with what they jump to it is too deep.
        sh("classes=$(nft list table inet calico | sed -n 's/^.chain \\(to-class-[^ ]*\\) .*/\\1/p')
            {
                echo 'add chain inet calico x { type filter hook forward priority 50; }'
                for n in $(seq 14); do echo \"add chain inet calico d$n\"; done
                echo 'add rule inet calico x jump d1'
                for n in $(seq 13); do echo \"add rule inet calico d$n jump d$((n + 1))\"; done
                for class in $classes; do
                    echo \"flush chain inet calico $class\"
                    echo \"add rule inet calico d14 jump $class\"
                done
            } > /tmp/refused.$$
            nft -f /tmp/refused.$$ || { cat /tmp/refused.$$; exit 1; }
            rm /tmp/refused.$$
            ip link set calipod2 group 0");
        let report = host.run(&bad, Wake::Start);
        let told = report.problems.iter().map(|one| format!("{}: {}", one.subject, one.message));
        let told: Vec<String> = told.collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("policy p: the kernel refuses its rules"), "{told:?}");
        assert_eq!(report.applied, Some(bad.generation), "the rest is in force");
        for to in b.both().into_iter().chain(c.both()) {
            assert_eq!(opens(&a, to, 80), c.both().contains(&to), "{to}");
        }
        assert!(!sh("nft list table inet calico").contains("chain x"), "it is gone");
    });
}

/// Somebody deleted a set just before a policy names it. That is no fault of the policy's.
#[test]
fn a_policy_that_names_what_somebody_deleted_is_not_closed() {
    on_nftables(|host, flavour| {
        let (a, b, c) = (host.pod(1), host.pod(2), host.pod(3));
        for pod in [&b, &c] {
            pod.serve(80);
        }
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        set(&mut state, "s", &[1]);
        let named = || vec![from_set(tcp(Action::Allow, &[80]), "s")];
        policy(&mut state, "names", named());
        policy(&mut state, "p", vec![tcp(Action::Allow, &[80])]);
        endpoint(&mut state, &a, &profiles(&["all"]), true);
        let asks = |policy| ingress_tiers(vec![tier("t", &[policy], TierAction::Deny)], "all");
        endpoint(&mut state, &b, &asks("names"), true);
        endpoint(&mut state, &c, &asks("p"), true);
        host.apply(&state, Wake::Start);
        let line: Vec<_> = c.both().map(|to| last(&a, to, 80)).into();

        sh("nft flush chain inet calico pi-names
            sets=$(nft list table inet calico | sed -n 's/^.set \\(set[^ ]*\\) .*/\\1/p')
            test -n \"$sets\"
            for set in $sets; do nft delete set inet calico $set; done");
        let mut named_too = next(&state);
        policy(&mut named_too, "p", named());
        let report = host.run(&named_too, Wake::Desired);
        let told = report.problems.iter().map(|one| format!("{}: {}", one.subject, one.message));
        let told: Vec<String> = told.collect();
        assert!(report.applied.is_none() && report.retry, "{told:?}");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("the old rules stay in force"), "{told:?}");
        // The old ones are.
        assert!(line.iter().all(echoes));
        host.apply(&named_too, Wake::Retry);
        for to in b.both().into_iter().chain(c.both()) {
            assert!(opens(&a, to, 80), "{to}");
        }
    });
}

/// What is allowed has some tries: the machine may be busy with other things.
fn opens(from: &Pod, to: IpAddr, port: u16) -> bool {
    (0..4).any(|_| from.reaches(to, port))
}

/// A connection that lasts.
fn last(from: &Pod, to: IpAddr, port: u16) -> TcpStream {
    let to = SocketAddr::new(to, port);
    from.netns.run(move || dial(to)).unwrap().0
}

fn echoes(mut stream: &TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && matches!(stream.read(&mut [0; 8]), Ok(1))
}

/// `passes`: the policy passes what comes for this port.
fn play(passes: Option<u16>, refused_at: &'static str) {
    on_nftables(move |host, flavour| {
        let (a, b, c) = (host.pod(1), host.pod(2), host.pod(3));
        for pod in [&b, &c] {
            pod.serve(80);
            pod.serve(81);
        }
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        let fine = |port| vec![tcp(Action::Allow, &[port])];
        policy(&mut state, "p", fine(80));
        policy(&mut state, "other", fine(80));
        endpoint(&mut state, &a, &profiles(&["all"]), true);
        let asks = |policy| ingress_tiers(vec![tier("t", &[policy], TierAction::Deny)], "all");
        endpoint(&mut state, &b, &asks("p"), true);
        endpoint(&mut state, &c, &asks("other"), true);
        for n in 0..SELECTORS {
            set(&mut state, &format!("s{n}"), &[1]);
        }
        let mut refused = tcp(Action::Allow, &[80]);
        refused.source.sets = (0..SELECTORS).map(|n| SetId::new(format!("s{n}"))).collect();
        let good = state.clone();
        let mut bad = next(&good);
        // What stands before the rule that is refused is not in force either.
        let mut rules = vec![tcp(Action::Allow, &[81]), refused];
        rules.extend(passes.map(|port| tcp(Action::Pass, &[port])));
        policy(&mut bad, "p", rules);
        // Another policy changes in the same go.
        policy(&mut bad, "other", fine(81));

        let mut line = Vec::new();
        for started in [false, true] {
            if started {
                host.restart();
                // What an earlier run left says nothing about this.
                sh("nft delete table inet calico; ip link set calipod2 group 0");
            } else {
                host.apply(&good, Wake::Start);
                for to in b.both().into_iter().chain(c.both()) {
                    assert!(opens(&a, to, 80) && !a.reaches(to, 81), "{to}");
                }
                line = c.both().map(|to| last(&a, to, 80)).into();
            }
            let wake = if started { Wake::Start } else { Wake::Desired };
            let report = host.run(&bad, wake);
            let told: Vec<String> = report
                .problems
                .iter()
                .map(|one| format!("{}: {}", one.subject, one.message))
                .collect();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains("policy p: the kernel refuses its rules"), "{told:?}");
            assert!(told[0].contains(refused_at), "{told:?}");
            assert_eq!(report.applied, Some(bad.generation), "the rest is in force");
            assert!(report.endpoints.values().all(|state| *state == EndpointState::Up));
            for to in b.both() {
                assert!(!a.reaches(to, 80) && !a.reaches(to, 81), "closed: {to}");
            }
            for to in c.both() {
                assert!(!a.reaches(to, 80) && opens(&a, to, 81), "the other changed: {to}");
            }
            // A look tries it again. Nobody else closed it, so nobody is told of, and what the other policy
            // allowed before goes on.
            let report = host.run(&next(&bad), Wake::Retry);
            assert_eq!((report.problems.len(), report.drift), (1, vec![]), "{:?}", report.problems);
            if !started {
                assert_eq!(report.facts["connections_cut"], "0");
                assert!(line.iter().all(echoes));
            }
            // It stays so, and is not tried again with each run.
            let writes = host.felix.counters().writes();
            let report = host.run(&next(&bad), Wake::Desired);
            assert_eq!((report.problems.len(), host.felix.counters().writes()), (1, writes));
        }

        // Mended.
        let mut mended = next(&next(&bad));
        policy(&mut mended, "p", fine(81));
        host.apply(&mended, Wake::Desired);
        for to in b.both().into_iter().chain(c.both()) {
            assert!(!a.reaches(to, 80) && opens(&a, to, 81), "{to}");
        }
    });
}
