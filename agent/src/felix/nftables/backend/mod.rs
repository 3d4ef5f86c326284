//! Policy in a table of our own: what is known of it, and the order in which it changes.
//!
//! A change is one transaction, and nothing is read on its way: what is known of the kernel is brought
//! up to date from what it accepted. Interfaces are put into groups beside it, so where some move the
//! order is:
//!
//! 1. *What comes or changes*, in one transaction. The chains of a new class are there before anybody is
//!    in its group, and what changes of a class that stays changes for each packet at once.
//! 2. *Groups of interfaces*, one after the other. For each packet its interface is in the old class or in
//!    the new one. Where a new class takes the place of another one, it has its group: nobody moves.
//! 3. *What only goes*: chains, sets, and the groups that nobody is in any more. Where no interface moves
//!    it goes with 1.
//!
//! Where there is no table yet, interfaces come into their groups first: nobody asks for them.
//!
//! A transaction that the kernel refuses left everything as it was. If it blames a policy, that policy is
//! closed and all the rest tried again; otherwise the old table stays in force, and the next run reads
//! what is there. A state from disk only gives: what it does not know stays until the datastore has
//! answered.

mod clean;
mod dispatch;
mod left;
mod look;
mod moved;
mod others;
mod places;
mod preview;
mod sockets;
mod write;

use std::collections::BTreeMap;
use std::fmt;

use calico_datastore::model::InterfaceName;
use tokio::time::Instant;

pub(in crate::felix) use self::clean::{Remains, is_there};
use self::dispatch::Dispatch;
use self::others::Others;
pub(in crate::felix) use self::preview::{Preview, preview};
use self::sockets::Sockets;
pub(in crate::felix) use self::sockets::apart;
use super::render::{Options, Renderer};
use crate::config::Settings;
use crate::desired::LocalEndpoint;
use crate::felix::counters::Counters;
use crate::felix::iptables::uses::Subject;
use crate::felix::reconciler::{Job, Run};
use crate::felix::watch::{Changes, Placed};
use crate::routes::monitor::Links;
use crate::telemetry::chain;

/// What a problem of the table as a whole is about.
const SUBJECT: &str = "nftables table calico";

/// The backend.
#[derive(Debug)]
pub(in crate::felix) struct Nftables {
    counters: Counters,
    /// The watch learns who we are, and which interface belongs into which group.
    changes: Changes,
    /// Why this dataplane, as half a sentence.
    why: String,
    renderer: Renderer,
    sockets: Option<Sockets>,
    /// What an earlier run of an agent left was looked at.
    started: bool,
    /// The table and the groups are as the last run wanted them, unless somebody else changed them.
    sure: bool,
    /// What others did that is still to be told.
    others: Others,
    /// The interfaces that we put into groups.
    placed: Placed,
    /// The interfaces of the last run.
    links: Links,
    /// Policies and profiles that let nothing through because the kernel refused their rules, and what it
    /// said.
    shut: BTreeMap<Subject, String>,
    /// Interfaces that could not be put into their group.
    unplaced: BTreeMap<InterfaceName, String>,
    /// By what classes are found.
    dispatch: Dispatch,
    check: Option<Instant>,
}

impl fmt::Display for Nftables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nftables: {}{}", self.why, self.dispatch)
    }
}

impl Nftables {
    /// Nothing is known of the kernel, and nothing asked before the first run. `None` when the mark mask
    /// of the settings is too small.
    pub(in crate::felix) fn new(
        settings: &Settings,
        counters: Counters,
        changes: Changes,
        why: String,
    ) -> Option<Self> {
        let dispatch = Dispatch::new(settings.nftables_dispatch);
        let options = Options { groups: dispatch.by_groups(), random_fully: true };
        Some(Self {
            counters,
            changes,
            why,
            renderer: Renderer::new(settings, options)?,
            sockets: None,
            started: false,
            sure: false,
            others: Others::Before,
            placed: Placed::new(),
            links: Links::new(),
            shut: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            dispatch,
            check: None,
        })
    }

    /// It was chosen for another reason.
    pub(in crate::felix) fn explain(&mut self, why: String) {
        self.why = why;
    }

    /// Takes over settings.
    ///
    /// # Errors
    /// When the mark mask is too small.
    pub(in crate::felix) fn set_up(&mut self, settings: &Settings) -> Result<(), String> {
        self.dispatch.set_up(settings.nftables_dispatch);
        let set_up = self.renderer.set_up(settings);
        if set_up.is_none() {
            // Of this run nothing follows but its look back.
            self.others.end(false);
        }
        set_up.ok_or_else(|| format!("IptablesMarkMask {:#x} has no bit", settings.mark_mask))
    }

    /// True when it is time to read the table, whether anybody touched it or not.
    pub(in crate::felix) fn is_due(&self, now: Instant) -> bool {
        self.check.is_some_and(|at| at <= now)
    }

    /// When it wants to run again although nothing changes.
    pub(in crate::felix) fn next_look(&self) -> Option<Instant> {
        self.check
    }

    /// True when something of a single endpoint failed.
    pub(in crate::felix) fn refuses(&self) -> bool {
        !self.unplaced.is_empty() || !self.renderer.groupless().is_empty()
    }

    /// What failed of an endpoint.
    pub(in crate::felix) fn refusal(&self, endpoint: &LocalEndpoint) -> Option<String> {
        let groupless = self.renderer.groupless().contains(&endpoint.class);
        let none = || format!("{}; what it sends and gets is dropped", dispatch::NO_GROUP);
        groupless.then(none).or_else(|| self.unplaced.get(&endpoint.interface).cloned())
    }

    /// Makes the table and the groups so. True when policy is in force.
    pub(in crate::felix) async fn run(&mut self, job: &Job<'_>, run: &mut Run) -> bool {
        let done = self.bring(job, run).await;
        if let Err(error) = &done {
            self.sure = false;
            run.fail(SUBJECT, chain(error));
        }
        self.others.end(done.is_ok());
        for (subject, said) in &self.shut {
            run.problem(
                subject.to_string(),
                format!("the kernel refuses its rules; it drops everything: {said}"),
            );
        }
        let groupless = self.renderer.groupless().len();
        if groupless > 0 {
            let said =
                format!("{}: {groupless} classes of endpoints are closed", dispatch::NO_GROUP);
            run.problem("groups of interfaces", said);
        }
        run.surprise |= !self.unplaced.is_empty();
        self.links = job.links.clone();
        if job.check || self.check.is_none() {
            let refresh = job.scene.state.settings.nftables_refresh;
            self.check = (!refresh.is_zero()).then(|| job.now + refresh);
        }
        done.is_ok()
    }
}
