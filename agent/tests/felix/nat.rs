//! Translated addresses: those that pods are reached by, and those that they leave with.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use calico_agent::desired::DesiredState;
use calico_agent::reconcile::Wake;
use calico_datastore::model::Action;

use crate::host::{Host, Pod, dial, each_flavour};
use crate::netns::{Netns, sh};
use crate::world::*;

/// The external addresses.
const EXTERNAL: [&str; 2] = ["203.0.113.7", "2001:db8:f::7"];
/// A machine outside, which routes external addresses and pods to the host.
const OUTSIDE: [&str; 2] = ["198.51.100.2", "2001:db8::2"];

fn outside() -> Netns {
    let outside = Netns::new();
    sh(&format!(
        "ip link add eth9 type veth peer name eth0 netns {}
         ip addr add 198.51.100.1/24 dev eth9; ip -6 addr add 2001:db8::1/64 dev eth9 nodad
         ip link set eth9 up",
        outside.tid
    ));
    outside.sh("sysctl -qw net.ipv6.conf.eth0.accept_dad=0
         ip addr add 198.51.100.2/24 dev eth0; ip -6 addr add 2001:db8::2/64 dev eth0 nodad
         ip link set eth0 up; ip route add default via 198.51.100.1
         ip -6 route add default via 2001:db8::1");
    outside.run(|| crate::host::serve(80));
    outside
}

/// Who answers as seen from a namespace: the address that it saw, or nothing.
fn seen(from: &Netns, to: &str, port: u16) -> Option<String> {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    from.run(move || dial(to).ok().map(|(_, peer)| peer))
}

fn give(state: &mut DesiredState, pod: &Pod, external: &[&str]) {
    let mut endpoint = (*state.endpoints[&id(pod)]).clone();
    endpoint.nat = external
        .iter()
        .map(|one| one.parse::<IpAddr>().unwrap())
        .map(|one| (if one.is_ipv4() { pod.v4() } else { pod.v6() }, one))
        .collect();
    state.endpoints.insert(id(pod), Arc::new(endpoint));
}

/// The routes, which another part of the agent makes.
fn lead_to(pod: &Pod) {
    let interface = &pod.interface;
    let [v4, v6] = EXTERNAL;
    sh(&format!("ip route replace {v4} dev {interface}; ip -6 route replace {v6} dev {interface}"));
}

/// Two pods that send what they like, and take TCP to port 80.
fn world(
    host: &mut Host,
    flavour: calico_agent::config::IptablesBackend,
) -> (Pod, Pod, DesiredState) {
    let (a, b) = (host.pod(1), host.pod(2));
    for pod in [&a, &b] {
        pod.serve(80);
        pod.serve(81);
    }
    let mut state = empty(flavour);
    settings(&mut state, |s| s.floating_ips = true);
    profile(&mut state, "web", vec![tcp(Action::Allow, &[80])], vec![any(Action::Allow)]);
    for pod in [&a, &b] {
        endpoint(&mut state, pod, &profiles(&["web"]), true);
    }
    (a, b, state)
}

#[test]
fn an_external_address_leads_to_its_pod_and_to_its_policy() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = world(host, flavour);
        let outside = outside();
        host.apply(&state, Wake::Start);
        lead_to(&b);
        assert!(!host.saved(4).contains("cali-fip"), "nothing to do, nothing done");
        for external in EXTERNAL {
            assert_eq!(seen(&outside, external, 80), None, "{external} is nobody's");
        }

        state = next(&state);
        give(&mut state, &b, &EXTERNAL);
        let report = host.apply(&state, Wake::Desired);
        assert_eq!(report.facts["external addresses"], "2 in force");
        for (external, (source, own)) in EXTERNAL.into_iter().zip(OUTSIDE.into_iter().zip(a.both()))
        {
            // Its policy decides, and sees who really sends.
            assert_eq!(seen(&outside, external, 80).as_deref(), Some(source));
            assert_eq!(seen(&outside, external, 81), None, "policy allows port 80 only");
            assert_eq!(seen(&a.netns, external, 80), Some(own.to_string()));
            assert_eq!(seen(&a.netns, external, 81), None);
            // The host itself is never asked for policy.
            assert!(host.reaches(external.parse().unwrap(), 81), "{external}");
            // To itself it comes as its external address, more than once.
            for _ in 0..3 {
                assert_eq!(seen(&b.netns, external, 80).as_deref(), Some(external));
            }
            assert_eq!(seen(&b.netns, external, 81), None);
        }
        // What it sends by itself keeps its address, as in the original.
        for (to, own) in OUTSIDE.into_iter().zip(b.both()) {
            assert_eq!(seen(&b.netns, to, 80), Some(own.to_string()));
        }
        // Nothing is written for what is there already, and another start finds nothing to do.
        let saved = (host.saved(4), host.saved(6));
        host.restart();
        host.apply(&next(&state), Wake::Start);
        assert_eq!(host.felix.counters().writes(), 0);
        assert_eq!((host.saved(4), host.saved(6)), saved);
    });
}

#[test]
fn a_connection_does_not_outlive_the_way_it_came() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = world(host, flavour);
        let outside = outside();
        give(&mut state, &b, &EXTERNAL);
        lead_to(&b);
        host.apply(&state, Wake::Start);
        let open = |to: IpAddr| {
            let to = SocketAddr::new(to, 80);
            outside.run(move || dial(to).expect("it is allowed").0)
        };
        let entries = |what: &str| {
            let list = |family| sh(&format!("conntrack -f {family} -L 2>/dev/null"));
            [list("ipv4"), list("ipv6")].concat().matches(what).count()
        };
        let _by_external = EXTERNAL.map(|to| open(to.parse().unwrap()));
        let _by_own = b.both().map(open);
        for external in EXTERNAL {
            assert_ne!(entries(&format!("dst={external} ")), 0, "{external}");
        }

        // It moves.
        state = next(&state);
        give(&mut state, &b, &[]);
        give(&mut state, &a, &EXTERNAL);
        lead_to(&a);
        host.apply(&state, Wake::Desired);
        for (external, own) in EXTERNAL.into_iter().zip(b.both()) {
            assert_eq!(entries(&format!("dst={external} ")), 0, "{external}");
            assert_ne!(entries(&format!("dst={own} ")), 0, "others stay {own}");
            assert_eq!(seen(&a.netns, external, 80).as_deref(), Some(external), "a has it now");
        }

        // It moves while no agent runs; another start alone cuts nothing.
        let _by_external = EXTERNAL.map(|to| open(to.parse().unwrap()));
        host.restart();
        host.apply(&next(&state), Wake::Start);
        for external in EXTERNAL {
            assert_ne!(entries(&format!("dst={external} ")), 0, "{external}");
        }
        state = next(&state);
        give(&mut state, &a, &[]);
        give(&mut state, &b, &EXTERNAL);
        lead_to(&b);
        host.restart();
        host.apply(&state, Wake::Start);
        for external in EXTERNAL {
            assert_eq!(entries(&format!("dst={external} ")), 0, "{external}");
            assert_eq!(seen(&b.netns, external, 80).as_deref(), Some(external), "b has it again");
        }

        // It goes with its endpoint, and nothing is left.
        state = next(&state);
        state.endpoints.remove(&id(&b));
        host.apply(&state, Wake::Desired);
        assert!(!host.saved(4).contains("cali-fip") && !host.saved(6).contains("cali-fip"));
        for external in EXTERNAL {
            assert_eq!(seen(&outside, external, 80), None, "{external}");
            assert_eq!(entries(&format!("dst={external} ")), 0, "{external}");
        }
    });
}

#[test]
fn of_two_that_ask_for_an_address_one_has_it_and_the_other_is_named() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = world(host, flavour);
        give(&mut state, &a, &EXTERNAL);
        give(&mut state, &b, &[EXTERNAL[0], EXTERNAL[1], &a.v4().to_string()]);
        let report = host.run(&state, Wake::Start);
        assert_eq!(report.applied, Some(state.generation));
        let told: Vec<String> =
            report.problems.iter().map(|p| format!("{}: {}", p.subject, p.message)).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        for (address, why) in [
            (EXTERNAL[0], "host/cni/default/pod1/eth0 has it"),
            (EXTERNAL[1], "host/cni/default/pod1/eth0 has it"),
            ("10.65.0.1", "own address of endpoint host/cni/default/pod1/eth0"),
        ] {
            let line = told.iter().find(|line| line.contains(&format!("address {address} is")));
            let line = line.unwrap_or_else(|| panic!("{address}: {told:?}"));
            assert!(line.starts_with("endpoint host/cni/default/pod2/eth0: "), "{line}");
            assert!(line.contains(why), "{line}");
        }
        let answers = |host: &Host| {
            EXTERNAL.map(|to| {
                assert!(host.reaches(to.parse().unwrap(), 80), "{to}");
                // A pod sees the external address when it meets itself.
                [&a, &b].map(|pod| seen(&pod.netns, to, 80).as_deref() == Some(to))
            })
        };
        lead_to(&a);
        assert_eq!(answers(host), [[true, false]; 2]);
        assert!(host.reaches(a.v4(), 80), "an own address stays where it is");
        assert_eq!(seen(&b.netns, "10.65.0.1", 80), Some("10.65.0.2".to_owned()));

        // One whose interface is down leaves it to the next.
        let name = a.interface.parse().unwrap();
        let mut link = host.links[&name].clone();
        link.up = false;
        host.links.insert(name, link);
        lead_to(&b);
        let report = host.run(&state, Wake::Links);
        assert_eq!(answers(host), [[false, true]; 2]);
        assert!(report.problems.iter().all(|p| !p.message.contains("pod2/eth0: ")));

        // Switched off nobody has any, and that is no problem.
        state = next(&state);
        settings(&mut state, |s| s.floating_ips = false);
        let report = host.apply(&state, Wake::Desired);
        assert_eq!(
            report.facts["external addresses"],
            "0 in force, 5 not: FloatingIPs is Disabled"
        );
        assert!(!host.saved(4).contains("cali-fip"));
    });
}
