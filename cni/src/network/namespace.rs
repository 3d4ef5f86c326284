//! Network namespaces: opening, entering, telling them from other files.
//!
//! A namespace belongs to a thread. Whoever enters one here runs on a thread that ends afterwards,
//! so that none leaks into the caller's.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::NetworkError;

/// The namespace that the calling thread is in.
const OWN: &str = "/proc/thread-self/ns/net";

/// Runs `work` on a thread of its own, which has the caller's namespace to begin with.
///
/// It cannot be interrupted: dropping the future leaves the thread to finish.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let (answer, wait) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("network".to_owned());
    thread.spawn(move || drop(answer.send(work()))).map_err(NetworkError::Thread)?;
    let lost = |_| NetworkError::Thread(io::Error::other("it ended without an answer"));
    wait.await.map_err(lost)?
}

/// Opens a namespace, which keeps it alive.
///
/// # Errors
/// [`NetworkError::NoNamespace`] when there is no such file, [`NetworkError::NotANamespace`] when it
/// is another one.
pub(super) fn open(path: &Path) -> Result<File, NetworkError> {
    let failed = |source| NetworkError::NoNamespace { path: path.to_owned(), source };
    // Not to wait at a pipe.
    let flags = OFlag::O_NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let kind = fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type();
    if kind == NSFS_MAGIC { Ok(file) } else { Err(not_one(path)) }
}

/// The calling thread's namespace.
pub(super) fn own() -> Result<File, NetworkError> {
    let path = Path::new(OWN);
    File::open(path).map_err(|source| NetworkError::NoNamespace { path: path.to_owned(), source })
}

/// True when both are the same namespace.
pub(super) fn same(one: &File, other: &File) -> bool {
    let identity = |file: &File| file.metadata().map(|data| (data.dev(), data.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// Moves the calling thread into a namespace.
pub(super) fn enter(file: &File, path: &Path) -> Result<(), NetworkError> {
    match setns(file, CloneFlags::CLONE_NEWNET) {
        Ok(()) => Ok(()),
        Err(Errno::EINVAL) => Err(not_one(path)),
        Err(errno) => Err(NetworkError::Enter { path: path.to_owned(), source: errno.into() }),
    }
}

/// Moves the calling thread back to where it was.
pub(super) fn leave_to(own: &File) -> Result<(), NetworkError> {
    enter(own, Path::new(OWN))
}

/// See [`super::is_namespace`].
pub(super) fn is_one(path: &Path) -> bool {
    let Ok(file) = open(path) else { return false };
    // Only entering tells a network namespace from one of another kind.
    std::thread::scope(|scope| {
        let entering = scope.spawn(|| setns(&file, CloneFlags::CLONE_NEWNET));
        !matches!(entering.join(), Ok(Err(Errno::EINVAL)))
    })
}

fn not_one(path: &Path) -> NetworkError {
    NetworkError::NotANamespace { path: path.to_owned() }
}
