//! The host endpoints of a world, asked at each hook.

use calico_agent::desired::verdict::{self, Judge, Side};
use calico_datastore::model::HostEndpointId;
use calico_reference::{Direction, Hook, Packet, Reason, Verdict};

use crate::agent::{Agent, flow};

/// The hooks of a host endpoint.
pub(crate) const HOOKS: [Hook; 4] = [Hook::Untracked, Hook::PreDnat, Hook::Normal, Hook::Forward];

/// The host endpoints of this node.
pub(crate) fn local(agent: &Agent) -> impl Iterator<Item = &HostEndpointId> {
    agent.state().host_endpoints.endpoints.keys()
}

/// What the agent says of a packet at a hook, in the reference's words.
pub(crate) fn ask(
    agent: &Agent,
    judge: &Judge<'_>,
    id: &HostEndpointId,
    hook: Hook,
    direction: Direction,
    packet: &Packet,
) -> Option<Verdict> {
    let side = match direction {
        Direction::Ingress => Side::Destination,
        Direction::Egress => Side::Source,
    };
    let hook = match hook {
        Hook::Untracked => verdict::Hook::Untracked,
        Hook::PreDnat => verdict::Hook::PreDnat,
        Hook::Normal => verdict::Hook::Host,
        Hook::Forward => verdict::Hook::Forward,
    };
    let verdict = judge.trace_host(id, hook, side, &flow(packet))?.verdict;
    let reason = match verdict.reason {
        verdict::Reason::GoesOn => Reason::NotAsked,
        reason => agent.reason(reason),
    };
    Some(Verdict { allowed: verdict.allowed, reason })
}
