//! States that were not calculated from the datastore: the one that the kernel may have been given
//! before this process was started, and the one from disk that is in force after a boot.

use std::sync::Arc;

use tracing::{debug, info};

use super::Felix;
use crate::desired::DesiredState;
use crate::felix::iptables::driver::Driver;
use crate::telemetry::chain;

impl Felix {
    /// What the kernel was probably given last, before the start. The first run compares with it:
    /// when the kernel holds it, the run changes that state into the new one as if this process had
    /// rendered it, and closes what has to be closed on the way.
    pub fn expect(&mut self, state: Arc<DesiredState>) {
        self.expected = Some(state);
    }

    /// Takes over what was expected, when the kernel proves to hold it. Only the chains prove it;
    /// the sets are read all the same.
    pub(super) async fn recognise(&mut self, state: &DesiredState, driver: &Driver) {
        let Some(expected) = self.expected.take() else { return };
        // Other settings are other rules everywhere.
        if self.rendered.is_some() || expected.settings != state.settings {
            return;
        }
        self.render(&expected);
        let mut holds = true;
        for one in &mut self.families {
            holds &= one.tables.is_in_kernel(driver).await.unwrap_or_else(|error| {
                debug!(reason = chain(&error), "the kernel was not compared with the disk");
                false
            });
        }
        if holds {
            info!(revision = expected.revision, "the kernel holds the policy that is on disk");
        } else {
            self.rendered = None;
        }
    }

    /// True when a state from disk was in force until now, and `state` is not from there.
    pub(super) fn comes_from_disk_no_more(&self, state: &DesiredState) -> bool {
        let before = self.rendered.as_ref().is_some_and(|rendered| rendered.origin.is_stored());
        before && !state.origin.is_stored()
    }
}
