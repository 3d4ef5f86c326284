//! What the plugin remembers of an attachment on this host: `<state_dir>/attachments/`.
//!
//! Written before ADD does anything, so that whatever a killed ADD leaves can be found: by `DEL`, by
//! `GC`, and by the agent's collector. One file per interface of a container, replaced as a whole;
//! who changes what belongs to a container holds its [lock](Attachments::lock).

mod file;
mod lock;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use file::AttachmentError;
pub use lock::Locked;

/// How far an ADD came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It began: the process is at work, or was killed.
    Adding {
        /// The plugin's process.
        pid: u32,
        /// When that process started (field 22 of `/proc/<pid>/stat`): tells a reused pid.
        started: u64,
    },
    /// The container is connected.
    Added,
    /// It failed, and not everything could be taken back.
    Failed,
    /// A DEL failed half-way: nobody will repeat it.
    Deleting,
}

impl Stage {
    /// The stage of an ADD that this process begins.
    pub fn adding_now() -> Self {
        let pid = std::process::id();
        Self::Adding { pid, started: started(Path::new("/proc"), pid).unwrap_or(0) }
    }

    /// Whether an ADD is at work: its process is the one that began it, and lives.
    pub fn is_at_work(self) -> bool {
        match self {
            Self::Adding { pid, started: then } => {
                started(Path::new("/proc"), pid).is_some_and(|now| then == now)
            }
            Self::Added | Self::Failed | Self::Deleting => false,
        }
    }
}

/// When a process started, in ticks since the boot; `None` when there is no such process.
fn started(proc: &Path, pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The command stands in parentheses and may hold any character. After it comes field 3.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // One that has ended and was not asked for yet does nothing any more.
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

/// A foreign plugin that gave the addresses, and what it needs to take them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegated {
    /// Its `type`.
    pub plugin: String,
    /// The configuration of the ADD, as text.
    pub conf: String,
    /// `CNI_ARGS` of the ADD.
    pub args: String,
    /// `CNI_PATH` of the ADD, relative entries made absolute.
    pub path: Vec<PathBuf>,
}

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// The network's name.
    pub network: String,
    /// `CNI_NETNS`.
    pub netns: Option<PathBuf>,
    /// The host side's name, once chosen.
    pub host_name: Option<String>,
    /// The handle of its addresses.
    pub handle: String,
    /// Its addresses, once known.
    pub addresses: Vec<IpAddr>,
    /// The node's name that its endpoint has.
    pub node: String,
    /// `/proc/sys/kernel/random/boot_id` of its ADD.
    pub boot: String,
    /// How far it came.
    pub stage: Stage,
    /// Who gave the addresses, when that was not Calico's own address management.
    pub delegated: Option<Delegated>,
}

/// The records of a host.
#[derive(Clone, Debug)]
pub struct Attachments {
    dir: PathBuf,
}

/// What the directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// The records, in order of their file names.
    pub attachments: Vec<Attachment>,
    /// Files that are no records. They are somebody's to look at, and stop nobody.
    pub unreadable: Vec<AttachmentError>,
}

impl Attachments {
    /// The records under a state directory (`/var/lib/calico`).
    pub fn in_state_dir(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("attachments") }
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The record of an interface of a container; `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or is no record.
    pub fn load(
        &self,
        container_id: &str,
        ifname: &str,
    ) -> Result<Option<Attachment>, AttachmentError> {
        file::load(&self.path(container_id, ifname))
    }

    /// Writes a record, in place of the one before: whole or not at all. It survives the end of the
    /// process; after a power cut it may be missing, but then nothing of the pod is left either, and
    /// the datastore's part is found by the endpoint or the handle.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self, attachment: &Attachment) -> Result<(), AttachmentError> {
        file::make_dir(&self.dir)?;
        file::store(&self.path(&attachment.container_id, &attachment.ifname), attachment)
    }

    /// Removes a record. One that is gone already is a success.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self, container_id: &str, ifname: &str) -> Result<(), AttachmentError> {
        file::remove(&self.path(container_id, ifname))
    }

    /// Every record.
    ///
    /// # Errors
    /// When the directory cannot be read. One that does not exist holds none.
    pub fn list(&self) -> Result<Listing, AttachmentError> {
        file::list(&self.dir)
    }

    /// The records of one container.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn of_container(&self, container_id: &str) -> Result<Vec<Attachment>, AttachmentError> {
        file::of_container(&self.dir, &format!("{}_", escaped(container_id)), container_id)
    }

    /// Takes the lock of a container: ADD and DEL of its interfaces come one after another, and the
    /// collector keeps away meanwhile. Waits at most `wait`; `None`: somebody else has it.
    ///
    /// # Errors
    /// When the lock's file cannot be made or locked.
    pub fn lock(
        &self,
        container_id: &str,
        wait: Duration,
    ) -> Result<Option<Locked>, AttachmentError> {
        file::make_dir(&self.dir)?;
        lock::lock(&self.dir.join(format!("{}.lock", escaped(container_id))), wait)
    }

    /// Gives a container's lock up, and lets nothing of it stay when it has no records.
    pub fn unlock(&self, locked: Locked, container_id: &str) {
        if self.of_container(container_id).is_ok_and(|left| left.is_empty()) {
            locked.finish();
        }
    }

    /// Removes what a process left that was killed before it had written a record: the locks of
    /// containers that have none and that nobody holds, and records that were only begun. Returns how
    /// many containers had such.
    ///
    /// # Errors
    /// When the directory cannot be read. One that does not exist holds none.
    pub fn sweep(&self) -> Result<usize, AttachmentError> {
        let mut swept = 0;
        for name in file::without_record(&self.dir)? {
            let path = self.dir.join(format!("{name}.lock"));
            // Whoever has it is about to write one; and whoever waits for it meanwhile notices that
            // its file is gone, see `lock`.
            let Some(locked) = lock::lock(&path, Duration::ZERO)? else { continue };
            if file::without_record(&self.dir)?.contains(&name) {
                file::remove_begun(&self.dir, &name)?;
                locked.finish();
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn path(&self, container_id: &str, ifname: &str) -> PathBuf {
        self.dir.join(format!("{}_{}.json", escaped(container_id), escaped(ifname)))
    }
}

/// A part of a file's name: without `_`, which ends it, and without what leads elsewhere. Names that
/// rkt gives stay as they are.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || (byte == b'.' && at > 0) {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// This boot's id; empty when the kernel does not say.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.map(|text| text.trim().to_owned()).unwrap_or_default()
}
