//! When what was touched is read back: at once, unless somebody touches it all the time.
//!
//! * A look that found nothing is followed by a rest: of five times as long as it took, doubled where
//!   that happens again and again, up to a hundred times, but ten seconds. Who writes our tables all
//!   day without hurting us costs about a hundredth of a core at most. The first rests are short because
//!   who deletes all of ours (firewalld, when it starts) writes many times, and a look may well fall
//!   between two of them: what it does then must not wait.
//! * Who deletes all of ours does so table by table and family by family, and its tools fail when somebody
//!   writes in between (firewalld then gives up, or drops everything). So we wait until they have been
//!   silent for a moment, but not for long.
//! * A fight, somebody who changes the same thing again each time that it has been repaired, is
//!   answered ever more slowly, up to half a minute, and told. It is over when they leave it alone.
//!
//! Pure: the time is an argument.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use calico_datastore::model::Family;
use tokio::time::Instant;

use super::changes::Touched;
use crate::drift::Drift;
use crate::reconcile::Problem;

/// How many repairs of one thing, each soon after the one before, are no fight.
const FREE: u32 = 5;
/// What comes later than this after the repair before has nothing to do with it.
const SOON: Duration = Duration::from_secs(5);
/// The first wait of a fight, doubled with each further repair, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A fight is over when nothing was changed for so long beyond its wait.
const CALM: Duration = Duration::from_secs(10);
/// The rest after a look that found nothing, at least and at most; doubled with each further one.
const FIRST_REST: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How much longer than the look that rest is.
const FIRST_REST_FACTOR: u32 = 5;
/// The bounds of the longest of those rests.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How much longer than the look it is.
const REST_FACTOR: u32 = 100;
/// How long who deleted chains of ours has to be silent, and how long is waited for that at most.
const SILENCE: (Duration, Duration) = (Duration::from_millis(75), Duration::from_millis(500));
/// After so long without a look the first rest is a short one again.
const QUIET: Duration = Duration::from_secs(20);

/// What subjects begin with that are of our own table of nf_tables.
pub const TABLE: &str = "nftables ";
/// What subjects begin with that are groups of interfaces.
pub const GROUP: &str = "group of interface ";

/// What is read back as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The tables of a family.
    Tables(Family),
    /// Our own table of nf_tables.
    Table,
    /// The groups of interfaces.
    Groups,
    /// The address sets.
    Sets,
    /// Kernel parameters.
    Parameters,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 6] = [
        Self::Tables(Family::V4),
        Self::Tables(Family::V6),
        Self::Table,
        Self::Groups,
        Self::Sets,
        Self::Parameters,
    ];

    /// What a repaired thing belongs to.
    pub fn of(drift: &Drift) -> Self {
        let family = |family: &Family| drift.subject.starts_with(&format!("{family} "));
        match Family::ALL.iter().find(|one| family(one)) {
            Some(family) => Self::Tables(*family),
            None if drift.subject.starts_with("sysctl ") => Self::Parameters,
            None if drift.subject.starts_with(TABLE) => Self::Table,
            None if drift.subject.starts_with(GROUP) => Self::Groups,
            None => Self::Sets,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tables(family) => write!(f, "{family} tables"),
            Self::Table => f.write_str("nftables table"),
            Self::Groups => f.write_str("groups of interfaces"),
            Self::Sets => f.write_str("address sets"),
            Self::Parameters => f.write_str("kernel parameters"),
        }
    }
}

/// Repairs of one thing, each soon after the one before.
#[derive(Debug)]
struct Fight {
    repairs: u32,
    last: Instant,
    wait: Duration,
    /// Who began it.
    by: Option<String>,
}

impl Fight {
    /// When it is over, if nothing happens.
    fn end(&self) -> Instant {
        self.last + if self.wait.is_zero() { SOON } else { self.wait + CALM }
    }
}

#[derive(Debug, Default)]
struct State {
    rest: Option<Instant>,
    /// When it was last read back, and how many times before without finding anything.
    looked: Option<Instant>,
    vain: u32,
    /// By subject.
    fights: BTreeMap<String, Fight>,
}

/// What waits to be read back, and since when it may be.
#[derive(Debug, Default)]
pub struct Pace {
    pending: Touched,
    /// Since when somebody deletes chains of ours, and until when is waited.
    torn: Option<(Instant, Instant)>,
    kinds: BTreeMap<Kind, State>,
}

impl Pace {
    /// Something was touched.
    pub fn note(&mut self, touched: Touched, now: Instant) {
        if touched.torn {
            // It goes on as long as nobody has looked since.
            let since = self.torn.filter(|_| !self.pending.tables.is_empty());
            let since = since.map_or(now, |(since, _)| since);
            self.torn = Some((since, (now + SILENCE.0).min(since + SILENCE.1)));
        }
        self.pending.merge(Touched { torn: false, ..touched });
    }

    /// True when nothing of a kind is read back now unless it has to be.
    pub fn rests(&self, kind: Kind, now: Instant) -> bool {
        self.rest(kind).is_some_and(|until| now < until)
    }

    fn rest(&self, kind: Kind) -> Option<Instant> {
        let torn = self.torn.filter(|_| matches!(kind, Kind::Tables(_)));
        let rest = self.kinds.get(&kind).and_then(|state| state.rest);
        rest.max(torn.map(|(_, until)| until))
    }

    fn is_pending(&self, kind: Kind) -> bool {
        match kind {
            Kind::Tables(family) => self.pending.tables.contains(&family),
            Kind::Table => self.pending.table,
            Kind::Groups => !self.pending.groups.is_empty(),
            Kind::Sets => !self.pending.sets.is_empty(),
            Kind::Parameters => !self.pending.sysctls.is_empty() || self.pending.forwarding,
        }
    }

    /// Everything, whether it rests or not.
    pub fn take_all(&mut self) -> Touched {
        std::mem::take(&mut self.pending)
    }

    /// What is to be read back now. The rest stays for later.
    pub fn take(&mut self, now: Instant) -> Touched {
        let mut taken = Touched { by: self.pending.by.clone(), ..Touched::default() };
        for kind in Kind::ALL {
            match kind {
                _ if self.rests(kind, now) => {}
                Kind::Tables(family) => {
                    taken.tables.extend(self.pending.tables.take(&family));
                }
                Kind::Table => taken.table = std::mem::take(&mut self.pending.table),
                Kind::Groups => taken.groups = std::mem::take(&mut self.pending.groups),
                Kind::Sets => taken.sets = std::mem::take(&mut self.pending.sets),
                Kind::Parameters => {
                    taken.sysctls = std::mem::take(&mut self.pending.sysctls);
                    taken.forwarding = std::mem::take(&mut self.pending.forwarding);
                }
            }
        }
        if self.pending.tables.is_empty() && !self.pending.table {
            self.pending.by = None;
        }
        taken
    }

    /// What was touched was read back, which took a while and ended now; `found` was repaired.
    pub fn looked(&mut self, at: &Touched, found: &[Drift], took: Duration, now: Instant) {
        let asked = Kind::ALL.into_iter().filter(|kind| match kind {
            Kind::Tables(family) => at.tables.contains(family),
            Kind::Table => at.table,
            Kind::Groups => !at.groups.is_empty(),
            Kind::Sets => !at.sets.is_empty(),
            Kind::Parameters => !at.sysctls.is_empty() || at.forwarding,
        });
        let asked: Vec<Kind> = asked.collect();
        for kind in asked.iter().copied() {
            let state = self.kinds.entry(kind).or_default();
            if state.looked.replace(now).is_none_or(|before| now - before > QUIET) {
                state.vain = 0;
            }
            let longest = (took * REST_FACTOR).clamp(REST.0, REST.1);
            let first = (took * FIRST_REST_FACTOR).clamp(FIRST_REST.0, FIRST_REST.1);
            state.rest = Some(now + (first * (1 << state.vain.min(8))).min(longest));
            state.vain = state.vain.saturating_add(1);
        }
        for state in self.kinds.values_mut() {
            state.fights.retain(|_, fight| now < fight.end());
        }
        let mut repaired = BTreeMap::new();
        // What a look by the clock finds is no fight: that is slow enough.
        for (drift, kind) in found.iter().map(|drift| (drift, Kind::of(drift))) {
            if !asked.contains(&kind) {
                continue;
            }
            let by = matches!(kind, Kind::Tables(_) | Kind::Table).then(|| at.by.clone()).flatten();
            let fights = &mut self.kinds.entry(kind).or_default().fights;
            let fight = fights.entry(drift.subject.clone()).or_insert(Fight {
                repairs: 0,
                last: now,
                wait: Duration::ZERO,
                by: None,
            });
            // More than one finding about one subject is one repair.
            if fight.repairs == 0 || fight.last != now {
                fight.repairs += 1;
            }
            fight.last = now;
            fight.by = fight.by.take().or(by);
            if let Some(doublings) = fight.repairs.checked_sub(FREE + 1) {
                fight.wait = (WAIT.0 * (1 << doublings.min(8))).min(WAIT.1);
            }
            let wait: &mut Duration = repaired.entry(kind).or_default();
            *wait = fight.wait.max(*wait);
        }
        for (kind, wait) in repaired {
            let state = self.kinds.entry(kind).or_default();
            (state.rest, state.vain) = (Some(now + wait), 0);
        }
    }

    /// When something is to be read back, or a fight is over.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let pending = Kind::ALL.into_iter().filter(|kind| self.is_pending(*kind));
        let looks = pending.map(|kind| self.rest(kind).unwrap_or(now));
        let fights = self.fights(now).map(|(_, _, fight)| fight.end());
        looks.chain(fights).min()
    }

    /// The fights that are told.
    fn fights(&self, now: Instant) -> impl Iterator<Item = (Kind, &String, &Fight)> {
        let all = self.kinds.iter().flat_map(|(kind, state)| {
            state.fights.iter().map(|(subject, fight)| (*kind, subject, fight))
        });
        all.filter(move |(_, _, fight)| !fight.wait.is_zero() && now < fight.end())
    }

    /// What somebody fights about, when that is of this kind: the first of it.
    pub fn fought(&self, kind: Kind, now: Instant) -> Option<&str> {
        self.fights(now).find(|(of, ..)| *of == kind).map(|(_, subject, _)| subject.as_str())
    }

    /// One problem for each kind that is fought about.
    pub fn problems(&self, now: Instant) -> Vec<Problem> {
        let mut worst: BTreeMap<Kind, (usize, &String, &Fight)> = BTreeMap::new();
        for (kind, subject, fight) in self.fights(now) {
            let entry = worst.entry(kind).or_insert((0, subject, fight));
            entry.0 += 1;
            if fight.repairs > entry.2.repairs {
                (entry.1, entry.2) = (subject, fight);
            }
        }
        let tell = |(others, subject, fight): (usize, &String, &Fight)| {
            let by = fight.by.as_ref().map(|by| format!(", first by {by}")).unwrap_or_default();
            let more = match others {
                0 | 1 => String::new(),
                n => format!(" (and {} others)", n - 1),
            };
            // Rounded, so that a standing problem is not said again with each repair.
            let times = 1_u32 << fight.repairs.max(1).ilog2();
            let message = format!(
                "somebody changes it{more} again each time that it is repaired, at least {times} \
                 times so far{by}; now it is repaired every {} s at most. Stop what writes it",
                fight.wait.as_secs()
            );
            Problem { subject: subject.clone(), message }
        };
        worst.into_values().map(tell).collect()
    }
}

#[cfg(test)]
mod tests;
