//! One at a time per container: a lock of the kernel (flock(2)), which ends with its process.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::file::{AttachmentError, error, open_lock};

/// How often is looked whether the lock is free.
const LOOK: Duration = Duration::from_millis(2);

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct Locked {
    path: PathBuf,
    _file: Flock<File>,
}

impl Locked {
    /// Gives the lock up, and removes its file: nothing of the container is left.
    pub fn finish(self) {
        // While it is held, so that nobody locks a file that is about to vanish; who opened it
        // before notices, see `lock`. One that stays is no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) fn lock(path: &Path, wait: Duration) -> Result<Option<Locked>, AttachmentError> {
    let deadline = Instant::now() + wait;
    loop {
        let file = open_lock(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) if is_at(&file, path) => {
                return Ok(Some(Locked { path: path.to_owned(), _file: file }));
            }
            // Its holder removed it after it was opened here: another one may be locked by others.
            Ok(_) => continue,
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {}
            Err((_, errno)) => return Err(error("lock", path)(errno.into())),
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}
