//! What all chains have in common: it follows from the settings.

use std::sync::Arc;

use calico_datastore::model::Family;

use super::names;
use super::place::Place;
use crate::config::{DenyAction, Settings};
use crate::felix::nftables::object::{
    Chain, InterfacePattern, Match, Rule, Statement, Verdict, Way,
};
use crate::felix::ruleset::Direction;
use crate::felix::ruleset::deny::DenyPoint;

/// What all chains have in common.
#[derive(Clone, Debug)]
pub(super) struct Style {
    /// The settings.
    pub settings: Settings,
    /// The families that are switched on, IPv4 first.
    pub families: Vec<Family>,
    /// The bit of the mark that a packet of host endpoints carries from one place to the next.
    pub mark: u32,
    /// What a logged packet's line begins with.
    pub log_prefix: Arc<str>,
}

/// A rule.
pub(super) fn rule(matches: Vec<Match>, statements: Vec<Statement>) -> Rule {
    Rule { matches, statements, comment: None }
}

/// A rule that ends in a verdict.
pub(super) fn ends(matches: Vec<Match>, verdict: Verdict) -> Rule {
    rule(matches, vec![Statement::Verdict(verdict)])
}

/// A rule that drops, and counts how often.
pub(super) fn drops(matches: Vec<Match>) -> Rule {
    rule(matches, counted(Verdict::Drop))
}

pub(super) fn counted(verdict: Verdict) -> Vec<Statement> {
    vec![Statement::Counter, Statement::Verdict(verdict)]
}

/// True when no packet gets behind these rules.
pub(super) fn ended(rules: &[Rule]) -> bool {
    rules.iter().any(ends_all)
}

fn ends_all(rule: &Rule) -> bool {
    let ends = match rule.statements.last() {
        Some(Statement::Verdict(verdict)) => !matches!(verdict, Verdict::Jump(_)),
        Some(last) => *last == Statement::Reject,
        None => false,
    };
    ends && rule.matches.is_empty()
}

/// The rules that a packet can get to.
pub(super) fn reached(mut rules: Vec<Rule>) -> Vec<Rule> {
    if let Some(last) = rules.iter().position(ends_all) {
        rules.truncate(last + 1);
    }
    rules
}

/// A chain that the kernel does not call.
pub(super) fn chain(rules: Vec<Rule>) -> Arc<Chain> {
    Arc::new(Chain { base: None, rules })
}

impl Style {
    /// The style of these settings; `None` when the mask of the mark has no bit.
    pub(super) fn new(settings: &Settings) -> Option<Self> {
        // The colon and the space are two of the 127 characters.
        let mut prefix = settings.log_prefix.replace(['"', '\\', '\n'], "");
        while prefix.len() > 125 {
            prefix.pop();
        }
        let on = |family: &Family| *family == Family::V4 || settings.ipv6;
        (settings.mark_mask != 0).then(|| Self {
            families: Family::ALL.into_iter().filter(on).collect(),
            mark: 1 << settings.mark_mask.trailing_zeros(),
            log_prefix: format!("{prefix}: ").into(),
            settings: settings.clone(),
        })
    }

    /// True when IPv6 is switched off.
    pub(super) fn is_v6_off(&self) -> bool {
        self.families.len() < 2
    }

    /// True when packets of pods are counted.
    pub(super) fn counts(&self) -> bool {
        self.settings.endpoint_counters
    }

    /// What becomes of an allowed packet.
    pub(super) fn allow(&self, place: Place) -> Vec<Statement> {
        let mark = Statement::SetMark { mask: self.mark, value: self.mark };
        let accept = Statement::Verdict(Verdict::Accept);
        match place {
            Place::Untracked(_) => vec![Statement::Counter, mark, Statement::Notrack, accept],
            Place::PreDnat => vec![Statement::Counter, mark, accept],
            Place::Pod(_) | Place::Host(_) | Place::Late => vec![Statement::Counter, accept],
        }
    }

    /// What becomes of a packet that is dropped, whatever a denied one gets.
    pub(super) fn drop(&self, place: Place) -> Vec<Statement> {
        self.end(place, false)
    }

    /// What becomes of a denied packet, where it is of no matter by what.
    pub(super) fn deny(&self, place: Place) -> Vec<Statement> {
        self.end(place, self.rejects())
    }

    pub(super) fn rejects(&self) -> bool {
        self.settings.filter_deny == DenyAction::Reject
    }

    fn end(&self, place: Place, rejects: bool) -> Vec<Statement> {
        let early = place == Place::Host(Direction::Ingress);
        match (place.is_filter(), self.counts(), rejects) {
            (true, true, rejects) => {
                let to = names::ends(place.direction(), rejects, early);
                vec![Statement::Verdict(Verdict::Goto(to))]
            }
            (true, false, true) => vec![Statement::Counter, Statement::Reject],
            _ => counted(Verdict::Drop),
        }
    }

    /// What becomes of a packet that is denied at a point, and whether it has a chain.
    pub(super) fn denied(&self, place: Place, point: &DenyPoint) -> (Vec<Statement>, bool) {
        if self.settings.denied_log {
            let to = names::deny(place, point);
            return (vec![Statement::Verdict(Verdict::Goto(to))], true);
        }
        (self.deny(place), false)
    }

    /// The chain of a point that reports.
    pub(super) fn reporting(&self, place: Place, point: &DenyPoint) -> Vec<Rule> {
        let Settings { denied_log_rate: rate, denied_log_group: group, .. } = self.settings;
        let prefix = format!("{}{}", crate::denied::PREFIX, point.tag()).into();
        // The kernel counts for each rule by itself: a policy that drops much hides no other.
        let limit = Match::Limit { rate, burst: rate };
        vec![
            rule(vec![limit], vec![Statement::LogGroup { group, prefix }]),
            rule(Vec::new(), self.deny(place)),
        ]
    }

    /// The interfaces of pods.
    pub(super) fn pods(&self) -> impl Iterator<Item = InterfacePattern> {
        self.settings.interface_prefixes.iter().filter_map(|prefix| pattern(prefix, true))
    }

    /// Matches what comes in by, or leaves by, no interface of a pod.
    pub(super) fn not_pods(&self, way: Way) -> Vec<Match> {
        self.pods().map(|name| Match::Interface { way, name, not: true }).collect()
    }
}

/// A pattern of interfaces. No name is longer than 15 characters: a prefix of that length is the name.
pub(super) fn pattern(text: &str, begins: bool) -> Option<InterfacePattern> {
    match text.parse() {
        Ok(_) if begins && text.len() < 15 => Some(InterfacePattern::Begins(text.into())),
        Ok(name) => Some(InterfacePattern::Is(name)),
        Err(_) => None,
    }
}
