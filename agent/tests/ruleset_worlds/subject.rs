//! A world as the kernel would see it: calculated, rendered as text, read by the interpreter.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::desired::DesiredState;
use calico_agent::felix::rendered::{Rendered, rendered};
use calico_datastore::model::{Family, Name, Update, WorkloadEndpointId};
use calico_reference::Direction;
use calico_ruleset::{Host, Outcome, Packet, Ruleset};
use calico_worlds::Question;

/// The interface to everywhere else.
pub(crate) const UPLINK: &str = "eth0";

/// The rulesets of a world's own node.
pub(crate) struct Subject {
    pub(crate) state: Arc<DesiredState>,
    /// Of IPv4 and of IPv6.
    pub(crate) texts: [Rendered; 2],
    pub(crate) rulesets: [Ruleset; 2],
    interfaces: BTreeMap<WorkloadEndpointId, String>,
}

fn of(family: Family) -> calico_ruleset::Family {
    match family {
        Family::V4 => calico_ruleset::Family::V4,
        Family::V6 => calico_ruleset::Family::V6,
    }
}

pub(crate) fn place(family: Family) -> usize {
    usize::from(family == Family::V6)
}

/// Reads a text; an error names the rule.
pub(crate) fn read(family: Family, text: &Rendered) -> Result<Ruleset, String> {
    Ruleset::parse(of(family), &text.tables, &text.sets).map_err(|error| {
        let source = std::error::Error::source(&error);
        format!("{error} {}", source.map(ToString::to_string).unwrap_or_default())
    })
}

impl Subject {
    pub(crate) fn new(node: &Name, updates: Vec<Update>, settings: &Arc<Settings>) -> Self {
        let mut calculator = Calculator::new(node.clone());
        calculator.apply(updates);
        Self::of(calculator.desired(Arc::clone(settings), 1))
    }

    pub(crate) fn of(state: Arc<DesiredState>) -> Self {
        let texts = Family::ALL.map(|family| rendered(&state, family).unwrap());
        let rulesets = Family::ALL.map(|family| {
            let text = &texts[place(family)];
            read(family, text).unwrap_or_else(|error| panic!("{error}\n{}", text.tables))
        });
        let interfaces = state.endpoints.iter();
        let interfaces =
            interfaces.map(|(id, one)| (id.clone(), one.interface.to_string())).collect();
        Self { state, texts, rulesets, interfaces }
    }

    pub(crate) fn rules(&self) -> usize {
        self.rulesets.iter().map(Ruleset::len).sum()
    }

    pub(crate) fn ruleset(&self, packet: &calico_reference::Packet) -> &Ruleset {
        &self.rulesets[place(packet.family())]
    }

    /// What the ruleset says at the endpoint's own end: everybody else is behind the uplink. `None`
    /// when the packet is for no single other host.
    pub(crate) fn ask(&self, question: &Question) -> Option<Outcome> {
        self.ask_of(question, self.ruleset(&question.packet))
    }

    /// The same of another ruleset.
    pub(crate) fn ask_of(&self, question: &Question, ruleset: &Ruleset) -> Option<Outcome> {
        let own = self.interfaces.get(&question.endpoint)?;
        let (from, to) = match question.direction {
            Direction::Ingress => (UPLINK, own.as_str()),
            Direction::Egress => (own.as_str(), UPLINK),
        };
        walk(ruleset, &question.packet, from, to)
    }

    /// A packet from one endpoint of this host to another: the question to that one, and what becomes
    /// of it.
    pub(crate) fn between(&self, question: &Question) -> Option<(Question, Outcome)> {
        if question.direction == Direction::Ingress {
            return None;
        }
        let to = question.packet.destination;
        let holds = |id: &WorkloadEndpointId| {
            self.state.endpoints[id].addresses.iter().any(|net| net.contains(to))
        };
        let (other, interface) = self.interfaces.iter().find(|(id, _)| holds(id))?;
        let own = self.interfaces.get(&question.endpoint)?;
        let outcome = walk(self.ruleset(&question.packet), &question.packet, own, interface)?;
        let other = Question {
            endpoint: other.clone(),
            direction: Direction::Ingress,
            packet: question.packet,
        };
        Some((other, outcome))
    }

    /// What was decided, for people.
    pub(crate) fn trace(&self, question: &Question, outcome: &Outcome) -> String {
        let ruleset = self.ruleset(&question.packet);
        format!("{:?} by {}\n{}", outcome.fate, outcome.decided(ruleset), outcome.trace(ruleset))
    }
}

/// A packet in by one interface, to go out by another.
pub(crate) fn walk(
    ruleset: &Ruleset,
    packet: &calico_reference::Packet,
    from: &str,
    to: &str,
) -> Option<Outcome> {
    let everyone = |address: IpAddr| if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let mut host = Host::default();
    host.route(everyone(packet.destination), to).unwrap();
    let destination = packet.destination;
    // The host takes these itself; what it does with them is asked elsewhere.
    if destination.is_multicast()
        || destination.is_loopback()
        || destination == IpAddr::from([255; 4])
    {
        return None;
    }
    Some(ruleset.walk(&host, &told(packet).into_interface(from)).unwrap())
}

/// The same packet in the interpreter's words.
pub(crate) fn told(packet: &calico_reference::Packet) -> Packet {
    let calico_reference::Packet { source, destination, protocol, ports, icmp } = *packet;
    Packet { ports, icmp, ..Packet::new(source, destination, protocol) }
}
