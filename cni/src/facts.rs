//! What ADD has to know of the datastore before it does anything.

use calico_datastore::layout::v3::keys;
use calico_datastore::model::{Name, WorkloadEndpointId};
use calico_datastore::store::{AnyStore, Store, Stored};

use crate::protocol::{CniError, Invocation};
use crate::{datastore, failure};

/// What the datastore says before anything is done: read at once, in one round trip each.
pub(crate) struct Facts {
    /// The network's profile is there.
    pub(crate) profile: bool,
    /// The endpoint of that name.
    pub(crate) endpoint: Option<Stored>,
    /// This host's Node, if its address is asked for.
    pub(crate) node: Option<Stored>,
}

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// When the store does not answer or is not ready.
    pub(crate) async fn read(
        store: &AnyStore,
        call: &Invocation,
        id: &WorkloadEndpointId,
    ) -> Result<Self, CniError> {
        let profile_key = keys::profile(&Name::from(&*call.conf.name));
        let endpoint_key = keys::workload_endpoint(id).unwrap_or_default();
        let node_key = keys::node(&id.node);
        let node = async {
            if call.conf.says_host_as_gateway() { store.get(&node_key).await } else { Ok(None) }
        };
        let (ready, profile, endpoint, node) = tokio::join!(
            datastore::readiness(store),
            store.get(&profile_key),
            store.get(&endpoint_key),
            node,
        );
        let fail = |error| failure::store("the datastore cannot be read", &error);
        datastore::must_be_ready(store, ready.map_err(fail)?.as_ref())?;
        Ok(Self {
            profile: profile.map_err(fail)?.is_some(),
            endpoint: endpoint.map_err(fail)?,
            node: node.map_err(fail)?,
        })
    }
}
