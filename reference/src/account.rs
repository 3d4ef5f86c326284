//! What was asked on the way to an answer, rule by rule: for who explains answers.
//!
//! Written beside the shorter way of [`Reference::workload`] and [`Reference::host`], which say the same
//! verdict without it; a test compares the two.

use calico_datastore::model::{Action, Name, PolicyId, Rule, TierAction, Unevaluable};

use crate::host::{Hook, is_of};
use crate::packet::{Direction, Packet};
use crate::path::Subject;
use crate::rule::Read;
use crate::selector::Labels;
use crate::store::{Policy, Reference};
use crate::verdict::{Reason, Verdict};

/// One thing that was asked, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A tier that has a policy about it.
    Tier(Name),
    /// A policy of the tier.
    Policy(PolicyId),
    /// No tier decided: a profile.
    Profile(Name),
    /// A rule of the policy or the profile. Those that can never match here are not among them.
    Rule {
        /// Its place as stored, counted from 0.
        rule: usize,
        /// Its action.
        action: Action,
        /// It speaks of the packet.
        matches: bool,
    },
    /// No rule of the tier decided; does its end pass the packet on?
    End {
        /// Denied otherwise.
        passes: bool,
    },
}

/// An answer with all that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The answer.
    pub verdict: Verdict,
    /// What was asked. Empty where no policy had to be.
    pub told: Vec<Told>,
}

impl Reference {
    /// What an endpoint's policy says of a packet, and what was asked for that. `hook`: where a host
    /// endpoint is asked; not looked at for a workload. `None`: there is no such endpoint.
    pub fn account(
        &self,
        subject: &Subject,
        hook: Hook,
        direction: Direction,
        packet: &Packet,
    ) -> Option<Account> {
        match subject {
            Subject::Workload(id) => {
                let endpoint = self.workloads.get(id)?;
                let verdict = self.workload(id, direction, packet)?;
                if matches!(
                    verdict.reason,
                    Reason::Inactive | Reason::NotItsAddress | Reason::Tunnel
                ) {
                    return Some(Account { verdict, told: Vec::new() });
                }
                let labels = self.labels(&endpoint.labels, &endpoint.profiles);
                Some(self.tell(&labels, &endpoint.profiles, Hook::Normal, direction, packet))
            }
            Subject::Host(id) => {
                let endpoint = self.hosts.get(id)?;
                let labels = self.labels(&endpoint.labels, &endpoint.profiles);
                Some(self.tell(&labels, &endpoint.profiles, hook, direction, packet))
            }
        }
    }

    fn tell(
        &self,
        labels: &Labels,
        profiles: &[Name],
        hook: Hook,
        direction: Direction,
        packet: &Packet,
    ) -> Account {
        let mut told = Vec::new();
        let ends = matches!(hook, Hook::Normal | Hook::Forward);
        'tiers: for tier in &self.tiers {
            let asked = tier.policies.iter().map(|id| (id, &self.policies[id]));
            let asked = asked.filter(|(_, policy)| {
                is_asked(policy, hook, direction) && policy.selector.holds(labels)
            });
            let asked: Vec<_> = asked.collect();
            if asked.is_empty() {
                continue;
            }
            told.push(Told::Tier(tier.name.clone()));
            for (id, policy) in asked {
                told.push(Told::Policy(id.clone()));
                match self.tell_rules(policy.rules.of(direction), packet, &mut told) {
                    None => {}
                    Some((_, Action::Pass)) => continue 'tiers,
                    Some((rule, action)) => {
                        let (tier, policy) = (tier.name.clone(), id.clone());
                        let reason = Reason::Policy { tier, policy, rule };
                        let verdict = Verdict { allowed: action == Action::Allow, reason };
                        return Account { verdict, told };
                    }
                }
            }
            let passes = !ends || tier.default_action == TierAction::Pass;
            told.push(Told::End { passes });
            if !passes {
                let reason = Reason::EndOfTier(tier.name.clone());
                return Account { verdict: Verdict { allowed: false, reason }, told };
            }
        }
        if hook != Hook::Normal {
            let verdict = Verdict { allowed: true, reason: Reason::NotAsked };
            return Account { verdict, told };
        }
        for name in profiles {
            told.push(Told::Profile(name.clone()));
            let Some(rules) = self.profiles.get(name) else {
                let reason = Reason::MissingProfile(name.clone());
                return Account { verdict: Verdict { allowed: false, reason }, told };
            };
            match self.tell_rules(rules.of(direction), packet, &mut told) {
                None | Some((_, Action::Pass)) => {}
                Some((rule, action)) => {
                    let reason = Reason::Profile { profile: name.clone(), rule };
                    let verdict = Verdict { allowed: action == Action::Allow, reason };
                    return Account { verdict, told };
                }
            }
        }
        Account { verdict: Verdict { allowed: false, reason: Reason::NothingAllows }, told }
    }

    /// Asks rules up to the one that decides.
    fn tell_rules(
        &self,
        rules: &[Read],
        packet: &Packet,
        told: &mut Vec<Told>,
    ) -> Option<(usize, Action)> {
        for (rule, read) in rules.iter().enumerate().filter(|(_, read)| is_there(&read.rule)) {
            let action = read.rule.action;
            let matches = read.matches(packet, &self.members);
            told.push(Told::Rule { rule, action, matches });
            if matches && action != Action::Log {
                return Some((rule, action));
            }
        }
        None
    }
}

/// Is the policy asked at this hook, in this direction?
fn is_asked(policy: &Policy, hook: Hook, direction: Direction) -> bool {
    let governs = match direction {
        Direction::Ingress => policy.object.governs_ingress,
        Direction::Egress => policy.object.governs_egress,
    };
    governs && is_of(policy, hook, direction)
}

/// Can it match anything here?
fn is_there(rule: &Rule) -> bool {
    match rule.unevaluable {
        None => true,
        Some(Unevaluable::Services) => false,
        Some(Unevaluable::Http) => rule.action == Action::Deny,
    }
}
