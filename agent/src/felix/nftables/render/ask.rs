//! How tiers and profiles are asked, and what the answer was made of.
//!
//! A rule that allows ends the base chain, one that denies drops, and what no rule is about falls
//! back into the chain that asked. "Pass" leaves the tier: a policy that passes is written into a chain
//! of the tier itself, of which "return" leads on to the next one. All others are chains that whoever
//! asks them shares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_datastore::model::{Action, Name as ModelName, TierAction};

use super::names;
use super::place::Place;
use super::rules::rules;
use super::shapes::Shapes;
use super::style::{Style, chain, ended, ends, reached, rule};
use crate::desired::{ActiveRules, DesiredState, SetId, TierAcl};
use crate::felix::iptables::uses::Subject;
use crate::felix::nftables::object::{Chain, Name, Rule, Statement, Verdict};
use crate::felix::ruleset::deny::{DeniedBy, DenyPoint};
use crate::felix::ruleset::{Direction, sets_named};

/// What is made, and made again, as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// What follows from the settings, and the chains of host endpoints.
    Frame,
    /// The translation of addresses.
    Nat,
    /// A class.
    Class(crate::desired::ClassId),
    /// The rules of a policy or profile in one place.
    Rules(Place, Subject),
    /// What reports the packets of a point.
    Deny(Place, DenyPointKey),
}

/// A point by its tag: points have no order.
#[derive(Clone, Debug)]
pub(super) struct DenyPointKey(pub DenyPoint, pub String);

impl PartialEq for DenyPointKey {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}

impl Eq for DenyPointKey {}

impl PartialOrd for DenyPointKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DenyPointKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.1.cmp(&other.1)
    }
}

/// What was made for a key, and what it hangs on.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit {
    /// Its chains.
    pub chains: BTreeMap<Name, Arc<Chain>>,
    /// What else it needs.
    pub needs: BTreeSet<Key>,
    /// The policies and profiles that it asks: whether they are there and whether they pass matters.
    pub subjects: BTreeSet<Subject>,
    /// The sets that its rules name.
    pub sets: BTreeSet<SetId>,
}

impl Unit {
    /// A chain that the kernel does not call.
    pub(super) fn put(&mut self, name: Name, rules: Vec<Rule>) {
        self.chains.insert(name, chain(reached(rules)));
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The policies and profiles.
    pub state: &'a DesiredState,
    /// What all chains have in common.
    pub style: &'a Style,
    /// What sets look like.
    pub shapes: &'a Shapes,
    /// Policies and profiles that let nothing through, whatever they say.
    pub shut: &'a BTreeSet<Subject>,
}

/// What pods and hosts both need is the same.
pub(super) fn rules_of<'a>(subject: &Subject, state: &'a DesiredState) -> Option<&'a ActiveRules> {
    let hosts = &state.host_endpoints;
    let rules = match subject {
        Subject::Policy(id) => state.policies.get(id).or_else(|| hosts.policies.get(id)),
        Subject::Profile(name) => state.profiles.get(name).or_else(|| hosts.profiles.get(name)),
    };
    rules.map(|rules| &**rules)
}

/// True when a rule of that direction passes on.
pub(super) fn passes(rules: &ActiveRules, direction: Direction) -> bool {
    let rules = match direction {
        Direction::Ingress => &rules.ingress,
        Direction::Egress => &rules.egress,
    };
    rules.iter().any(|rule| rule.action == Action::Pass)
}

impl<'a> Asked<'a> {
    /// The rules of a policy or profile in one place; closed when it is not there.
    pub(super) fn unit(self, place: Place, subject: &Subject) -> Unit {
        let mut unit = Unit::default();
        let rules = self.written(place, subject, &mut unit);
        unit.put(names::rules(place, subject), rules);
        unit
    }

    fn open(self, subject: &Subject) -> Option<&'a ActiveRules> {
        rules_of(subject, self.state).filter(|_| !self.shut.contains(subject))
    }

    /// True when this is one of its rules, and they are written where they are asked.
    pub(super) fn writes(self, place: Place, subject: &Subject, rule: &Rule) -> bool {
        let passing = self.open(subject).is_some_and(|rules| passes(rules, place.direction()));
        passing && self.written(place, subject, &mut Unit::default()).contains(rule)
    }

    /// Its rules as they are written where they are asked.
    fn written(self, place: Place, subject: &Subject, unit: &mut Unit) -> Vec<Rule> {
        let Some(active) = self.open(subject) else {
            return vec![rule(Vec::new(), self.style.deny(place))];
        };
        let direction = place.direction();
        let by = match subject {
            Subject::Policy(id) => DeniedBy::Policy(id.clone()),
            Subject::Profile(name) => DeniedBy::Profile(name.clone()),
        };
        let list = match direction {
            Direction::Ingress => &active.ingress,
            Direction::Egress => &active.egress,
        };
        let denies = list.iter().any(|rule| rule.action == Action::Deny);
        let deny = if denies { self.denied(place, by, unit) } else { Vec::new() };
        unit.sets.extend(sets_named(active).cloned());
        list.iter().flat_map(|rule| rules(rule, place, self.style, self.shapes, &deny)).collect()
    }

    /// What becomes of a packet that is denied there.
    fn denied(self, place: Place, by: DeniedBy, unit: &mut Unit) -> Vec<Statement> {
        let point = DenyPoint { direction: place.direction(), place: by };
        let (statements, has_chain) = self.style.denied(place, &point);
        if has_chain {
            let tag = point.tag().to_string();
            unit.needs.insert(Key::Deny(place, DenyPointKey(point, tag)));
        }
        statements
    }

    /// Jumps to what others share.
    fn jump(self, place: Place, subject: &Subject, unit: &mut Unit) -> Rule {
        unit.needs.insert(Key::Rules(place, subject.clone()));
        ends(Vec::new(), Verdict::Jump(names::rules(place, subject)))
    }

    /// The rules of the chain `of` that ask tiers. `ends_drop`: a packet that no policy of a tier decides
    /// about is dropped, unless the tier says otherwise.
    pub(super) fn tiers(
        self,
        tiers: &[TierAcl],
        place: Place,
        ends_drop: bool,
        of: &str,
        unit: &mut Unit,
    ) -> Vec<Rule> {
        let mut out = Vec::new();
        for (number, tier) in tiers.iter().enumerate() {
            if ended(&out) {
                break;
            }
            let mut passing = false;
            let mut asked = Vec::new();
            for policy in &tier.policies {
                if ended(&asked) {
                    break;
                }
                let subject = Subject::Policy(policy.clone());
                unit.subjects.insert(subject.clone());
                match self.open(&subject) {
                    None => asked.push(rule(Vec::new(), self.style.deny(place))),
                    Some(rules) if passes(rules, place.direction()) => {
                        passing = true;
                        asked.extend(self.written(place, &subject, unit));
                    }
                    Some(_) => asked.push(self.jump(place, &subject, unit)),
                }
            }
            if ends_drop && tier.default_action == TierAction::Deny && !ended(&asked) {
                let by = DeniedBy::EndOfTier(tier.tier.clone());
                asked.push(rule(Vec::new(), self.denied(place, by, unit)));
            }
            if passing {
                let name = names::tier(of, number);
                unit.put(Arc::clone(&name), asked);
                out.push(ends(Vec::new(), Verdict::Jump(name)));
            } else {
                out.extend(asked);
            }
        }
        out
    }

    /// Behind the tiers: the rules that ask profiles, and drop what none of them allows. What "pass"
    /// leaves is the profile.
    pub(super) fn profiles(
        self,
        mut out: Vec<Rule>,
        profiles: &[ModelName],
        place: Place,
        unit: &mut Unit,
    ) -> Vec<Rule> {
        for profile in profiles {
            if ended(&out) {
                break;
            }
            let subject = Subject::Profile(profile.clone());
            unit.subjects.insert(subject.clone());
            match self.open(&subject) {
                None => out.push(rule(Vec::new(), self.style.deny(place))),
                Some(_) => out.push(self.jump(place, &subject, unit)),
            }
        }
        if !ended(&out) {
            out.push(rule(Vec::new(), self.denied(place, DeniedBy::End, unit)));
        }
        out
    }
}
