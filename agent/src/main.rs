//! `calico-agent`: reads the command line and runs what it asks for.

use std::process::ExitCode;

use calico_agent::api::{client, table};
use calico_agent::calculation::Layers;
use calico_agent::cli::{Cli, Command, Output, RunArgs, StatusArgs, exit};
use calico_agent::config::{Env, FileConfig, Local, Settings};
use calico_agent::daemon::{self, Options};
use calico_agent::status::document::Overall;
use calico_agent::telemetry;
use clap::Parser;

fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Status(args) => status(&args),
        Command::Version => {
            say(concat!("calico-agent ", env!("CARGO_PKG_VERSION"), "\n"));
            exit::OK
        }
    };
    ExitCode::from(code)
}

fn run(args: &RunArgs) -> u8 {
    let paths = args.paths();
    let env = Env::of_process();
    let prepared = (|| -> anyhow::Result<_> {
        let file = FileConfig::load(&paths.agent_toml())?;
        let flags = args.flags();
        let local = Local::resolve(&flags, &env, &file)?;
        let defaults =
            Settings { endpoint_status_prefix: Some(paths.run_dir.clone()), ..Settings::default() };
        let layers = Layers { env: env.clone(), file, defaults };
        let level = layers.resolve(None, None, None).settings.log_level;
        let logs = telemetry::init(&env, &level)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("calico-agent")
            .enable_all()
            .build()?;
        Ok((runtime, Options { paths, flags, local, layers, logs }))
    })();
    match prepared {
        Ok((runtime, options)) => {
            let result = runtime.block_on(daemon::run(options));
            // A name that is being looked up would be waited for otherwise.
            runtime.shutdown_background();
            match result {
                Ok(()) => exit::OK,
                Err(error) => {
                    tracing::error!("{}", telemetry::chain(&error));
                    exit::FAILURE
                }
            }
        }
        Err(error) => {
            complain(&format!("{error:#}"));
            exit::FAILURE
        }
    }
}

fn status(args: &StatusArgs) -> u8 {
    let paths = calico_agent::paths::Paths { run_dir: args.run_dir.clone(), ..Default::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(client::status(&paths.api_socket())),
        Err(error) => {
            complain(&error.to_string());
            return exit::FAILURE;
        }
    };
    let status = match answer {
        Ok(status) => status,
        Err(error) => {
            complain(&telemetry::chain(&error));
            return match error {
                client::ClientError::Connect { .. } => exit::NOT_RUNNING,
                _ => exit::FAILURE,
            };
        }
    };
    match args.output {
        Output::Table => say(&table::render(&status)),
        Output::Json => match serde_json::to_string_pretty(&status) {
            Ok(text) => say(&(text + "\n")),
            Err(error) => {
                complain(&error.to_string());
                return exit::FAILURE;
            }
        },
    }
    match status.state {
        Overall::Ready => exit::OK,
        Overall::Starting | Overall::Degraded => exit::DEGRADED,
    }
}

/// Writes to standard output; a closed pipe (`| head`) is not an error.
fn say(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[expect(clippy::print_stderr, reason = "the command line's errors go to people")]
fn complain(text: &str) {
    eprint!("{}", telemetry::complaint(&Env::of_process(), text));
}
