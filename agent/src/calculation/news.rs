//! What notices there are that were not there before.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::time::Instant;

use crate::telemetry::event;
use crate::telemetry::sparing::{Say, Sparing};

/// Subject → message.
pub(super) type Notices = OrdMap<Arc<str>, Arc<str>>;

/// What is new about something that is in the store and not in force.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News<'a> {
    /// It came, or says something else.
    Raised(&'a str, &'a str),
    /// It is over.
    Over(&'a str),
}

impl News<'_> {
    /// Says it, unless too much was said.
    pub(super) fn log(&self, sparing: &mut Sparing, generation: u64) {
        match (sparing.ask(Instant::now()), self) {
            (Say::This, Self::Raised(subject, message)) => {
                tracing::warn!(event = event::NOTICE, subject, generation, "{message}");
            }
            (Say::This, Self::Over(subject)) => {
                tracing::info!(subject, generation, "is in force, or gone");
            }
            (Say::More, _) => tracing::warn!("more news of this kind; see calico-agent status"),
            (Say::Nothing, _) => {}
        }
    }
}

/// One warning when a notice comes or changes, one line when it goes.
pub(super) fn notice_news<'a>(before: &'a Notices, now: &'a Notices) -> Vec<News<'a>> {
    let changes = before.diff(now).map(|change| match change {
        DiffItem::Add(subject, message) | DiffItem::Update { new: (subject, message), .. } => {
            News::Raised(subject, message)
        }
        DiffItem::Remove(subject, _) => News::Over(subject),
    });
    changes.collect()
}
