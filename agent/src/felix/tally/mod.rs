//! How many packets of each endpoint were allowed and denied.
//!
//! The kernel counts, in the address sets whose members are the endpoints
//! ([`super::iptables::chains`] says where). They are read when somebody asks, and at no other time.

mod book;
mod read;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use calico_datastore::model::{Family, InterfaceName, WorkloadEndpointId};
use serde::{Deserialize, Serialize};

use self::book::Book;
pub use super::ipset::Counts;
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

/// Asks the kernel of the network namespace that it is used in. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    book: Arc<Mutex<Book>>,
}

impl Tally {
    /// The counters of every endpoint of `state`; none where packets are not counted.
    ///
    /// # Errors
    /// When the kernel does not list its address sets.
    pub async fn ask(&self, state: &DesiredState) -> io::Result<Tallies> {
        if !state.settings.endpoint_counters || state.endpoints.is_empty() {
            return Ok(Tallies::new());
        }
        let families: Vec<Family> = Family::ALL
            .into_iter()
            .filter(|family| *family == Family::V4 || state.settings.ipv6)
            .collect();
        let (book, owners) = (Arc::clone(&self.book), owners(state));
        let asked = tokio::task::spawn_blocking(move || {
            // Held while the sets are read: who asks later is told of later.
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(book.update(&read::read(&families)?, &owners))
        });
        asked.await.map_err(io::Error::other)?
    }
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
