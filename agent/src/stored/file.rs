//! Reads the file, and replaces it: whole or not at all, also when the power fails half-way.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::StoredPolicy;
use super::format::{self, Draft, FormatError};

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
    // In the same directory, or the rename would not be atomic.
    let new = path.with_extension("json.new");
    let result = write(&new, draft).and_then(|length| {
        fs::rename(&new, path)?;
        // The rename itself must survive a power cut, too.
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(length)
    });
    result.map_err(|source| {
        // It may take the place that others need. The next attempt overwrites it anyway.
        let _ = fs::remove_file(&new);
        FileError::Write { path: path.to_owned(), source }
    })
}

fn write(path: &Path, draft: &Draft) -> io::Result<u64> {
    // For root only: it says who may talk to whom.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    let length = format::write(draft, &mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(length)
}
