//! A state from disk that was in force after a boot, until the datastore answered.

use super::Felix;
use crate::desired::DesiredState;

impl Felix {
    /// True when a state from disk was in force until now, and `state` is not from there.
    pub(super) fn comes_from_disk_no_more(&self, state: &DesiredState) -> bool {
        let before = self.stage.state().is_some_and(|rendered| rendered.origin.is_stored());
        before && !state.origin.is_stored()
    }
}
