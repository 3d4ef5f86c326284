//! The chains of the table `nat`.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, PortRange};

use super::openstack;
use crate::config::Settings;
use crate::felix::iptables::names;

/// What packets of one family are translated for.
#[derive(Clone, Debug)]
pub struct Nat<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// The family.
    pub family: Family,
    /// Packets of a pool are translated on their way out of all pools.
    pub masquerade: bool,
    /// The tools know `--random-fully`.
    pub random_fully: bool,
    /// External addresses, and the address of the pod behind each.
    pub external: Vec<(IpAddr, IpAddr)>,
}

/// The chains of the table `nat`: none when there is nothing to translate. Those that the kernel's
/// chains jump to are named after them.
pub fn nat(nat: &Nat<'_>) -> Vec<(String, Vec<String>)> {
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    let mut prerouting: Vec<String> =
        openstack::to_metadata_service(nat.settings, nat.family).into_iter().collect();
    let mut postrouting = Vec::new();
    if !nat.external.is_empty() {
        let jump = "--jump cali-fip-dnat".to_owned();
        prerouting.push(jump.clone());
        out.push(("cali-OUTPUT".to_owned(), vec![jump]));
        out.push(("cali-fip-dnat".to_owned(), to_pods(&nat.external)));
        out.push(("cali-fip-snat".to_owned(), hairpins(&nat.external)));
        postrouting.push("--jump cali-fip-snat".to_owned());
    }
    if nat.masquerade {
        out.push(("cali-nat-outgoing".to_owned(), masquerade(nat)));
        postrouting.push("--jump cali-nat-outgoing".to_owned());
    }
    for (name, lines) in [("cali-PREROUTING", prerouting), ("cali-POSTROUTING", postrouting)] {
        if !lines.is_empty() {
            out.push((name.to_owned(), lines));
        }
    }
    out
}

/// Packets for an external address go to the pod, before routing and before policy.
fn to_pods(external: &[(IpAddr, IpAddr)]) -> Vec<String> {
    let line = |(outside, inside): &(IpAddr, IpAddr)| {
        format!("--destination {} --jump DNAT --to-destination {inside}", Cidr::host(*outside))
    };
    external.iter().map(line).collect()
}

/// A pod that sends to its own external address would get packets from itself, which it drops. It sees
/// that address instead: the lowest, when it has several. Whatever else it sends keeps its source.
fn hairpins(external: &[(IpAddr, IpAddr)]) -> Vec<String> {
    let mut done = std::collections::BTreeSet::new();
    let first = external.iter().filter(|(_, inside)| done.insert(*inside));
    first
        .map(|(outside, inside)| {
            let own = Cidr::host(*inside);
            format!("--source {own} --destination {own} --jump SNAT --to-source {outside}")
        })
        .collect()
}

/// What leaves the pools gets another source address, and with a range of ports one of those: TCP and
/// UDP, in rules of their own. A translation is the end of the chain, so each packet meets one of them.
fn masquerade(nat: &Nat<'_>) -> Vec<String> {
    let Nat { settings, family, .. } = nat;
    let out = settings.nat_outgoing_interface.as_ref().map(|i| format!(" -o {i}"));
    let leaves = format!(
        "-m set --match-set {} src -m set ! --match-set {} dst{}",
        names::masq_pools(*family),
        names::all_pools(*family),
        out.unwrap_or_default(),
    );
    let mut lines = Vec::new();
    if let Some(ports) = settings.nat_port_range {
        for protocol in ["tcp", "udp"] {
            lines.push(format!("-p {protocol} {leaves} {}", source(nat, Some(ports))));
        }
    }
    lines.push(format!("{leaves} {}", source(nat, None)));
    lines
}

/// The target that translates the source.
fn source(nat: &Nat<'_>, ports: Option<PortRange>) -> String {
    let ports = ports.map(|range| match (range.first(), range.last()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    let mut wanted = nat.settings.nat_outgoing_addresses.iter();
    let address = wanted.find(|address| Family::of(**address) == nat.family);
    let mut target = match (address, ports) {
        (Some(address), None) => format!("--jump SNAT --to-source {address}"),
        (Some(IpAddr::V4(address)), Some(ports)) => {
            format!("--jump SNAT --to-source {address}:{ports}")
        }
        (Some(IpAddr::V6(address)), Some(ports)) => {
            format!("--jump SNAT --to-source [{address}]:{ports}")
        }
        (None, None) => "--jump MASQUERADE".to_owned(),
        (None, Some(ports)) => format!("--jump MASQUERADE --to-ports {ports}"),
    };
    // Two connections that ask for a port at the same moment seldom ask for the same.
    if nat.random_fully {
        target.push_str(" --random-fully");
    }
    target
}
