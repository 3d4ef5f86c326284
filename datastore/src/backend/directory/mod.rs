//! A store for one host: resource files in the schema of `calicoctl`'s manifests, no etcd.
//!
//! Keys and values are those of the v3 layout, so nothing behind this store knows the difference.
//! There are two directories:
//!
//! * **The administrator's**, only read: `*.yaml`, `*.yml`, `*.json`, each with any number of
//!   [manifests](crate::layout::v3::manifest). Subdirectories, hidden files and what editors leave
//!   (`*~`) do not count. Of two files that define one object the first by name has it.
//! * **The state directory**, written by agent and plugin through [`Directory`]: one file for each
//!   key, under a readable name, with the value as it is.
//!
//! What is in force is both; an object of the administrator's covers one of the state directory.
//!
//! # What is guaranteed
//! * A file appears, changes or goes as a whole: it is written beside its place, synced and
//!   renamed. A writer that is killed at any moment leaves the old value or the new one.
//! * Writers take turns, also those of other processes: flock(2) on one file.
//! * A revision is never used twice while the host is up. It is kept as the time of the file's last
//!   change, in nanoseconds, and grows from write to write: the clock, or one more than the last one
//!   where the clock is behind. It goes into place together with the value, by the same rename. A
//!   file that somebody edits gets the time of then, which is another revision too. (After a boot
//!   nobody is left who could remember one.) A file system whose times are coarser gets as many steps.
//! * Reading takes no lock.
//!
//! A time to live is not kept: the value stays until it is overwritten or deleted. On one host
//! nobody reads the status that it is meant for.

mod admin;
mod error;
mod path;
mod source;
mod stamp;
mod state;
mod view;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use self::admin::Admin;
pub use self::error::DirectoryError;
use self::state::State;
use crate::store::{Seen, Store, StoreError, Stored};

pub use self::admin::{FileReport, survey};
pub use self::source::DirectorySource;

/// The longest that one call may take. A write takes milliseconds; a disk may hang.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a file of the administrator's that changes all the time is looked at before it is read
/// as it is.
const UNSETTLED_LOOKS: usize = 5;

/// The revision of an object of the administrator's. Nothing can be written on top of it.
const ADMIN_REVISION: i64 = 0;

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// The administrator's files: read, never written. `/etc/calico/resources`.
    pub admin: PathBuf,
    /// What agent and plugin write. `/var/lib/calico/resources`.
    pub state: PathBuf,
}

/// A handle to the store. Clones share what they have read of the administrator's files.
#[derive(Clone, Debug)]
pub struct Directory {
    config: DirectoryConfig,
    admin: Arc<Mutex<Admin>>,
}

impl Directory {
    /// A handle; nothing is opened or made yet.
    pub fn new(config: DirectoryConfig) -> Self {
        let admin = Arc::new(Mutex::new(Admin::new(config.admin.clone())));
        Self { config, admin }
    }

    /// Where the files are.
    pub fn config(&self) -> &DirectoryConfig {
        &self.config
    }

    /// Does `work` where it may wait for the disk. What was begun goes on when nobody waits for it
    /// any more.
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&mut Admin, &State, &str) -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (admin, state) = (Arc::clone(&self.admin), State::new(&self.config.state));
        let subject = key.to_owned();
        let work = spawn_blocking(move || {
            let mut admin = admin.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody is writing a file at this moment: it is whole a moment later.
            admin.scan(&|_| false, false)?;
            for _ in 0..UNSETTLED_LOOKS {
                if !admin.is_unsettled() {
                    break;
                }
                thread::sleep(admin::QUIET);
                admin.scan(&|_| false, false)?;
            }
            if admin.is_unsettled() {
                admin.scan(&|_| false, true)?;
            }
            work(&mut admin, &state, &subject)
        });
        let done = match timeout(CALL_TIMEOUT, work).await {
            Ok(Ok(done)) => done,
            // The runtime ends.
            Ok(Err(_)) => Err(DirectoryError::Ended),
            Err(_) => Err(DirectoryError::Silent { after: CALL_TIMEOUT }),
        };
        done.map_err(|error| StoreError { operation, key: key.to_owned(), source: Box::new(error) })
    }
}

impl StoreError {
    /// The file of the administrator's that defines the object, when that is why it was not
    /// written. Trying again is of no use.
    pub fn owner(&self) -> Option<&Path> {
        match self.source.downcast_ref::<DirectoryError>()? {
            DirectoryError::Owned { file } => Some(file),
            _ => None,
        }
    }
}

/// Fails when the administrator has the object in a file.
fn unowned(admin: &Admin, key: &str) -> Result<(), DirectoryError> {
    match admin.get(key) {
        Some(owned) => Err(DirectoryError::Owned { file: admin.path_of(owned) }),
        None => Ok(()),
    }
}

impl Store for Directory {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.call("read", key, |admin, state, key| match admin.get(key) {
            Some(owned) => {
                Ok(Some(Stored { value: owned.value.to_vec(), revision: ADMIN_REVISION }))
            }
            None => state.read(key),
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
        self.call("list", prefix, |admin, state, prefix| {
            let mut found = state.list(prefix)?;
            for (key, owned) in admin.objects_from(prefix) {
                let value = owned.value.to_vec();
                found.insert(key.to_owned(), Stored { value, revision: ADMIN_REVISION });
            }
            Ok(found.into_iter().collect())
        })
        .await
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<bool, StoreError> {
        let value = value.to_vec();
        self.call("write", key, move |admin, state, key| {
            if admin.get(key).is_some() {
                return Ok(false);
            }
            let turn = state.lock()?;
            if turn.revision(key)?.is_some() {
                return Ok(false);
            }
            turn.write(key, &value)?;
            Ok(true)
        })
        .await
    }

    async fn create_beside(
        &self,
        key: &str,
        value: &[u8],
        seen: &Seen,
    ) -> Result<bool, StoreError> {
        let (value, seen) = (value.to_vec(), seen.clone());
        self.call("write", key, move |admin, state, key| {
            let turn = state.lock()?;
            let mut news = state.any(&|there| seen.is_news(there))?;
            news |= admin.objects().keys().any(|there| seen.is_news(there));
            if news || admin.get(key).is_some() || turn.revision(key)?.is_some() {
                return Ok(false);
            }
            turn.write(key, &value)?;
            Ok(true)
        })
        .await
    }

    async fn replace(&self, key: &str, value: &[u8], rev: i64) -> Result<bool, StoreError> {
        let value = value.to_vec();
        self.call("write", key, move |admin, state, key| {
            unowned(admin, key)?;
            let turn = state.lock()?;
            if turn.revision(key)? != Some(rev) {
                return Ok(false);
            }
            turn.write(key, &value)?;
            Ok(true)
        })
        .await
    }

    async fn put(&self, key: &str, value: &[u8], _ttl: Option<Duration>) -> Result<(), StoreError> {
        let value = value.to_vec();
        self.call("write", key, move |admin, state, key| {
            unowned(admin, key)?;
            state.lock()?.write(key, &value)
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.call("delete", key, |admin, state, key| {
            unowned(admin, key)?;
            let turn = state.lock()?;
            if turn.revision(key)?.is_some() {
                turn.remove(key)?;
            }
            Ok(())
        })
        .await
    }

    async fn delete_if(&self, key: &str, revision: i64) -> Result<bool, StoreError> {
        self.call("delete", key, move |admin, state, key| {
            unowned(admin, key)?;
            let turn = state.lock()?;
            if turn.revision(key)? != Some(revision) {
                return Ok(false);
            }
            turn.remove(key)?;
            Ok(true)
        })
        .await
    }
}
