//! What a host endpoint says of a flow, hook by hook; see the chains of the same name.

use std::net::IpAddr;

use calico_datastore::model::{Family, HostEndpointId, Protocol};

use super::trace::Trace;
use super::{Flow, Judge, ND_TYPES, Reason, Side, Subject, Traced, Verdict};
use crate::config::Failsafe;
use crate::desired::{LocalHostEndpoint, TierAcl};

/// ICMPv6 type by which a host learns its routers.
const ROUTER_ADVERTISEMENT: u8 = 134;

/// Where a host endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Before connections are tracked (table `raw`): policies with `doNotTrack`.
    Untracked,
    /// Before destinations are translated (table `mangle`), of what comes in: policies with `preDNAT`.
    PreDnat,
    /// What the host itself receives and sends: tiers, profiles, drop.
    Host,
    /// What passes through the host: policies with `applyOnForward`.
    Forward,
}

impl Hook {
    /// Asked before destinations are translated. The end of a tier drops nothing there.
    pub fn is_early(self) -> bool {
        matches!(self, Self::Untracked | Self::PreDnat)
    }
}

/// How a flow passes an interface of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Passage {
    /// In, to the host itself.
    ToHost,
    /// In, and on to somebody else.
    Into,
    /// Out, from somebody else.
    OutOf,
    /// Out, from the host itself.
    FromHost,
}

impl Passage {
    /// Which end of the flow the host's side is: the rules that decide.
    pub fn side(self) -> Side {
        match self {
            Self::ToHost | Self::Into => Side::Destination,
            Self::OutOf | Self::FromHost => Side::Source,
        }
    }

    /// The hooks in their order.
    pub fn hooks(self) -> &'static [Hook] {
        match self {
            Self::ToHost => &[Hook::Untracked, Hook::PreDnat, Hook::Host],
            Self::Into => &[Hook::Untracked, Hook::PreDnat, Hook::Forward],
            Self::OutOf => &[Hook::Forward],
            Self::FromHost => &[Hook::Untracked, Hook::Host],
        }
    }
}

impl<'a> Judge<'a> {
    /// What a host endpoint says of the first packet of a flow that passes its interface: each hook that
    /// has something to say, up to the one that drops it or allows it for good. Empty when there is no
    /// such endpoint.
    ///
    /// What a policy of `raw` or `mangle` allows no later hook of the endpoint asks about. `sent`: the flow
    /// as the early hooks see it, before its destination is translated.
    pub fn trace_passage(
        &self,
        id: &HostEndpointId,
        passage: Passage,
        sent: &Flow,
        flow: &Flow,
    ) -> Vec<(Hook, Traced<'a>)> {
        let mut out = Vec::new();
        let Some(endpoint) = self.state.host_endpoints.endpoints.get(id) else { return out };
        for hook in passage.hooks() {
            if hook.is_early() && tiers(endpoint, *hook, passage.side()).is_empty() {
                continue;
            }
            let flow = if hook.is_early() { sent } else { flow };
            let Some(traced) = self.trace_host(id, *hook, passage.side(), flow) else { continue };
            let by_policy = matches!(traced.verdict.reason, Reason::Policy { .. });
            let last = !traced.verdict.allowed || by_policy;
            out.push((*hook, traced));
            if last {
                break;
            }
        }
        out
    }

    /// What a host endpoint says of a flow at one hook; `None` when there is no such endpoint.
    /// [`Reason::GoesOn`]: it is not dropped there, and the hooks behind are asked.
    pub fn trace_host(
        &self,
        id: &HostEndpointId,
        hook: Hook,
        side: Side,
        flow: &Flow,
    ) -> Option<Traced<'a>> {
        let endpoint = self.state.host_endpoints.endpoints.get(id)?;
        let mut steps = Vec::new();
        let (allowed, reason) = self.at_hook(endpoint, hook, side, flow, &mut steps);
        let verdict = Verdict { subject: Subject::Host(id.clone()), side, allowed, reason };
        Some(Traced { verdict, steps })
    }

    fn at_hook<T: Trace<'a>>(
        &self,
        endpoint: &'a LocalHostEndpoint,
        hook: Hook,
        side: Side,
        flow: &Flow,
        trace: &mut T,
    ) -> (bool, Reason) {
        if flow.family() == Family::V6 && !self.state.settings.ipv6 {
            return (true, Reason::FamilyOff);
        }
        let tiers = tiers(endpoint, hook, side);
        // A hook without policies is not there, but for that of the host itself.
        if tiers.is_empty() && hook != Hook::Host {
            return (true, Reason::GoesOn);
        }
        if hook != Hook::Forward {
            if is_discovery(flow) {
                return (true, Reason::NeighbourDiscovery);
            }
            if self.is_failsafe(hook, side, flow) {
                return (true, Reason::Failsafe);
            }
        }
        let decided = self.hosts.tiers(tiers, !hook.is_early(), side, flow, trace);
        match (decided, hook) {
            (Some(decided), _) => decided,
            (None, Hook::Host) => self.hosts.profiles(&endpoint.profiles, side, flow, trace),
            (None, _) => (true, Reason::GoesOn),
        }
    }

    /// Nothing knows in `raw` what is an answer: those of the other direction's ports pass there, too.
    fn is_failsafe(&self, hook: Hook, side: Side, flow: &Flow) -> bool {
        let Some((from, to)) = flow.ports else { return false };
        let settings = &self.state.settings;
        let (inbound, outbound) = (&settings.failsafe_inbound, &settings.failsafe_outbound);
        let (own, other, peer) = match side {
            Side::Destination => (inbound, outbound, flow.source),
            Side::Source => (outbound, inbound, flow.destination),
        };
        let meets = |one: &Failsafe, port| is_port(one, flow.protocol, port, peer);
        own.iter().any(|one| meets(one, to))
            || (hook == Hook::Untracked && other.iter().any(|one| meets(one, from)))
    }
}

fn tiers(endpoint: &LocalHostEndpoint, hook: Hook, side: Side) -> &[TierAcl] {
    let of = match hook {
        Hook::PreDnat if side == Side::Destination => return &endpoint.pre_dnat,
        Hook::PreDnat => return &[],
        Hook::Untracked => &endpoint.untracked,
        Hook::Host => &endpoint.normal,
        Hook::Forward => &endpoint.forward,
    };
    match side {
        Side::Destination => &of.ingress,
        Side::Source => &of.egress,
    }
}

fn is_port(one: &Failsafe, protocol: Option<Protocol>, port: u16, peer: IpAddr) -> bool {
    let net = one.net.is_none_or(|net| net.contains(peer));
    Some(one.protocol) == protocol && one.port == port && net
}

/// That without which nobody is found on the link.
fn is_discovery(flow: &Flow) -> bool {
    let kind = flow.icmp.map(|(kind, _)| kind);
    flow.protocol == Some(Protocol::ICMPV6)
        && flow.family() == Family::V6
        && kind.is_some_and(|kind| ND_TYPES.contains(&kind) || kind == ROUTER_ADVERTISEMENT)
}
