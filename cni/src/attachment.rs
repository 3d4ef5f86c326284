//! What the plugin remembers of an attachment on this host: `<state_dir>/attachments/`.
//!
//! Written before ADD does anything, so that whatever a killed ADD leaves can be found: by `DEL`, by
//! `GC`, and by the agent's collector.

use std::net::IpAddr;
use std::path::PathBuf;

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
}
