//! Records as files: JSON, read tolerantly (a later version's fields do no harm, missing ones are
//! empty), written atomically.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Attachment, Delegated, Listing, Stage};

/// A record, the directory or a lock cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AttachmentError {
    /// The file system refuses.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// `make`, `read`, `write`, `remove`, `lock`.
        operation: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} is no record of an attachment", path.display())]
    NoRecord {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// How the name of a record ends that is being written.
const NEW: &str = ".json.new";

pub(super) fn error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> AttachmentError {
    let path = path.to_owned();
    move |source| AttachmentError::File { operation, path, source }
}

/// The file's fields. The stage is flat: `stage`, and `pid` with `started` beside it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    container_id: String,
    ifname: String,
    network: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_name: Option<String>,
    handle: String,
    addresses: Vec<IpAddr>,
    node: String,
    boot: String,
    stage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegated: Option<DelegatedRecord>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct DelegatedRecord {
    plugin: String,
    conf: String,
    args: String,
    path: Vec<PathBuf>,
}

impl From<&Attachment> for Record {
    fn from(from: &Attachment) -> Self {
        let (stage, pid, started) = match from.stage {
            Stage::Adding { pid, started } => ("adding", Some(pid), Some(started)),
            Stage::Added => ("added", None, None),
            Stage::Failed => ("failed", None, None),
            Stage::Deleting => ("deleting", None, None),
        };
        let delegated = from.delegated.clone();
        Self {
            container_id: from.container_id.clone(),
            ifname: from.ifname.clone(),
            network: from.network.clone(),
            netns: from.netns.clone(),
            host_name: from.host_name.clone(),
            handle: from.handle.clone(),
            addresses: from.addresses.clone(),
            node: from.node.clone(),
            boot: from.boot.clone(),
            stage: stage.to_owned(),
            pid,
            started,
            delegated: delegated.map(|Delegated { plugin, conf, args, path }| DelegatedRecord {
                plugin,
                conf,
                args,
                path,
            }),
        }
    }
}

impl From<Record> for Attachment {
    fn from(from: Record) -> Self {
        let stage = match &*from.stage {
            "added" => Stage::Added,
            "deleting" => Stage::Deleting,
            "adding" => {
                Stage::Adding { pid: from.pid.unwrap_or(0), started: from.started.unwrap_or(0) }
            }
            // One of a later version: whatever it means, it is not "connected".
            _ => Stage::Failed,
        };
        Self {
            container_id: from.container_id,
            ifname: from.ifname,
            network: from.network,
            netns: from.netns.filter(|path| !path.as_os_str().is_empty()),
            host_name: from.host_name.filter(|name| !name.is_empty()),
            handle: from.handle,
            addresses: from.addresses,
            node: from.node,
            boot: from.boot,
            stage,
            delegated: from.delegated.map(|DelegatedRecord { plugin, conf, args, path }| {
                Delegated { plugin, conf, args, path }
            }),
        }
    }
}

pub(super) fn make_dir(dir: &Path) -> Result<(), AttachmentError> {
    // Those above are others', too: BIRD's user reads its configuration below the state directory.
    if let Some(above) = dir.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(above);
        made.map_err(error("make", above))?;
    }
    // Root's alone: a foreign plugin's configuration may hold a password.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(error("make", dir))
}

pub(super) fn load(path: &Path) -> Result<Option<Attachment>, AttachmentError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(error("read", path)(e)),
    };
    // After a power cut its name may be on the disk without its text: as if it were missing.
    if bytes.is_empty() {
        return Ok(None);
    }
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|source| AttachmentError::NoRecord { path: path.to_owned(), source })?;
    Ok(Some(record.into()))
}

pub(super) fn store(path: &Path, attachment: &Attachment) -> Result<(), AttachmentError> {
    let text = serde_json::to_string_pretty(&Record::from(attachment))
        .map_err(|source| AttachmentError::NoRecord { path: path.to_owned(), source })?;
    let temporary = temporary(path);
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(error("write", path))
}

/// With what a process left that was killed while it wrote.
pub(super) fn remove(path: &Path) -> Result<(), AttachmentError> {
    for path in [temporary(path), path.to_owned()] {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(error("remove", &path)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Only one process at a time writes a container's records, so the name can be a fixed one.
fn temporary(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

pub(super) fn list(dir: &Path) -> Result<Listing, AttachmentError> {
    let mut listing = Listing::default();
    for path in paths(dir, "")? {
        match load(&path) {
            Ok(found) => listing.attachments.extend(found),
            Err(error) => listing.unreadable.push(error),
        }
    }
    Ok(listing)
}

pub(super) fn of_container(
    dir: &Path,
    prefix: &str,
    container_id: &str,
) -> Result<Vec<Attachment>, AttachmentError> {
    let mut found = vec![];
    for path in paths(dir, prefix)? {
        // What cannot be read is told by who reads that very record.
        found.extend(load(&path).ok().flatten().filter(|a| a.container_id == container_id));
    }
    Ok(found)
}

/// How the files of containers begin that have a lock, or a record that was only begun, but no
/// record.
pub(super) fn without_record(dir: &Path) -> Result<BTreeSet<String>, AttachmentError> {
    let (mut recorded, mut left) = (BTreeSet::new(), BTreeSet::new());
    for name in names(dir)? {
        // No part of a name has a `_`.
        if let Some(container) = name.strip_suffix(".lock") {
            left.insert(container.to_owned());
        } else if let Some((container, rest)) = name.split_once('_') {
            if is_begun(dir, &name)? {
                left.insert(container.to_owned());
            } else if rest.ends_with(".json") {
                recorded.insert(container.to_owned());
            }
        }
    }
    Ok(&left - &recorded)
}

/// Whether a file is a record without a text: being written, or after a power cut (see [`load`]).
fn is_begun(dir: &Path, name: &str) -> Result<bool, AttachmentError> {
    if !name.ends_with(".json") {
        return Ok(name.ends_with(NEW));
    }
    let path = dir.join(name);
    match std::fs::symlink_metadata(&path) {
        Ok(file) => Ok(file.is_file() && file.len() == 0),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(error("read", &path)(e)),
    }
}

/// Removes the records of a container that were only begun.
pub(super) fn remove_begun(dir: &Path, container: &str) -> Result<(), AttachmentError> {
    let own = |name: &String| name.strip_prefix(container).is_some_and(|r| r.starts_with('_'));
    for name in names(dir)?.iter().filter(|name| own(name)) {
        if !is_begun(dir, name)? {
            continue;
        }
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(error("remove", &path)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Ours are of ASCII.
fn names(dir: &Path) -> Result<Vec<String>, AttachmentError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(error("read", dir)(e)),
    };
    let mut names = vec![];
    for entry in entries {
        let entry = entry.map_err(error("read", dir))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn paths(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>, AttachmentError> {
    let mut names = names(dir)?;
    names.retain(|name| name.starts_with(prefix) && name.ends_with(".json"));
    names.sort();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Opens a lock's file, which is made when it is not there.
pub(super) fn open_lock(path: &Path) -> Result<File, AttachmentError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(error("lock", path))
}
