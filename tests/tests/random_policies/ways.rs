//! The whole way of a conversation through the hosts, as the reference says of it: who is asked of its
//! first packet, and who of the answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use calico_e2e::matrix::Site;
use calico_e2e::tutorial::HOSTS;
use calico_e2e::world::RESOURCES;
use calico_reference::{
    Direction, Host, Known, Packet, Passage, Place, Reason, Reference, Subject, Walk,
};
use calico_worlds::{HostCase, World};
use serde_json::{Value, json};

use crate::hosts::UPLINK;
use crate::pods::ALL_PODS;

/// A state of the datastore, read.
pub(crate) struct Ways {
    reference: Reference,
    /// The same as if no host endpoint governed anything.
    pods: Reference,
    /// As [`HOSTS`].
    hosts: Vec<Host>,
    /// Some policy is untracked.
    untracked: bool,
}

/// What should become of a conversation.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// An answer comes back.
    pub(crate) passes: bool,
    /// It would without host endpoints.
    pub(crate) pods_pass: bool,
    /// What host endpoints said, for counting.
    pub(crate) told: Vec<String>,
    /// The same for people.
    pub(crate) reason: String,
}

/// A host, and where a packet comes from and goes to there.
type Hop<'a> = (&'a Host, Place, Place);

/// Where a site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Pod(usize, IpAddr),
    Host(usize),
    Outside,
}

impl Where {
    fn of(site: &Site, address: IpAddr) -> Self {
        let host = |name: &str| HOSTS.iter().position(|host| host.name == name);
        let pod = ALL_PODS.iter().find(|pod| pod.name == site.name);
        match (pod.and_then(|pod| host(pod.host)), host(&site.name)) {
            (Some(at), _) => Self::Pod(at, address),
            (None, Some(at)) => Self::Host(at),
            (None, None) => Self::Outside,
        }
    }

    fn host(self) -> Option<usize> {
        match self {
            Self::Pod(at, _) | Self::Host(at) => Some(at),
            Self::Outside => None,
        }
    }
}

impl Ways {
    /// Reads the objects; those that are refused are absent.
    pub(crate) fn new(objects: &BTreeMap<String, String>) -> Result<Self> {
        let mut all: BTreeMap<String, Value> = BTreeMap::new();
        for (key, value) in objects {
            all.extend(serde_json::from_str(value).ok().map(|value| (key.clone(), value)));
        }
        let felix = all.remove(&format!("{RESOURCES}/felixconfigurations/default"));
        let felix = felix.unwrap_or_default();
        let version = &felix["metadata"]["annotations"]["config.projectcalico.org/CalicoVersion"];
        if version.is_string() {
            let key = format!("{RESOURCES}/clusterinformations/default");
            all.insert(key, json!({ "spec": { "calicoVersion": version } }));
        }
        let mut hosts = Vec::new();
        for spec in &HOSTS {
            let safe = |field: &str, default: &str| failsafes(&felix["spec"][field], default);
            let case = json!({
                "about": "", "node": spec.name, "trips": [], "objects": {},
                "interfaces": { UPLINK: [spec.v4, IpAddr::from(spec.v6)] },
                "failsafeIn": safe("failsafeInboundHostPorts", INBOUND)?,
                "failsafeOut": safe("failsafeOutboundHostPorts", OUTBOUND)?,
            });
            let case = HostCase::from_text(&case.to_string());
            hosts.push(case.map_err(|error| anyhow::anyhow!("{error}"))?.host);
        }
        let untracked = all.values().any(|value| value["spec"]["doNotTrack"] == true);
        let world = World { node: HOSTS[0].name.into(), objects: all };
        let mut without = world.clone();
        for (key, value) in &mut without.objects {
            if key.contains("/hostendpoints/") {
                value["spec"]["interfaceName"] = json!("nowhere");
            }
        }
        Ok(Self { reference: world.reference(), pods: without.reference(), hosts, untracked })
    }

    /// What becomes of a first packet and its answer; `None` when nobody can say, because a port is
    /// only known to who masquerades.
    pub(crate) fn expect(
        &self,
        from: &Site,
        to: &Site,
        packet: &Packet,
    ) -> Result<Option<Expected>> {
        let ends = [Where::of(from, packet.source), Where::of(to, packet.destination)];
        if self.is_unknown(ends, packet) {
            return Ok(None);
        }
        let (pods_pass, _) = self.converse(&self.pods, ends, packet)?;
        let (passes, walks) = self.converse(&self.reference, ends, packet)?;
        ensure!(pods_pass || !passes, "host endpoints let more pass: {packet:?}");
        let mut told = Vec::new();
        for walk in &walks {
            for step in &walk.steps {
                let (Subject::Host(_), Some(hook)) = (&step.subject, step.hook) else { continue };
                let direction = match step.direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                };
                let why = match (&step.verdict.reason, step.verdict.allowed) {
                    (Reason::Policy { .. }, true) => "allowed by a policy",
                    (Reason::Policy { .. }, false) => "denied by a policy",
                    (Reason::Profile { .. }, true) => "allowed by a profile",
                    (Reason::Invalid, _) => "of no connection",
                    (_, false) => "denied by an end",
                    (Reason::Failsafe, true) => "a fail-safe port",
                    (Reason::Answered, true) => "an answer",
                    (_, true) => "not asked",
                };
                told.push(format!("{hook:?} {direction}: {why}"));
            }
        }
        let words = walks.iter().flat_map(|walk| &walk.steps).map(|step| {
            let place = step.hook.map_or("pod".to_owned(), |hook| format!("{hook:?}"));
            format!("{place} {:?} {}", step.direction, step.verdict)
        });
        let reason = words.collect::<Vec<_>>().join("; ");
        Ok(Some(Expected { passes, pods_pass, told, reason }))
    }

    fn governed(&self, at: usize) -> bool {
        let host = &self.hosts[at];
        self.reference.host_endpoint_of(&host.node, &host.interfaces[0]).is_some()
    }

    /// What leaves the IPv4 pool gets the host's address and a port that chance gives: the host that it
    /// is for must not ask for it, and neither may raw when the answer comes.
    fn is_unknown(&self, ends: [Where; 2], packet: &Packet) -> bool {
        match ends {
            [Where::Pod(own, _), to] if packet.source.is_ipv4() && to.host() != Some(own) => {
                match to {
                    Where::Pod(..) => false,
                    Where::Host(other) => {
                        self.governed(other) || (self.untracked && self.governed(own))
                    }
                    Where::Outside => self.untracked && self.governed(own),
                }
            }
            _ => false,
        }
    }

    /// Whether an answer comes, and every walk until there or until it was dropped.
    fn converse(
        &self,
        reference: &Reference,
        ends: [Where; 2],
        packet: &Packet,
    ) -> Result<(bool, Vec<Walk>)> {
        let mut walks: Vec<Walk> = Vec::new();
        let Some(hops) = self.hops(reference, ends)? else { return Ok((false, walks)) };
        for (host, from, to) in &hops {
            let (from, to) = (from.clone(), to.clone());
            let known = Known::New;
            let passage = Passage { from, to, known, packet: *packet, translated: None };
            walks.push(reference.follow(host, &passage));
            if walks.last().is_some_and(|walk| !walk.allowed) {
                return Ok((false, walks));
            }
        }
        let answer = Packet {
            source: packet.destination,
            destination: packet.source,
            protocol: packet.protocol,
            ports: packet.ports.map(|(from, to)| (to, from)),
            icmp: packet.icmp.map(|(kind, code)| (if kind == 8 { 0 } else { 129 }, code)),
        };
        let first: Vec<bool> = walks.iter().map(|walk| walk.untracked).collect();
        for ((host, from, to), untracked) in hops.iter().zip(first).rev() {
            let known = match (untracked, packet.protocol) {
                (false, _) => Known::Answered,
                // Who knows nothing of the question takes the answer for one.
                (true, 17) => Known::New,
                // And sees that it is none where it says so.
                (true, _) => Known::Nothing,
            };
            let (from, to) = (to.clone(), from.clone());
            // An answer of nobody's question is a packet like any other, and masqueraded like one:
            // nobody waits for an answer of that host.
            let leaves =
                matches!((ends[1], ends[0]), (Where::Pod(..), Where::Host(_) | Where::Outside));
            let from_pod = matches!(from, Place::Workload(_));
            if known == Known::New && from_pod && leaves && answer.source.is_ipv4() {
                return Ok((false, walks));
            }
            let passage = Passage { from, to, known, packet: answer, translated: None };
            walks.push(reference.follow(host, &passage));
            if walks.last().is_some_and(|walk| !walk.allowed) {
                return Ok((false, walks));
            }
        }
        Ok((true, walks))
    }

    /// The hosts on the way, each with where it comes from and goes to there; `None` when a pod is no
    /// endpoint.
    fn hops(&self, reference: &Reference, [from, to]: [Where; 2]) -> Result<Option<Vec<Hop<'_>>>> {
        let wire = || Ok::<_, anyhow::Error>(Place::Interface(UPLINK.parse()?));
        let place = |end: Where| {
            Ok(match end {
                Where::Outside => Some(wire()?),
                Where::Host(_) => Some(Place::Local),
                Where::Pod(_, address) => {
                    let mut all = reference.workloads();
                    let found = all
                        .find(|(_, pod)| pod.addresses.iter().any(|net| net.address() == address));
                    found.map(|(id, _)| Place::Workload(id.clone()))
                }
            })
        };
        let ends: (Result<_>, Result<_>) = (place(from), place(to));
        let (Some(start), Some(end)) = (ends.0?, ends.1?) else { return Ok(None) };
        let host = |at: usize| self.hosts.get(at).context("no such host");
        Ok(Some(match (from.host(), to.host()) {
            (Some(a), Some(b)) if a == b => vec![(host(a)?, start, end)],
            (Some(a), Some(b)) => vec![(host(a)?, start, wire()?), (host(b)?, wire()?, end)],
            (Some(a), None) => vec![(host(a)?, start, wire()?)],
            (None, Some(b)) => vec![(host(b)?, wire()?, end)],
            (None, None) => Vec::new(),
        }))
    }
}

/// The defaults, as a case has them.
const INBOUND: &str = "6 22,17 68,6 179,6 2379,6 2380,6 5473,6 6443,6 6666,6 6667";
const OUTBOUND: &str = "17 53,17 67,6 179,6 2379,6 2380,6 5473,6 6443,6 6666,6 6667";

/// A list of fail-safe ports in the words of a case.
fn failsafes(list: &Value, default: &str) -> Result<Vec<String>> {
    let Some(list) = list.as_array() else {
        return Ok(default.split(',').map(str::to_owned).collect());
    };
    let one = |one: &Value| -> Result<String> {
        let protocol = if one["protocol"] == "UDP" { 17 } else { 6 };
        let port = one["port"].as_u64().context("a port")?;
        let net = one["net"].as_str().unwrap_or_default();
        Ok(format!("{protocol} {port} {net}").trim_end().to_owned())
    };
    list.iter().map(one).collect()
}
