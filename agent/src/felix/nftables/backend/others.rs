//! What others did and no look back could tell: it failed, or nobody knows what the last run left. What reads
//! everything instead tells it, so that it is not put right in silence and what came through is cut.

use std::collections::BTreeMap;

use calico_datastore::model::{Family, InterfaceName};

use super::{Nftables, places};
use crate::drift::{Change, Drift};
use crate::felix::nftables::compare::compare;
use crate::felix::nftables::contents::Contents;
use crate::felix::nftables::groups::Grouped;
use crate::felix::nftables::read::Found;
use crate::felix::reconciler::{Job, Run};
use crate::felix::scene::Scene;

/// What is known of what others did since the last run.
#[derive(Debug, Default)]
pub(super) enum Others {
    /// Nothing of ours was in force yet: what is there is taken over, whoever made it.
    #[default]
    Before,
    /// Nothing but what the watch tells.
    Nothing,
    /// This run told it already.
    Told,
    /// The look back could not read what is there. This is what should have been.
    Unread(Box<Contents>),
    /// The table was touched after a run that did not bring it where it should be.
    Touched {
        /// The kernel named who did it. Who hears anew, or too late, takes everything for touched.
        named: bool,
    },
}

impl Others {
    /// A run is over.
    pub(super) fn end(&mut self, in_force: bool) {
        if in_force || matches!(self, Self::Told) {
            *self = Self::Nothing;
        }
    }
}

/// What of a difference is somebody's doing. What a state from disk does not know may be a later one's.
pub(super) fn theirs(mut drift: Vec<Drift>, scene: &Scene<'_>) -> Vec<Drift> {
    if scene.state.origin.is_stored() {
        drift.retain(|one| one.change != Change::Unexpected);
    }
    drift
}

impl Nftables {
    /// Notes what the watch saw of which no look back told, until somebody can read what is there.
    pub(super) fn note_others(&mut self, job: &Job<'_>) {
        // What a state from disk let be goes with that run, and is nobody's doing.
        if !job.told.table || job.from_disk {
            return;
        }
        let told = job.told.by.is_some();
        match &mut self.others {
            Others::Touched { named } => *named |= told,
            others @ Others::Nothing => *others = Others::Touched { named: told },
            Others::Before | Others::Told | Others::Unread(_) => {}
        }
    }

    /// Tells what others did, now that it was read.
    pub(super) fn tell_others(
        &mut self,
        found: Option<&Found>,
        links: &BTreeMap<InterfaceName, Grouped>,
        scene: &Scene<'_>,
        run: &mut Run,
    ) {
        match std::mem::replace(&mut self.others, Others::Told) {
            others @ (Others::Before | Others::Told) => {
                self.others = others;
                return;
            }
            Others::Nothing => {}
            Others::Unread(left) => run.drift.extend(theirs(compare(found, &left).drift, scene)),
            Others::Touched { named } => {
                run.unasked.extend(Family::ALL);
                // What of it is theirs and what is still to be done, nobody can tell.
                if named {
                    let detail = "it was written while a change of ours was not in force";
                    let subject = "nftables the table".to_owned();
                    run.drift.push(Drift::new(subject, Change::Modified, detail.to_owned()));
                }
            }
        }
        if self.renderer.uses_groups() {
            run.drift.extend(places::drift(links, &self.placed, scene));
        }
    }
}

#[cfg(test)]
#[path = "others_tests.rs"]
mod tests;
