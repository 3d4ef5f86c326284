//! The store of a run.

use calico_datastore::location::{DEFAULT_ENDPOINT, Location};
use calico_datastore::store::AnyStore;

use super::DaemonError;

/// Opens the store. The directory that agent and plugin write is there from now on, so that what
/// comes into it is heard of at once.
pub(super) fn open(location: &Location) -> Result<AnyStore, DaemonError> {
    if let Location::Directory(config) = location {
        std::fs::create_dir_all(&config.state)
            .map_err(|source| DaemonError::Directory { path: config.state.clone(), source })?;
    }
    location.open().map_err(DaemonError::Datastore)
}

/// Says where the datastore is, where that may not be what was meant.
pub(super) fn announce(location: &Location) {
    match location {
        Location::Directory(config) => tracing::info!(
            files = %config.admin.display(),
            written = %config.state.display(),
            "the datastore is a directory of this host"
        ),
        Location::Etcd3(config) if config.endpoints == [DEFAULT_ENDPOINT] => tracing::info!(
            etcd = DEFAULT_ENDPOINT,
            "etcd is looked for here; ETCD_ENDPOINTS says where"
        ),
        Location::Etcd2(_) => tracing::info!(
            "the datastore is etcd's v2 API, in the layout of Calico up to 2.6: this host is not \
             registered there, and what rkt leaves behind is not collected"
        ),
        Location::Etcd3(_) => {}
    }
}
