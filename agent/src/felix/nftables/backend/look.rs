//! What is in the kernel, and what of it others did.

use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::model::{Family, InterfaceName};
use tracing::debug;

use super::left::left;
use super::moved::moved;
use super::others::{Others, theirs};
use super::places::{self, Move};
use super::write::BringError;
use super::{Nftables, Sockets};
use crate::felix::nftables::compare::{Difference, compare};
use crate::felix::nftables::contents::Contents;
use crate::felix::nftables::entangled::apart;
use crate::felix::nftables::groups::Grouped;
use crate::felix::nftables::object::{BaseKind, Chain, Change, Statement};
use crate::felix::nftables::read::Found;
use crate::felix::nftables::render::Steps;
use crate::felix::nftables::wire::read::ListedBase;
use crate::felix::reconciler::{Job, Run};
use crate::felix::scene::Scene;
use crate::felix::watch::Touched;
use crate::telemetry::chain;

/// The chains that are there whatever the settings say, and without which no pod's packet is asked.
const WAYS_IN: [&str; 6] = [
    "raw-prerouting",
    "forward-from-pod",
    "from-pod",
    "forward-to-pod",
    "to-pod",
    "input-from-pod",
];

impl Nftables {
    /// Puts right what others did since the last run, and says it, before anything new is done: what
    /// should be there is what the last run left.
    pub(in crate::felix) async fn look_back(
        &mut self,
        scene: &Scene<'_>,
        doubtful: &Touched,
        run: &mut Run,
    ) {
        if !self.sure || (!doubtful.table && doubtful.groups.is_empty()) {
            return;
        }
        if let Err(error) = self.put_right(scene, doubtful, run).await {
            // The run that follows reads and writes everything. If it cannot either, it says so.
            debug!(error = %chain(&error), "everything is read instead");
            self.sure = false;
            if !matches!(self.others, Others::Told) {
                self.others = Others::Unread(Box::new(self.renderer.all(scene)));
            }
        }
    }

    async fn put_right(
        &mut self,
        scene: &Scene<'_>,
        doubtful: &Touched,
        run: &mut Run,
    ) -> Result<(), BringError> {
        let mut sockets = self.open()?;
        let links = sockets.groups.read().map_err(BringError::ReadGroups)?;
        let mut found = None;
        if doubtful.table {
            self.counters.nftables_reads.count(1);
            found = Some(sockets.read().await.map_err(BringError::Read)?);
        }
        self.others = Others::Told;
        run.drift.extend(places::drift(&links, &self.placed, scene));
        let mut steps = Steps::default();
        if let Some(found) = found.as_ref().map(Option::as_ref) {
            // What the kernel refused is closed there, and that is our own doing.
            let Difference { drift, mut now, mut after } =
                differs(&mut sockets, found, &self.renderer.all(scene));
            run.drift.extend(theirs(drift, scene));
            if !self.shut.is_empty() {
                self.open_shut(scene);
                Difference { now, after, .. } =
                    differs(&mut sockets, found, &self.renderer.all(scene));
            }
            steps = Steps { now, after };
            if scene.state.origin.is_stored() {
                only_give(&mut steps);
            }
        }
        let moves = self.moves(&links, scene);
        self.carry_out(steps, moves, &mut sockets, scene).await?;
        self.sockets = Some(sockets);
        Ok(())
    }

    /// What was refused may be taken now.
    fn open_shut(&mut self, scene: &Scene<'_>) {
        if !self.shut.is_empty() {
            self.shut.clear();
            // Everything is made anew.
            self.renderer.shut(scene, BTreeSet::new());
        }
    }

    /// In which groups interfaces have to be that are not.
    fn moves(&self, links: &BTreeMap<InterfaceName, Grouped>, scene: &Scene<'_>) -> Vec<Move> {
        let only_give = scene.state.origin.is_stored();
        let group_of = |class: &_| self.renderer.group_of(class);
        places::all(links, scene, group_of, self.renderer.uses_groups(), only_give)
    }

    /// Reads what is there, whoever made it, and makes it what should be.
    pub(super) async fn bring_all(
        &mut self,
        sockets: &mut Sockets,
        job: &Job<'_>,
        run: &mut Run,
    ) -> Result<(), BringError> {
        let scene = &job.scene;
        self.sure = false;
        self.note_others(job);
        self.open_shut(scene);
        self.counters.nftables_reads.count(1);
        let found = sockets.read().await.map_err(BringError::Read)?;
        let links = sockets.groups.read().map_err(BringError::ReadGroups)?;
        if !self.started {
            self.dispatch.look(found.as_ref(), links.values(), scene);
        }
        let groups_first = self.turn_to(found.as_ref());
        self.tell_others(found.as_ref(), &links, scene, run);
        if !std::mem::replace(&mut self.started, true) {
            let owned = links.values().map(|link| {
                let owner = scene.interfaces.endpoint(&link.name);
                (link.group, owner.map(|owner| &owner.class))
            });
            let held = found.as_ref().map(Found::contents).unwrap_or_default();
            self.renderer.take_over(scene, &held, owned);
        }
        let mut wanted = self.renderer.all(scene);
        // A set that a state from disk would fill anew lost what that does not know.
        if let Some(found) = found.as_ref().filter(|_| !scene.state.origin.is_stored()) {
            wanted = apart(&mut self.renderer, scene, found, wanted);
        }
        if let Some(found) = &found {
            run.moved.extend(moved(found, &wanted));
            if !scene.state.origin.is_stored() {
                run.left.extend(left(found, scene));
            }
        }
        let Difference { now, after, .. } = differs(sockets, found.as_ref(), &wanted);
        let mut steps = Steps { now, after };
        if scene.state.origin.is_stored() {
            only_give(&mut steps);
        }
        if is_open(found.as_ref(), &wanted) {
            run.unasked.extend(Family::ALL);
        }
        if found.as_ref().is_none_or(|found| found.asleep) {
            run.untranslated.extend(Family::ALL);
        }
        if steps.now.iter().any(is_translation) {
            run.untranslated.extend(Family::ALL);
        }
        // Whoever is not where it belongs is among the moves.
        self.unplaced.clear();
        let mut moves = self.moves(&links, scene);
        self.placed = places::right(&links, scene, |class| self.renderer.group_of(class));
        self.changes.place(self.placed.clone());
        self.sure = true;
        // Where there is no table yet nobody asks for groups. When it comes, a pod that is in none would
        // be dropped, which an iptables before us let speak.
        if groups_first || found.is_none() {
            self.place(std::mem::take(&mut moves), &mut sockets.groups);
        }
        let done = self.carry_out(steps, moves, sockets, scene).await;
        self.sure &= done.is_ok();
        done
    }
}

/// What a state from disk does not know stays until the datastore has answered.
fn only_give(steps: &mut Steps) {
    steps.after.clear();
    steps.now.retain(|change| !matches!(change, Change::Delete(..)));
}

/// How the kernel differs from what should be; what is right is known from now on.
fn differs(sockets: &mut Sockets, found: Option<&Found>, wanted: &Contents) -> Difference {
    if let Some((table, found)) = sockets.table().zip(found) {
        table.agree(found, wanted);
    }
    compare(found, wanted)
}

/// Packets passed by our rules, or came to none: the table is not there or dormant, or of a chain that
/// leads packets to it nothing is left, or the kernel calls it at another place. That a rule says something
/// else is no hole: it is what another version of this program writes, or what other settings make of it.
fn is_open(found: Option<&Found>, wanted: &Contents) -> bool {
    let Some(found) = found.filter(|found| !found.asleep) else { return true };
    wanted.chains.iter().any(|(name, chain)| {
        let always = WAYS_IN.contains(&&**name);
        let filters = chain.base.is_some_and(|base| base.kind == BaseKind::Filter);
        (always || filters)
            && match found.chains.get(name) {
                // Others come and go with settings and host endpoints.
                None => always,
                Some(there) => {
                    there.base != chain.base.map(ListedBase::from)
                        || (there.rules.is_empty() && !chain.rules.is_empty())
                }
            }
    })
}

/// Addresses are translated in another way from now on.
fn is_translation(change: &Change) -> bool {
    matches!(change, Change::PutChain(_, chain) if translates(chain))
}

fn translates(chain: &Chain) -> bool {
    let nat = |one: &Statement| matches!(one, Statement::Dnat { .. } | Statement::Snat { .. });
    chain.base.is_some_and(|base| base.kind == BaseKind::Nat)
        || chain.rules.iter().any(|rule| rule.statements.iter().any(nat))
}
