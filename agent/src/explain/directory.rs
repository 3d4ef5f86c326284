//! Who is who: what people type as a peer, and which endpoint, host or address is meant. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::model::{
    Cidr, Family, Name, NamedPort, Protocol, Update, WorkloadEndpointId,
};

use super::external::External;
use crate::desired::DesiredState;

/// How many candidates an error names.
const NAMED: usize = 12;
/// The shortest beginning of a name that counts for it.
const SHORTEST: usize = 4;
/// What stands for an address that nobody has (RFC 5737, RFC 3849).
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// An endpoint that is known, on whichever host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its identity.
    pub id: WorkloadEndpointId,
    /// The host side of its veth pair.
    pub interface: String,
    /// The addresses it may use.
    pub addresses: Vec<Cidr>,
    /// The external addresses that it asks for. Whether it has them its host says.
    pub external: Vec<IpAddr>,
    /// Its named ports, where they are known.
    pub ports: Vec<NamedPort>,
}

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An endpoint.
    Pod(Known),
    /// A host itself.
    Host(Name, Vec<IpAddr>),
    /// An address, whoever has it.
    Address(IpAddr),
    /// An external address of an endpoint.
    External(External),
    /// Every address of a network.
    Network(Cidr),
    /// Somewhere outside of the cluster.
    Outside,
}

/// Nobody, or more than one, is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nobody is called so.
    #[error(
        "{text:?} is no address, no host and none of the pods known here{}{}",
        listed(candidates, ": "),
        if *complete { "" } else { "; --offline knows the pods of all hosts" }
    )]
    Unknown {
        /// What was typed.
        text: String,
        /// Every pod of the cluster is known.
        complete: bool,
        /// Who there is.
        candidates: Vec<String>,
    },
    /// More than one is called so.
    #[error("{text:?} may be any of{}", listed(candidates, ": "))]
    Ambiguous {
        /// What was typed.
        text: String,
        /// Who is meant.
        candidates: Vec<String>,
    },
    /// A host without address.
    #[error("no address of the host {0} is known")]
    NoAddress(Name),
}

fn listed(candidates: &[String], before: &str) -> String {
    if candidates.is_empty() {
        return " (there are none)".to_owned();
    }
    let more = match candidates.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<_> = candidates.iter().take(NAMED).map(String::as_str).collect();
    format!("{before}{}{more}", named.join(", "))
}

/// Everybody who is known.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// The host that `host` means.
    pub here: Option<Name>,
    /// By id, in order.
    pub pods: Vec<Known>,
    /// Hosts and their addresses.
    pub hosts: BTreeMap<Name, Vec<IpAddr>>,
    /// The address pools.
    pub pools: Vec<Cidr>,
    /// True: every pod of the cluster is known, not only those of this host.
    pub complete: bool,
}

impl Directory {
    /// Whom a running agent knows: the endpoints of its host, and its neighbours in BGP.
    pub fn of_host(node: &Name, state: &DesiredState, addresses: &[IpAddr]) -> Self {
        let pods = state.endpoints.iter().map(|(id, endpoint)| Known {
            id: id.clone(),
            interface: endpoint.interface.to_string(),
            addresses: endpoint.addresses.clone(),
            external: endpoint.nat.iter().map(|(_, external)| *external).collect(),
            ports: Vec::new(),
        });
        let mut hosts: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
        for peer in &state.bgp.mesh {
            hosts.entry(peer.node.clone()).or_default().push(peer.address);
        }
        // The address that others know it by goes first.
        let bgp = [state.bgp.ipv4.map(IpAddr::V4), state.bgp.ipv6.map(IpAddr::V6)];
        let mut own: Vec<IpAddr> = bgp.into_iter().flatten().collect();
        for address in addresses.iter().filter(|address| is_reachable(address)) {
            if !own.contains(address) {
                own.push(*address);
            }
        }
        hosts.insert(node.clone(), own);
        Self {
            here: Some(node.clone()),
            pods: pods.collect(),
            hosts,
            pools: state.pools.keys().copied().collect(),
            complete: false,
        }
    }

    /// Everybody in a datastore. The last update about an object counts.
    pub fn of_store<'a>(here: Option<Name>, updates: impl Iterator<Item = &'a Update>) -> Self {
        let (mut pods, mut hosts, mut pools) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for update in updates {
            match update {
                Update::WorkloadEndpoint(id, Some(endpoint)) => drop(pods.insert(id, endpoint)),
                Update::WorkloadEndpoint(id, None) => drop(pods.remove(id)),
                Update::Node(name, Some(node)) => {
                    let v4 = [node.ipv4, node.ipip_tunnel].map(|ip| ip.map(IpAddr::V4));
                    let all = v4.into_iter().chain([node.ipv6.map(IpAddr::V6)]);
                    hosts.insert(name.clone(), all.flatten().collect());
                }
                Update::Node(name, None) => drop(hosts.remove(name)),
                Update::Pool(name, Some(pool)) => drop(pools.insert(name, pool.cidr)),
                Update::Pool(name, None) => drop(pools.remove(name)),
                _ => {}
            }
        }
        let pods = pods.into_iter().map(|(id, endpoint)| Known {
            id: id.clone(),
            interface: endpoint.interface.to_string(),
            addresses: endpoint.addresses.clone(),
            external: endpoint.nat.iter().map(|(_, external)| *external).collect(),
            ports: endpoint.ports.clone(),
        });
        let (pods, pools) = (pods.collect(), pools.into_values().collect());
        Self { here, pods, hosts, pools, complete: true }
    }

    /// Who is meant: an address, a network, `host`, `outside`, the name of a host, or of a pod.
    ///
    /// A pod is called by its workload (`default/web`), with its endpoint or without the
    /// namespace, by its whole identity as `status` shows it, by its interface on the host, or by
    /// the beginning of its name, which is the container's id where the plugin made it of that.
    ///
    /// # Errors
    /// When nobody is called so, or more than one.
    pub fn find(&self, text: &str) -> Result<Peer, PeerError> {
        if let Ok(address) = text.parse() {
            return Ok(Peer::Address(address));
        }
        if text.contains('/')
            && let Ok(net) = text.parse::<Cidr>()
        {
            return Ok(if net.is_host() {
                Peer::Address(net.address())
            } else {
                Peer::Network(net)
            });
        }
        let found = self.pods_called(text);
        if let [pod] = &found[..] {
            return Ok(Peer::Pod((*pod).clone()));
        }
        if !found.is_empty() {
            let candidates = found.into_iter().map(|pod| pod.id.to_string()).collect();
            return Err(PeerError::Ambiguous { text: text.to_owned(), candidates });
        }
        let host = match (text, &self.here) {
            ("outside", _) => return Ok(Peer::Outside),
            ("host", Some(here)) => here.clone(),
            _ => Name::from(text),
        };
        match self.hosts.get(&host) {
            Some(addresses) if addresses.is_empty() => Err(PeerError::NoAddress(host)),
            Some(addresses) => Ok(Peer::Host(host, addresses.clone())),
            None if text == "host" => Err(PeerError::NoAddress(host)),
            None => Err(PeerError::Unknown {
                text: text.to_owned(),
                complete: self.complete,
                candidates: self.pods.iter().map(|pod| short(&pod.id)).collect(),
            }),
        }
    }

    /// The pods that the text names best: wholly, or else by a beginning.
    fn pods_called(&self, text: &str) -> Vec<&Known> {
        let whole: Vec<_> = self
            .pods
            .iter()
            .filter(|pod| {
                let WorkloadEndpointId { workload, endpoint, .. } = &pod.id;
                text == workload.as_str()
                    || text == last(workload)
                    || text == pod.interface
                    || text == pod.id.on_host()
                    || text == pod.id.to_string()
                    || text == format!("{workload}/{endpoint}")
                    || text == format!("{}/{endpoint}", last(workload))
            })
            .collect();
        if !whole.is_empty() || text.len() < SHORTEST {
            return whole;
        }
        let begins = |pod: &&Known| {
            pod.id.workload.as_str().starts_with(text) || last(&pod.id.workload).starts_with(text)
        };
        self.pods.iter().filter(begins).collect()
    }

    /// The endpoints that may use an address.
    pub fn pods_with(&self, address: IpAddr) -> impl Iterator<Item = &Known> {
        let uses = move |pod: &&Known| pod.addresses.iter().any(|net| net.contains(address));
        self.pods.iter().filter(uses)
    }

    /// The endpoints that ask for an external address.
    pub fn pods_asking_for(&self, external: IpAddr) -> impl Iterator<Item = &Known> {
        self.pods.iter().filter(move |pod| pod.external.contains(&external))
    }

    /// The host that has an address.
    pub fn host_with(&self, address: IpAddr) -> Option<&Name> {
        self.hosts.iter().find(|(_, all)| all.contains(&address)).map(|(name, _)| name)
    }

    /// True when the address may be a pod's that is not known.
    pub fn may_be_a_pod(&self, address: IpAddr) -> bool {
        !self.complete && self.pools.iter().any(|pool| pool.contains(address))
    }

    /// The address of a family by which a peer is asked about.
    pub fn address(peer: &Peer, family: Family) -> Option<IpAddr> {
        let mut all: Box<dyn Iterator<Item = IpAddr>> = match peer {
            Peer::Pod(pod) => Box::new(pod.addresses.iter().map(Cidr::address)),
            Peer::Host(_, addresses) => Box::new(addresses.iter().copied()),
            Peer::Address(address) => Box::new(std::iter::once(*address)),
            Peer::External(external) => Box::new(std::iter::once(external.internal)),
            Peer::Network(net) => Box::new(std::iter::once(net.address())),
            Peer::Outside => Box::new(OUTSIDE.into_iter()),
        };
        all.find(|address| Family::of(*address) == family)
    }

    /// The number of a port that one of `pods` gives a name to.
    pub fn port(pods: &[&Known], protocol: Protocol, name: &Name) -> Option<u16> {
        let ports = pods.iter().flat_map(|pod| &pod.ports);
        let mut called = ports.filter(|port| port.protocol == protocol && port.name == *name);
        called.next().map(|port| port.port)
    }
}

/// `workload/endpoint`, as people type it.
pub(super) fn short(id: &WorkloadEndpointId) -> String {
    format!("{}/{}", id.workload, id.endpoint)
}

/// What stands behind the namespace.
fn last(workload: &Name) -> &str {
    let text = workload.as_str();
    text.rsplit_once('/').map_or(text, |(_, last)| last)
}

fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}
