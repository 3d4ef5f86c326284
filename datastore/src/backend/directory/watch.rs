//! Who changed what: inotify(7), as hints. What really changed, a look at the files says.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::admin::{self, QUIET};

/// A file of the administrator's that was written and not closed is read this long after the last
/// write: some writers take their time, some keep their file open.
const WRITING_LIMIT: Duration = Duration::from_secs(30);

/// One that appeared and was not written: a link never says that it is whole.
const MAKING_LIMIT: Duration = Duration::from_secs(1);

/// From the first event on, when they do not end. (Else [`QUIET`] after the last one: editors take
/// away the old file before they put the new one there.)
const NOISE_LIMIT: Duration = Duration::from_millis(500);

/// For tokio, which wants a number.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The watches.
pub(super) struct Watch {
    inotify: AsyncFd<Descriptor>,
    admin: PathBuf,
    directories: HashMap<WatchDescriptor, PathBuf>,
    /// The administrator's files that somebody is writing, and when they are read all the same.
    writing: HashMap<String, Instant>,
}

/// What some events say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Heard {
    admin: bool,
    state: bool,
}

impl Watch {
    /// # Errors
    /// When the kernel gives no inotify: too many of this user, or of the whole system.
    #[expect(
        deprecated,
        reason = "register() is unsafe because a value may close or replace its descriptor; this \
                  one owns it and does neither"
    )]
    pub(super) fn open(admin: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self {
            inotify: AsyncFd::new(Descriptor(inotify))?,
            admin: admin.to_owned(),
            directories: HashMap::new(),
            writing: HashMap::new(),
        })
    }

    /// Watches these directories. True when one of them was not watched before: what happened in
    /// it until now was not heard.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<PathBuf>) -> bool {
        let mask = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let mut news = false;
        for path in wanted {
            // A directory that is watched already keeps its descriptor.
            match self.inotify.get_ref().0.add_watch(path, mask) {
                Ok(descriptor) => {
                    news |= self.directories.insert(descriptor, path.clone()).is_none();
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "cannot watch a directory");
                }
            }
        }
        news
    }

    /// True when each of these is watched, so that nothing has to be looked for.
    pub(super) fn covers(&self, wanted: &BTreeSet<PathBuf>) -> bool {
        wanted.iter().all(|path| self.directories.values().any(|watched| watched == path))
    }

    /// The administrator's files that somebody is writing at this moment.
    pub(super) fn busy(&self) -> BTreeSet<String> {
        let now = Instant::now();
        let busy = self.writing.iter().filter(|(_, until)| **until > now);
        busy.map(|(name, _)| name.clone()).collect()
    }

    /// When the first of them is read all the same.
    fn next_overdue(&self) -> Option<Instant> {
        self.writing.values().min().copied()
    }

    /// Waits until there is something to look at, at the latest at `deadline`. Cancel-safe: what was
    /// heard and is lost with it is found at the next look.
    pub(super) async fn changed(&mut self, deadline: Instant) {
        let mut noise: Option<(Instant, Instant)> = None;
        loop {
            let mut until = deadline;
            if let Some((first, last)) = noise {
                until = until.min((last + QUIET).min(first + NOISE_LIMIT));
            } else if let Some(overdue) = self.next_overdue() {
                until = until.min(overdue);
            }
            let heard = tokio::select! {
                heard = self.hear() => heard,
                () = tokio::time::sleep_until(until) => break,
            };
            let now = Instant::now();
            match heard {
                // Agent and plugin put whole files into place.
                Ok(Heard { state: true, .. }) => break,
                Ok(Heard { admin: true, .. }) => {
                    noise = Some((noise.map_or(now, |(first, _)| first), now));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "cannot read what changed");
                    tokio::time::sleep(QUIET).await;
                    break;
                }
            }
        }
        let now = Instant::now();
        self.writing.retain(|_, until| *until > now);
    }

    /// The next events. Cancel-safe.
    async fn hear(&mut self) -> io::Result<Heard> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let events = match ready.get_inner().0.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            drop(ready);
            let mut heard = Heard::default();
            for event in events {
                let said = self.understand(&event);
                heard = Heard { admin: heard.admin | said.admin, state: heard.state | said.state };
            }
            return Ok(heard);
        }
    }

    fn understand(&mut self, event: &InotifyEvent) -> Heard {
        let both = Heard { admin: true, state: true };
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return both;
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.directories.remove(&event.wd);
            return both;
        }
        let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        if event.mask.intersects(gone) {
            // What was moved away is watched no longer; whatever takes its place will be.
            let _ = self.inotify.get_ref().0.rm_watch(event.wd);
            self.directories.remove(&event.wd);
            return both;
        }
        let Some(directory) = self.directories.get(&event.wd) else { return Heard::default() };
        let Some(name) = event.name.as_ref().and_then(|name| name.to_str()) else {
            return Heard::default();
        };
        if *directory != self.admin {
            // The lock and the file that is being written.
            return Heard { state: !name.starts_with('.'), admin: false };
        }
        if !admin::is_read(name) {
            return Heard::default();
        }
        let whole = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        if event.mask.intersects(whole) {
            self.writing.remove(name);
        } else if event.mask.contains(AddWatchFlags::IN_MODIFY) {
            self.writing.insert(name.to_owned(), Instant::now() + WRITING_LIMIT);
        } else if event.mask.contains(AddWatchFlags::IN_CREATE) {
            self.writing.insert(name.to_owned(), Instant::now() + MAKING_LIMIT);
        }
        Heard { admin: true, state: false }
    }
}
