//! What of ours somebody else changed in the kernel, and how often: kept for `status` and the
//! journal. A reconciler that finds such a thing repairs it in the same run; what keeps it from
//! that is a [`Problem`](crate::reconcile::Problem).
//!
//! What a first look finds is no drift: what was there before the agent started is taken over.

use std::fmt;
use std::time::SystemTime;

use calico_datastore::model::WorkloadEndpointId;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::telemetry::event;

/// How something of ours was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was not there any more.
    Missing,
    /// It was there, but different.
    Modified,
    /// It was there where nothing should be: a rule in a chain of ours, a member of a set.
    Unexpected,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Modified => "modified",
            Self::Unexpected => "unexpected",
        })
    }
}

/// Something that a run found changed, and put right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drift {
    /// What: `IPv4 filter chain cali-FORWARD`, `address set cali40…`, `route 10.0.0.1/32`.
    pub subject: String,
    /// How it was found.
    pub change: Change,
    /// What exactly, as far as that is known: the rule, the members, who did it. May be empty.
    pub detail: String,
    /// The endpoint whose it is, as `status` names it; `None` where it is nobody's or everybody's.
    pub endpoint: Option<String>,
}

impl Drift {
    /// Something that is nobody's.
    pub fn new(subject: String, change: Change, detail: String) -> Self {
        Self { subject, change, detail, endpoint: None }
    }

    /// The same of an endpoint, where it is one's.
    #[must_use]
    pub fn of(self, endpoint: Option<&WorkloadEndpointId>) -> Self {
        Self { endpoint: endpoint.map(WorkloadEndpointId::on_host), ..self }
    }
}

/// One thing that was put right, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// What was changed.
    pub subject: String,
    /// How it was found the last time.
    pub change: Change,
    /// What exactly, the last time.
    pub detail: String,
    /// How often.
    pub count: u64,
    /// When, the last time.
    pub last: SystemTime,
}

/// How many subjects are remembered one by one; the oldest go first.
const REMEMBERED: usize = 100;
/// How many lines one run may put into the journal.
const LINES: usize = 8;

/// What was put right since the start. A clone costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// How many repairs in all, those of forgotten subjects too.
    pub total: u64,
    by_subject: OrdMap<String, Repair>,
}

impl Repairs {
    /// One entry for each subject, the newest first; of one time in the order of their subjects.
    pub fn iter(&self) -> impl Iterator<Item = &Repair> {
        let mut all: Vec<_> = self.by_subject.values().collect();
        // Stable: they come in the order of their subjects.
        all.sort_by_key(|one| std::cmp::Reverse(one.last));
        all.into_iter()
    }

    /// Notes what one run found and says it: the first times each, then ever more seldom.
    pub fn note(&mut self, part: &'static str, found: &[Drift], now: SystemTime) {
        let mut untold = 0;
        for (index, drift) in found.iter().enumerate() {
            self.total += 1;
            let count = self.by_subject.get(&drift.subject).map_or(0, |one| one.count) + 1;
            let repair = Repair {
                subject: drift.subject.clone(),
                change: drift.change,
                detail: drift.detail.clone(),
                count,
                last: now,
            };
            self.by_subject.insert(drift.subject.clone(), repair);
            if index >= LINES {
                untold += 1;
            } else if count <= 3 || count.is_power_of_two() {
                tracing::warn!(
                    event = event::REPAIRED,
                    reconciler = part,
                    subject = drift.subject,
                    endpoint = drift.endpoint,
                    count,
                    "somebody changed {}: {}{}{}; repaired",
                    drift.subject,
                    drift.change,
                    if drift.detail.is_empty() { "" } else { ", " },
                    drift.detail
                );
            }
        }
        if untold > 0 {
            tracing::warn!(reconciler = part, "and {untold} more; repaired");
        }
        while self.by_subject.len() > REMEMBERED {
            let oldest = self.by_subject.values().min_by_key(|one| one.last);
            let Some(subject) = oldest.map(|one| one.subject.clone()) else { break };
            self.by_subject.remove(&subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn drift(subject: impl Into<String>) -> Drift {
        Drift::new(subject.into(), Change::Missing, String::new())
    }

    #[test]
    fn the_same_thing_is_counted_and_keeps_the_last_time() {
        let mut repairs = Repairs::default();
        let later = UNIX_EPOCH + Duration::from_secs(9);
        repairs.note("felix", &[drift("a"), drift("b")], UNIX_EPOCH);
        repairs.note("felix", &[Drift { detail: "rule 3".into(), ..drift("a") }], later);
        let all: Vec<_> = repairs.iter().cloned().collect();
        assert_eq!((all[0].count, all[0].last, all[0].detail.as_str()), (2, later, "rule 3"));
        assert_eq!((all[1].count, all[1].last), (1, UNIX_EPOCH));
        assert_eq!(repairs.total, 3);
        repairs.note("felix", &[drift("b")], later + Duration::from_secs(1));
        let order: Vec<_> = repairs.iter().map(|one| one.subject.as_str()).collect();
        assert_eq!(order, ["b", "a"], "the newest first");
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go() {
        let mut repairs = Repairs::default();
        repairs.note("felix", &[drift("first")], UNIX_EPOCH);
        let many: Vec<_> = (0..REMEMBERED).map(|i| drift(format!("s{i}"))).collect();
        repairs.note("felix", &many, UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(repairs.iter().count(), REMEMBERED);
        assert!(repairs.iter().all(|one| one.subject != "first"));
        assert_eq!(repairs.total, REMEMBERED as u64 + 1);
    }
}
