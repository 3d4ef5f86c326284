//! A world as the kernel would see it: calculated, rendered, read by an interpreter (`kernel.rs`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_agent::acl::Calculator;
use calico_agent::config::{AllowAction, DenyAction, HostAction, Settings};
use calico_agent::desired::{DesiredState, HostEndpoints, LocalEndpoint};
use calico_agent::routes::monitor::{Link, Links};
use calico_datastore::model::{Family, Mac, Name, Update, WorkloadEndpointId};
use calico_reference::Direction;
use calico_ruleset::{Host, Packet, State};
use calico_worlds::Question;

use crate::kernel::{Made, Outcome, Ruleset};

/// The interface to everywhere else.
pub(crate) const UPLINK: &str = "eth0";

/// The rulesets of a world's own node.
pub(crate) struct Subject {
    pub(crate) state: Arc<DesiredState>,
    pub(crate) made: Made,
    ends: BTreeMap<WorkloadEndpointId, End>,
}

/// An endpoint as the host meets it.
pub(crate) struct End {
    pub(crate) interface: String,
    pub(crate) mac: [u8; 6],
    /// Frames with another address are dropped.
    pub(crate) checked: bool,
}

/// Settings of every kind, the same for the same seed.
pub(crate) fn settings(seed: u64) -> Arc<Settings> {
    let every = |n: u64| seed % n == n - 1;
    Arc::new(Settings {
        endpoint_to_host: match seed % 3 {
            0 => HostAction::Return,
            1 => HostAction::Drop,
            _ => HostAction::Accept,
        },
        rkt_metadata_service: every(2),
        filter_allow: if every(5) { AllowAction::Return } else { AllowAction::Accept },
        filter_deny: if every(4) { DenyAction::Reject } else { DenyAction::Drop },
        allow_conntrack_invalid: every(6),
        endpoint_counters: !every(7),
        ipv6: !every(11),
        mark_mask: if every(9) { 0x8000_0a02 } else { 0xffff_0000 },
        ..Settings::default()
    })
}

pub(crate) fn place(family: Family) -> usize {
    usize::from(family == Family::V6)
}

impl Subject {
    pub(crate) fn new(node: &Name, updates: Vec<Update>, settings: Arc<Settings>) -> Self {
        let mut calculator = Calculator::new(node.clone());
        calculator.apply(updates);
        let mut state = DesiredState::clone(&calculator.desired(settings, 1));
        // The questions are about pods alone: those about hosts are in `hosts.rs`.
        state.host_endpoints = HostEndpoints::default();
        Self::with(state, Links::new())
    }

    /// The same with its host endpoints in force on these interfaces.
    pub(crate) fn with_hosts(
        node: &Name,
        updates: Vec<Update>,
        settings: Arc<Settings>,
        links: Links,
    ) -> Self {
        let mut calculator = Calculator::new(node.clone());
        calculator.apply(updates);
        Self::with(DesiredState::clone(&calculator.desired(settings, 1)), links)
    }

    fn with(mut state: DesiredState, links: Links) -> Self {
        // What no world draws: addresses of frames, and pools.
        let ids: Vec<WorkloadEndpointId> = state.endpoints.keys().cloned().collect();
        for (n, id) in ids.iter().enumerate().step_by(2) {
            let mut endpoint = LocalEndpoint::clone(&state.endpoints[id]);
            endpoint.mac = Some(Mac::new(mac(n)));
            state.endpoints.insert(id.clone(), Arc::new(endpoint));
        }
        for (pool, masquerade) in POOLS {
            state.pools.insert(pool.parse().unwrap(), masquerade);
        }
        Self::of(Arc::new(state), links)
    }

    fn of(state: Arc<DesiredState>, mut links: Links) -> Self {
        // Every endpoint's interface is there and up.
        let interfaces = state.endpoints.values().map(|one| one.interface.clone());
        let of_pods = interfaces
            .zip(1..)
            .map(|(name, index)| (name, Link { index, up: true, ..Link::default() }));
        links.extend(of_pods);
        let world = calico_agent::reconcile::World { desired: Arc::clone(&state), links };
        let made = Made::new(&world);
        let ends = state.endpoints.iter().enumerate().map(|(n, (id, one))| {
            let interface = one.interface.to_string();
            (id.clone(), End { interface, mac: mac(n), checked: one.mac.is_some() })
        });
        let ends = ends.collect();
        Self { state, made, ends }
    }

    pub(crate) fn rules(&self) -> usize {
        self.made.rules()
    }

    pub(crate) fn ruleset(&self, family: Family) -> &Ruleset {
        self.made.ruleset(family)
    }

    pub(crate) fn ends(&self) -> &BTreeMap<WorkloadEndpointId, End> {
        &self.ends
    }

    /// Nothing of the family passes from or to pods.
    pub(crate) fn is_off(&self, family: Family) -> bool {
        family == Family::V6 && !self.state.settings.ipv6
    }

    /// What the ruleset says at the endpoint's own end: everybody else is behind the uplink. `None`
    /// when the packet is for no single other host.
    pub(crate) fn ask(&self, question: &Question) -> Option<Outcome> {
        let (packet, host) = self.flight(question)?;
        Some(self.ruleset(question.packet.family()).walk(&host, &packet).unwrap())
    }

    /// The packet of a question, and the host that it comes to.
    pub(crate) fn flight(&self, question: &Question) -> Option<Flight> {
        let own = self.ends.get(&question.endpoint)?;
        let packet = told(&question.packet);
        match question.direction {
            Direction::Ingress => flight_by(packet.into_interface(UPLINK), &own.interface),
            Direction::Egress => flight_by(own.send(packet), UPLINK),
        }
    }

    /// A packet from one endpoint of this host to another: the question to that one, and what becomes
    /// of it.
    pub(crate) fn between(&self, question: &Question) -> Option<(Question, Outcome)> {
        let (other, (packet, host)) = self.flight_between(question)?;
        Some((other, self.ruleset(question.packet.family()).walk(&host, &packet).unwrap()))
    }

    /// Such a packet, and the host that it comes to.
    pub(crate) fn flight_between(&self, question: &Question) -> Option<(Question, Flight)> {
        if question.direction == Direction::Ingress {
            return None;
        }
        let to = question.packet.destination;
        let holds = |id: &WorkloadEndpointId| {
            self.state.endpoints[id].addresses.iter().any(|net| net.contains(to))
        };
        let (other, end) = self.ends.iter().find(|(id, _)| holds(id))?;
        let own = self.ends.get(&question.endpoint)?;
        let flight = flight_by(own.send(told(&question.packet)), &end.interface)?;
        let other = Question {
            endpoint: other.clone(),
            direction: Direction::Ingress,
            packet: question.packet,
        };
        Some((other, flight))
    }

    /// What was decided, for people.
    pub(crate) fn trace(&self, question: &Question, outcome: &Outcome) -> String {
        let ruleset = self.ruleset(question.packet.family());
        format!("{:?} by {}\n{}", outcome.fate, outcome.decided(ruleset), outcome.trace(ruleset))
    }
}

/// Pools, and whether what leaves them is masqueraded.
pub(crate) const POOLS: [(&str, bool); 4] =
    [("10.65.0.0/29", true), ("10.65.0.8/29", false), ("fd65::/125", true), ("fd18::/64", false)];

fn mac(n: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(n).unwrap()]
}

impl End {
    /// A packet as it comes from the endpoint.
    pub(crate) fn send(&self, packet: Packet) -> Packet {
        packet.into_interface(&self.interface).with_mac(self.mac)
    }
}

/// A packet, and the host that it comes to.
pub(crate) type Flight = (Packet, Host);

/// A packet that goes out by an interface, whoever it is for; `None` when it is for no single host.
fn flight_by(packet: Packet, to: &str) -> Option<Flight> {
    let destination = packet.destination;
    let several = destination.is_multicast() || destination == IpAddr::from([255; 4]);
    if several || destination.is_loopback() {
        return None;
    }
    let mut host = Host::default();
    host.route(if destination.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, to).unwrap();
    Some((packet, host))
}

/// What becomes of such a packet.
pub(crate) fn through(ruleset: &Ruleset, packet: &Packet, to: &str) -> Option<Outcome> {
    let (packet, host) = flight_by(packet.clone(), to)?;
    Some(ruleset.walk(&host, &packet).unwrap())
}

/// The same packet in the interpreter's words.
pub(crate) fn told(packet: &calico_reference::Packet) -> Packet {
    let calico_reference::Packet { source, destination, protocol, ports, icmp } = *packet;
    Packet { ports, icmp, state: State::New, ..Packet::new(source, destination, protocol) }
}
