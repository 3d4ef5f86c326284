//! `calico-agent log-level`: another log level for the running agent, without a restart.

use std::time::Duration;

use clap::Args;

use crate::api::client::{self, ClientError};
use crate::cli::{AgentArgs, exit};
use crate::config::duration;
use crate::telemetry::chain;
use crate::terminal::{complain, say, small_runtime};

/// `calico-agent log-level`.
#[derive(Clone, Debug, Args)]
pub struct LogLevelArgs {
    /// error, warn, info, debug, trace, off, or default: that of the settings.
    #[arg(value_name = "LEVEL")]
    pub level: String,
    /// So long: seconds, or 10m; then that of the settings counts again [default: until the agent
    /// ends].
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    pub time: Option<Duration>,
    /// Whom to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

fn time(text: &str) -> Result<Duration, String> {
    let time = duration(text).filter(|time| *time >= Duration::from_secs(1));
    time.ok_or_else(|| "it takes seconds, or a time with units: 90, 10m".to_owned())
}

/// Asks the agent.
pub fn main(args: &LogLevelArgs) -> u8 {
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let socket = args.agent.socket();
    match runtime.block_on(client::log_level(&socket, &args.level, args.time)) {
        Ok(said) => {
            say(&said);
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
