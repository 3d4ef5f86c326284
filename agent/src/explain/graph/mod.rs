//! Who reaches whom on one host, as a graph: pods that policy cannot tell apart are one node. Pure.
//!
//! Two pods are alike when they are of one ACL class and every set and prefix that a rule names holds
//! both or none. One of them is asked for all, about a packet of each service: of every port that
//! policies name, and of one that none names.

pub mod dot;
mod services;
pub mod svg;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, Name, Protocol, WorkloadEndpointId};
use serde::{Deserialize, Serialize};

use self::services::Service;
use super::directory::{Directory, Peer, short};
use super::error::ExplainError;
use super::network;
use super::question::{CLIENT_PORT, Question};
use super::uplink::{Uplink, behind};
use super::world::Place;
use crate::desired::verdict::{Flow, Judge, Side};
use crate::desired::{DesiredState, LocalEndpoint, Member};

/// How many groups are drawn.
const MOST_GROUPS: usize = 64;
/// How many services are asked about.
const MOST_SERVICES: usize = 64;

/// Who reaches whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// The host.
    pub host: String,
    /// The revision of the datastore.
    pub revision: i64,
    /// What was asked about.
    pub services: Vec<String>,
    /// The nodes.
    pub groups: Vec<Group>,
    /// What passes between them.
    pub edges: Vec<Edge>,
    /// What is to be known about it.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A node of the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// What it is.
    pub kind: GroupKind,
    /// The pods: `default/web/eth0`.
    #[serde(default)]
    pub members: Vec<String>,
    /// Their policies, as `tier/policy`.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Their profiles.
    #[serde(default)]
    pub profiles: Vec<String>,
}

/// What a node of the graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    /// Pods that policy cannot tell apart.
    Pods,
    /// The host itself. It reaches all its pods; that is not drawn.
    Host,
    /// An address that nobody known has.
    Outside,
}

/// What passes from one group to another; from a group to itself: between its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Place in [`Graph::groups`].
    pub from: usize,
    /// Place in [`Graph::groups`].
    pub to: usize,
    /// The services that pass, never none.
    pub passes: Vec<String>,
    /// All that were asked about do.
    pub all: bool,
}

impl Edge {
    /// What passes, in a few words.
    fn label(&self) -> String {
        if self.all && self.passes.len() > 1 { "all".to_owned() } else { self.passes.join(", ") }
    }
}

/// A node in the making: who is asked for it.
struct Node {
    group: Group,
    /// At most two: the second answers where the first asks.
    asked: Vec<(Option<WorkloadEndpointId>, IpAddr)>,
    /// A host endpoint may be asked about what passes there.
    hidden: bool,
}

/// The graph of a host. `question`: only of its protocol and port, when it names one.
///
/// # Errors
/// When the protocol or the port cannot be meant.
pub fn graph(
    question: &Question,
    host: &Name,
    place: &Place,
    directory: &Directory,
) -> Result<Graph, ExplainError> {
    let state = &*place.state;
    let one =
        question.protocol.is_some() || question.port.is_some() || question.icmp_type.is_some();
    let mut notes = Vec::new();
    let mut services =
        if one { vec![Service::of(&question.packet()?)] } else { services::named(state) };
    if services.len() > MOST_SERVICES {
        notes.push(format!("{} services are left out", services.len() - MOST_SERVICES));
        services.truncate(MOST_SERVICES);
    }
    let judge = Judge::new(state, &place.addresses);
    notes.extend(of_strays(place));
    let mut nodes = groups(place, &judge);
    if nodes.len() > MOST_GROUPS {
        notes.push(format!("{} groups of few pods are left out", nodes.len() - MOST_GROUPS));
        nodes.truncate(MOST_GROUPS);
    }
    nodes.sort_by(|a, b| a.group.members.cmp(&b.group.members));
    let empty =
        |kind| Group { kind, members: Vec::new(), policies: Vec::new(), profiles: Vec::new() };
    let own = directory.hosts.get(host).into_iter().flatten();
    let own = own.map(|address| (None, *address)).collect();
    nodes.push(Node { group: empty(GroupKind::Host), asked: own, hidden: false });
    let outside = Family::ALL.iter().filter_map(|f| Directory::address(&Peer::Outside, *f));
    let outside = outside.map(|address| (None, address)).collect();
    nodes.push(Node { group: empty(GroupKind::Outside), asked: outside, hidden: false });

    let ports = named_ports(state);
    let mut edges = Vec::new();
    for (from, source) in nodes.iter().enumerate() {
        for (to, destination) in nodes.iter().enumerate() {
            let Some((a, b)) = pair(source, destination, from == to) else { continue };
            let asked: Vec<_> = services
                .iter()
                .filter_map(|service| Some((service, service.flow(a.1, b.1, CLIENT_PORT, &ports)?)))
                .collect();
            let passes: Vec<String> = asked
                .iter()
                .filter(|(_, flow)| allowed(&judge, a, b, flow))
                .map(|(service, _)| service.to_string())
                .collect();
            if !passes.is_empty() {
                let all = passes.len() == asked.len();
                edges.push(Edge { from, to, passes, all });
            }
        }
    }
    Ok(Graph {
        host: host.to_string(),
        revision: state.revision,
        services: services.iter().map(ToString::to_string).collect(),
        groups: nodes.into_iter().map(|node| node.group).collect(),
        edges,
        notes,
    })
}

type Asked = (Option<WorkloadEndpointId>, IpAddr);

/// Whom to ask for an edge: addresses of one family, IPv4 first. Only pods have policy, and the
/// host reaches its own. What a host endpoint decides is not drawn.
fn pair<'a>(from: &'a Node, to: &'a Node, same: bool) -> Option<(&'a Asked, &'a Asked)> {
    let pods = |node: &Node| node.group.kind == GroupKind::Pods;
    if from.group.kind == GroupKind::Host || !(pods(from) || pods(to)) || from.hidden || to.hidden {
        return None;
    }
    if same {
        let [a, b, ..] = &from.asked[..] else { return None };
        return (a.1.is_ipv4() == b.1.is_ipv4()).then_some((a, b));
    }
    let sources = from.asked.iter();
    let mut pairs = sources.flat_map(|a| to.asked.iter().map(move |b| (a, b)));
    pairs.find(|(a, b)| a.1.is_ipv4() == b.1.is_ipv4())
}

fn allowed(judge: &Judge<'_>, a: &Asked, b: &Asked, flow: &Flow) -> bool {
    [(a, Side::Source), (b, Side::Destination)].into_iter().all(|((id, _), side)| {
        let Some(id) = id else { return true };
        judge.ask(id, side, flow).is_some_and(|verdict| verdict.allowed)
    })
}

/// The pods of the host in groups that policy cannot tell apart, those with most members first.
fn groups(place: &Place, judge: &Judge<'_>) -> Vec<Node> {
    let state = &*place.state;
    let ports = ports_by_address(state);
    let nets: BTreeSet<Cidr> = network::of_rules(state).collect();
    let mut found: BTreeMap<Signature<'_>, Node> = BTreeMap::new();
    for (id, endpoint) in &state.endpoints {
        let Some(address) = address_of(endpoint) else { continue };
        let signature = Signature {
            class: endpoint.class.as_str(),
            in_force: judge.endpoints_with(address).contains(&id),
            policing: Policing::of(endpoint, place),
            v4: address.is_ipv4(),
            sets: state
                .sets
                .keys()
                .map(|set| judge.of_pods().prefix_in(set, address).is_some())
                .collect(),
            nets: nets.iter().map(|net| net.contains(address)).collect(),
            ports: ports.get(&address).cloned().unwrap_or_default(),
        };
        let hidden = signature.policing == Policing::ByHostEndpoint;
        let node = found.entry(signature).or_insert_with(|| Node {
            group: described(state, endpoint),
            asked: Vec::new(),
            hidden,
        });
        node.group.members.push(short(id));
        if node.asked.len() < 2 {
            node.asked.push((Some(id.clone()), address));
        }
    }
    let mut nodes: Vec<Node> = found.into_values().collect();
    nodes.sort_by(|a, b| {
        let (a, b) = (&a.group.members, &b.group.members);
        (b.len(), a).cmp(&(a.len(), b))
    });
    nodes
}

/// Whose policy is asked at an endpoint's interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Policing {
    OfPods,
    /// It is none of pods, and the host's, or may be: which one is not known here.
    ByHostEndpoint,
    Nobodys,
}

impl Policing {
    fn of(endpoint: &LocalEndpoint, place: &Place) -> Self {
        if place.state.settings.is_of_pods(&endpoint.interface) {
            return Self::OfPods;
        }
        match behind(place, &endpoint.interface, None) {
            Uplink::Nobodys => Self::Nobodys,
            Uplink::Endpoint { .. } | Uplink::Unknown(_) => Self::ByHostEndpoint,
        }
    }
}

/// What is to be said of endpoints on interfaces that are none of pods.
fn of_strays(place: &Place) -> Vec<String> {
    let state = &*place.state;
    let prefixes = state.settings.interface_prefixes.join(",");
    let why = format!("their interfaces do not begin with InterfacePrefix ({prefixes})");
    let all = state.endpoints.values().map(|endpoint| Policing::of(endpoint, place));
    let all: Vec<_> = all.collect();
    let said = [
        (Policing::Nobodys, format!("endpoints are not policed: {why}")),
        (
            Policing::ByHostEndpoint,
            format!(
                "endpoints are not policed as pods, and what a host endpoint lets pass there is not \
                 drawn (explain tells): {why}"
            ),
        ),
    ];
    let said = said.into_iter().filter_map(|(policing, text)| {
        let count = all.iter().filter(|one| **one == policing).count();
        (count > 0).then(|| format!("{count} {text}"))
    });
    said.collect()
}

/// What policy can see of a pod.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Signature<'a> {
    class: &'a str,
    in_force: bool,
    policing: Policing,
    v4: bool,
    sets: Vec<bool>,
    nets: Vec<bool>,
    ports: Vec<(usize, Protocol, u16)>,
}

/// The address that stands for a pod: IPv4 where it has one.
fn address_of(endpoint: &LocalEndpoint) -> Option<IpAddr> {
    let addresses = || endpoint.addresses.iter().map(Cidr::address);
    addresses().find(IpAddr::is_ipv4).or_else(|| addresses().next())
}

fn described(state: &DesiredState, endpoint: &LocalEndpoint) -> Group {
    let mut group = Group {
        kind: GroupKind::Pods,
        members: Vec::new(),
        policies: Vec::new(),
        profiles: Vec::new(),
    };
    let policed = state.settings.is_of_pods(&endpoint.interface);
    let class = state.classes.get(&endpoint.class).filter(|_| policed);
    for direction in class.iter().flat_map(|class| [&class.ingress, &class.egress]) {
        for tier in &direction.tiers {
            for policy in &tier.policies {
                let name = format!("{}/{policy}", tier.tier);
                if !group.policies.contains(&name) {
                    group.policies.push(name);
                }
            }
        }
        for profile in &direction.profiles {
            let name = profile.to_string();
            if !group.profiles.contains(&name) {
                group.profiles.push(name);
            }
        }
    }
    group
}

/// The named ports of each address: which set, and which port.
fn ports_by_address(state: &DesiredState) -> BTreeMap<IpAddr, Vec<(usize, Protocol, u16)>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (at, set) in state.sets.values().enumerate() {
        for member in &set.members {
            if let Member::Port(address, protocol, port) = member {
                found.entry(*address).or_default().push((at, *protocol, *port));
            }
        }
    }
    found
}

/// (address, protocol, name) → port.
type NamedPorts<'a> = BTreeMap<(IpAddr, Protocol, &'a str), u16>;

fn named_ports(state: &DesiredState) -> NamedPorts<'_> {
    let mut found = BTreeMap::new();
    for set in state.sets.values() {
        let Some((_, name)) = set.selector.rsplit_once("; ") else { continue };
        for member in &set.members {
            if let Member::Port(address, protocol, port) = member {
                found.insert((*address, *protocol, name), *port);
            }
        }
    }
    found
}
