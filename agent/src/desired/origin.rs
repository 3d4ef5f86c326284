//! Where a desired state comes from.

/// Where a desired state comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Calculated from the datastore.
    #[default]
    Datastore,
    /// What was in force before the host was started, read from disk. It may be old, so it only
    /// gives: what it does not know stays as it is.
    Stored {
        /// When it was put there: seconds since 1970, UTC.
        since: u64,
    },
}

impl Origin {
    /// True for a state from disk.
    pub fn is_stored(self) -> bool {
        matches!(self, Self::Stored { .. })
    }
}
