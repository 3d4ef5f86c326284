//! The last good policy: what was in force, kept on disk, so that a host that boots while the
//! datastore is away starts with the protection it had.
//!
//! * [`mod@format`] is the file: three parts, each of its own line or lines.
//! * [`mod@file`] reads it, and replaces it whole or not at all.
//! * [`start`] decides what a start may do with it.
//! * [`keeper`] is the task that writes it.
//!
//! The file is read once, at the start. It never goes before what the datastore says, and not
//! before what the kernel was given since the boot.

mod content;
pub mod file;
pub mod format;
mod hosts;
pub mod keeper;
mod rules;
pub mod start;
mod text;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use calico_datastore::model::{FelixConfiguration, Name};
use calico_datastore::timestamp::rfc3339;

use crate::age::age;
use crate::desired::{DesiredState, Origin};

/// What the datastore says about settings; what this host says itself goes before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreSettings {
    /// FelixConfiguration of this node, when there is one.
    pub node: Option<Arc<FelixConfiguration>>,
    /// FelixConfiguration `default`, when there is one.
    pub cluster: Option<Arc<FelixConfiguration>>,
}

/// A policy as it is kept. A clone costs nothing.
#[derive(Clone, Debug)]
pub struct StoredPolicy {
    /// The host that it is of.
    pub node: Name,
    /// The boot that it was in force in: `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// When it was put on disk.
    pub written: SystemTime,
    /// What should be in force. The settings of it mean nothing: they follow from `settings` and
    /// from what this host says now.
    pub state: Arc<DesiredState>,
    /// What the datastore said about settings.
    pub settings: StoreSettings,
}

impl StoredPolicy {
    /// The mark of a state that is published from it.
    pub fn origin(&self) -> Origin {
        let since = self.written.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Origin::Stored { since }
    }
}

/// `policy of 2026-11-21T03:00:00Z (3 h old) from disk`; `None` for a state of the datastore.
pub fn describe(origin: Origin, now: SystemTime) -> Option<String> {
    let Origin::Stored { since } = origin else { return None };
    let since = UNIX_EPOCH.checked_add(Duration::from_secs(since))?;
    Some(format!("policy {} from disk", dated(since, now)))
}

/// `of 2026-11-21T03:00:00Z (3 h old)`. Without the age when the clock says that it is still to
/// come: a host without a clock of its own has to be told the time first.
pub fn dated(since: SystemTime, now: SystemTime) -> String {
    match now.duration_since(since) {
        Ok(passed) => format!("of {} ({} old)", rfc3339(since), age(passed)),
        Err(_) => format!("of {}", rfc3339(since)),
    }
}

#[cfg(test)]
mod tests;
