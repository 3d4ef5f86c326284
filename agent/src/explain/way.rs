//! The way to a verdict, written down: tiers, policies, rules, and the sets that were looked into.

use calico_datastore::model::TierAction;

use super::document::{RuleAsked, RulesAsked, SetAsked, TierAsked};
use super::words;
use crate::desired::verdict::{Criterion, Flow, Lists, Miss, RuleAt, Side, Step};
use crate::desired::{ActiveRule, SetId, SideMatch};

/// Writes down what was asked.
pub(super) struct Writer<'a> {
    /// What was asked.
    pub(super) lists: &'a Lists<'a>,
    /// About what.
    pub(super) flow: &'a Flow,
    /// On which side.
    pub(super) side: Side,
}

impl Writer<'_> {
    /// The tiers and the profiles that were asked.
    pub(super) fn steps(&self, steps: &[Step<'_>]) -> (Vec<TierAsked>, Vec<RulesAsked>) {
        let (mut tiers, mut profiles) = (Vec::<TierAsked>::new(), Vec::new());
        let asked = |name: String| RulesAsked { name, rules: Vec::new() };
        let mut in_profiles = false;
        for step in steps {
            let current = tiers.last_mut();
            match *step {
                Step::Tier(tier) => tiers.push(TierAsked {
                    tier: tier.tier.to_string(),
                    policies: Vec::new(),
                    end: None,
                }),
                Step::Policy(id) => {
                    if let Some(tier) = current {
                        tier.policies.push(asked(id.to_string()));
                    }
                }
                Step::EndOfTier(of) => {
                    if let Some(tier) = current {
                        tier.end = Some(match of.default_action {
                            TierAction::Deny => "deny".to_owned(),
                            TierAction::Pass => "pass".to_owned(),
                        });
                    }
                }
                Step::OpenEnd(_) => {
                    if let Some(tier) = current {
                        tier.end = Some("pass".to_owned());
                    }
                }
                Step::Profile(name) => {
                    in_profiles = true;
                    profiles.push(asked(name.to_string()));
                }
                Step::Rule(rule, miss) => {
                    let last = if in_profiles {
                        profiles.last_mut()
                    } else {
                        current.and_then(|tier| tier.policies.last_mut())
                    };
                    if let Some(asked) = last {
                        asked.rules.push(self.rule(rule, miss));
                    }
                }
            }
        }
        (tiers, profiles)
    }

    fn rule(&self, rule: &ActiveRule, miss: Option<Miss<'_>>) -> RuleAsked {
        let sets = match miss {
            None => [(&rule.source, Side::Source), (&rule.destination, Side::Destination)]
                .into_iter()
                .flat_map(|(side, end)| sets_of(side).map(move |id| (id, end)))
                .filter_map(|(id, end)| self.set(id, end))
                .collect(),
            Some(miss) => {
                failed_set(miss).and_then(|(id, end)| self.set(id, end)).into_iter().collect()
            }
        };
        RuleAsked {
            rule: RuleAt { side: self.side, index: rule.origin }.to_string(),
            action: words::action(rule.action).to_owned(),
            text: words::rule(rule, self.lists.sets()),
            matches: miss.is_none(),
            why_not: miss.map(|miss| words::miss(miss, rule, self.flow, self.lists.sets())),
            sets,
        }
    }

    fn set(&self, id: &SetId, end: Side) -> Option<SetAsked> {
        let set = self.lists.sets().get(id)?;
        let (address, port) = match end {
            Side::Source => (self.flow.source, self.flow.ports.map(|(from, _)| from)),
            Side::Destination => (self.flow.destination, self.flow.ports.map(|(_, to)| to)),
        };
        let prefix = self.lists.prefix_in(id, address).map(|net| net.to_string());
        let member = prefix.or_else(|| {
            let (protocol, number) = (self.flow.protocol?, port?);
            let held = self.lists.has_port(id, address, Some(protocol), port);
            held.then(|| format!("{address},{protocol}:{number}"))
        });
        Some(SetAsked {
            side: if end == Side::Source { "source" } else { "destination" }.to_owned(),
            selector: set.selector.to_string(),
            id: id.to_string(),
            member,
            members: set.members.len(),
        })
    }
}

/// The sets of a side that has matched; of several names of a port one may be the one.
fn sets_of(side: &SideMatch) -> impl Iterator<Item = &SetId> {
    side.sets.iter().chain(&side.not_sets).chain(&side.named_ports).chain(&side.not_named_ports)
}

fn failed_set(miss: Miss<'_>) -> Option<(&SetId, Side)> {
    let of = |criterion| match criterion {
        Criterion::Set(id) | Criterion::NotSet(id) | Criterion::NotNamedPort(id) => Some(id),
        _ => None,
    };
    match miss {
        Miss::Source(criterion) => Some((of(criterion)?, Side::Source)),
        Miss::Destination(criterion) => Some((of(criterion)?, Side::Destination)),
        _ => None,
    }
}
