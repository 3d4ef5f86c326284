//! Endpoints on interfaces that are none of pods: to the reference what passes there is outside of the host,
//! by an interface that may have a host endpoint. `explain` has to come to the same end.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_agent::explain::Interfaces;
use calico_agent::explain::document::{Outcome, SideAnswer};
use calico_agent::routes::monitor::{Link, Links};
use calico_datastore::model::{InterfaceName, WorkloadEndpointId};
use calico_reference::{Host, Interface, Place};

use super::expected::is_discovery;
use super::*;

/// By which interface packets pass to other hosts and outside.
const UPLINK: &str = "eth0";
/// Those of endpoints: one that host endpoints name, and others that none does.
const STRAY: [&str; 6] = ["eth1", "eth7", "veth2", "veth3", "veth4", "veth5"];

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

/// About half of the endpoints are on such interfaces, on each host each on its own.
fn astray(updates: &mut [Update], seed: u64) {
    let mut chance = Chance::new(seed);
    let mut left = BTreeMap::new();
    for update in updates {
        if let Update::WorkloadEndpoint(id, Some(endpoint)) = update
            && chance.below(2) == 0
            && let Some(free) = left.entry(id.node.clone()).or_insert_with(|| STRAY.iter()).next()
        {
            Arc::make_mut(endpoint).interface = name(free);
        }
    }
}

/// One end of a packet.
struct End {
    pod: Option<WorkloadEndpointId>,
    node: Option<Name>,
    place: Place,
}

/// `None`: several endpoints are asked about the address.
fn end(reference: &Reference, address: IpAddr) -> Option<End> {
    // Of each host pods in force, or else those that are none of pods, or else the others.
    let mut by_node: BTreeMap<&Name, [Vec<(WorkloadEndpointId, InterfaceName)>; 3]> =
        BTreeMap::new();
    for (id, endpoint) in reference.workloads() {
        if endpoint.addresses.iter().any(|net| net.contains(address)) {
            let stray = STRAY.contains(&endpoint.interface.as_str());
            let rank = if stray { 1 } else { 2 * usize::from(!endpoint.active) };
            let interface = endpoint.interface.clone();
            by_node.entry(&id.node).or_default()[rank].push((id.clone(), interface));
        }
    }
    let first = |ranks: [Vec<_>; 3]| ranks.into_iter().find(|rank| !rank.is_empty());
    let pods: Vec<_> = by_node.into_values().filter_map(first).flatten().collect();
    let host = NODES.iter().find(|(_, all)| addresses(all).contains(&address));
    Some(match (&pods[..], host) {
        ([], Some((node, _))) => {
            End { pod: None, node: Some(Name::from(*node)), place: Place::Local }
        }
        ([], None) => End { pod: None, node: None, place: Place::Interface(name(UPLINK)) },
        ([(id, interface)], _) => {
            let stray = STRAY.contains(&interface.as_str());
            let place = if stray {
                Place::Interface(interface.clone())
            } else {
                Place::Workload(id.clone())
            };
            End { pod: Some(id.clone()), node: Some(id.node.clone()), place }
        }
        _ => return None,
    })
}

fn host(node: &Name) -> Host {
    let of_node = NODES.iter().find(|(name, _)| **name == *node.as_str());
    let own = of_node.map(|(_, all)| addresses(all)).unwrap_or_default();
    let with = |text: &str, addresses| Interface { name: name(text), addresses };
    let uplink = with(UPLINK, own);
    let strays = STRAY.iter().map(|text| with(text, Vec::new()));
    let settings = Settings::default();
    let list = |all: &[calico_agent::config::Failsafe]| {
        let one = |one: &calico_agent::config::Failsafe| calico_reference::Failsafe {
            protocol: one.protocol,
            port: one.port,
            net: one.net,
        };
        all.iter().map(one).collect()
    };
    Host {
        node: node.clone(),
        interfaces: [uplink].into_iter().chain(strays).collect(),
        failsafe_in: list(&settings.failsafe_inbound),
        failsafe_out: list(&settings.failsafe_outbound),
    }
}

/// Does the packet pass every host on its way?
fn passes(reference: &Reference, from: &End, to: &End, packet: &Packet) -> bool {
    let walk = |node: &Name, from: &Place, to: &Place| {
        reference.walk(&host(node), from, to, packet).allowed
    };
    let outside = Place::Interface(name(UPLINK));
    match (&from.node, &to.node) {
        (Some(node), Some(other)) if node == other => {
            // What a pod sends to its host `DefaultEndpointToHostAction` drops.
            let dropped = to.place == Place::Local && matches!(from.place, Place::Workload(_));
            walk(node, &from.place, &to.place) && !dropped
        }
        (first, last) => {
            first.as_ref().is_none_or(|node| walk(node, &from.place, &outside))
                && last.as_ref().is_none_or(|node| walk(node, &outside, &to.place))
        }
    }
}

/// The hosts' interfaces are known, as they are to an agent.
fn explained(updates: &[Update]) -> Explained {
    let mut explained = Explained::new(updates);
    for (node, own) in NODES {
        let with = |own: &[&str]| Link {
            up: true,
            addresses: addresses(own).into_iter().collect(),
            ..Link::default()
        };
        let mut links = Links::from_iter(STRAY.map(|text| (name(text), with(&[]))));
        links.insert(name(UPLINK), with(&own));
        if let Some(place) = explained.0.places.get_mut(&Name::from(node)) {
            place.interfaces = Interfaces { links: Some(links), towards: BTreeMap::new() };
        }
    }
    explained
}

#[test]
fn the_host_endpoint_of_an_interface_that_is_none_of_pods_decides() {
    let worlds = super::super::number("CALICO_WORLDS").unwrap_or(3000).div_ceil(6);
    let first = super::super::number("CALICO_SEED").unwrap_or(0);
    // By how many ends are astray: denied and not; and how many were denied by a host endpoint.
    let (mut counts, mut denied) = ([[0_u64; 2]; 3], 0);
    for seed in first..first + worlds {
        let world = World::random(seed);
        let mut updates = world.updates();
        astray(&mut updates, seed);
        let (reference, explained) = (Reference::new(&updates), explained(&updates));
        for (packet, _) in packets(&world, seed) {
            let ends = [packet.source, packet.destination].map(|address| end(&reference, address));
            let [Some(from), Some(to)] = ends else { continue };
            let itself = from.pod.is_some() && from.pod == to.pod;
            let local = [&from.place, &to.place].contains(&&Place::Local);
            // Neighbours find a host, whatever policy says.
            if itself || (local && is_discovery(&packet)) {
                continue;
            }
            let Some(answer) = explained.ask(&packet, UPLINK) else { continue };
            let expected = passes(&reference, &from, &to, &packet);
            let said = answer.outcome != Outcome::Denied;
            assert!(
                said == expected && answer.outcome != Outcome::Unknown,
                "CALICO_SEED={seed} CALICO_WORLDS=1: {packet:?}: {expected}, and it is said:\n{answer:#?}"
            );
            let is_stray =
                |end: &&&End| end.pod.is_some() && matches!(end.place, Place::Interface(_));
            let strays = [&from, &to].iter().filter(is_stray).count();
            counts[strays][usize::from(said)] += 1;
            let by_one = |side: &SideAnswer| {
                side.allowed == Some(false)
                    && side.interface.as_deref().is_some_and(|one| STRAY.contains(&one))
            };
            denied += u64::from(answer.sides.iter().any(by_one));
        }
    }
    println!("seeds {first}.., {worlds} worlds: {counts:?}, {denied} denied there");
    if first == 0 && worlds >= 500 {
        let enough = counts.as_flattened().iter().all(|count| *count >= 20);
        assert!(enough && denied >= 50, "{counts:?}, {denied} denied there");
    }
}
