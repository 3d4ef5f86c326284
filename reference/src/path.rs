//! The way of a packet through a host, hook by hook.

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
    fn ask(&mut self, subject: Subject, hook: Option<Hook>, direction: Direction, v: Verdict) {
        self.allowed &= v.allowed;
        self.steps.push(Step { subject, hook, direction, verdict: v });
    }
}

impl Reference {
    /// Follows the first packet of a connection through a host. What a workload sends to the host
    /// itself is only judged by its egress policy: `DefaultEndpointToHostAction` comes after it.
    pub fn walk(&self, host: &Host, from: &Place, to: &Place, packet: &Packet) -> Walk {
        let mut walk = Walk { allowed: true, ..Walk::default() };
        if let Place::Interface(name) = from
            && let Some(id) = self.governing(host, name)
        {
            // Once a policy of raw or mangle has allowed it, the hooks behind do not ask the endpoint
            // that it came in by any more.
            let mut accepted =
                self.at(&mut walk, host, id, Hook::Untracked, Direction::Ingress, packet);
            walk.untracked = accepted;
            if walk.allowed && !accepted {
                accepted = self.at(&mut walk, host, id, Hook::PreDnat, Direction::Ingress, packet);
            }
            let hook = if *to == Place::Local { Hook::Normal } else { Hook::Forward };
            if walk.allowed && !accepted {
                self.at(&mut walk, host, id, hook, Direction::Ingress, packet);
            }
        }
        if let Place::Workload(id) = from {
            self.of_workload(&mut walk, id, Direction::Egress, packet);
        }
        match to {
            // The host reaches its own workloads, whatever their policy.
            Place::Workload(_) if *from == Place::Local => {}
            Place::Workload(id) if walk.allowed => {
                self.of_workload(&mut walk, id, Direction::Ingress, packet);
            }
            Place::Interface(name) if walk.allowed => {
                if let Some(id) = self.governing(host, name) {
                    self.leave(&mut walk, host, id, from, packet);
                }
            }
            _ => {}
        }
        walk
    }

    fn leave(
        &self,
        walk: &mut Walk,
        host: &Host,
        id: &HostEndpointId,
        from: &Place,
        packet: &Packet,
    ) {
        if *from != Place::Local {
            self.at(walk, host, id, Hook::Forward, Direction::Egress, packet);
            return;
        }
        let accepted = self.at(walk, host, id, Hook::Untracked, Direction::Egress, packet);
        walk.untracked |= accepted;
        if walk.allowed && !accepted {
            self.at(walk, host, id, Hook::Normal, Direction::Egress, packet);
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
        packet: &Packet,
    ) {
        if let Some(verdict) = self.workload(id, direction, packet) {
            walk.ask(Subject::Workload(id.clone()), None, direction, verdict);
        }
    }

    /// Asks a host endpoint at a hook; true when a policy there allowed it.
    fn at(
        &self,
        walk: &mut Walk,
        host: &Host,
        id: &HostEndpointId,
        hook: Hook,
        direction: Direction,
        packet: &Packet,
    ) -> bool {
        let verdict = if failsafe(host, hook, direction, packet) {
            Verdict::allow(Reason::Failsafe)
        } else if let Some(verdict) = self.host(id, hook, direction, packet) {
            verdict
        } else {
            return false;
        };
        let by_policy = !matches!(verdict.reason, Reason::Failsafe | Reason::NotAsked);
        let accepted = verdict.allowed && by_policy;
        walk.ask(Subject::Host(id.clone()), Some(hook), direction, verdict);
        accepted
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
