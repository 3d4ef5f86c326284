//! What a run does to the kernel.

use std::collections::BTreeSet;
use std::io;

use tracing::debug;

use super::places::{self, Move, NONE};
use super::{Nftables, Sockets};
use crate::felix::iptables::uses::Subject;
use crate::felix::nftables::TABLE;
use crate::felix::nftables::groups::Groups;
use crate::felix::nftables::object::{Change, Name, Rule};
use crate::felix::nftables::render::place::Place;
use crate::felix::nftables::render::{Steps, names};
use crate::felix::nftables::subject::Subject as Blamed;
use crate::felix::nftables::table::{OpenError, ReadError, Table, WriteError};
use crate::felix::reconciler::{Job, Run};
use crate::felix::scene::{Changed, Scene};
use crate::telemetry::chain;

/// Nothing of a run came into force.
#[derive(Debug, thiserror::Error)]
pub(super) enum BringError {
    /// There is no way to speak to the kernel.
    #[error("cannot open the socket of nf_tables")]
    Open(#[source] OpenError),
    /// Nor to speak of interfaces.
    #[error("cannot open the socket of interfaces")]
    OpenGroups(#[source] io::Error),
    /// What is there could not be read.
    #[error("cannot read the table")]
    Read(#[source] ReadError),
    /// Nor the interfaces.
    #[error("cannot read the groups of interfaces")]
    ReadGroups(#[source] io::Error),
    /// The kernel did not take it.
    #[error("the old rules stay in force")]
    Write(#[source] WriteError),
}

impl Nftables {
    /// Opens the sockets, unless they are.
    pub(super) fn open(&mut self) -> Result<Sockets, BringError> {
        if let Some(mut sockets) = self.sockets.take() {
            sockets.begin();
            return Ok(sockets);
        }
        let table = Table::open(TABLE, self.counters.clone()).map_err(BringError::Open)?;
        let groups = Groups::open().map_err(BringError::OpenGroups)?;
        self.changes.is_us(table.port());
        Ok(Sockets::new(table, groups))
    }

    /// Makes the table and the groups so.
    pub(super) async fn bring(&mut self, job: &Job<'_>, run: &mut Run) -> Result<(), BringError> {
        let mut sockets = self.open()?;
        self.bring_with(&mut sockets, job, run).await?;
        // Of what failed nothing is kept: the next run opens them anew.
        self.sockets = Some(sockets);
        Ok(())
    }

    async fn bring_with(
        &mut self,
        sockets: &mut Sockets,
        job: &Job<'_>,
        run: &mut Run,
    ) -> Result<(), BringError> {
        // What a state from disk let be goes when the datastore has answered.
        let Some(changed) = job.changed.filter(|_| self.sure && !job.from_disk) else {
            return self.bring_all(sockets, job, run).await;
        };
        let mut steps = self.renderer.changed(&job.scene, changed);
        steps.now = self.open_mended(steps.now, &changed, &job.scene);
        let mut names = places::concerned(&changed, &self.links, job.links);
        names.extend(std::mem::take(&mut self.unplaced).into_keys());
        let group_of = |class: &_| self.renderer.group_of(class);
        let moves = places::some(&names, &job.scene, job.links, &self.placed, group_of);
        places::forget_gone(&mut self.placed, &self.links, job.links);
        self.carry_out(steps, moves, sockets, &job.scene).await?;
        if self.renderer.has_room() {
            // For classes that got no group before, and their interfaces.
            return self.bring_all(sockets, job, run).await;
        }
        Ok(())
    }

    /// A closed policy that says something else now may be taken.
    fn open_mended(
        &mut self,
        now: Vec<Change>,
        changed: &Changed<'_>,
        scene: &Scene<'_>,
    ) -> Vec<Change> {
        let closed = self.shut.len();
        self.shut.retain(|subject, _| !changed.says_other(subject));
        if self.shut.len() == closed {
            return now;
        }
        over(now, self.renderer.shut(scene, self.shut.keys().cloned().collect()))
    }

    /// Carries out steps, and moves between them.
    pub(super) async fn carry_out(
        &mut self,
        steps: Steps,
        moves: Vec<Move>,
        sockets: &mut Sockets,
        scene: &Scene<'_>,
    ) -> Result<(), BringError> {
        let Steps { mut now, mut after } = steps;
        if moves.is_empty() || after.is_empty() {
            now.append(&mut after);
            self.write(now, sockets, scene).await?;
        } else {
            let shut = self.shut.clone();
            if let Err(error) = self.write(now.clone(), sockets, scene).await {
                // What goes later may be what somebody else made and what is in the way.
                debug!(error = %chain(&error), "all at once instead");
                // What was closed on the way is in the changes as it was: it is blamed again, and closed.
                if self.shut != shut {
                    let closed = shut.keys().cloned().collect();
                    self.shut = shut;
                    now = over(now, self.renderer.shut(scene, closed));
                }
                now.append(&mut after);
                self.write(now, sockets, scene).await?;
            }
        }
        if !moves.is_empty() {
            self.place(moves, &mut sockets.groups);
        }
        if after.is_empty() {
            return Ok(());
        }
        if !self.unplaced.is_empty() {
            // They are still in groups that would go. The next run finds out what is left to be done.
            self.sure = false;
            return Ok(());
        }
        self.write(after, sockets, scene).await
    }

    /// One transaction. A policy that the kernel refuses is closed, and the rest tried again. What may be the
    /// work of somebody else is no policy's fault before a look, nor is what the kernel lacks just then: that is
    /// an error, and the next run reads what is there.
    async fn write(
        &mut self,
        mut changes: Vec<Change>,
        sockets: &mut Sockets,
        scene: &Scene<'_>,
    ) -> Result<(), BringError> {
        while !changes.is_empty() {
            let (asked, written) = sockets.write(changes).await;
            let Err(error) = written else { return Ok(()) };
            let theirs = error.needs_resync() && !sockets.has_looked();
            let innocent = theirs || error.is_circumstance();
            let blamed = error.subject().filter(|_| !innocent).and_then(|blamed| {
                let own = chain_of(blamed).and_then(|name| subject_of(name, scene));
                own.or_else(|| {
                    let (chain, rule) = rule_of(blamed, &asked)?;
                    self.renderer.writer_of(chain, rule, scene)
                })
            });
            let Some(subject) = blamed.filter(|subject| !self.shut.contains_key(subject)) else {
                return Err(BringError::Write(error));
            };
            debug!(?subject, error = %chain(&error), "closed");
            self.shut.insert(subject, chain(&error));
            let closed: BTreeSet<Subject> = self.shut.keys().cloned().collect();
            changes = over(asked, self.renderer.shut(scene, closed));
        }
        Ok(())
    }

    /// Puts interfaces into their groups.
    pub(super) fn place(&mut self, moves: Vec<Move>, groups: &mut Groups) {
        for Move { index, name, to } in &moves {
            match *to {
                NONE => drop(self.placed.remove(index)),
                to => drop(self.placed.insert(*index, (name.clone(), to))),
            }
        }
        // Before the kernel tells it.
        self.changes.place(self.placed.clone());
        for Move { index, name, to } in moves {
            self.counters.link_groups.count(1);
            match groups.set(index, to) {
                Ok(true) => {}
                // It went away meanwhile: that is told by the links.
                Ok(false) => drop(self.placed.remove(&index)),
                Err(error) => {
                    self.placed.remove(&index);
                    let said = format!("cannot put {name} into its group: {}", chain(&error));
                    self.unplaced.insert(name, said);
                }
            }
        }
    }
}

/// The chain that the kernel blames.
fn chain_of(blamed: &Blamed) -> Option<&Name> {
    match blamed {
        Blamed::Chain(name) | Blamed::Rules(name) | Blamed::Rule(name, _) => Some(name),
        _ => None,
    }
}

/// The rule that the kernel blames, and its chain.
fn rule_of<'a>(blamed: &'a Blamed, asked: &'a [Change]) -> Option<(&'a Name, &'a Rule)> {
    let Blamed::Rule(name, number) = blamed else { return None };
    let mut chains = asked.iter().filter_map(|change| match change {
        Change::PutChain(put, chain) if put == name => Some(chain),
        _ => None,
    });
    Some((name, chains.next()?.rules.get(number.checked_sub(1)?)?))
}

/// The policy or profile whose rules a chain holds.
fn subject_of(chain: &Name, scene: &Scene<'_>) -> Option<Subject> {
    let is = |subject: &&Subject| Place::all().any(|place| names::rules(place, subject) == *chain);
    scene.uses.subjects().into_iter().find(is).cloned()
}

/// The changes, with others in place of those that concern the same chains.
fn over(mut changes: Vec<Change>, others: Vec<Change>) -> Vec<Change> {
    let names: BTreeSet<_> = others
        .iter()
        .filter_map(|change| match change {
            // What a policy that passed was written into may be gone.
            Change::PutChain(name, _) | Change::DeleteChain(name) => Some(name.clone()),
            _ => None,
        })
        .collect();
    changes.retain(|change| !matches!(change, Change::PutChain(name, _) if names.contains(name)));
    changes.extend(others);
    changes
}
