//! When somebody may have written legacy tables: every tool that does opens the file of the lock that they
//! share (`/run/xtables.lock`), and closes it when it is done. inotify(7) tells; it is a hint, and what
//! changed, a look at the tables says. Who writes without that lock, or with a file of its own (in a mount
//! namespace of its own, XTABLES_LOCKFILE), is found by the clock.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tracing::debug;

use crate::felix::iptables::lock::path;

/// For tokio, which wants a number.
#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits for the file to be closed.
#[derive(Debug)]
pub(super) struct Lock {
    inotify: AsyncFd<Descriptor>,
    path: PathBuf,
}

impl Lock {
    /// Watches the file that the tools use. `None` as long as it is not there: nobody has written.
    pub(super) fn open() -> Option<Self> {
        let path = path();
        let opened = Self::watch(path.clone());
        opened.inspect_err(|error| debug!(path = %path.display(), %error, "cannot watch it")).ok()
    }

    #[expect(
        deprecated,
        reason = "register() is unsafe because a value may close or replace its descriptor; this \
                  one owns it and does neither"
    )]
    fn watch(path: PathBuf) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mask = AddWatchFlags::IN_CLOSE | AddWatchFlags::IN_DELETE_SELF;
        inotify.add_watch(&path, mask)?;
        Ok(Self { inotify: AsyncFd::new(Descriptor(inotify))?, path })
    }

    /// Waits until the lock was given back. Cancel-safe: nothing waits behind what was read.
    ///
    /// # Errors
    /// When the file is another one from now on: nothing more is heard of it.
    pub(super) async fn closed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_IGNORED;
                    if events.iter().any(|event| event.mask.intersects(gone)) {
                        let said = format!("{} was deleted", self.path.display());
                        return Err(io::Error::other(said));
                    }
                    return Ok(());
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    #[tokio::test]
    async fn it_hears_the_lock_being_given_back_and_when_it_is_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert!(Lock::watch(path.clone()).is_err(), "there is none");
        fs::write(&path, "").unwrap();
        let mut lock = Lock::watch(path.clone()).unwrap();
        let short = Duration::from_millis(50);
        assert!(tokio::time::timeout(short, lock.closed()).await.is_err());
        // As the tools open it: they write nothing.
        let held = fs::File::open(&path).unwrap();
        assert!(tokio::time::timeout(short, lock.closed()).await.is_err(), "it is held");
        drop(held);
        let long = Duration::from_secs(5);
        tokio::time::timeout(long, lock.closed()).await.unwrap().unwrap();
        assert!(tokio::time::timeout(short, lock.closed()).await.is_err(), "it was heard");
        fs::remove_file(&path).unwrap();
        assert!(tokio::time::timeout(long, lock.closed()).await.unwrap().is_err());
    }
}
