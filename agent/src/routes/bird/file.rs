//! BIRD's configuration file: checked before it is swapped in, swapped in at once or not at all.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::fs;
use tokio::io::AsyncWriteExt as _;

use crate::exec::{Exec, ExecError};

/// The file could not be written; what was there before is still there.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading the file that is there failed.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// BIRD is not installed, so nobody can check the file.
    #[error("{program} is not installed: install BIRD 2 (the package bird2)")]
    NoBird {
        /// What was looked for.
        program: String,
    },
    /// BIRD does not take the file.
    #[error("BIRD refuses the new configuration, the last one stays: {message}")]
    Refused {
        /// What BIRD said.
        message: String,
    },
    /// The check itself failed.
    #[error("cannot check the new configuration")]
    Check(#[source] ExecError),
}

/// The text of the file; empty when there is none.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn read(path: &Path) -> Result<String, FileError> {
    match fs::read(path).await {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(FileError::Read { path: path.to_owned(), source }),
    }
}

/// What tells a file from the one that was there before: place, size and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The stamp of a file; `None` when it is not there or cannot be asked for.
pub(super) async fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).await.ok()?;
    Some(Stamp {
        inode: file.ino(),
        size: file.len(),
        modified: (file.mtime(), file.mtime_nsec()),
        changed: (file.ctime(), file.ctime_nsec()),
    })
}

/// When the file was last changed; `None` when nobody can say.
pub(super) async fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).await.ok()?.modified().ok()
}

/// Puts `text` into `path` after `program -p` has accepted it.
///
/// # Errors
/// When BIRD is missing or refuses the text, or when the disk does.
pub(super) async fn swap(
    exec: &Exec,
    program: &str,
    path: &Path,
    text: &str,
) -> Result<(), FileError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FileError::Write { path, source }
    };
    // 0755: BIRD may run as another user.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .await
        .map_err(failed(directory))?;
    // In the same directory, or the rename would not be atomic. There is one writer.
    let new = path.with_extension("cfg.new");
    let outcome = async {
        write(&new, text).await.map_err(failed(&new))?;
        check(exec, program, &new).await?;
        fs::rename(&new, path).await.map_err(failed(path))?;
        // The rename itself must survive a power cut, too.
        let handle = fs::File::open(directory).await.map_err(failed(directory))?;
        handle.sync_all().await.map_err(failed(directory))
    }
    .await;
    if outcome.is_err() {
        // Best effort: the next attempt overwrites it.
        let _ = fs::remove_file(&new).await;
    }
    outcome
}

async fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .await?;
    file.write_all(text.as_bytes()).await?;
    // The bytes are on their way only, and sync_all() says nothing of those that did not arrive: on
    // a full disk half a configuration would take the place of a whole one.
    file.flush().await?;
    file.sync_all().await
}

async fn check(exec: &Exec, program: &str, path: &Path) -> Result<(), FileError> {
    let args = [Path::new("-p"), Path::new("-c"), path];
    match exec.run(program, &args, b"").await {
        Ok(_) => Ok(()),
        Err(error) if error.is_missing() => Err(FileError::NoBird { program: program.to_owned() }),
        // One that was killed has said nothing about the text.
        Err(ExecError::Failed { code: Some(_), stderr, .. }) => {
            Err(FileError::Refused { message: stderr })
        }
        Err(error) => Err(FileError::Check(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_an_error_and_not_an_empty_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bird.cfg.new");
        write(&file, "router id 10.0.0.1;\n").await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "router id 10.0.0.1;\n");
        // A device that is always full.
        let error = write(Path::new("/dev/full"), "router id 10.0.0.1;\n").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    }
}
