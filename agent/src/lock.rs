//! One agent per run directory: a second one must not take the first one's socket, empty its
//! directory of endpoint files, or fight with it over the kernel.
//!
//! A lock of the kernel (flock(2)) on a file that stays: it ends with the process however that
//! ends, so there is nothing stale to clean up.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The run directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error(
        "another calico-agent ({}) uses {}: stop it first, or give this one another --run-dir",
        holder.map_or("pid unknown".to_owned(), |pid| format!("pid {pid}")),
        path.parent().unwrap_or(path).display()
    )]
    Taken {
        /// The lock file.
        path: PathBuf,
        /// Its process id, as far as the file says.
        holder: Option<u32>,
    },
    /// The file cannot be made, written or locked.
    #[error("cannot lock {}", path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Takes the lock without waiting and writes this process's id into the file.
///
/// # Errors
/// When another process has it, or the file cannot be used.
pub fn take(path: &Path) -> Result<Lock, LockError> {
    let failed = |source| LockError::File { path: path.to_owned(), source };
    // Not emptied before it is ours: it holds the id of the one who has it. std opens with
    // O_CLOEXEC, so no program that we start keeps the lock.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path)
        .map_err(failed)?;
    let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(LockError::Taken { path: path.to_owned(), holder });
        }
        Err((_, errno)) => return Err(failed(errno.into())),
    };
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(failed)?;
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        // What a process that died left behind is no obstacle.
        std::fs::write(&path, "4194304000\n").unwrap();
        let first = take(&path).unwrap();
        let error = take(&path).unwrap_err();
        let own = std::process::id();
        assert!(matches!(error, LockError::Taken { holder: Some(pid), .. } if pid == own));
        let text = error.to_string();
        assert!(text.contains(&format!("(pid {own}) uses {}:", dir.path().display())), "{text}");
        drop(first);
        take(&path).unwrap();
    }

    #[test]
    fn a_holder_that_has_not_written_yet_holds_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        let _first = take(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        let error = take(&path).unwrap_err();
        assert!(error.to_string().contains("(pid unknown)"), "{error}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_another_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = take(&dir.path().join("no/agent.lock")).unwrap_err();
        assert!(matches!(error, LockError::File { .. }), "{error}");
    }
}
