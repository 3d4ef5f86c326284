//! How many packets of each endpoint were allowed and denied.
//!
//! The kernel counts, in the address sets whose members are the endpoints
//! ([`super::iptables::chains`] says where), or in the sets of our own table of nf_tables. They are read when somebody asks, and at no other time.

mod book;
mod read;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use calico_datastore::model::{Family, InterfaceName, WorkloadEndpointId};
use serde::{Deserialize, Serialize};

use self::book::Book;
pub use super::ipset::Counts;
use super::watch::{Changes, Rules};
use crate::desired::DesiredState;

/// One direction of an endpoint's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// What passed: allowed by policy, or of a connection that was.
    pub allowed: Counts,
    /// What was dropped or rejected.
    pub denied: Counts,
}

/// The packets of an endpoint. What has a source that is not the endpoint's is in neither number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointCounters {
    /// To the endpoint; what its own host sends it is never asked and not counted.
    pub ingress: Traffic,
    /// From the endpoint.
    pub egress: Traffic,
}

/// By endpoint. One whose packets are not counted (it is not programmed yet) is not there.
pub type Tallies = BTreeMap<WorkloadEndpointId, EndpointCounters>;

/// How long the reconciler is waited for. It may be writing for long where programs hang.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the kernel of the network namespace that it is used in. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    changes: Changes,
    book: Arc<Mutex<Book>>,
}

impl Tally {
    /// Asks when the reconciler of these changes is not writing: a set that is listed cannot be swapped,
    /// and one that takes the place of another goes on from what was read of that before.
    pub fn new(changes: Changes) -> Self {
        Self { changes, ..Self::default() }
    }

    /// The counters of every endpoint of `state`; none where packets are not counted. While the
    /// reconciler writes for long, or the kernel does not list a set whole, they are those of the last time.
    ///
    /// # Errors
    /// When the kernel does not list its sets.
    pub async fn ask(&self, state: &DesiredState) -> io::Result<Tallies> {
        if !state.settings.endpoint_counters || state.endpoints.is_empty() {
            return Ok(Tallies::new());
        }
        let families: Vec<Family> = Family::ALL
            .into_iter()
            .filter(|family| *family == Family::V4 || state.settings.ipv6)
            .collect();
        let Ok(turn) = tokio::time::timeout(PATIENCE, self.changes.turn()).await else {
            return Ok(locked(&self.book).told());
        };
        let (book, owners) = (Arc::clone(&self.book), owners(state));
        let native = self.changes.rules() == Some(Rules::Nftables);
        let asked = tokio::task::spawn_blocking(move || {
            let reading =
                if native { read::table(&families) } else { read::address_sets(&families) };
            let mut book = locked(&book);
            let tallies = match reading {
                Ok(reading) => book.update(&reading, &owners),
                // What is in the book by mistake never goes again.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => book.told(),
                Err(error) => return Err(error),
            };
            drop(turn);
            Ok(tallies)
        });
        asked.await.map_err(io::Error::other)?
    }
}

/// Nothing inside is left half-changed that a later reading would not mend.
fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose packets are those of an interface: as [`super::endpoints`] decides.
fn owners(state: &DesiredState) -> BTreeMap<InterfaceName, WorkloadEndpointId> {
    let mut out = BTreeMap::new();
    for (id, endpoint) in &state.endpoints {
        let active = state.classes.get(&endpoint.class).is_some_and(|class| class.active);
        if endpoint.active && active {
            out.entry(endpoint.interface.clone()).or_insert_with(|| id.clone());
        }
    }
    out
}
