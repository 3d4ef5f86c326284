//! One call of the plugin.

use std::path::PathBuf;

use super::{Args, CniError, NetConf};

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// Is it as ADD left it?
    Check,
    /// Which versions are spoken?
    Version,
    /// Remove what belongs to no attachment of a list.
    Gc,
    /// Could an ADD be served?
    Status,
}

/// One call: environment and standard input.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty where the command needs none.
    pub container_id: String,
    /// `CNI_NETNS`; empty means gone.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Args,
    /// `CNI_PATH`: where delegated plugins are looked for, in order; entries may be relative.
    pub path: Vec<PathBuf>,
    /// Standard input.
    pub conf: NetConf,
    /// Standard input, byte for byte.
    pub stdin: Vec<u8>,
}

impl Invocation {
    /// What this process was told.
    ///
    /// # Errors
    /// Codes 1, 2, 4, 5, 6, 7 of the specification, each naming the variable or the field.
    pub fn of_process() -> Result<Self, CniError> {
        todo!()
    }
}
