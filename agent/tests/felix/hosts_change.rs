//! Host endpoints that come, change and go: what is written, where, and what is said.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use calico_agent::config::{AllowAction, DenyAction};
use calico_agent::desired::{
    ActiveRules, DesiredState, HostTiers, LocalHostEndpoint, Member, Origin, SetId,
};
use calico_agent::exec::Exec;
use calico_agent::felix::Felix;
use calico_agent::felix::preview::preview;
use calico_agent::reconcile::{EndpointState, Report, Wake, World};
use calico_agent::routes::monitor::Link;
use calico_datastore::model::{Action, Cidr};

use crate::host::{Host, each_dataplane, each_flavour, serve};
use crate::machines::*;
use crate::world::*;

/// `table chain` of each chain of policies and profiles.
fn places(host: &Host, family: u8) -> BTreeSet<String> {
    let (mut table, mut found) = (String::new(), BTreeSet::new());
    for line in host.saved(family).lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        }
        let chain = line.strip_prefix(":cali-p").and_then(|rest| rest.split(' ').next());
        found.extend(chain.map(|chain| format!("{table} p{chain}")));
    }
    found
}

#[test]
fn a_policy_is_only_where_it_is_asked() {
    each_flavour(|host, flavour| {
        let (_a, mut state) = guarded(host, flavour);
        let pod = host.pod(1);
        let allow = || vec![tcp(Action::Allow, &[80])];
        for name in ["in", "fast", "early", "both"] {
            host_policy(&mut state, name, allow(), allow());
        }
        let both = Arc::clone(&state.host_endpoints.policies[&policy_id("both")]);
        state.policies.insert(policy_id("both"), both);
        policy(&mut state, "nobody", allow());
        let class = ingress_tiers(
            vec![tier("default", &["both"], calico_datastore::model::TierAction::Deny)],
            "all",
        );
        allow_all(&mut state);
        endpoint(&mut state, &pod, &class, false);
        let whole = LocalHostEndpoint {
            normal: HostTiers { ingress: one_tier("in"), egress: one_tier("both") },
            untracked: HostTiers { ingress: one_tier("fast"), ..HostTiers::default() },
            pre_dnat: one_tier("early"),
            ..on("eth1")
        };
        put(&mut state, "a", whole);
        host.apply(&state, Wake::Start);
        let pods = ["filter pi-both", "filter pri-all", "filter pro-all"];
        let hosts = [
            "filter pi-in",
            "filter po-both",
            // What the host sends to an address that is translated.
            "mangle po-both",
            "raw pi-fast",
            "mangle pi-early",
        ];
        let expect = |host: &Host, all: &[&str]| {
            let all: BTreeSet<String> = all.iter().map(|one| (*one).to_owned()).collect();
            assert_eq!(places(host, 4), all);
            assert_eq!(places(host, 6), all);
        };
        let all = [&pods[..], &hosts].concat();
        expect(host, &all);
        // Without the host endpoint what pods need is left, and comes back with it.
        let mut without = next(&state);
        without.host_endpoints = Default::default();
        host.apply(&without, Wake::Desired);
        expect(host, &pods);
        assert_eq!(traces(host), [""; 0]);
        let with = DesiredState { generation: 9, ..state.clone() };
        host.apply(&with, Wake::Desired);
        expect(host, &all);
        // A policy that a pod no longer asks stays for the host.
        let mut less = next(&with);
        less.policies.remove(&policy_id("both"));
        endpoint(&mut less, &pod, &profiles(&["all"]), false);
        host.apply(&less, Wake::Desired);
        expect(host, &[&pods[1..], &hosts].concat());
        // One policy changes: its chain is written and no other.
        let mut other = next(&less);
        host_policy(&mut other, "fast", vec![tcp(Action::Deny, &[81])], Vec::new());
        let before = host.felix.counters().iptables_lines.get();
        host.apply(&other, Wake::Desired);
        let lines = host.felix.counters().iptables_lines.get() - before;
        assert!((2..=8).contains(&lines), "{lines} lines for one rule of two families");
        // A restart finds all as it should be.
        host.restart();
        host.apply(&other, Wake::Start);
        assert_eq!(host.felix.counters().writes(), 0);
    });
}

fn set_of(addresses: &[std::net::IpAddr]) -> calico_agent::desired::AddressSet {
    calico_agent::desired::AddressSet {
        kind: calico_agent::desired::SetKind::Net,
        selector: Arc::from("s"),
        members: addresses.iter().map(|ip| Member::Net(Cidr::host(*ip))).collect(),
    }
}

#[test]
fn sets_that_only_hosts_need_are_filled_and_go_with_them() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        let from = from_set(tcp(Action::Allow, &[81]), "s:mine");
        host_policy(&mut state, "web", vec![from.clone()], Vec::new());
        let none = set_of(&[]);
        state.host_endpoints.sets.insert(SetId::new("s:mine"), none);
        host.apply(&state, Wake::Start);
        assert_eq!(a.reaches(a.gate()[0], &PORTS), [22, 2379]);
        let mut state = next(&state);
        state.host_endpoints.sets.insert(SetId::new("s:mine"), set_of(&a.both()));
        host.apply(&state, Wake::Desired);
        for to in a.gate() {
            assert_eq!(a.reaches(to, &PORTS), [22, 81, 2379], "{to}");
        }
        // A pod's policy needs it too, then only the pod's.
        let pod = host.pod(1);
        pod.serve(81);
        let mut state = next(&state);
        profile(&mut state, "some", vec![from], vec![any(Action::Allow)]);
        state.sets.insert(SetId::new("s:mine"), set_of(&a.both()));
        endpoint(&mut state, &pod, &profiles(&["some"]), false);
        host.apply(&state, Wake::Desired);
        let hosts = state.host_endpoints.clone();
        let mut pods = next(&state);
        pods.host_endpoints = Default::default();
        pods.sets.insert(SetId::new("s:mine"), set_of(&a.both()[..1]));
        host.apply(&pods, Wake::Desired);
        assert_eq!(a.reaches(pod.v4(), &[81]), [81]);
        assert_eq!(a.reaches(pod.v6(), &[81]), [0; 0], "its member is gone");
        // And only the host's again.
        let mut back = next(&pods);
        back.host_endpoints = hosts;
        back.sets.clear();
        back.profiles.clear();
        back.endpoints.clear();
        back.classes.clear();
        host.apply(&back, Wake::Desired);
        assert_eq!(a.reaches(a.gate()[1], &PORTS), [22, 81, 2379]);
        let mut gone = next(&back);
        gone.host_endpoints = Default::default();
        for _ in 0..20 {
            host.apply(&gone, Wake::Desired);
            if !crate::netns::sh("ipset list -n").contains("s:mine") {
                return;
            }
            host.sleep(std::time::Duration::from_millis(100));
        }
        panic!("{}", crate::netns::sh("ipset list -n"));
    });
}

fn problems(report: &Report) -> Vec<(String, String)> {
    report.problems.iter().map(|one| (one.subject.clone(), one.message.clone())).collect()
}

#[test]
fn what_becomes_of_a_host_endpoint_is_said() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        put(&mut state, "b", on("eth1"));
        put(&mut state, "c", on("eth7"));
        put(&mut state, "d", on("cali7"));
        let waits = LocalHostEndpoint {
            addresses: vec!["203.0.113.1".parse().unwrap()],
            ..LocalHostEndpoint::default()
        };
        put(&mut state, "e", waits);
        let report = host.run(&state, Wake::Start);
        let of = |report: &Report, name: &str| report.hosts[&hep(name)].state.clone();
        assert_eq!(of(&report, "a"), EndpointState::Up);
        assert_eq!(report.hosts[&hep("a")].interfaces, [name("eth1")]);
        let rival = "interface eth1 has HostEndpoint a";
        assert_eq!(of(&report, "b"), EndpointState::Error(rival.to_owned()));
        assert_eq!(of(&report, "c"), EndpointState::Down("interface eth7 is missing".to_owned()));
        assert!(matches!(of(&report, "d"), EndpointState::Error(_)));
        assert!(matches!(of(&report, "e"), EndpointState::Down(_)));
        let wrong = problems(&report);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert_eq!(wrong[0], ("HostEndpoint b".to_owned(), format!("not in force: {rival}")));
        // It is no failure: all else is in force.
        assert_eq!(report.applied, Some(state.generation));
        assert_eq!(a.reaches(a.gate()[0], &PORTS), [22, 80, 2379]);

        // The rival goes: the other one has it.
        let mut state = next(&state);
        state.host_endpoints.endpoints.remove(&hep("a"));
        state.host_endpoints.endpoints.remove(&hep("d"));
        let report = host.run(&state, Wake::Desired);
        assert_eq!((of(&report, "b"), problems(&report)), (EndpointState::Up, vec![]));
        assert_eq!(a.reaches(a.gate()[0], &PORTS), [22, 2379]);
        let link = host.links[&name("eth1")].clone();
        host.links.insert(name("eth1"), Link { up: false, ..link });
        let report = host.run(&state, Wake::Links);
        assert_eq!(of(&report, "b"), EndpointState::Down("its interface is down".to_owned()));
    });
}

#[test]
fn a_family_that_is_off_is_not_policed_and_that_is_said() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        settings(&mut state, |settings| settings.ipv6 = false);
        let report = host.run(&state, Wake::Start);
        assert_eq!(a.reaches(a.gate()[0], &PORTS), [22, 80, 2379]);
        assert_eq!(a.reaches(a.gate()[1], &PORTS), PORTS);
        let wrong = problems(&report);
        assert!(wrong.len() == 1 && wrong[0].1.contains("Ipv6Support"), "{wrong:?}");
        assert!(!host.saved(6).contains("cali-fh"));
        let link = host.links[&name("eth1")].clone();
        let addresses = [a.gate()[0]].into_iter().collect();
        host.links.insert(name("eth1"), Link { addresses, ..link });
        assert_eq!(problems(&host.run(&state, Wake::Links)), [], "nobody speaks IPv6 there");
    });
}

#[test]
fn settings_say_what_allowed_and_denied_packets_do() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        let b = Machine::new(host, 2);
        b.serve(&PORTS);
        crate::netns::sh("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0");
        settings(&mut state, |settings| {
            settings.filter_deny = DenyAction::Reject;
            settings.filter_allow = AllowAction::Return;
            settings.mangle_allow = AllowAction::Return;
        });
        host_policy(&mut state, "early", vec![tcp(Action::Deny, &[22])], Vec::new());
        let endpoint = LocalHostEndpoint {
            normal: both("web"),
            forward: both("web"),
            pre_dnat: one_tier("early"),
            ..on("eth1")
        };
        put(&mut state, "a", endpoint);
        host.apply(&state, Wake::Start);
        let refused = |to: std::net::IpAddr| {
            a.netns.run(move || {
                crate::host::dial((to, 81).into())
                    .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
            })
        };
        for (gate, to) in a.gate().into_iter().zip(b.both()) {
            assert_eq!(a.reaches(gate, &PORTS), [22, 80, 2379], "{gate}");
            assert_eq!(a.reaches(to, &PORTS), [80], "{to}");
            // Over IPv6 the answer is what the host sends, of no connection that is known.
            assert!(!gate.is_ipv4() || (refused(gate) && refused(to)), "an answer at once: {to}");
        }
        // What is allowed goes on to the host's own rules.
        for family in [4, 6] {
            host.iptables(family, "-A INPUT -i eth1 -p tcp --dport 80 -j DROP");
            host.iptables(family, "-A FORWARD -i eth1 -p tcp --dport 80 -j DROP");
        }
        for (gate, to) in a.gate().into_iter().zip(b.both()) {
            assert_eq!(a.reaches(gate, &PORTS), [22, 2379], "{gate}");
            assert_eq!(a.reaches(to, &PORTS), [0; 0], "{to}");
        }
    });
}

#[test]
fn a_state_from_disk_protects_the_host() {
    each_dataplane(|host, flavour| {
        let (a, state) = guarded(host, flavour);
        let stored =
            DesiredState { origin: Origin::Stored { since: 1 }, generation: 0, ..state.clone() };
        host.apply(&stored, Wake::Start);
        assert_eq!(a.reaches(a.gate()[0], &PORTS), [22, 80, 2379]);
        host.apply(&state, Wake::Desired);
        assert_eq!(a.reaches(a.gate()[1], &PORTS), [22, 80, 2379]);
    });
}

#[test]
fn a_plan_shows_host_endpoints_and_writes_nothing() {
    each_flavour(|host, flavour| {
        let (a, state) = guarded(host, flavour);
        let world = World { desired: Arc::new(state.clone()), links: host.links.clone() };
        let plan =
            host.block_on(preview(&Exec::default(), PathBuf::from("/proc/sys"), &world)).unwrap();
        for (table, text) in [
            ("filter", "-A cali-from-host-endpoint"),
            ("raw", "-I OUTPUT"),
            ("mangle", "-I POSTROUTING"),
        ] {
            let found =
                plan.tables.iter().filter(|one| one.table == table && one.text.contains(text));
            assert_eq!(found.count(), 2, "{table} {text}");
        }
        assert_eq!(a.reaches(a.gate()[0], &PORTS), PORTS, "nothing is in force");
        host.apply(&state, Wake::Start);
        let plan =
            host.block_on(preview(&Exec::default(), PathBuf::from("/proc/sys"), &world)).unwrap();
        assert!(plan.tables.is_empty() && plan.before.is_empty(), "{plan:?}");
    });
}

#[test]
fn a_host_endpoint_that_cuts_off_the_datastore_is_obeyed_and_named() {
    each_dataplane(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        let servers = a.both().map(|ip| (ip, 2379).into());
        let felix = Felix::new(Exec::default(), PathBuf::from("/proc/sys"));
        host.felix = felix.with_datastore(servers.to_vec());
        host.apply(&state, Wake::Start);
        settings(&mut state, |settings| settings.failsafe_outbound.clear());
        let report = host.run(&state, Wake::Desired);
        let wrong = problems(&report);
        assert!(wrong.len() == 2 && wrong[0].1.contains("cuts off etcd at"), "{wrong:?}");
        assert_eq!(report.applied, Some(state.generation));
        assert_eq!(host_reaches(a.both()[0], &PORTS), [80]);
    });
}

/// "Allow S" that becomes "deny S" as S grows lets nobody through in between, in `raw` neither.
#[test]
fn a_policy_of_the_host_that_changes_with_its_sets_is_never_half_in_force() {
    each_flavour(|host, flavour| {
        let (a, mut state) = guarded(host, flavour);
        serve(90);
        let rules = |action| ActiveRules {
            ingress: vec![from_set(tcp(action, &[90]), "s:who")],
            egress: vec![any(Action::Allow)],
        };
        let put_rules = |state: &mut DesiredState, action, members: &[std::net::IpAddr]| {
            state.host_endpoints.policies.insert(policy_id("fast"), Arc::new(rules(action)));
            state.host_endpoints.sets.insert(SetId::new("s:who"), set_of(members));
        };
        let untracked = HostTiers { ingress: one_tier("fast"), ..HostTiers::default() };
        allow_all(&mut state);
        put(&mut state, "a", LocalHostEndpoint { untracked, ..on("eth1") });
        let nobody = ["203.0.113.9".parse().unwrap(), "2001:db8:9::9".parse().unwrap()];
        put_rules(&mut state, Action::Allow, &nobody);
        host.apply(&state, Wake::Start);
        let mut after = next(&state);
        put_rules(&mut after, Action::Deny, &a.both());
        let before = host.felix.counters().iptables_restores.get();
        host.apply(&after, Wake::Desired);
        // Each family's rules are written twice: with a copy of the set, and with the set itself.
        assert_eq!(host.felix.counters().iptables_restores.get() - before, 4);
        let saved = host.saved(4);
        assert!(!saved.contains("cali4t") && saved.contains("s:who"), "{saved}");
        assert!(!crate::netns::sh("ipset list -n").contains("cali4t"));
    });
}
