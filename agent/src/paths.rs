//! Where files live. Every path of the running agent hangs off three directories, so that several
//! agents can run on one file system.

use std::path::{Path, PathBuf};

/// The three directories and what lies in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What an administrator writes. Default `/etc/calico`.
    pub config_dir: PathBuf,
    /// What is gone after a reboot. Default `/run/calico` (the original's `/var/run/calico`).
    pub run_dir: PathBuf,
    /// What survives a reboot. Default `/var/lib/calico`.
    pub state_dir: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            config_dir: PathBuf::from("/etc/calico"),
            run_dir: PathBuf::from("/run/calico"),
            state_dir: PathBuf::from("/var/lib/calico"),
        }
    }
}

impl Paths {
    /// The agent's configuration file.
    pub fn agent_toml(&self) -> PathBuf {
        self.config_dir.join("agent.toml")
    }

    /// The socket that `calico-agent status` asks.
    pub fn api_socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// Locked as long as an agent uses the run directory; holds its process id.
    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("agent.lock")
    }

    /// Locked as long as a program runs that an agent started.
    pub fn programs_lock(&self) -> PathBuf {
        self.run_dir.join("programs.lock")
    }

    /// The file that holds this host's name; the CNI plugin refuses to work without it.
    pub fn nodename(&self) -> PathBuf {
        self.state_dir.join("nodename")
    }

    /// The MTU of pods, which the CNI plugin reads. The original's file.
    pub fn mtu(&self) -> PathBuf {
        self.state_dir.join("mtu")
    }

    /// The last good policy: what was in force, for a start without the datastore.
    pub fn stored_policy(&self) -> PathBuf {
        self.state_dir.join("policy.json")
    }

    /// Says that the kernel was given something newer than [`Self::stored_policy`] since the boot.
    pub fn policy_marker(&self) -> PathBuf {
        self.run_dir.join("policy.boot")
    }

    /// BIRD's configuration: in the state directory, so that BGP starts after a reboot with what
    /// it had.
    pub fn bird_config(&self) -> PathBuf {
        self.state_dir.join("bird").join("bird.cfg")
    }

    /// BIRD's control socket. The name is the original's.
    pub fn bird_socket(&self) -> PathBuf {
        self.run_dir.join("bird.ctl")
    }

    /// One file per programmed endpoint, which the CNI plugin waits for.
    pub fn endpoint_status_dir(prefix: &Path) -> PathBuf {
        prefix.join("endpoint-status")
    }
}
