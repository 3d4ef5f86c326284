//! The answer to a question: both sides asked, and the way to each verdict written down. Pure.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_datastore::model::{Family, Name, Protocol};

use super::conclusion::{conclusion, elsewhere, is_untracked};
use super::directory::{Directory, Known, Peer, short};
use super::document::{Answer, End, EndKind, Explanation, Outcome, RuleAsked, SideAnswer};
use super::error::ExplainError;
use super::external::External;
use super::network;
use super::passing::{self, Passing};
use super::peers::{Peers, pods_of};
use super::question::{CLIENT_PORT, Packet, Port, Question};
use super::stray::Stray;
use super::uplink::uplink;
use super::way::Writer;
use super::words;
use super::world::World;
use crate::desired::verdict::{Flow, Judge, Passage, Reason, Side, Traced};
use crate::desired::{DesiredState, Member};

/// Answers the question.
///
/// # Errors
/// When it cannot be meant, or a peer is not known.
pub fn explain(question: &Question, world: &World) -> Result<Explanation, ExplainError> {
    let packet = question.packet()?;
    let Peers { from, to } = Peers::find(question, &world.directory)?;
    // Nobody sends as an external address.
    let peers = Peers { from, to: External::resolve(to, world) };
    let judges = world
        .places
        .iter()
        .map(|(node, place)| (node, (&*place.state, Judge::new(&place.state, &place.addresses))));
    let asking = Asking {
        question,
        packet,
        peers: &peers,
        world,
        judges: judges.collect(),
        too_many: Cell::new(false),
        strays: RefCell::default(),
    };
    let mut answers = Vec::new();
    for family in Family::ALL.into_iter().filter(|family| asking.packet.is_of(*family)) {
        answers.extend(asking.family(family)?);
    }
    if answers.is_empty() {
        let only = matches!(asking.packet, Packet::Icmp { only: Some(_), .. });
        let (from, to) = (question.from.clone(), question.to.clone());
        return Err(ExplainError::Families { from, to, only: only.then_some(Family::V6) });
    }
    let mut notes = world.notes.clone();
    notes.extend(asking.notes(&answers));
    Ok(Explanation { basis: world.basis.clone(), answers, notes })
}

/// The policy of one host, ready to be asked.
type Asked<'a> = (&'a DesiredState, Judge<'a>);

struct Asking<'a> {
    question: &'a Question,
    packet: Packet,
    peers: &'a Peers,
    world: &'a World,
    judges: BTreeMap<&'a Name, Asked<'a>>,
    /// A network has more parts than were looked at.
    too_many: Cell<bool>,
    /// What is to be said of endpoints that no policy of pods protects.
    strays: RefCell<BTreeSet<String>>,
}

impl<'a> Asking<'a> {
    /// The answers for one family: none when one of the peers has no address of it.
    fn family(&self, family: Family) -> Result<Vec<Answer>, ExplainError> {
        let Peers { from, to } = self.peers;
        let (source, destination) =
            (Directory::address(from, family), Directory::address(to, family));
        let (Some(source), Some(destination)) = (source, destination) else {
            return Ok(Vec::new());
        };
        let net = match (from, to) {
            (Peer::Network(net), _) | (_, Peer::Network(net)) => *net,
            _ => return Ok(vec![self.answer(source, destination)?]),
        };
        let nodes = self.peers.hosts(&self.world.directory);
        let nodes = nodes.iter().filter_map(|node| self.world.places.get(node));
        let mut parts = Vec::new();
        let (found, more) = network::parts(net, nodes);
        self.too_many.set(self.too_many.get() || more);
        for (prefix, address) in found {
            let answer = match from {
                Peer::Network(_) => self.answer(address, destination)?,
                _ => self.answer(source, address)?,
            };
            parts.push((prefix, answer));
        }
        Ok(network::grouped(parts, matches!(from, Peer::Network(_))))
    }

    fn answer(&self, source: IpAddr, destination: IpAddr) -> Result<Answer, ExplainError> {
        let flow = self.flow(source, destination)?;
        let ends = [
            (&self.peers.from, source, Side::Source),
            (&self.peers.to, destination, Side::Destination),
        ];
        let [from, to] = ends.map(|(peer, address, side)| self.end(peer, address, side, &flow));
        let icmp = flow.icmp;
        let mut sides = Vec::new();
        let (outcome, because);
        let external = match &self.peers.to {
            Peer::External(external) => Some(external),
            _ => None,
        };
        if external.is_none() && from.pods.len() == 1 && from.pods == to.pods {
            (outcome, because) =
                (Outcome::Unpoliced, "a pod reaches itself without asking its host".to_owned());
        } else {
            for (end, other, side) in [(&from, &to, Side::Source), (&to, &from, Side::Destination)]
            {
                if side == Side::Destination {
                    sides.extend(self.between(&from.end, &to.end, &flow)?);
                }
                for pod in &end.pods {
                    let seen = external.map(|external| external.seen_by(pod, side, &flow));
                    let seen = seen.unwrap_or(flow);
                    sides.push(self.side(pod, side, &seen));
                    sides.extend(self.stray(pod, side, &other.end, seen));
                }
                sides.extend(end.unknown.clone());
            }
            (outcome, because) = conclusion(&sides);
        }
        let protocol = words::protocol(flow.protocol);
        Ok(Answer { outcome, because, protocol, icmp, from: from.end, to: to.end, sides })
    }

    fn flow(&self, source: IpAddr, destination: IpAddr) -> Result<Flow, ExplainError> {
        let family = Family::of(source);
        let flow = Flow { source, destination, protocol: None, ports: None, icmp: None };
        Ok(match &self.packet {
            Packet::Ports { protocol, to, from } => {
                let to = match to {
                    Port::Number(number) => *number,
                    Port::Name(name) => self.port(*protocol, name, destination)?,
                };
                let ports = Some((from.unwrap_or(CLIENT_PORT), to));
                Flow { protocol: Some(*protocol), ports, ..flow }
            }
            Packet::Icmp { kind, code, .. } => {
                let (protocol, icmp) = Packet::icmp(family, *kind, *code);
                Flow { protocol: Some(protocol), icmp: Some(icmp), ..flow }
            }
            Packet::Other(protocol) => Flow { protocol: Some(*protocol), ..flow },
        })
    }

    /// What host endpoints say of a packet from one host to another, or to or from outside.
    fn between(&self, from: &End, to: &End, flow: &Flow) -> Result<Vec<SideAnswer>, ExplainError> {
        let mut sides = Vec::new();
        if from.node.is_some() && from.node == to.node {
            return Ok(sides);
        }
        // The host of the destination translates an external address, behind the early hooks.
        let mut flow = *flow;
        let mut sent = flow;
        if let Peer::External(external) = &self.peers.to {
            sent.destination = external.address;
        }
        for (end, side) in [(from, Side::Source), (to, Side::Destination)] {
            let node = end.node.as_deref().map(Name::from);
            let Some((node, passage)) = node.zip(passing::passage(end, side)) else { continue };
            let asked = self.world.places.get(&node).zip(self.judges.get(&node));
            let Some((place, (_, judge))) = asked else { continue };
            let said = self.question.interface_of(&node)?;
            let flow_there = if side == Side::Source { sent } else { flow };
            let at = uplink(place, said.as_ref(), passing::remote(passage, &flow_there));
            let passing = Passing { node: &node, judge, at, passage, sent, flow: flow_there };
            sides.extend(passing.sides());
            if passage == Passage::OutOf && to.kind == EndKind::Host {
                flow = passing::masqueraded(&flow, &node, place, &self.world.directory);
                sent = flow;
            }
        }
        Ok(sides)
    }

    /// What a host endpoint says at the interface of an endpoint, if that is none of pods.
    fn stray(&self, pod: &Known, side: Side, other: &End, flow: Flow) -> Vec<SideAnswer> {
        let node = &pod.id.node;
        let found = self.world.places.get(node).zip(self.judges.get(node));
        let stray = found.and_then(|(place, (_, judge))| Stray::of(pod, place, judge));
        let Some(stray) = stray else { return Vec::new() };
        let mut sent = flow;
        if let Peer::External(external) = &self.peers.to {
            sent.destination = external.address;
        }
        let (sides, note) = stray.ask(side, other, sent, flow);
        self.strays.borrow_mut().insert(note);
        sides
    }

    /// The port that the destination calls so: as its endpoint says, or a set of a rule.
    fn port(
        &self,
        protocol: Protocol,
        name: &Name,
        destination: IpAddr,
    ) -> Result<u16, ExplainError> {
        let pods = pods_of(&self.peers.to, &self.world.directory);
        if let Some(port) = Directory::port(&pods, protocol, name) {
            return Ok(port);
        }
        let end = format!("; {protocol}; {name}");
        let sets = self.judges.values().flat_map(|(state, _)| state.sets.values());
        let mut called =
            sets.filter(|set| set.selector.ends_with(&end)).flat_map(|set| &set.members);
        let found = called.find_map(|member| match member {
            Member::Port(address, of, port) if (*address, *of) == (destination, protocol) => {
                Some(*port)
            }
            _ => None,
        });
        found.ok_or_else(|| ExplainError::PortName {
            name: name.clone(),
            protocol,
            peer: self.question.to.clone(),
        })
    }

    fn end(&self, peer: &Peer, address: IpAddr, side: Side, flow: &Flow) -> FoundEnd<'_> {
        let directory = &self.world.directory;
        let port = flow.ports.map(|(from, to)| if side == Side::Source { from } else { to });
        let port =
            port.filter(|_| side == Side::Destination || self.question.source_port.is_some());
        let mut end = End {
            kind: EndKind::Address,
            name: None,
            node: None,
            address,
            external: None,
            networks: Vec::new(),
            port,
        };
        let named = |end: &mut End, pod: &Known| {
            end.kind = EndKind::Pod;
            (end.name, end.node) = (Some(short(&pod.id)), Some(pod.id.node.to_string()));
        };
        let mut found = FoundEnd { end: end.clone(), pods: Vec::new(), unknown: None };
        match peer {
            Peer::Pod(pod) => {
                named(&mut end, pod);
                // The directory's: it lives as long as the answer.
                found.pods = directory.pods.iter().filter(|known| known.id == pod.id).collect();
            }
            Peer::External(external) => {
                named(&mut end, &external.pod);
                end.external = Some(external.address);
                let is_it = |known: &&Known| known.id == external.pod.id;
                found.pods = directory.pods.iter().filter(is_it).collect();
            }
            Peer::Host(name, _) => {
                (end.kind, end.node) = (EndKind::Host, Some(name.to_string()));
            }
            Peer::Address(_) | Peer::Network(_) | Peer::Outside => {
                found.pods = self.pods_at(address);
                if matches!(peer, Peer::Network(_)) {
                    // What the pods inside say is another question.
                    found.pods.clear();
                } else if let Some(pod) = found.pods.first() {
                    named(&mut end, pod);
                } else if let Some(host) = directory.host_with(address) {
                    (end.kind, end.node) = (EndKind::Host, Some(host.to_string()));
                } else if directory.may_be_a_pod(address) {
                    found.unknown = Some(elsewhere(address, side));
                }
            }
        }
        FoundEnd { end, ..found }
    }

    /// The pods that are asked about an address: on each host those in force, or else those that nobody
    /// polices, or else the others.
    fn pods_at(&self, address: IpAddr) -> Vec<&Known> {
        let asked: BTreeSet<_> =
            self.judges.values().flat_map(|(_, judge)| judge.endpoints_with(address)).collect();
        let pods = self.world.directory.pods_with(address);
        let counts =
            |pod: &&Known| !self.judges.contains_key(&pod.id.node) || asked.contains(&pod.id);
        pods.filter(counts).collect()
    }

    fn side(&self, pod: &Known, side: Side, flow: &Flow) -> SideAnswer {
        let answer = SideAnswer {
            side: side.to_string(),
            endpoint: pod.id.on_host(),
            hook: None,
            interface: Some(pod.interface.clone()),
            node: Some(pod.id.node.to_string()),
            allowed: None,
            reason: format!("its host {} is not known here", pod.id.node),
            tiers: Vec::new(),
            profiles: Vec::new(),
        };
        let Some((state, judge)) = self.judges.get(&pod.id.node) else { return answer };
        let Some(Traced { verdict, steps }) = judge.trace(&pod.id, side, flow) else {
            if pod.interface.parse().is_ok_and(|name| !state.settings.is_of_pods(&name)) {
                let reason = Reason::NotOfPods.to_string();
                return SideAnswer { allowed: Some(true), reason, ..answer };
            }
            let reason = "the endpoint is not in force: another one has its interface".to_owned();
            return SideAnswer { allowed: Some(false), reason, ..answer };
        };
        let writer = Writer { lists: judge.of_pods(), flow, side };
        let (tiers, profiles) = writer.steps(&steps);
        let (allowed, reason) = (Some(verdict.allowed), verdict.reason.to_string());
        SideAnswer { allowed, reason, tiers, profiles, ..answer }
    }

    /// What the state has to say about what was asked: rules that are left out.
    fn notices(&self, answers: &[Answer]) -> BTreeSet<String> {
        let mut said = BTreeSet::new();
        for side in answers.iter().flat_map(|answer| &answer.sides) {
            let host = side.node.as_deref().and_then(|node| self.judges.get(&Name::from(node)));
            let Some((state, _)) = host else { continue };
            let policies = side.tiers.iter().flat_map(|tier| &tier.policies);
            let asked = policies.chain(&side.profiles).map(|asked| asked.name.as_str());
            // The end of a subject is the object's name; one has at most as many as there are kinds.
            for name in asked {
                let about = state.notices.iter().filter(|(subject, _)| {
                    subject.split_once(' ').is_some_and(|(_, called)| called == name)
                });
                said.extend(about.map(|(subject, message)| format!("{subject}: {message}")));
            }
        }
        said
    }

    fn notes(&self, answers: &[Answer]) -> Vec<String> {
        let mut notes: Vec<String> = self.notices(answers).into_iter().collect();
        notes.extend(self.strays.borrow().iter().cloned());
        let rules = answers.iter().flat_map(|answer| &answer.sides).flat_map(|side| {
            let policies = side.tiers.iter().flat_map(|tier| &tier.policies);
            policies.chain(&side.profiles).flat_map(|policy| &policy.rules)
        });
        let source_port = |rule: &RuleAsked| {
            let from = rule.text.split(" to ").next().unwrap_or_default();
            from.contains("port ")
        };
        if matches!(self.packet, Packet::Ports { from: None, .. }) && rules.clone().any(source_port)
        {
            notes.push(format!(
                "rules look at the source's port, which was taken to be {CLIENT_PORT}: say it with \
                 --source-port"
            ));
        }
        if answers.iter().flat_map(|answer| &answer.sides).any(is_untracked) {
            notes.push(
                "a policy with doNotTrack allows it, so its answers are asked as packets of their own"
                    .to_owned(),
            );
        }
        if let Peer::External(external) = &self.peers.to {
            let from = pods_of(&self.peers.from, &self.world.directory);
            notes.extend(external.note(&from, self.world));
        }
        if self.too_many.get() {
            notes.push(format!(
                "the network has more than {} parts, which were looked at: ask about a smaller one",
                network::MOST
            ));
        }
        if [&self.peers.from, &self.peers.to].into_iter().any(|p| matches!(p, Peer::Network(_))) {
            notes.push(
                "of a network the policy of the other side is asked, not that of pods inside it; \
                        of prefixes that hold an address the longest counts"
                    .to_owned(),
            );
        }
        notes
    }
}

struct FoundEnd<'a> {
    end: End,
    pods: Vec<&'a Known>,
    /// The side of somebody who is not known.
    unknown: Option<SideAnswer>,
}
