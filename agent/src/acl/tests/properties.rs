//! Any order and any batching of any updates ends equal to the oracle, and diffs lead from one
//! state to the next. `PROPTEST_CASES` sets the number of cases (256 without it).

use std::sync::Arc;

use calico_datastore::model::{Name, Update};
use proptest::prelude::*;

use super::patch::patch;
use super::strategies::{SMALL, update};
use super::{Bench, HOST, assert_same};
use crate::acl::Calculator;
use crate::desired::DesiredState;

proptest! {
    /// After every batch the state is the oracle's, and the diff leads there from the one before.
    #[test]
    fn every_batch_ends_equal_to_the_oracle(
        batches in proptest::collection::vec(proptest::collection::vec(update(&SMALL), 1..6), 1..16),
    ) {
        let mut bench = Bench::new();
        let mut last = Arc::new(DesiredState::default());
        for batch in batches {
            let state = bench.apply(batch);
            let diff = state.diff(&last);
            assert_same(&patch(&last, &diff, &state), &state);
            let changed = !diff.is_empty() || !diff.notices.is_empty();
            if last.generation > 0 {
                assert_eq!(state.generation, last.generation + u64::from(changed));
                assert_eq!(Arc::ptr_eq(&state, &last), !changed);
            }
            last = state;
        }
        // Back to nothing: whatever was counted has gone again.
        let ids: Vec<_> = bench.world.snapshot().map(|update| update.id()).collect();
        let state = bench.apply(ids.into_iter().map(Update::deleted));
        assert!(state.has_content_of(&bench.world.desired(&Name::from(HOST), &bench.settings)));
        assert!(state.endpoints.is_empty() && state.sets.is_empty() && state.notices.is_empty());
        bench.calculator.assert_nothing_left();
    }

    /// The same objects in another order and as one batch make the same state.
    #[test]
    fn the_order_of_arrival_does_not_matter(
        (updates, shuffled) in proptest::collection::vec(update(&SMALL), 1..40).prop_flat_map(|updates| {
            let mut world = super::World::default();
            updates.iter().for_each(|update| world.apply(update));
            let objects: Vec<Update> = world.snapshot().collect();
            (Just(updates), Just(objects).prop_shuffle())
        }),
        split in 0usize..40,
    ) {
        let mut bench = Bench::new();
        let state = bench.apply(updates);
        let mut other = Calculator::new(Name::from(HOST));
        let split = split.min(shuffled.len());
        other.apply(shuffled[..split].to_vec());
        let _ = other.desired(Arc::clone(&bench.settings), 0);
        other.apply(shuffled[split..].to_vec());
        assert_same(&other.desired(Arc::clone(&bench.settings), 0), &state);
    }
}
