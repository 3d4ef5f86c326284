//! What a new object in the datastore needs: a random identity and the time.

use calico_datastore::layout::v3::write::Birth;

use crate::protocol::{CniError, Code};

/// An object's birth, now.
///
/// # Errors
/// When the kernel gives no random numbers.
pub(crate) fn now() -> Result<Birth, CniError> {
    Birth::now().map_err(|e| CniError::new(Code::Io, "cannot read /dev/urandom", e.to_string()))
}
