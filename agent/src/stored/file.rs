//! Reads the file, and replaces it whole or not at all.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::StoredPolicy;
use super::format::{self, Draft, FormatError};
use crate::atomic_file;

/// The file cannot be read, used, or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is there, but cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is there, but not what was written.
    #[error("cannot use {}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// It cannot be replaced. What was there still is.
    #[error("cannot write {}; what it held stays", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads the file; `None` when there is none.
///
/// # Errors
/// When it cannot be read, or is not what was written.
pub fn read(path: &Path) -> Result<Option<StoredPolicy>, FileError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FileError::Read { path: path.to_owned(), source }),
    };
    format::read(&bytes)
        .map(Some)
        .map_err(|source| FileError::Unusable { path: path.to_owned(), source })
}

/// Replaces the file; returns its length in bytes. There is one writer.
///
/// # Errors
/// When the disk does not take it; then the old file is still there.
pub fn replace(path: &Path, draft: &Draft) -> Result<u64, FileError> {
    // For root only: it says who may talk to whom.
    atomic_file::replace(path, 0o600, |out| format::write(draft, out))
        .map_err(|source| FileError::Write { path: path.to_owned(), source })
}
