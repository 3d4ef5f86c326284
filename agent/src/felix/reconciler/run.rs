//! What one run finds out, whoever does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_datastore::model::Family;

use crate::drift::Drift;
use crate::reconcile::Problem;

/// What one run found out.
#[derive(Debug, Default)]
pub(in crate::felix) struct Run {
    /// What is wrong.
    pub(in crate::felix) problems: Vec<Problem>,
    /// Something is not in force.
    pub(in crate::felix) failed: Option<String>,
    /// Something is not as it was known, or is left to be done: the next run comes soon.
    pub(in crate::felix) surprise: bool,
    /// What others had changed.
    pub(in crate::felix) drift: Vec<Drift>,
    /// Addresses that left while nobody watched.
    pub(in crate::felix) left: BTreeSet<IpAddr>,
    /// External addresses that led elsewhere before, and of which nothing was known.
    pub(in crate::felix) moved: BTreeSet<IpAddr>,
    /// Families whose packets did not come to our rules before, and nothing was known of that.
    pub(in crate::felix) unasked: BTreeSet<Family>,
    /// Families whose packets may have gone by our translation, and nothing was known of that.
    pub(in crate::felix) untranslated: BTreeSet<Family>,
}

impl Run {
    pub(in crate::felix) fn problem(
        &mut self,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.problems.push(Problem { subject: subject.into(), message: message.into() });
    }

    /// A problem that keeps the state from being in force.
    pub(in crate::felix) fn fail(&mut self, subject: &str, message: String) {
        self.failed.get_or_insert_with(|| format!("{subject}: {message}"));
        self.problem(subject, message);
    }
}
