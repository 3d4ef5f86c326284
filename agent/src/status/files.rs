//! A file per programmed endpoint: the CNI plugin waits for it before it lets a pod start.
//!
//! The name says which endpoint (`cni default%2Fc89f2f35-… eth0`), existence is the signal. The
//! directory is ours alone and lies in memory (`/run`), so writing to it blocks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use calico_datastore::model::WorkloadEndpointId;

use crate::paths::Paths;
use crate::reconcile::Problem;

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

/// The content: later versions of Felix write JSON, and nobody reads it for our endpoints.
const CONTENT: &str = "{}\n";

/// Not the name of any endpoint: those have spaces.
const TEMPORARY: &str = ".new";

/// The directory of endpoint files.
#[derive(Debug)]
pub struct EndpointFiles {
    prefix: PathBuf,
    dir: PathBuf,
    present: BTreeSet<WorkloadEndpointId>,
    pending: BTreeMap<WorkloadEndpointId, bool>,
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
            present: BTreeSet::new(),
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
        self.update(present.into_iter().map(|id| (id, false)))
    }

    /// Takes over which endpoints changed and whether each is up now, in all reconcilers. What
    /// fails is a problem and is tried again by the next call, also by one without changes.
    pub fn update(
        &mut self,
        changes: impl IntoIterator<Item = (WorkloadEndpointId, bool)>,
    ) -> Vec<Problem> {
        self.pending.extend(changes);
        let mut problems = vec![];
        for (id, up) in std::mem::take(&mut self.pending) {
            if self.present.contains(&id) == up {
                continue;
            }
            let path = self.dir.join(file_name(&id));
            let result = if up { self.create(&path) } else { remove(&path) };
            match result {
                Ok(()) if up => {
                    self.present.insert(id);
                }
                Ok(()) => {
                    self.present.remove(&id);
                }
                Err(source) => {
                    problems.push(Problem {
                        subject: id.to_string(),
                        message: format!(
                            "cannot change its status file {}: {source}",
                            path.display()
                        ),
                    });
                    self.pending.insert(id, up);
                }
            }
        }
        problems
    }

    /// True when something failed and waits for the next [`update`](Self::update).
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whole or not at all: nobody sees a file that is half there.
    fn create(&self, path: &Path) -> std::io::Result<()> {
        let temporary = self.dir.join(TEMPORARY);
        std::fs::write(&temporary, CONTENT)?;
        std::fs::rename(&temporary, path)
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Orchestrator, workload and endpoint, each escaped, with spaces between.
fn file_name(id: &WorkloadEndpointId) -> String {
    let parts = [&id.orchestrator, &id.workload, &id.endpoint];
    parts.map(|part| escape(part.as_str())).join(" ")
}

/// What Go's `url.PathEscape` does: everything but letters, digits and `-_.~$&+=:@` becomes `%XX`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+=:@".contains(&byte) {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
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

    #[test]
    fn names_are_those_that_the_plugin_looks_for() {
        for (workload, name) in [
            ("default/c89f2f35-1b7e-4a57", "cni default%2Fc89f2f35-1b7e-4a57 eth0"),
            ("a b%c", "cni a%20b%25c eth0"),
            ("ns/p.q_r~s$t&u+v=w:x@y", "cni ns%2Fp.q_r~s$t&u+v=w:x@y eth0"),
            ("caf\u{e9}", "cni caf%C3%A9 eth0"),
            ("../../etc/passwd", "cni ..%2F..%2Fetc%2Fpasswd eth0"),
        ] {
            assert_eq!(file_name(&id(workload)), name);
        }
    }

    #[test]
    fn a_file_is_there_exactly_while_its_endpoint_is_up() {
        let prefix = tempfile::tempdir().unwrap();
        let mut files = EndpointFiles::open(prefix.path()).unwrap();
        assert_eq!(files.update([(id("a"), true), (id("b"), false)]), []);
        assert_eq!(names(prefix.path()), ["cni a eth0"]);
        let path = prefix.path().join("endpoint-status/cni a eth0");
        let content = std::fs::read(&path).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&content).unwrap();
        assert!(json.is_object());
        files.update([(id("a"), false), (id("b"), true)]);
        assert_eq!(names(prefix.path()), ["cni b eth0"]);
        // Gone already: somebody cleaned up.
        std::fs::remove_file(prefix.path().join("endpoint-status/cni b eth0")).unwrap();
        assert_eq!(files.update([(id("b"), false)]), []);
        assert_eq!(names(prefix.path()), [""; 0]);
    }

    #[test]
    fn nobody_may_trust_what_an_earlier_run_left() {
        let prefix = tempfile::tempdir().unwrap();
        let mut before = EndpointFiles::open(prefix.path()).unwrap();
        before.update([(id("a"), true), (id("b"), true)]);
        std::fs::write(prefix.path().join("endpoint-status/.new"), "").unwrap();
        let mut now = EndpointFiles::open(prefix.path()).unwrap();
        assert_eq!(names(prefix.path()), [""; 0]);
        now.update([(id("b"), true)]);
        assert_eq!(names(prefix.path()), ["cni b eth0"]);
    }

    #[test]
    fn what_failed_is_tried_again() {
        let prefix = tempfile::tempdir().unwrap();
        let dir = prefix.path().join("endpoint-status");
        let mut files = EndpointFiles::open(prefix.path()).unwrap();
        std::fs::remove_dir(&dir).unwrap();
        let problems = files.update([(id("a"), true)]);
        assert_eq!((problems.len(), files.has_pending()), (1, true), "{problems:?}");
        std::fs::create_dir(&dir).unwrap();
        assert_eq!((files.update([]), files.has_pending()), (vec![], false));
        assert_eq!(names(prefix.path()), ["cni a eth0"]);
        // A directory that is given up is left empty.
        assert_eq!(files.update([(id("b"), true)]), []);
        assert_eq!(files.prefix(), prefix.path());
        assert_eq!(files.close(), []);
        assert_eq!(names(prefix.path()), [""; 0]);
        // A later word replaces one that failed.
        let mut files = EndpointFiles::open(prefix.path()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        files.update([(id("b"), true)]);
        assert_eq!(files.update([(id("b"), false)]), []);
    }
}
