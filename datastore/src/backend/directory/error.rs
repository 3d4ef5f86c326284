//! What can go wrong with the files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Something with the files did not work.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The administrator has the object in a file, and only he changes it.
    #[error("it is defined in {}, which is only read", file.display())]
    Owned {
        /// The file.
        file: PathBuf,
    },
    /// A file or directory could not be read, written, made or removed.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process does not let go of the lock.
    #[error("{} is locked by another process for more than {} s", path.display(), after.as_secs())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// The disk does not answer. A write may happen all the same.
    #[error("the disk did not answer within {} s", after.as_secs())]
    Silent {
        /// How long it was waited for.
        after: Duration,
    },
    /// The process is ending.
    #[error("the process is ending")]
    Ended,
}

impl DirectoryError {
    pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { what, path: path.to_owned(), source }
    }

    /// The error and what is behind it, on one line, for people.
    pub fn chain(&self) -> String {
        match self {
            Self::File { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}
