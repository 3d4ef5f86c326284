//! A long walk: thousands of changes by chance to one world, and after each the result is the
//! oracle's. What short sequences do not reach is here: tables that have been filled and emptied
//! many times, places used again, counters that were off by one some hundred steps ago.
//!
//! `CALICO_STEPS` says how many steps (some thousands without it), `CALICO_SEED` plays a walk again.

#![allow(clippy::print_stdout, reason = "the seed of a walk has to be known when it fails")]

use std::mem::discriminant;
use std::sync::Arc;

use calico_datastore::model::{CalicoVersion, ResourceId, Update};
use proptest::prelude::*;
use proptest::strategy::{BoxedStrategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::graft::graft;
use super::patch::patch;
use super::strategies::{LARGE, SMALL, update};
use super::{Bench, assert_same};
use crate::config::Settings;
use crate::desired::DesiredState;

/// Steps without `CALICO_STEPS`: seconds.
const STEPS: u64 = 1500;

/// Chance, from a seed.
struct Dice {
    runner: TestRunner,
    updates: BoxedStrategy<Update>,
}

impl Dice {
    fn new(seed: u64, updates: BoxedStrategy<Update>) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        Self { runner: TestRunner::new_with_rng(Config::default(), rng), updates }
    }

    fn below(&mut self, end: usize) -> usize {
        (0..end).new_tree(&mut self.runner).unwrap().current()
    }

    fn update(&mut self) -> Update {
        self.updates.new_tree(&mut self.runner).unwrap().current()
    }

    fn updates(&mut self, at_most: usize) -> Vec<Update> {
        (0..=self.below(at_most)).map(|_| self.update()).collect()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.below(at + 1);
            items.swap(at, other);
        }
    }
}

/// A bench with the state it is in.
struct Walk {
    bench: Bench,
    last: Arc<DesiredState>,
    dice: Dice,
}

impl Walk {
    fn new(seed: u64, updates: BoxedStrategy<Update>) -> Self {
        let mut bench = Bench::new();
        let last = bench.apply([]);
        Self { bench, last, dice: Dice::new(seed, updates) }
    }

    /// Applies a batch; compares with the oracle, and the diff with both states.
    fn apply(&mut self, updates: Vec<Update>) {
        let state = self.bench.apply(updates);
        let diff = state.diff(&self.last);
        assert_same(&patch(&self.last, &diff, &state), &state);
        let changed = !diff.is_empty() || !diff.notices.is_empty();
        assert_eq!(state.generation, self.last.generation + u64::from(changed));
        assert_eq!(Arc::ptr_eq(&state, &self.last), !changed);
        self.last = state;
    }

    /// The updates that bring back what some objects are now.
    fn undo(&self, ids: impl Iterator<Item = ResourceId>) -> Vec<Update> {
        ids.map(|id| self.bench.world.get(&id)).collect()
    }

    fn step(&mut self) {
        match self.dice.below(1000) {
            // One change.
            0..420 | 960..985 => {
                let update = self.dice.update();
                self.apply(vec![update]);
            }
            // One field of one object.
            420..620 => {
                let new = self.dice.update();
                let pick = self.dice.below(1000);
                let same_kind = |old: &Update| discriminant(old) == discriminant(&new);
                let mut olds: Vec<Update> = self.bench.world.snapshot().filter(same_kind).collect();
                olds.sort_by_key(|update| update.id().to_string());
                let update = match olds.len() {
                    0 => new,
                    len => graft(&olds[self.dice.below(len)], &new, pick),
                };
                self.apply(vec![update]);
            }
            // A batch, in which an object may change several times.
            620..770 => {
                let updates = self.dice.updates(8);
                self.apply(updates);
            }
            // A batch and the same one the other way round: the order of objects says nothing.
            770..820 => {
                let mut updates = self.dice.updates(8);
                updates.sort_by_key(|update| update.id().to_string());
                updates.dedup_by_key(|update| update.id().to_string());
                let undo = self.undo(updates.iter().map(Update::id));
                self.dice.shuffle(&mut updates);
                self.apply(updates.clone());
                let there = Arc::clone(&self.last);
                self.apply(undo);
                self.dice.shuffle(&mut updates);
                self.apply(updates);
                assert!(self.last.has_content_of(&there));
            }
            // There and back, in two batches and in one.
            820..920 => {
                let here = Arc::clone(&self.last);
                let updates = self.dice.updates(4);
                let undo = self.undo(updates.iter().map(Update::id));
                self.apply(updates.clone());
                self.apply(undo.clone());
                assert!(self.last.has_content_of(&here));
                let back = Arc::clone(&self.last);
                self.apply(updates.into_iter().chain(undo).collect());
                assert!(Arc::ptr_eq(&self.last, &back), "a batch that changes nothing");
            }
            // What is there is said again.
            920..940 => {
                let same: Vec<Update> = self.bench.world.snapshot().collect();
                let here = Arc::clone(&self.last);
                self.apply(same);
                assert!(Arc::ptr_eq(&self.last, &here));
            }
            // Other settings are another state with the same content.
            940..960 => {
                let mut settings = Settings::clone(&self.bench.settings);
                settings.max_ipset_size = 1 + u32::try_from(self.dice.below(2)).unwrap();
                // One of them says whose order holds, whatever the cluster says.
                settings.calico_version = [None, None, Some(20), Some(30), Some(32)]
                    [self.dice.below(5)]
                .map(|minor| CalicoVersion { major: 3, minor });
                self.bench.settings = Arc::new(settings);
                self.apply(vec![]);
            }
            // Much of it goes.
            985..998 => {
                let mut ids = self.ids();
                self.dice.shuffle(&mut ids);
                ids.truncate(self.dice.below(ids.len() + 1));
                self.apply(ids.into_iter().map(Update::deleted).collect());
            }
            _ => self.clear(),
        }
    }

    /// Everything goes, in one batch or one by one: nothing may be left in any table.
    fn clear(&mut self) {
        let mut ids = self.ids();
        self.dice.shuffle(&mut ids);
        let gone = ids.into_iter().map(Update::deleted);
        if self.dice.below(2) == 0 {
            self.apply(gone.collect());
        } else {
            gone.for_each(|update| self.apply(vec![update]));
        }
        self.bench.calculator.assert_nothing_left();
        let nothing = DesiredState { bgp: Arc::clone(&self.last.bgp), ..DesiredState::default() };
        assert!(self.last.has_content_of(&nothing));
    }

    /// The objects there are, in an order that the seed alone decides.
    fn ids(&self) -> Vec<ResourceId> {
        let mut ids: Vec<_> = self.bench.world.snapshot().map(|update| update.id()).collect();
        ids.sort_by_key(ToString::to_string);
        ids
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn walk(what: &str, updates: BoxedStrategy<Update>) {
    let steps = number("CALICO_STEPS").unwrap_or(STEPS);
    let seed = number("CALICO_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("a walk in a {what} world: CALICO_SEED={seed} CALICO_STEPS={steps}");
    let mut walk = Walk::new(seed, updates);
    for step in 1..=steps {
        if step % 10_000 == 0 {
            let objects = walk.ids().len();
            println!("step {step}: {objects} objects, generation {}", walk.last.generation);
        }
        walk.step();
    }
    walk.clear();
    println!("{steps} steps in a {what} world, no difference; CALICO_SEED={seed}");
}

#[test]
fn a_long_walk_in_a_small_world() {
    walk("small", update(&SMALL).boxed());
}

#[test]
fn a_long_walk_in_a_large_world() {
    walk("large", update(&LARGE).boxed());
}
