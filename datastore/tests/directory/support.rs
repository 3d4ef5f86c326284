//! Two directories, a store over them, and a reader that follows them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use calico_datastore::backend::directory::{Directory, DirectoryConfig, DirectorySource};
use calico_datastore::backend::etcd3::SourceStatus;
use calico_datastore::backend::{Batch, SyncEvent};
use calico_datastore::model::{ResourceId, Update};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// A change is seen within milliseconds; a machine with other work to do may take its time.
const LONG: Duration = Duration::from_secs(20);

/// Both directories; gone with the value.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("admin")).unwrap();
        Self { dir }
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.dir.path().join("admin")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn aside(&self) -> PathBuf {
        self.dir.path().join("aside")
    }

    pub(crate) fn config(&self) -> DirectoryConfig {
        DirectoryConfig { admin: self.admin(), state: self.state() }
    }

    pub(crate) fn store(&self) -> Directory {
        Directory::new(self.config())
    }

    /// Writes a file of the administrator's in place.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.admin().join(name), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.admin().join(name).display().to_string()
    }

    pub(crate) fn follow(&self) -> Reader {
        let (tx, events) = mpsc::channel(4);
        let source = DirectorySource::new(self.store());
        let status = source.status();
        let task = tokio::spawn(source.run(tx));
        Reader { events, task, status, labels: BTreeMap::new(), refused: BTreeMap::new() }
    }
}

/// A profile as a manifest.
pub(crate) fn profile(name: &str, label: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata:\n  name: {name}\nspec:\n  \
         labelsToApply: {{is: {label}}}\n"
    )
}

pub(crate) fn profile_key(name: &str) -> String {
    format!("/calico/resources/v3/projectcalico.org/profiles/{name}")
}

pub(crate) fn profile_value(label: &str) -> String {
    format!(r#"{{"spec":{{"labelsToApply":{{"is":"{label}"}}}}}}"#)
}

/// Somebody who follows the files, and what it knows.
pub(crate) struct Reader {
    events: mpsc::Receiver<SyncEvent>,
    task: tokio::task::JoinHandle<()>,
    status: watch::Receiver<SourceStatus>,
    /// Profile → the label it gives.
    labels: BTreeMap<String, String>,
    /// File or key → why it is refused.
    refused: BTreeMap<String, String>,
}

impl Reader {
    async fn next(&mut self) -> SyncEvent {
        timeout(LONG, self.events.recv()).await.expect("nothing was said").expect("it ended")
    }

    /// The next event, a batch.
    pub(crate) async fn batch(&mut self) -> Batch {
        match self.next().await {
            SyncEvent::Changes(batch) => {
                self.apply(&batch);
                batch
            }
            SyncEvent::Waiting { reason } => panic!("waiting: {reason}"),
        }
    }

    /// The next event, a reason to wait.
    pub(crate) async fn waiting(&mut self) -> String {
        match self.next().await {
            SyncEvent::Waiting { reason } => reason,
            SyncEvent::Changes(batch) => panic!("{batch:?}"),
        }
    }

    /// The next event: a batch, or a reason to wait.
    pub(crate) async fn event(&mut self) -> Result<(), String> {
        match self.next().await {
            SyncEvent::Changes(batch) => {
                self.apply(&batch);
                Ok(())
            }
            SyncEvent::Waiting { reason } => Err(reason),
        }
    }

    /// Nothing is said for so long.
    pub(crate) async fn is_quiet(&mut self, time: Duration) -> bool {
        timeout(time, self.events.recv()).await.is_err()
    }

    /// The profiles as far as they were told: `a=1 b=2`.
    pub(crate) fn profiles(&self) -> String {
        let pairs: Vec<_> = self.labels.iter().map(|(name, is)| format!("{name}={is}")).collect();
        pairs.join(" ")
    }

    /// Reads until the profiles are these.
    pub(crate) async fn until(&mut self, profiles: &str) {
        while self.profiles() != profiles {
            let known = self.profiles();
            let event = timeout(LONG, self.events.recv()).await;
            match event.unwrap_or_else(|_| panic!("still {known:?}, not {profiles:?}")) {
                Some(SyncEvent::Changes(batch)) => self.apply(&batch),
                Some(SyncEvent::Waiting { .. }) => {}
                None => panic!("it ended"),
            }
        }
    }

    /// Complete snapshots so far.
    pub(crate) fn listings(&self) -> u64 {
        self.status.borrow().listings
    }

    /// Why a file or key is refused.
    pub(crate) fn refused(&self, path: &str) -> Option<&str> {
        self.refused.get(path).map(String::as_str)
    }

    pub(crate) fn apply(&mut self, batch: &Batch) {
        for update in &batch.updates {
            let ResourceId::Profile(name) = update.id() else { continue };
            match update {
                Update::Profile(_, Some(profile)) => {
                    let is = profile.labels.get("is").map(ToString::to_string).unwrap_or_default();
                    self.labels.insert(name.to_string(), is);
                }
                _ => drop(self.labels.remove(name.as_str())),
            }
        }
        for path in &batch.accepted {
            assert!(self.refused.remove(path).is_some(), "{path} was not refused");
        }
        for rejection in &batch.rejections {
            self.refused.insert(rejection.key.clone(), rejection.reason.clone());
        }
    }

    /// Ends it, and sees that it ends.
    pub(crate) async fn close(self) {
        drop(self.events);
        timeout(LONG, self.task).await.expect("does not end").unwrap();
    }
}

/// Every file below a directory that is not hidden.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.file_name().unwrap().to_string_lossy().starts_with('.') {
            found.push(path);
        }
    }
    found
}
