//! Changes that leave every verdict as it is: other endpoints come and go, sets grow and shrink,
//! policies are said in other words.

use std::net::Ipv4Addr;

use anyhow::Result;
use calico_e2e::etcd::Etcd;
use calico_e2e::tutorial::{HOSTS, PODS};
use calico_e2e::world::{
    Entity, IPPool, NetworkPolicy, Pair, Resource, Rule, WorkloadEndpoint, network_profile,
    workload_endpoint,
};

use crate::chance::Chance;
use crate::scene;

/// Endpoints of a host that is not there come in groups of this size.
const GROUP: usize = 60;

/// What is done at once.
#[derive(Default)]
struct Changes {
    puts: Vec<Pair>,
    deletes: Vec<String>,
    prefixes: Vec<String>,
}

/// Makes some changes, in one transaction where etcd's client allows it.
pub(super) fn change(etcd: &Etcd, chance: &mut Chance) -> Result<()> {
    let mut changes = Changes::default();
    for _ in 0..=chance.below(3) {
        one(chance, &mut changes);
    }
    // A transaction must not write a key twice.
    changes.puts.reverse();
    changes.puts.sort_by(|a, b| a.0.cmp(&b.0));
    changes.puts.dedup_by(|a, b| a.0 == b.0);
    if !changes.puts.is_empty() {
        etcd.put_all(&changes.puts)?;
    }
    for key in &changes.deletes {
        etcd.delete(key)?;
    }
    changes.prefixes.iter().try_for_each(|prefix| etcd.delete_prefix(prefix))
}

fn one(chance: &mut Chance, changes: &mut Changes) {
    match chance.below(9) {
        // The rules of a policy that matches none of the pods that are watched.
        0 => {
            let nets = (0..chance.below(30)).map(|n| format!("10.{n}.0.0/16"));
            let rule =
                |net| Rule::new("Allow").from(Entity { nets: vec![net], ..Entity::default() });
            let spec = NetworkPolicy {
                order: Some(5),
                ingress: nets.map(rule).collect(),
                selector: "role == 'bystander'".to_owned(),
                types: scene::ingress(),
                ..NetworkPolicy::default()
            };
            let name = format!("bystander-{}", chance.below(4));
            let (key, value) = scene::global("default", &name, spec).pair();
            if chance.below(3) == 0 {
                changes.deletes.push(key);
            } else {
                changes.puts.push((key, value));
            }
        }
        // Sixty frontends elsewhere: the set that two policies name.
        1 | 2 => {
            let group = chance.below(5);
            if chance.below(2) == 0 {
                let key = remote(group, 0).key();
                let prefix = key.split_once("000-eth0").map_or(&*key, |(prefix, _)| prefix);
                changes.prefixes.push(prefix.to_owned());
            } else {
                changes.puts.extend((0..GROUP).map(|number| remote(group, number).pair()));
            }
        }
        // Endpoints of the hosts themselves.
        3 => {
            let number = chance.below(12);
            let endpoint = bystander(number);
            if chance.below(3) == 0 {
                changes.deletes.push(endpoint.key());
            } else {
                changes.puts.push(endpoint.pair());
            }
        }
        4 | 5 => changes.puts.push(scene::peers(chance.below(scene::PEERS))),
        6 => {
            let audit = scene::audit();
            if chance.below(2) == 0 {
                changes.deletes.extend(audit.into_iter().skip(1).map(|(key, _)| key));
            } else {
                changes.puts.extend(audit);
            }
        }
        // The rules of a watched pod's own network, and its labels.
        7 => {
            changes.puts.push(network_profile("frontend").label("round", &word(chance)).pair());
            let pod = &PODS[chance.below(PODS.len())];
            changes.puts.push(pod.endpoint().label("round", &word(chance)).pair());
        }
        _ => {
            let pool = IPPool::plain("10.200.0.0/16", 26, chance.below(2) == 0);
            let pool = Resource::new("another", pool);
            if chance.below(3) == 0 {
                changes.deletes.push(pool.key());
            } else {
                changes.puts.push(pool.pair());
            }
        }
    }
}

fn word(chance: &mut Chance) -> String {
    format!("r{}", chance.below(1_000))
}

fn remote_id(group: usize) -> String {
    format!("r{group}")
}

fn remote(group: usize, number: usize) -> Resource<WorkloadEndpoint> {
    let octet = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    let address = Ipv4Addr::new(192, 168, octet(100 + group), octet(number + 1));
    workload_endpoint(WorkloadEndpoint {
        orchestrator: "cni".to_owned(),
        node: "calico-03".to_owned(),
        container_id: format!("{}{number:03}", remote_id(group)),
        endpoint: "eth0".to_owned(),
        networks: vec![format!("{address}/32")],
        interface: format!("cali{}{number:03}", remote_id(group)),
        mac: "ca:fe:00:00:00:01".to_owned(),
        ..WorkloadEndpoint::default()
    })
    .label("role", "frontend")
}

fn bystander(number: usize) -> Resource<WorkloadEndpoint> {
    let host = &HOSTS[number % 2];
    let base = u8::try_from(number).unwrap_or(0) + 20;
    let [a, b, c, d] = host.block4.octets();
    workload_endpoint(WorkloadEndpoint {
        orchestrator: "cni".to_owned(),
        node: host.name.to_owned(),
        container_id: format!("bystander{number}"),
        endpoint: "eth0".to_owned(),
        networks: vec![format!("{}/32", Ipv4Addr::new(a, b, c, d + base))],
        profiles: vec!["frontend".to_owned()],
        interface: format!("calibystand{number}"),
        mac: format!("ca:fe:00:00:01:{number:02x}"),
        ..WorkloadEndpoint::default()
    })
    .label("role", "bystander")
}
