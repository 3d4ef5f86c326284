//! Values of the datastore that cannot be used: which they are, and what is said of them: each once,
//! with the state that it is the first to be missing in, and again when it is right.

use std::collections::HashMap;

use calico_datastore::layout::Rejection;
use tokio::time::Instant;

use super::last_good::LastGood;
use crate::status::document::Instead;
use crate::status::overview::SyncState;
use crate::telemetry::event;
use crate::telemetry::sparing::{Say, Sparing};

/// What is refused now.
pub(super) struct Refused {
    /// By key: the object that it is, where the key says so.
    subjects: HashMap<String, String>,
    refused: Sparing,
    accepted: Sparing,
    /// To be said as soon as there is a state.
    lines: Vec<Line>,
}

enum Line {
    Refused { key: String, subject: Option<String>, reason: String, then: &'static str },
    File { file: String, reason: String },
    MoreRefused,
    Accepted { key: String, subject: Option<String> },
    MoreAccepted,
}

impl Refused {
    pub(super) fn new(now: Instant) -> Self {
        let (refused, accepted) = (Sparing::new(now), Sparing::new(now));
        Self { subjects: HashMap::new(), refused, accepted, lines: Vec::new() }
    }

    /// Notes what a batch says.
    pub(super) fn note(
        &mut self,
        rejections: Vec<Rejection>,
        accepted: Vec<String>,
        sync: &mut SyncState,
        last_good: &LastGood,
    ) {
        let now = Instant::now();
        for Rejection { key, id, reason } in rejections {
            let kept = id.as_ref().is_some_and(|id| last_good.keeps(id));
            let subject = id.map(|id| id.to_string());
            if sync.rejected.get(&key) != Some(&reason) {
                let (key, reason, subject) = (key.clone(), reason.clone(), subject.clone());
                let then = Instead::of(&key, kept).said();
                self.lines.extend(match (self.refused.ask(now), then) {
                    (Say::This, Some(then)) => Some(Line::Refused { key, subject, reason, then }),
                    (Say::This, None) => Some(Line::File { file: key, reason }),
                    (Say::More, _) => Some(Line::MoreRefused),
                    (Say::Nothing, _) => None,
                });
            }
            if let Some(subject) = subject {
                self.subjects.insert(key.clone(), subject);
            }
            sync.rejected.insert(key, reason);
        }
        for key in accepted {
            let subject = self.subjects.remove(&key);
            if sync.rejected.remove(&key).is_some() {
                self.lines.extend(match self.accepted.ask(now) {
                    Say::This => Some(Line::Accepted { key, subject }),
                    Say::More => Some(Line::MoreAccepted),
                    Say::Nothing => None,
                });
            }
        }
    }

    /// Says what is new. `generation`: of the state that it went into.
    pub(super) fn tell(&mut self, generation: Option<u64>) {
        for line in self.lines.drain(..) {
            line.log(generation);
        }
    }
}

impl Line {
    fn log(self, generation: Option<u64>) {
        match self {
            Self::Refused { key, subject, reason, then } => tracing::error!(
                event = event::REFUSED,
                key,
                subject,
                reason,
                generation,
                "refused a value; {then}"
            ),
            Self::File { file, reason } => {
                tracing::error!(event = event::REFUSED, file, reason, generation, "refused a file");
            }
            Self::MoreRefused => {
                tracing::error!(generation, "refused more values; see calico-agent status");
            }
            Self::Accepted { key, subject } => tracing::info!(
                event = event::ACCEPTED,
                key,
                subject,
                generation,
                "a refused key is gone or right again"
            ),
            Self::MoreAccepted => {
                tracing::info!(generation, "more refused keys are gone or right again");
            }
        }
    }
}
