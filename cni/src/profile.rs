//! The profile of a network: there before the first endpoint that lists it.

use calico_datastore::layout::v3::keys;
use calico_datastore::layout::v3::write::profile;
use calico_datastore::model::Name;
use calico_datastore::store::Store;

use crate::protocol::CniError;
use crate::{birth, failure};

/// Makes the profile that a network has when nobody made one. One that is there is left as it is:
/// its rules are the administrator's.
///
/// # Errors
/// When it can be neither found nor made.
pub(crate) async fn ensure<S: Store>(store: &S, network: &Name) -> Result<(), CniError> {
    let msg = || format!("the profile of the network {network:?} cannot be made");
    let new = profile::of_network(network, &birth::now()?)
        .map_err(|error| failure::malformed(msg(), &error))?;
    // Not made means that another pod of the network was faster.
    store
        .create(&keys::profile(network), &new)
        .await
        .map_err(|error| failure::store(msg(), &error))?;
    Ok(())
}
