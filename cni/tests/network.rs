//! A pod's interface in real namespaces: what `create` promises, seen with `ip` and with packets.
//! Needs root; skipped aloud without.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

#[path = "network/world.rs"]
mod world;

#[path = "network/created.rs"]
mod created;
#[path = "network/failures.rs"]
mod failures;
#[path = "network/packets.rs"]
mod packets;
#[path = "network/reading.rs"]
mod reading;
#[path = "network/speed.rs"]
mod speed;

use std::net::IpAddr;

use calico_cni::network::Plan;
use calico_datastore::model::InterfaceName;
use world::Netns;

/// An ordinary first interface: one address of each family.
fn plan(pod: &Netns) -> Plan {
    Plan {
        netns: pod.path(),
        ifname: name("eth0"),
        host_name: name("cali1"),
        mtu: 1430,
        mac: None,
        addresses: ips(&["10.65.0.2", "fd80::2"]),
        default_routes: true,
    }
}

/// The pod's second interface.
fn second(pod: &Netns) -> Plan {
    Plan {
        ifname: name("eth1"),
        host_name: name("cali2"),
        addresses: ips(&["10.66.0.2", "fd81::2"]),
        default_routes: false,
        ..plan(pod)
    }
}

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}
