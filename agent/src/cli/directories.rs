//! Options that many commands have: where the agent keeps its files, and where it is asked.

use std::path::PathBuf;

use clap::Args;

use crate::paths::Paths;

/// The three directories of an agent.
#[derive(Clone, Debug, Default, Args)]
pub struct DirectoryArgs {
    /// Where agent.toml is.
    #[arg(long, value_name = "DIR", env = "CALICO_CONFIG_DIR", default_value = "/etc/calico")]
    pub config_dir: PathBuf,
    /// Sockets and the endpoint files: what is gone after a reboot.
    #[arg(long, value_name = "DIR", env = "CALICO_RUN_DIR", default_value = "/run/calico")]
    pub run_dir: PathBuf,
    /// The node's name, the last good policy, BIRD's configuration: what survives a reboot.
    #[arg(long, value_name = "DIR", env = "CALICO_STATE_DIR", default_value = "/var/lib/calico")]
    pub state_dir: PathBuf,
}

impl DirectoryArgs {
    /// The three directories.
    pub fn paths(&self) -> Paths {
        Paths {
            config_dir: self.config_dir.clone(),
            run_dir: self.run_dir.clone(),
            state_dir: self.state_dir.clone(),
        }
    }
}

/// The agent that is asked.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// The run directory of the agent that is asked.
    #[arg(long, value_name = "DIR", env = "CALICO_RUN_DIR", default_value = "/run/calico")]
    pub run_dir: PathBuf,
}

impl AgentArgs {
    /// Where it answers.
    pub fn socket(&self) -> PathBuf {
        Paths { run_dir: self.run_dir.clone(), ..Paths::default() }.api_socket()
    }
}
