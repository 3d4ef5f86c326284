//! What is decided around the policy of hosts: neighbours and routers of IPv6, the host's packets to
//! itself, interfaces that nobody governs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::model::{Cidr, Family};
use calico_ruleset::{Packet, State};
use calico_worlds::World;

use crate::frame::Probe;
use crate::hosts::{Machine, others};
use crate::kernel::Translation;
use crate::number;
use crate::subject::{End, place};

/// What neighbours and routers say: without it nobody is found on the link.
const DISCOVERY: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Nobody's address.
const OTHER: [&str; 2] = ["fd65::9:9", "10.65.9.9"];
/// Addresses that are translated to the host's own, and to a pod's.
const FOR_HOST: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x7777, 1, 0, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(100, 65, 0, 1)),
];
const FOR_POD: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x7777, 1, 0, 0, 0, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 65, 0, 2)),
];

fn at(v4: bool) -> usize {
    usize::from(v4)
}

/// A pod that is in force, with an address of its own.
fn pod(machine: &Machine, family: Family) -> Option<(IpAddr, &End)> {
    let all = machine.subject.state.endpoints.iter();
    all.filter(|(_, pod)| pod.active).find_map(|(id, pod)| {
        let address = pod.addresses.iter().find(|net| net.family() == family)?.address();
        Some((address, &machine.subject.ends()[id]))
    })
}

/// The rules of others that translate these addresses.
pub(crate) fn translations(machine: &Machine, family: Family) -> Vec<Translation> {
    let v4 = family == Family::V4;
    let own = machine.addresses.iter().find(|address| Family::of(**address) == family);
    let pod = pod(machine, family).map(|(address, _)| address);
    let all = [(FOR_HOST[at(v4)], own.copied()), (FOR_POD[at(v4)], pod)];
    let one = |(from, to): (IpAddr, Option<IpAddr>)| {
        Some(Translation { from, to: to?, everywhere: false })
    };
    all.into_iter().filter_map(one).collect()
}

/// Packets that fare the same whatever policy says.
pub(crate) fn frames(machine: &Machine, family: Family) -> Vec<Probe> {
    let v4 = family == Family::V4;
    let own: Vec<IpAddr> = machine
        .addresses
        .iter()
        .copied()
        .filter(|address| Family::of(*address) == family)
        .collect();
    let (own, far): (IpAddr, IpAddr) =
        (own[0], ip(if v4 { "198.51.100.7" } else { "2001:db8:7::7" }));
    let mut out = Vec::new();
    let pod = pod(machine, family);
    let mut put = |what, packet: Packet, by: &str, passes: bool| {
        let mut host = calico_ruleset::Host::default();
        host.address(own).route(if v4 { "0.0.0.0/0" } else { "::/0" }, by).unwrap();
        if let Some((address, end)) = pod {
            host.route(&Cidr::host(address).to_string(), &end.interface).unwrap();
        }
        out.push(Probe { what, packet, host, passes });
    };
    if let Some((address, end)) = pod {
        // The host reaches its pods, by other addresses too; pods are who they say.
        put("to a pod", Packet::tcp(own, address, 40_000, 81), "eth0", true);
        // Before they are translated they would leave by an interface that nobody governs.
        put("to a pod, translated", Packet::tcp(own, FOR_POD[at(v4)], 40_000, 81), "lo", true);
        // Nobody is at that address, whatever was known of it.
        for state in [State::New, State::Established] {
            let to = Packet::tcp(far, ip(OTHER[at(v4)]), 40_000, 81).with_state(state);
            put("to nobody", to.into_interface("eth0"), &end.interface, false);
        }
        for to in [own, far] {
            let spoofed = end.send(Packet::tcp(ip(OTHER[at(v4)]), to, 40_000, 81));
            put("spoofed", spoofed, "eth0", false);
        }
    }
    let mut add = |what, packet: Packet, by: &str| put(what, packet, by, true);
    add("to itself, translated", Packet::tcp(own, FOR_HOST[at(v4)], 40_000, 81), "lo");
    // A host that talks to itself, whatever it says.
    for state in [State::New, State::Established, State::Invalid] {
        let itself = Packet::tcp(own, own, 40_000, 81).with_state(state);
        add("to itself", itself, "eth0");
    }
    for interface in ["eth0", "eth1", "eth9"] {
        if v4 {
            continue;
        }
        for kind in DISCOVERY {
            // The kernel tracks none of them.
            for state in [State::New, State::Untracked] {
                let to = Packet::icmp(far, own, kind, 0).with_state(state);
                add("neighbours, in", to.into_interface(interface), interface);
                let from = Packet::icmp(own, far, kind, 0).with_state(state);
                add("neighbours, out", from, interface);
            }
        }
    }
    out
}

#[test]
fn what_is_around_the_policy_of_hosts_is_as_documented() {
    let (worlds, first) = (number("CALICO_FRAMES", 60), number("CALICO_SEED", 1));
    let mut count = [0, 0];
    for seed in first..first + worlds {
        let (world, host) = (World::with_hosts(seed), World::host(seed));
        let machine = Machine::new(&world, world.updates(), seed, &host);
        let others = others(&machine, &mut Vec::new());
        for family in Family::ALL.into_iter().filter(|family| !machine.subject.is_off(*family)) {
            let ruleset = machine.subject.made.among(family, &others[place(family)]);
            for probe in frames(&machine, family) {
                let outcome = probe.walk(&ruleset);
                let trace = outcome.trace(&ruleset);
                let what = format!("seed {seed}, {}: {:?}\n{trace}", probe.what, probe.packet);
                assert_eq!(outcome.fate.passed(), probe.passes, "{what}");
                count[usize::from(probe.passes)] += 1;
            }
        }
    }
    assert!(count[0] >= worlds && count[1] > 50 * worlds, "{count:?}");
}

#[test]
fn a_packet_of_no_connection_is_dropped_though_a_pre_dnat_policy_allows_it() {
    let object = |plural: &str, name: &str, spec: serde_json::Value| {
        let key = format!("/calico/resources/v3/projectcalico.org/{plural}/{name}");
        (key, serde_json::json!({ "metadata": { "name": name }, "spec": spec }))
    };
    let policy = serde_json::json!({
        "selector": "all()", "types": ["Ingress"], "preDNAT": true, "applyOnForward": true,
        "ingress": [{ "action": "Allow", "protocol": "TCP" }],
    });
    let endpoint = serde_json::json!({ "node": "near", "interfaceName": "eth0" });
    let objects =
        [object("globalnetworkpolicies", "early", policy), object("hostendpoints", "h", endpoint)];
    let world = World { node: "near".into(), objects: objects.into_iter().collect() };
    // Settings with which packets of no connection are dropped (0), and are let through (5).
    for (seed, dropped) in [(0, true), (5, false)] {
        let machine = Machine::new(&world, world.updates(), seed, &World::host(0));
        assert_eq!(machine.subject.state.settings.allow_conntrack_invalid, !dropped);
        for (family, far) in [(Family::V4, "198.51.100.7"), (Family::V6, "2001:db8:7::7")] {
            let ruleset = machine.subject.made.ruleset(family);
            let own = machine.addresses.iter().find(|ip| Family::of(**ip) == family).unwrap();
            let mut host = calico_ruleset::Host::default();
            host.address(*own);
            let passes = |state: State| {
                let packet = Packet::tcp(ip(far), *own, 40_000, 81).with_state(state);
                ruleset.walk(&host, &packet.into_interface("eth0")).unwrap().fate.passed()
            };
            assert!(passes(State::New) && passes(State::Established));
            assert_eq!(passes(State::Invalid), !dropped);
        }
    }
}
