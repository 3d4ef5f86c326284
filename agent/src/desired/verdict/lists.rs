//! Policies, profiles and sets, asked in their order.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use calico_datastore::model::{Action, Cidr, Family, Name, PolicyId, Protocol, TierAction};
use imbl::OrdMap;

use super::rule::{Lengths, miss};
use super::trace::{Step, Trace};
use super::{Flow, Reason, RuleAt, Side};
use crate::desired::{
    ActiveRule, ActiveRules, AddressSet, DirectionAcl, HostEndpoints, Member, SetId, TierAcl,
};

/// What one kind of endpoint asks: the pods', or the host's.
#[derive(Debug)]
pub struct Lists<'a> {
    policies: &'a OrdMap<PolicyId, Arc<ActiveRules>>,
    profiles: &'a OrdMap<Name, Arc<ActiveRules>>,
    sets: &'a OrdMap<SetId, AddressSet>,
    lengths: BTreeMap<&'a SetId, OnceLock<Lengths>>,
}

impl<'a> Lists<'a> {
    pub(super) fn new(
        policies: &'a OrdMap<PolicyId, Arc<ActiveRules>>,
        profiles: &'a OrdMap<Name, Arc<ActiveRules>>,
        sets: &'a OrdMap<SetId, AddressSet>,
    ) -> Self {
        let lengths = sets.keys().map(|id| (id, OnceLock::new())).collect();
        Self { policies, profiles, sets, lengths }
    }

    pub(super) fn of_hosts(hosts: &'a HostEndpoints) -> Self {
        Self::new(&hosts.policies, &hosts.profiles, &hosts.sets)
    }

    /// The sets.
    pub fn sets(&self) -> &'a OrdMap<SetId, AddressSet> {
        self.sets
    }

    /// The tiers in order, then the profiles, then drop.
    pub(super) fn walk<T: Trace<'a>>(
        &self,
        acl: &'a DirectionAcl,
        side: Side,
        flow: &Flow,
        trace: &mut T,
    ) -> (bool, Reason) {
        let decided = self.tiers(&acl.tiers, true, side, flow, trace);
        decided.unwrap_or_else(|| self.profiles(&acl.profiles, side, flow, trace))
    }

    /// The tiers in order; `None`: all of them were passed. `ends`: the end of one drops what none of
    /// its rules decides, if that is its default action.
    pub(super) fn tiers<T: Trace<'a>>(
        &self,
        tiers: &'a [TierAcl],
        ends: bool,
        side: Side,
        flow: &Flow,
        trace: &mut T,
    ) -> Option<(bool, Reason)> {
        'tiers: for tier in tiers {
            trace.step(Step::Tier(tier));
            for id in &tier.policies {
                trace.step(Step::Policy(id));
                let Some(rules) = self.policies.get(id) else {
                    let (policy, tier) = (id.clone(), tier.tier.clone());
                    return Some((false, Reason::NoSuchPolicy { tier, policy }));
                };
                match self.first(rules, side, flow, trace) {
                    Some((Action::Pass, _)) => continue 'tiers,
                    Some((action, rule)) => {
                        let (policy, tier) = (id.clone(), tier.tier.clone());
                        let reason = Reason::Policy { tier, policy, rule };
                        return Some((action == Action::Allow, reason));
                    }
                    None => {}
                }
            }
            if !ends {
                trace.step(Step::OpenEnd(tier));
                continue;
            }
            trace.step(Step::EndOfTier(tier));
            if tier.default_action == TierAction::Deny {
                return Some((false, Reason::EndOfTier(tier.tier.clone())));
            }
        }
        None
    }

    /// The profiles, then drop.
    pub(super) fn profiles<T: Trace<'a>>(
        &self,
        profiles: &'a [Name],
        side: Side,
        flow: &Flow,
        trace: &mut T,
    ) -> (bool, Reason) {
        for profile in profiles {
            trace.step(Step::Profile(profile));
            let there = self.profiles.get(profile).filter(|rules| {
                rules.ingress.first().is_none_or(|rule| rule.origin != ActiveRule::UNWRITTEN)
            });
            let Some(rules) = there else {
                return (false, Reason::NoSuchProfile(profile.clone()));
            };
            match self.first(rules, side, flow, trace) {
                // The rest of this profile is left out.
                Some((Action::Pass, _)) | None => {}
                Some((action, rule)) => {
                    let profile = profile.clone();
                    return (action == Action::Allow, Reason::Profile { profile, rule });
                }
            }
        }
        (false, Reason::NothingAllows)
    }

    /// The first rule that decides.
    fn first<T: Trace<'a>>(
        &self,
        rules: &'a Arc<ActiveRules>,
        side: Side,
        flow: &Flow,
        trace: &mut T,
    ) -> Option<(Action, RuleAt)> {
        let list: &'a [ActiveRule] = match side {
            Side::Source => &rules.egress,
            Side::Destination => &rules.ingress,
        };
        for rule in list {
            // It decides nothing: only who wants to see everything asks it.
            if rule.action == Action::Log && !T::WANTS_LOG {
                continue;
            }
            let miss = miss(rule, flow, self);
            trace.step(Step::Rule(rule, miss));
            if miss.is_none() && rule.action != Action::Log {
                return Some((rule.action, RuleAt { side, index: rule.origin }));
            }
        }
        None
    }

    /// Does a prefix of the set hold the address?
    pub(super) fn has_address(&self, id: &SetId, address: IpAddr) -> bool {
        self.prefix_in(id, address).is_some()
    }

    /// The shortest prefix of the set that holds the address. One look for each length that the set
    /// has.
    pub fn prefix_in(&self, id: &SetId, address: IpAddr) -> Option<Cidr> {
        let (set, lengths) = (self.sets.get(id)?, self.lengths.get(id)?);
        let lengths = lengths.get_or_init(|| Lengths::of(set.members.iter()));
        let nets = lengths.family(Family::of(address)).iter();
        nets.filter_map(|len| Cidr::new(address, *len).ok())
            .find(|net| set.members.contains(&Member::Net(*net)))
    }

    /// Does the set hold this port of this address?
    pub fn has_port(
        &self,
        id: &SetId,
        address: IpAddr,
        protocol: Option<Protocol>,
        port: Option<u16>,
    ) -> bool {
        let (Some(set), Some(protocol), Some(port)) = (self.sets.get(id), protocol, port) else {
            return false;
        };
        set.members.contains(&Member::Port(address, protocol, port))
    }
}
