//! How often each feature decided.

mod hosts;

use std::collections::BTreeMap;
use std::fmt;

use calico_datastore::model::Update;
use calico_reference::{Reason, Reference, Verdict};

use crate::feature::features;
use crate::question::Question;
use crate::world::World;

pub use self::hosts::HostCoverage;

/// A tally over many worlds.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    questions: u64,
    decided: BTreeMap<&'static str, u64>,
    reasons: BTreeMap<&'static str, u64>,
}

/// What answers come of, and how often in 10,000 questions at least.
const REASONS: [(&str, u64); 9] = [
    ("allowed by a policy", 500),
    ("denied by a policy", 300),
    ("allowed by a profile", 300),
    ("denied by a profile", 20),
    ("denied by the end of a tier", 500),
    ("denied by a missing profile", 50),
    ("allowed by nobody", 300),
    ("of IPv4", 3000),
    ("of IPv6", 3000),
];

impl Coverage {
    /// Counts a world with its questions: each feature that it has is taken away, and decided
    /// wherever the answer is then another.
    pub fn count(
        &mut self,
        world: &World,
        updates: &[Update],
        reference: &Reference,
        questions: &[Question],
    ) {
        let ask = |reference: &Reference, q: &Question| {
            reference.workload(&q.endpoint, q.direction, &q.packet)
        };
        let answers: Vec<Option<Verdict>> =
            questions.iter().map(|question| ask(reference, question)).collect();
        for (question, answer) in questions.iter().zip(&answers) {
            let Some(answer) = answer else { continue };
            self.questions += 1;
            *self.reasons.entry(reason(answer)).or_default() += 1;
            let family = if question.packet.source.is_ipv4() { "of IPv4" } else { "of IPv6" };
            *self.reasons.entry(family).or_default() += 1;
        }
        for feature in features() {
            let Some(without) = feature.without(world, updates) else { continue };
            let blind = Reference::new(&without);
            let flips = questions.iter().zip(&answers).filter(|(question, answer)| {
                let other = ask(&blind, question);
                other.map(|verdict| verdict.allowed) != answer.as_ref().map(|v| v.allowed)
            });
            *self.decided.entry(feature.name).or_default() += flips.count() as u64;
        }
    }

    /// Adds what somebody else counted.
    pub fn add(&mut self, other: &Self) {
        self.questions += other.questions;
        for (mine, theirs) in
            [(&mut self.decided, &other.decided), (&mut self.reasons, &other.reasons)]
        {
            for (name, count) in theirs {
                *mine.entry(name).or_default() += count;
            }
        }
    }

    /// The questions that were counted.
    pub fn questions(&self) -> u64 {
        self.questions
    }

    /// What decided more seldom than it has to, by name.
    pub fn lacking(&self) -> Vec<&'static str> {
        self.rows().filter(|(_, count, least)| count < least).map(|(name, ..)| name).collect()
    }

    /// Name, count, and how often it has to be.
    fn rows(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let least = |in_ten_thousand: u64| in_ten_thousand * self.questions / 10_000;
        let reasons = REASONS.into_iter().map(move |(name, at_least)| {
            (name, self.reasons.get(name).copied().unwrap_or(0), least(at_least))
        });
        let features = features().map(move |feature| {
            let count = self.decided.get(feature.name).copied().unwrap_or(0);
            (feature.name, count, least(feature.least))
        });
        reasons.chain(features)
    }
}

fn reason(verdict: &Verdict) -> &'static str {
    match (&verdict.reason, verdict.allowed) {
        (Reason::Policy { .. }, true) => "allowed by a policy",
        (Reason::Policy { .. }, false) => "denied by a policy",
        (Reason::Profile { .. }, true) => "allowed by a profile",
        (Reason::Profile { .. }, false) => "denied by a profile",
        (Reason::EndOfTier(_), _) => "denied by the end of a tier",
        (Reason::MissingProfile(_), _) => "denied by a missing profile",
        (Reason::NothingAllows, _) => "allowed by nobody",
        _ => "for another reason",
    }
}

impl fmt::Display for Coverage {
    /// A table: what, how often, and how often it has to be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} questions, decided by (at least):", self.questions)?;
        for (name, count, least) in self.rows() {
            let mark = if count < least { "  TOO FEW" } else { "" };
            writeln!(f, "{count:>8} ({least:>4})  {name}{mark}")?;
        }
        Ok(())
    }
}
