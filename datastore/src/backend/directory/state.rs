//! The state directory: one file for each key, writers that take turns.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::DirectoryError;
use super::path::{key_of, path_of};
use super::stamp::Stamp;
use crate::store::Stored;

/// The file that writers lock. The time of its last change is the last revision that was given.
const LOCK: &str = ".lock";

/// Where a value is written before it is renamed into its place. One suffices: there is one writer
/// at a time, and what a killed one leaves is overwritten.
const NEW: &str = ".new";

/// How long a writer waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(5);

/// How long ago a file must have changed for its times to be trusted.
const TICK: Duration = Duration::from_millis(20);

/// How often a scan is begun again because something was written meanwhile.
const SCANS: usize = 5;

/// The directory. Nothing of it is kept open.
#[derive(Clone, Debug)]
pub(super) struct State {
    root: PathBuf,
}

/// What was read of a file.
#[derive(Clone, Debug)]
pub(super) struct Value {
    stamp: Stamp,
    /// The bytes.
    pub(super) bytes: Arc<[u8]>,
}

/// What was read of the directory: file → value.
pub(super) type Files = BTreeMap<PathBuf, Value>;

/// Device and inode: the same path may be another directory later.
pub(super) type Identity = (u64, u64);

impl State {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The value of a key.
    pub(super) fn read(&self, key: &str) -> Result<Option<Stored>, DirectoryError> {
        let path = self.root.join(path_of(key));
        let read = open(&path).and_then(|file| file.map(read).transpose());
        Ok(read
            .map_err(DirectoryError::file("read", &path))?
            .map(|(revision, value)| Stored { value, revision }))
    }

    /// Every key that begins with `prefix`.
    pub(super) fn list(&self, prefix: &str) -> Result<BTreeMap<String, Stored>, DirectoryError> {
        let mut found = BTreeMap::new();
        self.walk(&mut BTreeSet::new(), &mut |path| {
            if let Some(key) = self.key_of(path).filter(|key| key.starts_with(prefix))
                && let Some(stored) = self.read(&key)?
            {
                found.insert(key, stored);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Whether there is a key of some kind.
    pub(super) fn any(&self, is: &dyn Fn(&str) -> bool) -> Result<bool, DirectoryError> {
        let mut found = false;
        self.walk(&mut BTreeSet::new(), &mut |path| {
            found |= self.key_of(path).is_some_and(|key| is(&key));
            Ok(())
        })?;
        Ok(found)
    }

    /// The key of one of the files.
    pub(super) fn key_of(&self, path: &Path) -> Option<String> {
        key_of(path.strip_prefix(&self.root).ok()?)
    }

    /// Reads what changed since `known`, which becomes what there is. `None`: nothing is there, not
    /// even the directory. `directories` becomes what should be watched.
    ///
    /// What was written first is never missing where something later is seen: a scan during which
    /// somebody wrote is begun again (a few times; then another one will follow anyway).
    pub(super) fn scan(
        &self,
        known: &mut Files,
        directories: &mut BTreeSet<PathBuf>,
    ) -> Result<Option<Identity>, DirectoryError> {
        let mut there = None;
        for _ in 0..SCANS {
            let before = self.last_revision();
            let root = fs::metadata(&self.root).map(|root| (root.dev(), root.ino()));
            let mut found = Files::new();
            directories.clear();
            directories.insert(self.root.clone());
            let exists = self.walk(directories, &mut |path| {
                if let Some(value) = look(path, known.get(path))? {
                    found.insert(path.to_owned(), value);
                }
                Ok(())
            })?;
            *known = found;
            there = root.ok().filter(|_| exists);
            if self.last_revision() == before {
                break;
            }
        }
        Ok(there)
    }

    /// The last revision that was given; `None`: none was, in this directory.
    pub(super) fn last_revision(&self) -> Option<i64> {
        fs::metadata(self.root.join(LOCK)).ok().map(|metadata| revision_of(&metadata))
    }

    /// Visits every file of a key, in the order of their names.
    fn walk(
        &self,
        directories: &mut BTreeSet<PathBuf>,
        visit: &mut dyn FnMut(&Path) -> Result<(), DirectoryError>,
    ) -> Result<bool, DirectoryError> {
        let mut waiting = vec![self.root.clone()];
        let mut exists = false;
        while let Some(directory) = waiting.pop() {
            let read = fs::read_dir(&directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let mut entries = match read {
                Ok(entries) => entries,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(DirectoryError::file("read", &directory)(error)),
            };
            exists = true;
            entries.sort_by_key(fs::DirEntry::file_name);
            let mut deeper = Vec::new();
            for entry in entries {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    deeper.push(path);
                } else if self.key_of(&path).is_some() {
                    visit(&path)?;
                }
            }
            waiting.extend(deeper.into_iter().rev());
            directories.insert(directory);
        }
        Ok(exists)
    }

    /// Waits for this writer's turn, which ends when the value is dropped.
    pub(super) fn lock(&self) -> Result<Turn<'_>, DirectoryError> {
        let path = self.root.join(LOCK);
        let failed = |what| DirectoryError::file(what, &path);
        fs::create_dir_all(&self.root).map_err(DirectoryError::file("make", &self.root))?;
        let begin = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            let mut options = OpenOptions::new();
            let file = options.create(true).write(true).truncate(false).open(&path);
            let file = file.map_err(failed("open"))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // Somebody may have removed the directory meanwhile, and another made it again.
                Ok(lock) if is_still_at(&lock, &path) => return Ok(Turn { state: self, lock }),
                Ok(_) | Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {}
                Err((_, error)) => return Err(failed("lock")(error.into())),
            }
            if begin.elapsed() >= TURN_LIMIT {
                return Err(DirectoryError::Locked { path, after: TURN_LIMIT });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }
}

/// The right to write.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    state: &'a State,
    lock: Flock<File>,
}

impl Turn<'_> {
    /// The revision of a key that is there.
    pub(super) fn revision(&self, key: &str) -> Result<Option<i64>, DirectoryError> {
        let path = self.state.root.join(path_of(key));
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(revision_of(&metadata))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(DirectoryError::file("read", &path)(error)),
        }
    }

    /// Writes a key, whatever it was.
    pub(super) fn write(&self, key: &str, value: &[u8]) -> Result<(), DirectoryError> {
        let root = &self.state.root;
        let (new, path) = (root.join(NEW), root.join(path_of(key)));
        let failed = |what| DirectoryError::file(what, &new);
        let revision = self.next()?;
        let mut file = File::create(&new).map_err(failed("make"))?;
        file.write_all(value).map_err(failed("write"))?;
        set_revision(&file, revision).map_err(failed("date"))?;
        // Before the rename: a name must never stand for a value that a power cut takes away.
        file.sync_all().map_err(failed("sync"))?;
        let directory = path.parent().unwrap_or(root);
        let made = make(root, directory).map_err(DirectoryError::file("make", directory))?;
        fs::rename(&new, &path).map_err(DirectoryError::file("rename a new file to", &path))?;
        sync(directory, made.then_some(root)).map_err(DirectoryError::file("sync", directory))
    }

    /// Removes a key that is there.
    pub(super) fn remove(&self, key: &str) -> Result<(), DirectoryError> {
        let root = &self.state.root;
        let path = root.join(path_of(key));
        // Readers notice by it that something happened while they were reading.
        self.next()?;
        fs::remove_file(&path).map_err(DirectoryError::file("remove", &path))?;
        let directory = path.parent().unwrap_or(root);
        sync(directory, None).map_err(DirectoryError::file("sync", directory))
    }

    /// A revision that nobody ever got, kept before anything is written with it.
    fn next(&self) -> Result<i64, DirectoryError> {
        let path = self.state.root.join(LOCK);
        let failed = |what| DirectoryError::file(what, &path);
        let last = self.lock.metadata().map_err(failed("read"))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        // A lock that was just made carries the time of its making.
        let last = revision_of(&last);
        let next = now.max(last.saturating_add(1));
        set_revision(&self.lock, next).map_err(failed("date"))?;
        let kept = revision_of(&self.lock.metadata().map_err(failed("read"))?);
        if kept > last {
            return Ok(kept);
        }
        // A file system that counts seconds.
        let next = (last / SECOND + 1).saturating_mul(SECOND);
        set_revision(&self.lock, next).map_err(failed("date"))?;
        Ok(next)
    }
}

const SECOND: i64 = 1_000_000_000;

fn revision_of(file: &fs::Metadata) -> i64 {
    file.mtime().saturating_mul(SECOND).saturating_add(file.mtime_nsec())
}

fn set_revision(file: &File, revision: i64) -> io::Result<()> {
    let since = Duration::from_nanos(u64::try_from(revision).unwrap_or_default());
    file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + since))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Revision and value of one and the same file, whatever is renamed over it meanwhile.
fn read(mut file: File) -> io::Result<(i64, Vec<u8>)> {
    let metadata = file.metadata()?;
    let mut value = Vec::with_capacity(usize::try_from(metadata.size()).unwrap_or(0));
    file.read_to_end(&mut value)?;
    Ok((revision_of(&metadata), value))
}

/// Reads a file unless it is as it was. `None`: it is gone.
fn look(path: &Path, known: Option<&Value>) -> Result<Option<Value>, DirectoryError> {
    let failed = || DirectoryError::file("read", path);
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(failed()(error)),
    };
    let stamp = Stamp::of(&metadata);
    if let Some(known) = known
        && known.stamp == stamp
        && stamp.is_settled(SystemTime::now(), TICK)
    {
        return Ok(Some(known.clone()));
    }
    let Some(file) = open(path).map_err(failed())? else { return Ok(None) };
    let stamp = Stamp::of(&file.metadata().map_err(failed())?);
    let (_, bytes) = read(file).map_err(failed())?;
    match known {
        // The same bytes stay the same value.
        Some(known) if *known.bytes == *bytes => {
            Ok(Some(Value { stamp, bytes: Arc::clone(&known.bytes) }))
        }
        _ => Ok(Some(Value { stamp, bytes: bytes.into() })),
    }
}

/// Makes a directory. True when it was not there.
fn make(root: &Path, directory: &Path) -> io::Result<bool> {
    if directory == root || directory.is_dir() {
        return Ok(false);
    }
    fs::create_dir_all(directory)?;
    Ok(true)
}

/// Has the entries of a directory on disk, and those of the directories above it up to `top`.
fn sync(directory: &Path, top: Option<&PathBuf>) -> io::Result<()> {
    File::open(directory)?.sync_all()?;
    let Some(top) = top else { return Ok(()) };
    for above in directory.ancestors().skip(1).take_while(|above| above.starts_with(top)) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}
