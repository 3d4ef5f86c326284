//! The question answered by a running agent: what should be in force on its host now.

use std::collections::BTreeMap;

use calico_datastore::model::{Name, WorkloadEndpointId};

use super::directory::Directory;
use super::document::Basis;
use super::error::ExplainError;
use super::graph::{self, Graph};
use super::question::Question;
use super::world::{Place, World};
use crate::node::addresses::host_addresses;
use crate::reconcile::EndpointState;
use crate::status::overview::Overview;

/// How many endpoints that are not in force are named.
const NAMED: usize = 5;

/// There is nothing to answer from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// The datastore was not read yet.
    #[error("nothing is known yet: {0}")]
    Nothing(String),
}

/// What the agent knows now.
///
/// # Errors
/// Before the first complete snapshot.
pub async fn world(overview: &Overview) -> Result<World, NotYet> {
    let desired = overview.desired.borrow().clone();
    let desired = desired.ok_or_else(|| NotYet::Nothing(overview.summary()))?;
    let mut notes = Vec::new();
    // Without them what is for the host itself counts as something else.
    let addresses = host_addresses().await.unwrap_or_else(|error| {
        notes.push(format!(
            "the host's addresses are not known: {}",
            crate::telemetry::chain(&error)
        ));
        Vec::new()
    });
    let addresses: Vec<_> = addresses.into_iter().map(|one| one.address).collect();
    let sync = overview.sync.borrow().clone();
    if let Some(reason) = &sync.waiting {
        notes.push(format!("the datastore is not read now, this is what it said last: {reason}"));
    }
    if desired.origin.is_stored() {
        notes.push("this is the last good policy from disk".to_owned());
    }
    let late = not_in_force(overview, desired.endpoints.keys());
    if late.is_empty() && !desired.origin.is_stored() && !overview.complete() {
        notes.push("the newest policy is being programmed just now".to_owned());
    }
    notes.extend(late);
    if !sync.rejected.is_empty() {
        let refused = sync.rejected.len();
        notes.push(format!("{refused} refused objects count as absent: see calico-agent status"));
    }
    let node = Name::from(overview.node.as_str());
    let basis = Basis {
        agent: Some(overview.node.clone()),
        datastore: overview.location.clone(),
        revision: desired.revision,
        changes: Vec::new(),
    };
    let directory = Directory::of_host(&node, &desired, &addresses);
    let mut place = Place::new(desired, addresses.into_iter().collect());
    if let Some(externals) = overview.externals() {
        place.externals = (*externals).clone();
    }
    Ok(World { directory, places: BTreeMap::from([(node, place)]), basis, notes })
}

/// Who reaches whom on the agent's host.
///
/// # Errors
/// When the question cannot be meant.
pub fn graph(question: &Question, world: World) -> Result<Graph, ExplainError> {
    let World { directory, places, notes, .. } = world;
    let Some((host, place)) = places.iter().next() else { return Ok(Graph::default()) };
    let mut graph = graph::graph(question, host, place, &directory)?;
    graph.notes.extend(notes);
    Ok(graph)
}

/// What should be in force and is not, so that packets may fare otherwise.
fn not_in_force<'a>(
    overview: &Overview,
    endpoints: impl Iterator<Item = &'a WorkloadEndpointId>,
) -> Vec<String> {
    let wrong = endpoints.filter_map(|id| match overview.endpoint_state(id) {
        EndpointState::Up => None,
        EndpointState::Down(reason) | EndpointState::Error(reason) => Some((id, reason)),
    });
    let mut notes: Vec<String> = wrong
        .map(|(id, reason)| format!("{} is not programmed as this says: {reason}", id.on_host()))
        .collect();
    if notes.len() > NAMED {
        let more = notes.len() - NAMED;
        notes.truncate(NAMED);
        notes.push(format!("and {more} endpoints more"));
    }
    notes
}
