//! The chains of the table `nat`.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family};

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
    let mut postrouting = Vec::new();
    if !nat.external.is_empty() {
        let jump = || vec!["--jump cali-fip-dnat".to_owned()];
        out.push(("cali-PREROUTING".to_owned(), jump()));
        out.push(("cali-OUTPUT".to_owned(), jump()));
        out.push(("cali-fip-dnat".to_owned(), to_pods(&nat.external)));
        out.push(("cali-fip-snat".to_owned(), hairpins(&nat.external)));
        postrouting.push("--jump cali-fip-snat".to_owned());
    }
    if nat.masquerade {
        out.push(("cali-nat-outgoing".to_owned(), vec![masquerade(nat)]));
        postrouting.push("--jump cali-nat-outgoing".to_owned());
    }
    if !postrouting.is_empty() {
        out.push(("cali-POSTROUTING".to_owned(), postrouting));
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

fn masquerade(nat: &Nat<'_>) -> String {
    let Nat { settings, family, .. } = nat;
    let out = settings.nat_outgoing_interface.as_ref().map(|i| format!(" -o {i}"));
    let target = match settings.nat_outgoing_address {
        Some(address) if Family::of(address) == *family => {
            format!("--jump SNAT --to-source {address}")
        }
        _ if nat.random_fully => "--jump MASQUERADE --random-fully".to_owned(),
        _ => "--jump MASQUERADE".to_owned(),
    };
    format!(
        "-m set --match-set {} src -m set ! --match-set {} dst{} {target}",
        names::masq_pools(*family),
        names::all_pools(*family),
        out.unwrap_or_default(),
    )
}
