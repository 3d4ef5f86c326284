//! The datastore of one host: its files, one by one.

use std::path::PathBuf;

use calico_datastore::backend::directory::FileReport;

use crate::check::finding::{Finding, Findings, Group};

/// What was found.
#[derive(Clone, Debug)]
pub struct DirectoryFacts {
    /// The administrator's directory.
    pub admin: PathBuf,
    /// Its files; or why it cannot be read.
    pub files: Result<Vec<FileReport>, String>,
    /// The directory that agent and plugin write.
    pub state: PathBuf,
    /// They may write it, or make it.
    pub writable: bool,
    /// No ClusterInformation says that the store is not ready.
    pub ready: bool,
}

impl DirectoryFacts {
    /// Whether there is anything to be read.
    pub fn is_readable(&self) -> bool {
        self.files.is_ok() && self.ready
    }
}

/// Judges the files.
pub fn judge(facts: &DirectoryFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Directory);
    let admin = facts.admin.display().to_string();
    match &facts.files {
        Err(reason) => out.fail(
            &admin,
            reason,
            "make the directory, or say where it is: --datastore dir:/path, or [datastore] directory",
        ),
        Ok(files) if files.is_empty() => {
            out.ok(&admin, "no manifests (*.yaml, *.yml, *.json) are there yet");
        }
        Ok(files) => files.iter().for_each(|file| judge_file(&mut out, file)),
    }
    let state = facts.state.display().to_string();
    if facts.writable {
        out.ok(&state, "agent and plugin can write there");
    } else {
        out.fail(&state, "agent and plugin cannot write there", "see its owner and its mode");
    }
    if !facts.ready {
        out.fail(
            "ready",
            "ClusterInformation says that the store is not ready, so the agent changes nothing",
            "set datastoreReady: true in it, or remove it: absent means ready",
        );
    }
    out.done()
}

fn judge_file(out: &mut Findings, file: &FileReport) {
    let what = file.path.display().to_string();
    match &file.refused {
        None => out.ok(&what, format!("{} objects", file.objects)),
        // A running agent keeps what the file said before; one that starts has nothing to keep.
        Some(reason) => {
            out.fail(&what, reason, "correct the file; calicoctl takes the same schema")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Level, worst};

    fn facts(files: Result<Vec<FileReport>, String>) -> DirectoryFacts {
        let (admin, state) = (PathBuf::from("/admin"), PathBuf::from("/state"));
        DirectoryFacts { admin, files, state, writable: true, ready: true }
    }

    fn file(refused: Option<&str>) -> FileReport {
        let refused = refused.map(str::to_owned);
        FileReport { path: "/admin/p.yaml".into(), objects: 2, refused }
    }

    #[test]
    fn each_file_is_told() {
        for (facts, level, said) in [
            (facts(Ok(vec![])), Level::Ok, "yet"),
            (facts(Ok(vec![file(None)])), Level::Ok, "2 objects"),
            (facts(Ok(vec![file(Some("document 2: x"))])), Level::Fail, "document 2"),
            (facts(Err("no such".to_owned())), Level::Fail, "no such"),
            (DirectoryFacts { writable: false, ..facts(Ok(vec![])) }, Level::Fail, "cannot write"),
            (DirectoryFacts { ready: false, ..facts(Ok(vec![])) }, Level::Fail, "not ready"),
        ] {
            let found = judge(&facts);
            assert_eq!(worst(&found), level, "{found:?}");
            assert!(found.iter().any(|finding| finding.finding.contains(said)), "{found:?}");
        }
    }
}
