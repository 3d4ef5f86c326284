//! `calico-agent reload`: the running agent reads `agent.toml` again, and says what it thinks of it.
//! systemd calls it (`ExecReload=`), so that a reload has failed when nothing was reloaded.

use clap::Args;

use crate::api::client::{self, ClientError};
use crate::cli::{AgentArgs, exit};
use crate::telemetry::chain;
use crate::terminal::{complain, small_runtime};

/// `calico-agent reload`.
#[derive(Clone, Debug, Args)]
pub struct ReloadArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Asks the agent. What goes well is in the journal; said is what does not count yet.
pub fn main(args: &ReloadArgs) -> u8 {
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let socket = args.agent.socket();
    match runtime.block_on(client::reload(&socket)) {
        Ok(said) => {
            if !said.is_empty() {
                complain(said.trim_end());
            }
            exit::OK
        }
        Err(error) => {
            complain(&chain(&error));
            match error {
                ClientError::Connect { .. } => exit::NOT_RUNNING,
                _ => exit::FAILURE,
            }
        }
    }
}
