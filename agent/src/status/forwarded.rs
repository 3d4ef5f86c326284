//! What policy says of the ports of this host that lead to its pods: pure. A port that others
//! forward is reached from the host itself always, from outside where the pod's policy allows it;
//! here is said whether it does, and what decides.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::model::{Action, Cidr, WorkloadEndpointId};

use super::document::ForwardedPortStatus;
use crate::desired::verdict::{Flow, Judge, Side};
use crate::desired::{ActiveRules, DesiredState};
use crate::felix::iptables::forwarded::Forwarded;

/// Addresses that nobody has (RFC 5737, RFC 3849): one of them stands for the outside.
const NOBODY: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)),
];

/// A port that clients take for their end of a connection.
const CLIENT_PORT: u16 = 40_000;

/// How many prefixes that rules name are tried.
const MOST_NETS: usize = 16;

/// The ports that lead to endpoints of this host, and what their policy says.
pub fn explain(ports: &[Forwarded], desired: &DesiredState) -> Vec<ForwardedPortStatus> {
    // The host's own addresses make no difference to what comes from outside.
    let host = BTreeSet::new();
    let judge = Judge::new(desired, &host);
    ports.iter().flat_map(|port| explain_one(port, desired, &judge)).collect()
}

fn explain_one(
    port: &Forwarded,
    desired: &DesiredState,
    judge: &Judge<'_>,
) -> Vec<ForwardedPortStatus> {
    let (to, pools) = (port.to.ip(), &desired.pools);
    let same_family = |address: &IpAddr| address.is_ipv4() == to.is_ipv4();
    let in_pool = |address: IpAddr| pools.keys().any(|pool| pool.contains(address));
    let mut nobody = NOBODY.into_iter().filter(same_family);
    let first = nobody.next();
    let outside = first.into_iter().chain(nobody).find(|address| !in_pool(*address)).or(first);
    let Some(outside) = outside else { return Vec::new() };
    let flow = |source| Flow {
        source,
        destination: to,
        protocol: Some(port.protocol),
        ports: Some((CLIENT_PORT, port.to.port())),
        icmp: None,
    };
    // Each by its name: of one that no policy protects the flow alone has nothing to say.
    let endpoints = judge.endpoints_with(to).into_iter();
    let verdicts =
        endpoints.filter_map(|id| Some((id, judge.ask(id, Side::Destination, &flow(outside))?)));
    // The host itself throws away what comes from elsewhere to such an address.
    let inside_only = port.at.is_some_and(|net| net.address().is_loopback());
    let explained = verdicts.map(|(endpoint, verdict)| {
        let mut also_from = Vec::new();
        if !verdict.allowed && !inside_only {
            let named = named_sources(desired, endpoint);
            let foreign =
                named.filter(|net| same_family(&net.address()) && !in_pool(net.address()));
            let nets: BTreeSet<Cidr> = foreign.collect();
            let allowed = |net: &Cidr| {
                let flow = flow(net.address());
                let said = judge.ask(endpoint, Side::Destination, &flow);
                said.is_some_and(|said| said.allowed)
            };
            also_from = nets.into_iter().take(MOST_NETS).filter(allowed).collect();
        }
        ForwardedPortStatus {
            protocol: port.protocol.to_string(),
            port: port.port,
            host_address: port.at.map(|net| net.to_string()),
            endpoint: endpoint.on_host(),
            address: to,
            endpoint_port: port.to.port(),
            by: port.by.to_owned(),
            from_outside: verdict.allowed && !inside_only,
            reason: if inside_only {
                "the port is bound to the host's loopback".to_owned()
            } else {
                verdict.reason.to_string()
            },
            also_from: also_from.iter().map(ToString::to_string).collect(),
        }
    });
    explained.collect()
}

/// The prefixes that rules which let something into the endpoint name as sources.
fn named_sources<'a>(
    desired: &'a DesiredState,
    id: &WorkloadEndpointId,
) -> impl Iterator<Item = Cidr> + 'a {
    let endpoint = desired.endpoints.get(id);
    let class = endpoint.and_then(|endpoint| desired.classes.get(&endpoint.class));
    let ingress = class.into_iter().map(|class| &class.ingress);
    let rules = ingress.flat_map(|acl| {
        let policies = acl.tiers.iter().flat_map(|tier| &tier.policies);
        let policies = policies.filter_map(|id| desired.policies.get(id));
        let profiles = acl.profiles.iter().filter_map(|name| desired.profiles.get(name));
        policies.chain(profiles)
    });
    let rules = rules.flat_map(|rules: &std::sync::Arc<ActiveRules>| &rules.ingress);
    let allow = rules.filter(|rule| rule.action == Action::Allow);
    allow.flat_map(|rule| rule.source.nets.iter().copied())
}

#[cfg(test)]
mod tests;
