//! The way of a packet through a host, hook by hook.

use std::net::IpAddr;

use calico_datastore::model::{HostEndpointId, InterfaceName, Name, WorkloadEndpointId};

use crate::host::{Failsafe, Hook, Interface};
use crate::packet::{Direction, Packet};
use crate::store::Reference;
use crate::verdict::{Reason, Verdict};

/// What has to be known of a host beside the datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub node: Name,
    /// Its interfaces, those of workloads not among them.
    pub interfaces: Vec<Interface>,
    /// Ports of the host that stay reachable.
    pub failsafe_in: Vec<Failsafe>,
    /// Ports of others that the host always reaches.
    pub failsafe_out: Vec<Failsafe>,
}

/// Where a packet comes from or goes to, as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The host itself.
    Local,
    /// Outside, through this interface.
    Interface(InterfaceName),
    /// A workload of the host.
    Workload(WorkloadEndpointId),
}

/// What connection tracking knows of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing yet: it is the first of its connection.
    New,
    /// It is of a connection that was let through, or belongs to one.
    Answered,
    /// It is the first of none and belongs to none. Hosts that let such packets pass judge them as
    /// they judge new ones: ask with [`Known::New`].
    Nothing,
}

/// A packet on its way through a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Where it comes from.
    pub from: Place,
    /// Where it goes to, after its destination is translated.
    pub to: Place,
    /// What connection tracking would know of it, should it come to that: who was allowed by an
    /// untracked policy is known to nobody.
    pub known: Known,
    /// The packet as it comes.
    pub packet: Packet,
    /// Its destination once it is translated, of a new connection only: behind what is untracked and
    /// what is asked before translation, in front of all else.
    pub translated: Option<IpAddr>,
}

/// Who was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A workload endpoint.
    Workload(WorkloadEndpointId),
    /// A host endpoint.
    Host(HostEndpointId),
}

/// One question on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Who was asked.
    pub subject: Subject,
    /// Where; `None` for a workload.
    pub hook: Option<Hook>,
    /// As seen from it.
    pub direction: Direction,
    /// The answer.
    pub verdict: Verdict,
}

/// The whole way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// It arrived.
    pub allowed: bool,
    /// An untracked policy allowed it: its connection is not tracked.
    pub untracked: bool,
    /// The questions in order. When it did not arrive, the last one decided.
    pub steps: Vec<Step>,
}

impl Walk {
    /// What is known behind the table raw.
    fn known(&self, known: Known) -> Known {
        if self.untracked { Known::New } else { known }
    }

    fn ask(&mut self, subject: Subject, hook: Option<Hook>, direction: Direction, v: Verdict) {
        self.allowed &= v.allowed;
        self.steps.push(Step { subject, hook, direction, verdict: v });
    }
}

impl Reference {
    /// Follows the first packet of a connection through a host. What a workload sends to the host
    /// itself is only judged by its egress policy: `DefaultEndpointToHostAction` comes after it.
    pub fn walk(&self, host: &Host, from: &Place, to: &Place, packet: &Packet) -> Walk {
        let (from, to) = (from.clone(), to.clone());
        let passage = Passage { from, to, known: Known::New, packet: *packet, translated: None };
        self.follow(host, &passage)
    }

    /// Follows any packet through a host.
    ///
    /// What an untracked policy allows is not translated, so where it goes then is not said: of a
    /// passage with a translation that is [`Walk::untracked`] only the first step counts.
    pub fn follow(&self, host: &Host, passage: &Passage) -> Walk {
        let mut walk = Walk { allowed: true, ..Walk::default() };
        let Passage { from, to, packet, .. } = passage;
        let mut later = *packet;
        later.destination = passage.translated.unwrap_or(packet.destination);
        if let Place::Interface(name) = from
            && let Some(id) = self.governing(host, name)
        {
            // Once a policy of raw or mangle has allowed it, the hooks behind do not ask the endpoint
            // that it came in by any more.
            let mut asked = Asked { host, id, direction: Direction::Ingress, known: passage.known };
            let mut accepted = self.at(&mut walk, asked, Hook::Untracked, packet);
            walk.untracked = accepted;
            asked.known = walk.known(passage.known);
            if walk.allowed && !accepted {
                accepted = self.at(&mut walk, asked, Hook::PreDnat, packet);
            }
            let hook = if *to == Place::Local { Hook::Normal } else { Hook::Forward };
            if walk.allowed && !accepted {
                self.at(&mut walk, asked, hook, &later);
            }
        }
        if let Place::Workload(id) = from {
            self.of_workload(&mut walk, id, Direction::Egress, passage.known, &later);
        }
        let known = walk.known(passage.known);
        match to {
            // The host reaches its own workloads, whatever their policy.
            Place::Workload(_) if *from == Place::Local => {}
            Place::Workload(id) if walk.allowed => {
                self.of_workload(&mut walk, id, Direction::Ingress, known, &later);
            }
            Place::Interface(name) if walk.allowed => {
                if let Some(id) = self.governing(host, name) {
                    let asked = Asked { host, id, direction: Direction::Egress, known };
                    self.leave(&mut walk, asked, from, packet, &later);
                }
            }
            _ => {}
        }
        walk
    }

    fn leave(
        &self,
        walk: &mut Walk,
        mut asked: Asked<'_>,
        from: &Place,
        packet: &Packet,
        later: &Packet,
    ) {
        if *from != Place::Local {
            self.at(walk, asked, Hook::Forward, later);
            return;
        }
        let accepted = self.at(walk, asked, Hook::Untracked, packet);
        walk.untracked |= accepted;
        asked.known = walk.known(asked.known);
        if walk.allowed && !accepted {
            self.at(walk, asked, Hook::Normal, later);
        }
    }

    fn governing(&self, host: &Host, name: &InterfaceName) -> Option<&HostEndpointId> {
        let interface = host.interfaces.iter().find(|interface| interface.name == *name)?;
        self.host_endpoint_of(&host.node, interface)
    }

    fn of_workload(
        &self,
        walk: &mut Walk,
        id: &WorkloadEndpointId,
        direction: Direction,
        known: Known,
        packet: &Packet,
    ) {
        let Some(mut verdict) = self.workload(id, direction, packet) else { return };
        // Nobody's packets are nobody's in every state.
        if !matches!(verdict.reason, Reason::Inactive | Reason::NotItsAddress) {
            verdict = known.before_policy().unwrap_or(verdict);
        }
        walk.ask(Subject::Workload(id.clone()), None, direction, verdict);
    }

    /// Asks a host endpoint at a hook; true when a policy there allowed it.
    fn at(&self, walk: &mut Walk, asked: Asked<'_>, hook: Hook, packet: &Packet) -> bool {
        let Asked { host, id, direction, known } = asked;
        // The table raw is asked before anything is known. Behind it, what is known of a packet comes
        // first, failsafe ports included, wherever anything is asked at all.
        let known = known.before_policy().filter(|_| hook != Hook::Untracked);
        let verdict = if let Some(known) = known.filter(|_| self.asks(id, hook, direction)) {
            known
        } else if failsafe(host, hook, direction, packet) {
            Verdict::allow(Reason::Failsafe)
        } else if let Some(verdict) = self.host(id, hook, direction, packet) {
            verdict
        } else {
            return false;
        };
        let by_policy = matches!(verdict.reason, Reason::Policy { .. } | Reason::Profile { .. });
        let accepted = verdict.allowed && by_policy;
        walk.ask(Subject::Host(id.clone()), Some(hook), direction, verdict);
        accepted
    }
}

/// Who is asked about which packet.
#[derive(Clone, Copy)]
struct Asked<'a> {
    host: &'a Host,
    id: &'a HostEndpointId,
    direction: Direction,
    known: Known,
}

impl Known {
    /// Of what is known policies are not asked.
    fn before_policy(self) -> Option<Verdict> {
        match self {
            Self::New => None,
            Self::Answered => Some(Verdict::allow(Reason::Answered)),
            Self::Nothing => Some(Verdict::deny(Reason::Invalid)),
        }
    }
}

/// Failsafe ports concern the host itself; forwarded packets have none. In `raw` nothing knows what
/// is an answer, so the answers of the other direction's ports are let through as well.
fn failsafe(host: &Host, hook: Hook, direction: Direction, packet: &Packet) -> bool {
    if hook == Hook::Forward {
        return false;
    }
    let (own, reverse, other) = match direction {
        Direction::Ingress => (&host.failsafe_in, &host.failsafe_out, packet.source),
        Direction::Egress => (&host.failsafe_out, &host.failsafe_in, packet.destination),
    };
    let (from, to) = (packet.ports.map(|(from, _)| from), packet.ports.map(|(_, to)| to));
    own.iter().any(|port| port.meets(packet.protocol, to, other))
        || (hook == Hook::Untracked
            && reverse.iter().any(|port| port.meets(packet.protocol, from, other)))
}
