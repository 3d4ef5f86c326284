//! A pod as rkt has it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::Flock;

use super::Answer;
use crate::netns::{Netns, Place};

/// A pod: its directory and its namespace. Dropping it removes the namespace, as a crash would.
#[derive(Debug)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub uuid: String,
    /// The networks that it is connected to, in order.
    pub attached: Vec<Attached>,
    pub(super) place: Place,
    pub(super) ns: Option<Netns>,
    /// `CNI_NETNS`: empty after a reboot.
    pub(super) netns: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) lock: Option<Flock<File>>,
}

/// What is remembered of an ADD.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The network's name.
    pub network: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// What the plugin answered.
    pub result: Answer,
    /// How long it took.
    pub took: Duration,
    /// What it wrote on standard error, which rkt passes through.
    pub stderr: String,
    pub(super) plugin: PathBuf,
    /// The copy of the conf file, in the pod's directory.
    pub(super) conf: PathBuf,
}

impl Sandbox {
    /// Its namespace.
    pub fn ns(&self) -> &Place {
        &self.place
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `CNI_NETNS` is.
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// The pod ends, or `rkt stop` ends it: no DEL, and everything of it stays.
    pub fn stop(&mut self) {
        self.lock = None;
    }

    /// Other plugins were installed since its ADDs: its DELs go to these.
    pub fn hand_over(&mut self, rkt: &super::Rkt) {
        for attached in &mut self.attached {
            let name = attached.plugin.file_name().map(std::ffi::OsStr::to_owned);
            attached.plugin = rkt.plugins().join(name.unwrap_or_default());
        }
    }

    /// Its address of one interface.
    ///
    /// # Errors
    /// When it has none there.
    pub fn v4(&self, interface: usize) -> Result<Ipv4Addr> {
        let attached = self.attached.get(interface).context("no such interface")?;
        let ip4 = attached.result.ip4.as_ref().context("no ip4 in the answer")?;
        let address = ip4.ip.strip_suffix("/32").context("not a single address")?;
        Ok(address.parse()?)
    }
}
