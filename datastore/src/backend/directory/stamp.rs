//! What tells whether a file has changed since it was read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// A file as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// True when the file did not change for so long; then its times would tell that it was
    /// changed again (the kernel's clock for files ticks every 1 to 10 ms), and whoever writes it in
    /// place is probably done. A time to come tells nothing.
    pub(super) fn is_settled(&self, now: SystemTime, quiet: Duration) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanos) = self.changed;
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let changed = seconds + Duration::from_nanos(u64::try_from(nanos).unwrap_or_default());
        now.checked_sub(changed).is_none_or(|age| age >= quiet)
    }
}
