//! What the agent says of a world: its decoding, its calculation, its judge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::desired::DesiredState;
use calico_agent::desired::verdict::{self, Flow, Judge, Side};
use calico_datastore::model::{Name, Policy, PolicyId, Profile, Protocol, Update};
use calico_reference::{Direction, Packet, Reason, Reference, Verdict};
use calico_worlds::{Question, World};

/// A world as the agent sees it.
pub(crate) struct Agent {
    node: Name,
    state: Arc<DesiredState>,
    policies: BTreeMap<PolicyId, Arc<Policy>>,
    profiles: BTreeMap<Name, Arc<Profile>>,
}

impl Agent {
    pub(crate) fn new(world: &World, settings: &Arc<Settings>) -> Self {
        Self::of(&world.node, world.updates(), settings)
    }

    pub(crate) fn of(node: &Name, updates: Vec<Update>, settings: &Arc<Settings>) -> Self {
        let mut this = Self {
            node: node.clone(),
            state: Arc::default(),
            policies: BTreeMap::new(),
            profiles: BTreeMap::new(),
        };
        for update in &updates {
            match update {
                Update::Policy(id, Some(policy)) => {
                    this.policies.insert(id.clone(), Arc::clone(policy));
                }
                Update::Profile(name, Some(profile)) => {
                    this.profiles.insert(name.clone(), Arc::clone(profile));
                }
                _ => {}
            }
        }
        let reference = Reference::new(&updates);
        let settings = Settings {
            source_spoofing: reference.lets_spoof(node),
            floating_ips: reference.lets_float(node),
            ..Settings::clone(settings)
        };
        let mut calculator = Calculator::new(node.clone());
        calculator.apply(updates);
        this.state = calculator.desired(Arc::new(settings), 1);
        this
    }

    pub(crate) fn node(&self) -> &Name {
        &self.node
    }

    pub(crate) fn state(&self) -> &DesiredState {
        &self.state
    }

    pub(crate) fn judge<'a>(&'a self, host: &'a BTreeSet<std::net::IpAddr>) -> Judge<'a> {
        Judge::new(&self.state, host)
    }

    /// The answer in the reference's words; `None` when there is no such endpoint here.
    pub(crate) fn ask(&self, judge: &Judge<'_>, question: &Question) -> Option<Verdict> {
        let side = match question.direction {
            Direction::Ingress => Side::Destination,
            Direction::Egress => Side::Source,
        };
        let verdict = judge.ask(&question.endpoint, side, &flow(&question.packet))?;
        let reason = self.reason(verdict.reason);
        Some(Verdict { allowed: verdict.allowed, reason })
    }

    /// A reason in the reference's words.
    pub(crate) fn reason(&self, reason: verdict::Reason) -> Reason {
        match reason {
            verdict::Reason::Policy { tier, policy, rule } => {
                Reason::Policy { tier, policy, rule: rule.index as usize }
            }
            verdict::Reason::EndOfTier(tier) => Reason::EndOfTier(tier),
            verdict::Reason::Profile { profile, rule } => {
                Reason::Profile { profile, rule: rule.index as usize }
            }
            verdict::Reason::NoSuchProfile(profile) => Reason::MissingProfile(profile),
            verdict::Reason::NothingAllows => Reason::NothingAllows,
            verdict::Reason::NotItsAddress => Reason::NotItsAddress,
            verdict::Reason::NotInForce => Reason::Inactive,
            verdict::Reason::Tunnel => Reason::Tunnel,
            other => panic!("no policy says: {other}"),
        }
    }
}

pub(crate) fn flow(packet: &Packet) -> Flow {
    Flow {
        source: packet.source,
        destination: packet.destination,
        protocol: Protocol::from_number(packet.protocol),
        ports: packet.ports,
        icmp: packet.icmp,
    }
}
