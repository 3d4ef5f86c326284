//! Tests of the calculation as a whole.

mod graft;
mod host;
pub(super) mod make;
mod patch;
mod properties;
mod semantics;
mod sets;
mod show;
mod stored;
mod strategies;
mod tiers;
mod walk;
mod work;

use std::sync::Arc;

use calico_datastore::model::{Name, Update};

use super::Calculator;
use super::oracle::World;
use crate::config::Settings;
use crate::desired::DesiredState;

/// The host of every test.
const HOST: &str = "host-a";

/// A calculator and the oracle beside it.
struct Bench {
    calculator: Calculator,
    world: World,
    settings: Arc<Settings>,
}

impl Bench {
    fn new() -> Self {
        Self {
            calculator: Calculator::new(Name::from(HOST)),
            world: World::default(),
            settings: Arc::new(Settings::default()),
        }
    }

    /// Applies updates as one batch and compares with the oracle.
    fn apply(&mut self, updates: impl IntoIterator<Item = Update>) -> Arc<DesiredState> {
        let updates: Vec<Update> = updates.into_iter().collect();
        updates.iter().for_each(|update| self.world.apply(update));
        self.calculator.apply(updates);
        let state = self.calculator.desired(Arc::clone(&self.settings), 0);
        assert_same(&state, &self.world.desired(&Name::from(HOST), &self.settings));
        state
    }
}

/// Compares the contents field by field, so that a failure says where.
#[track_caller]
fn assert_same(state: &DesiredState, expected: &DesiredState) {
    assert_eq!(state.endpoints, expected.endpoints, "endpoints");
    assert_eq!(state.classes, expected.classes, "classes");
    assert_eq!(state.policies, expected.policies, "policies");
    assert_eq!(state.profiles, expected.profiles, "profiles");
    assert_eq!(state.sets, expected.sets, "sets");
    assert_eq!(state.host_endpoints, expected.host_endpoints, "host endpoints");
    assert_eq!(state.pools, expected.pools, "pools");
    assert_eq!(state.overlays, expected.overlays, "overlays");
    assert_eq!(state.blocks, expected.blocks, "blocks");
    assert_eq!(state.bgp, expected.bgp, "bgp");
    assert_eq!(state.notices, expected.notices, "notices");
    assert!(state.has_content_of(expected), "a field is not compared by this test");
}
