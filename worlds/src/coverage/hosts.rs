//! How often each feature of host endpoints decided.

use std::collections::BTreeMap;
use std::fmt;

use calico_datastore::model::Update;
use calico_reference::{Direction, Hook, Host, Place, Reason, Reference, Subject, Walk};

use crate::feature::HOST_FEATURES;
use crate::trip::Trip;

/// A tally over the trips of many worlds.
#[derive(Clone, Debug, Default)]
pub struct HostCoverage {
    trips: u64,
    decided: BTreeMap<&'static str, u64>,
    reasons: BTreeMap<String, u64>,
}

/// What is asked and what answers come of, and how often in 10,000 trips at least.
const REASONS: [(&str, u64); 55] = [
    ("outside to host, allowed", 690),
    ("outside to host, denied", 530),
    ("host to outside, allowed", 550),
    ("host to outside, denied", 440),
    ("outside to outside, allowed", 370),
    ("outside to outside, denied", 300),
    ("outside to pod, allowed", 260),
    ("outside to pod, denied", 490),
    ("pod to outside, allowed", 290),
    ("pod to outside, denied", 460),
    ("pod to host, allowed", 100),
    ("pod to host, denied", 160),
    ("host to pod, allowed", 280),
    ("of IPv4", 2510),
    ("of IPv6", 2480),
    ("translated", 390),
    ("Untracked ingress: allowed by a policy", 220),
    ("Untracked ingress: denied by a policy", 110),
    ("Untracked ingress: a failsafe port", 430),
    ("Untracked ingress: no policy is about it", 1560),
    ("Untracked egress: allowed by a policy", 70),
    ("Untracked egress: denied by a policy", 35),
    ("Untracked egress: a failsafe port", 160),
    ("Untracked egress: no policy is about it", 590),
    ("PreDnat ingress: allowed by a policy", 140),
    ("PreDnat ingress: denied by a policy", 80),
    ("PreDnat ingress: a failsafe port", 210),
    ("PreDnat ingress: no policy is about it", 1230),
    ("PreDnat ingress: of a connection that was let through", 220),
    ("PreDnat ingress: of no connection", 110),
    ("Normal ingress: allowed by a policy", 80),
    ("Normal ingress: denied by a policy", 55),
    ("Normal ingress: denied by the end of a tier", 170),
    ("Normal ingress: allowed by a profile", 35),
    ("Normal ingress: denied by a profile", 3),
    ("Normal ingress: denied by what is missing", 100),
    ("Normal ingress: a failsafe port", 75),
    ("Normal ingress: of a connection that was let through", 190),
    ("Normal ingress: of no connection", 40),
    ("Normal egress: allowed by a policy", 85),
    ("Normal egress: denied by a policy", 55),
    ("Normal egress: denied by the end of a tier", 190),
    ("Normal egress: allowed by a profile", 55),
    ("Normal egress: denied by a profile", 3),
    ("Normal egress: denied by what is missing", 70),
    ("Normal egress: a failsafe port", 60),
    ("Normal egress: of a connection that was let through", 140),
    ("Normal egress: of no connection", 75),
    ("Forward ingress: allowed by a policy", 65),
    ("Forward ingress: denied by a policy", 40),
    ("Forward ingress: denied by the end of a tier", 200),
    ("Forward ingress: no policy is about it", 400),
    ("Forward egress: allowed by a policy", 75),
    ("Forward egress: denied by a policy", 15),
    ("Forward egress: denied by the end of a tier", 90),
];

impl HostCoverage {
    /// Counts the trips of a world: each feature that it has is taken away, and decided wherever the
    /// answer is then another.
    pub fn count(
        &mut self,
        updates: &[Update],
        host: &Host,
        reference: &Reference,
        trips: &[Trip],
    ) {
        let ask = |reference: &Reference, host: &Host| -> Vec<Walk> {
            trips.iter().map(|Trip(passage)| reference.follow(host, passage)).collect()
        };
        let answers = ask(reference, host);
        for (Trip(passage), walk) in trips.iter().zip(&answers) {
            self.trips += 1;
            let answer = if walk.allowed { "allowed" } else { "denied" };
            let mut count = |what: String| *self.reasons.entry(what).or_default() += 1;
            count(format!("{} to {}, {answer}", place(&passage.from), place(&passage.to)));
            count(if passage.packet.source.is_ipv4() { "of IPv4" } else { "of IPv6" }.to_owned());
            if passage.translated.is_some() {
                count("translated".to_owned());
            }
            for step in &walk.steps {
                if let (Subject::Host(_), Some(hook)) = (&step.subject, step.hook) {
                    let why = why(&step.verdict.reason, step.verdict.allowed);
                    count(format!("{}: {why}", at(hook, step.direction)));
                }
            }
        }
        for feature in HOST_FEATURES {
            let (mut changed, mut other) = (updates.to_vec(), host.clone());
            (feature.blind)(&mut changed, &mut other);
            if changed == updates && other == *host {
                continue;
            }
            let blind = ask(&Reference::new(&changed), &other);
            let flips = answers.iter().zip(&blind).filter(|(a, b)| a.allowed != b.allowed);
            *self.decided.entry(feature.name).or_default() += flips.count() as u64;
        }
    }

    /// Adds what somebody else counted.
    pub fn add(&mut self, other: &Self) {
        self.trips += other.trips;
        for (name, count) in &other.decided {
            *self.decided.entry(name).or_default() += count;
        }
        for (name, count) in &other.reasons {
            *self.reasons.entry(name.clone()).or_default() += count;
        }
    }

    /// What decided more seldom than it has to, by name.
    pub fn lacking(&self) -> Vec<&'static str> {
        self.rows().filter(|(_, count, least)| count < least).map(|(name, ..)| name).collect()
    }

    /// Name, count, and how often it has to be.
    fn rows(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let least = |in_ten_thousand: u64| in_ten_thousand * self.trips / 10_000;
        let reasons = REASONS.into_iter().map(move |(name, at_least)| {
            (name, self.reasons.get(name).copied().unwrap_or(0), least(at_least))
        });
        let features = HOST_FEATURES.iter().map(move |feature| {
            let count = self.decided.get(feature.name).copied().unwrap_or(0);
            (feature.name, count, least(feature.least))
        });
        reasons.chain(features)
    }
}

fn place(place: &Place) -> &'static str {
    match place {
        Place::Local => "host",
        Place::Interface(_) => "outside",
        Place::Workload(_) => "pod",
    }
}

fn at(hook: Hook, direction: Direction) -> String {
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    format!("{hook:?} {direction}")
}

fn why(reason: &Reason, allowed: bool) -> String {
    let action = if allowed { "allowed" } else { "denied" };
    match reason {
        Reason::Policy { .. } => format!("{action} by a policy"),
        Reason::Profile { .. } => format!("{action} by a profile"),
        Reason::EndOfTier(_) => format!("{action} by the end of a tier"),
        Reason::MissingProfile(_) | Reason::NothingAllows => "denied by what is missing".to_owned(),
        other => other.to_string(),
    }
}

impl fmt::Display for HostCoverage {
    /// A table: what, how often, and how often it has to be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} trips, decided by (at least):", self.trips)?;
        for (name, count, least) in self.rows() {
            let mark = if count < least { "  TOO FEW" } else { "" };
            writeln!(f, "{count:>8} ({least:>4})  {name}{mark}")?;
        }
        Ok(())
    }
}
