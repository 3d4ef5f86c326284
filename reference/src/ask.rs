//! Tiers, then profiles: datamodel B.9.

use calico_datastore::model::{Action, Name, PolicyKind, TierAction, WorkloadEndpointId};

use crate::packet::{Direction, Packet};
use crate::rule::Read;
use crate::selector::Labels;
use crate::store::{Policy, Reference};
use crate::verdict::{Reason, Verdict};

/// UDP port of VXLAN.
const VXLAN: u16 = 4789;
/// IP in IP.
const IPIP: u8 = 4;
const UDP: u8 = 17;

/// What the tiers say.
pub(crate) enum Tiers {
    /// No policy is about it.
    None,
    /// Every tier was passed.
    Passed,
    /// One decided.
    Decided(Verdict),
}

impl Reference {
    /// What the policy of a workload endpoint says of a packet from it or to it; `None` when there
    /// is no such endpoint. Any host's endpoint can be asked.
    pub fn workload(
        &self,
        id: &WorkloadEndpointId,
        direction: Direction,
        packet: &Packet,
    ) -> Option<Verdict> {
        let endpoint = self.workloads.get(id)?;
        if !endpoint.active {
            return Some(Verdict::deny(Reason::Inactive));
        }
        let near = packet.near(direction);
        if !self.may_use(id, endpoint, direction, near) {
            return Some(Verdict::deny(Reason::NotItsAddress));
        }
        let vxlan = packet.protocol == UDP && packet.ports.is_some_and(|(_, to)| to == VXLAN);
        if direction == Direction::Egress && (vxlan || packet.protocol == IPIP) {
            return Some(Verdict::deny(Reason::Tunnel));
        }
        let labels = self.labels(&endpoint.labels, &endpoint.profiles);
        let normal = |policy: &Policy| policy.object.kind == PolicyKind::Normal;
        Some(match self.ask_tiers(&labels, normal, true, direction, packet) {
            Tiers::Decided(verdict) => verdict,
            Tiers::None | Tiers::Passed => self.ask_profiles(&endpoint.profiles, direction, packet),
        })
    }

    /// Asks the policies of a kind that select these labels. `ends`: the end of a tier denies, if
    /// that is its default action.
    pub(crate) fn ask_tiers(
        &self,
        labels: &Labels,
        of_kind: impl Fn(&Policy) -> bool,
        ends: bool,
        direction: Direction,
        packet: &Packet,
    ) -> Tiers {
        let mut governed = false;
        'tiers: for tier in &self.tiers {
            let mut any = false;
            for id in &tier.policies {
                let policy = &self.policies[id];
                let governs = match direction {
                    Direction::Ingress => policy.object.governs_ingress,
                    Direction::Egress => policy.object.governs_egress,
                };
                if !of_kind(policy) || !governs || !policy.selector.holds(labels) {
                    continue;
                }
                any = true;
                let decided = self.first(policy.rules.of(direction), packet);
                let Some((rule, action)) = decided else { continue };
                if action == Action::Pass {
                    governed = true;
                    continue 'tiers;
                }
                let allowed = action == Action::Allow;
                let reason = Reason::Policy { tier: tier.name.clone(), policy: id.clone(), rule };
                return Tiers::Decided(Verdict { allowed, reason });
            }
            if any && ends && tier.default_action == TierAction::Deny {
                return Tiers::Decided(Verdict::deny(Reason::EndOfTier(tier.name.clone())));
            }
            governed |= any;
        }
        if governed { Tiers::Passed } else { Tiers::None }
    }

    /// Asks the profiles in their order. Pass goes on with the next profile.
    pub(crate) fn ask_profiles(
        &self,
        profiles: &[Name],
        direction: Direction,
        packet: &Packet,
    ) -> Verdict {
        for name in profiles {
            let Some(rules) = self.profiles.get(name) else {
                return Verdict::deny(Reason::MissingProfile(name.clone()));
            };
            let Some((rule, action)) = self.first(rules.of(direction), packet) else { continue };
            if action == Action::Pass {
                continue;
            }
            let reason = Reason::Profile { profile: name.clone(), rule };
            return Verdict { allowed: action == Action::Allow, reason };
        }
        Verdict::deny(Reason::NothingAllows)
    }

    /// The first rule that decides; Log does not.
    fn first(&self, rules: &[Read], packet: &Packet) -> Option<(usize, Action)> {
        rules
            .iter()
            .enumerate()
            .filter(|(_, read)| read.rule.action != Action::Log)
            .find(|(_, read)| read.matches(packet, &self.members))
            .map(|(index, read)| (index, read.rule.action))
    }
}
