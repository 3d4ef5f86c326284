//! A file per programmed endpoint: the CNI plugin waits for it before it lets a pod start.
//!
//! The name says which endpoint (`cni default%2Fc89f2f35-… eth0`), the content what it was when it
//! was programmed: a plugin that made a pod again under the same name waits for its own. Who only
//! asks whether the file exists, as the original plugin does, is told that something of that name is
//! programmed. The directory is ours alone and lies in memory (`/run`), so writing to it blocks
//! nobody.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calico_datastore::layout::endpoint_status_file_name;
use calico_datastore::model::WorkloadEndpointId;
use serde::Serialize;

use crate::paths::Paths;
use crate::reconcile::{Problem, Programmed};

/// The directory or a file in it cannot be changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    /// `create`, `read`, `remove`.
    pub operation: &'static str,
    /// What.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// What a file says. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    /// Lower case with colons; `null` when the endpoint has none.
    mac: Option<String>,
    /// The host side of the veth pair.
    interface_name: String,
    /// Its index: another pod's, even if everything else is the same, is another.
    interface_index: u32,
    /// Addresses with prefix length, sorted.
    ip_networks: Vec<String>,
    /// In the order they are asked.
    profiles: Vec<String>,
}

impl Content {
    fn of(programmed: &Programmed) -> Self {
        Self {
            mac: programmed.mac.map(|mac| mac.to_string()),
            interface_name: programmed.interface.to_string(),
            interface_index: programmed.device,
            ip_networks: programmed.addresses.iter().map(ToString::to_string).collect(),
            profiles: programmed.profiles.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Not the name of any endpoint: those have spaces.
const TEMPORARY: &str = ".new";

/// The directory of endpoint files.
#[derive(Debug)]
pub struct EndpointFiles {
    prefix: PathBuf,
    dir: PathBuf,
    present: BTreeMap<WorkloadEndpointId, Arc<Programmed>>,
    pending: BTreeMap<WorkloadEndpointId, Option<Arc<Programmed>>>,
}

impl EndpointFiles {
    /// Opens the directory `endpoint-status` under `prefix` and empties it: what an earlier run
    /// left may be wrong by now (the endpoint may have been deleted and made again meanwhile).
    /// Must be done before anything else at the start, since the CNI plugin trusts what it sees.
    ///
    /// # Errors
    /// When the directory cannot be made or emptied.
    pub fn open(prefix: &Path) -> Result<Self, FileError> {
        let dir = Paths::endpoint_status_dir(prefix);
        let error = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| FileError { operation, path, source }
        };
        std::fs::create_dir_all(&dir).map_err(error("create", &dir))?;
        for entry in std::fs::read_dir(&dir).map_err(error("read", &dir))? {
            let path = entry.map_err(error("read", &dir))?.path();
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(FileError { operation: "remove", path, source });
                }
                _ => {}
            }
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            dir,
            present: BTreeMap::new(),
            pending: BTreeMap::new(),
        })
    }

    /// What it was opened with.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Removes every file: nobody will keep them right any more. What cannot be removed is a
    /// problem that no later call can mend.
    pub fn close(mut self) -> Vec<Problem> {
        self.pending.clear();
        let present = self.present.clone();
        self.update(present.into_keys().map(|id| (id, None)))
    }

    /// Takes over which endpoints changed and what is in force of each now, in all reconcilers. What
    /// fails is a problem and is tried again by the next call, also by one without changes.
    pub fn update(
        &mut self,
        changes: impl IntoIterator<Item = (WorkloadEndpointId, Option<Arc<Programmed>>)>,
    ) -> Vec<Problem> {
        self.pending.extend(changes);
        let mut problems = vec![];
        if let Err(source) = self.make_again() {
            problems.push(Problem {
                subject: "endpoint files".to_owned(),
                message: format!("cannot make {} again: {source}", self.dir.display()),
            });
        }
        for (id, now) in std::mem::take(&mut self.pending) {
            if self.present.get(&id) == now.as_ref() {
                continue;
            }
            let path = self.dir.join(endpoint_status_file_name(&id));
            let result = match &now {
                Some(now) => self.write(&path, now),
                None => remove(&path),
            };
            match (result, now) {
                (Ok(()), Some(now)) => {
                    self.present.insert(id, now);
                }
                (Ok(()), None) => {
                    self.present.remove(&id);
                }
                (Err(source), now) => {
                    // What stands there is not so any more: no file is better than a wrong one.
                    if now.is_some() && remove(&path).is_ok() {
                        self.present.remove(&id);
                    }
                    problems.push(Problem {
                        subject: format!("endpoint {}", id.on_host()),
                        message: format!(
                            "cannot change its status file {}: {source}",
                            path.display()
                        ),
                    });
                    self.pending.insert(id, now);
                }
            }
        }
        problems
    }

    /// True when something failed and waits for the next [`update`](Self::update).
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Makes the directory again when somebody has removed it and a file should be in it. Those that
    /// were there are written again, too.
    fn make_again(&mut self) -> std::io::Result<()> {
        let wanted = self.pending.values().any(Option::is_some)
            || self.present.keys().any(|id| !self.pending.contains_key(id));
        if !wanted || self.dir.try_exists()? {
            return Ok(());
        }
        std::fs::create_dir_all(&self.dir)?;
        tracing::warn!(directory = %self.dir.display(), "was removed: made again with its files");
        for (id, was) in std::mem::take(&mut self.present) {
            self.pending.entry(id).or_insert(Some(was));
        }
        Ok(())
    }

    /// Whole or not at all: nobody sees a file that is half there.
    fn write(&self, path: &Path, programmed: &Programmed) -> std::io::Result<()> {
        let mut content = serde_json::to_vec(&Content::of(programmed))?;
        content.push(b'\n');
        let temporary = self.dir.join(TEMPORARY);
        std::fs::write(&temporary, content)?;
        std::fs::rename(&temporary, path)
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(workload: &str) -> WorkloadEndpointId {
        WorkloadEndpointId {
            node: "calico-01".into(),
            orchestrator: "cni".into(),
            workload: workload.into(),
            endpoint: "eth0".into(),
        }
    }

    fn names(prefix: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(prefix.join("endpoint-status")).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn up(device: u32) -> Option<Arc<Programmed>> {
        Some(Arc::new(Programmed {
            interface: "cali0ef24b1".parse().unwrap(),
            device,
            mac: Some("CA:FE:00:12:34:56".parse().unwrap()),
            addresses: ["192.168.0.0/32", "fd80:24e2:f998:72d6::/128"]
                .map(|net| net.parse().unwrap())
                .to_vec(),
            profiles: vec!["frontend".into()],
        }))
    }

    #[test]
    fn a_file_is_there_exactly_while_its_endpoint_is_up() {
        let prefix = tempfile::tempdir().unwrap();
        let mut files = EndpointFiles::open(prefix.path()).unwrap();
        assert_eq!(files.update([(id("a"), up(2)), (id("b"), None)]), []);
        assert_eq!(names(prefix.path()), ["cni a eth0"]);
        files.update([(id("a"), None), (id("b"), up(2))]);
        assert_eq!(names(prefix.path()), ["cni b eth0"]);
        // Gone already: somebody cleaned up.
        std::fs::remove_file(prefix.path().join("endpoint-status/cni b eth0")).unwrap();
        assert_eq!(files.update([(id("b"), None)]), []);
        assert_eq!(names(prefix.path()), [""; 0]);
    }

    #[test]
    fn it_says_of_which_pod_it_is() {
        let prefix = tempfile::tempdir().unwrap();
        let mut files = EndpointFiles::open(prefix.path()).unwrap();
        let path = prefix.path().join("endpoint-status/cni a eth0");
        let read = || std::fs::read_to_string(&path).unwrap();
        assert_eq!(files.update([(id("a"), up(7))]), []);
        assert_eq!(
            read(),
            concat!(
                r#"{"mac":"ca:fe:00:12:34:56","interfaceName":"cali0ef24b1","interfaceIndex":7,"#,
                r#""ipNetworks":["192.168.0.0/32","fd80:24e2:f998:72d6::/128"],"#,
                r#""profiles":["frontend"]}"#,
                "\n"
            )
        );
        // Another pod, and one without an Ethernet address.
        let without = Programmed { mac: None, ..(*up(8).unwrap()).clone() };
        assert_eq!(files.update([(id("a"), Some(Arc::new(without)))]), []);
        assert!(read().starts_with(r#"{"mac":null,"#), "{}", read());
        // What cannot be written does not leave the old content.
        std::fs::create_dir(prefix.path().join("endpoint-status/.new")).unwrap();
        assert_eq!(files.update([(id("a"), up(9))]).len(), 1);
        assert!(!path.exists(), "of a pod that is not any more: {}", read());
        std::fs::remove_dir(prefix.path().join("endpoint-status/.new")).unwrap();
        assert_eq!(files.update([]), []);
        assert!(read().contains(r#""interfaceIndex":9"#));
    }

    #[test]
    fn nobody_may_trust_what_an_earlier_run_left() {
        let prefix = tempfile::tempdir().unwrap();
        let mut before = EndpointFiles::open(prefix.path()).unwrap();
        before.update([(id("a"), up(2)), (id("b"), up(2))]);
        std::fs::write(prefix.path().join("endpoint-status/.new"), "").unwrap();
        let mut now = EndpointFiles::open(prefix.path()).unwrap();
        assert_eq!(names(prefix.path()), [""; 0]);
        now.update([(id("b"), up(2))]);
        assert_eq!(names(prefix.path()), ["cni b eth0"]);
    }

    #[test]
    fn what_failed_is_tried_again() {
        let prefix = tempfile::tempdir().unwrap();
        let dir = prefix.path().join("endpoint-status");
        let mut files = EndpointFiles::open(prefix.path()).unwrap();
        // Something else has its name.
        std::fs::remove_dir(&dir).unwrap();
        std::fs::write(&dir, "").unwrap();
        let problems = files.update([(id("a"), up(2))]);
        assert_eq!((problems.len(), files.has_pending()), (1, true), "{problems:?}");
        std::fs::remove_file(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
        assert_eq!((files.update([]), files.has_pending()), (vec![], false));
        assert_eq!(names(prefix.path()), ["cni a eth0"]);
        // A directory that is given up is left empty.
        assert_eq!(files.update([(id("b"), up(2))]), []);
        assert_eq!(files.prefix(), prefix.path());
        assert_eq!(files.close(), []);
        assert_eq!(names(prefix.path()), [""; 0]);
        // A later word replaces one that failed.
        let mut files = EndpointFiles::open(prefix.path()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::write(&dir, "").unwrap();
        assert_eq!(files.update([(id("b"), up(2))]).len(), 1);
        std::fs::remove_file(&dir).unwrap();
        assert_eq!(files.update([(id("b"), None)]), []);
    }

    #[test]
    fn a_directory_that_was_removed_is_made_again_with_its_files() {
        let prefix = tempfile::tempdir().unwrap();
        let dir = prefix.path().join("endpoint-status");
        let mut files = EndpointFiles::open(prefix.path()).unwrap();
        files.update([(id("a"), up(2)), (id("b"), up(2))]);
        std::fs::remove_dir_all(&dir).unwrap();
        // With the next pod, without those that go.
        assert_eq!(files.update([(id("b"), None), (id("c"), up(3))]), []);
        assert_eq!(names(prefix.path()), ["cni a eth0", "cni c eth0"]);
        // Also when nothing else happens.
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((files.update([]), files.has_pending()), (vec![], false));
        assert_eq!(names(prefix.path()), ["cni a eth0", "cni c eth0"]);
        // It cannot be made.
        std::fs::remove_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink("/proc/none", &dir).unwrap();
        assert_eq!(files.update([]).len(), 1);
        std::fs::remove_file(&dir).unwrap();
        assert_eq!(files.update([]), []);
        assert_eq!(names(prefix.path()), ["cni a eth0", "cni c eth0"]);
        // Nobody makes one to leave it.
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(files.close(), []);
        assert!(!dir.exists());
    }
}
