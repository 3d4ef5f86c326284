//! `calico-agent node`: one command that makes a host a node, as `calicoctl node` did. It writes what
//! was typed into the configuration, gives rkt the plugin, enables and starts the units, and waits
//! until policy is in force. Done again it changes nothing.
//!
//! `facts` reads this host, `plan` decides what is to be done (pure; `wanted` about the
//! configuration), `apply` does it, `ready` waits.

mod apply;
mod env_file;
mod facts;
mod plan;
mod ready;
mod toml_file;
mod wanted;
mod within;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

pub use apply::ApplyError;
pub use plan::PlanError;
pub use toml_file::TomlError;
pub use wanted::WantedError;

use self::facts::Facts;
use self::plan::{Plan, plan};
use self::ready::{Place, Waited};
use crate::cli::exit;
use crate::config::duration;
use crate::exec::Exec;
use crate::paths::Paths;
use crate::telemetry::chain;
use crate::terminal::{complain, say, small_runtime};
use crate::verbs::place::etcd_urls;

/// The longest that one program may take: systemd-modules-load may look at many devices.
const PROGRAM_LIMIT: Duration = Duration::from_secs(30);

/// `calico-agent node`.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeArgs {
    /// This host's IPv4 address, with or without /prefix.
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// This host's IPv6 address, with or without /prefix.
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,
    /// This host's AS number, plain or dotted.
    #[arg(long = "as", value_name = "NUMBER")]
    pub as_number: Option<String>,
    /// Where etcd is: host:port or URLs, with commas between.
    #[arg(long, value_name = "ADDRESS", alias = "etcd-endpoints", value_parser = etcd_urls)]
    pub etcd: Option<String>,
    /// Which datastore: etcd, etcdv2 (Calico up to 2.6), or dir:/path with manifests.
    #[arg(long, value_name = "STORE")]
    pub datastore: Option<String>,
    /// This host's name in the cluster.
    #[arg(long, value_name = "NAME")]
    pub nodename: Option<String>,
    /// Let rkt find the CNI plugin, and make a network `calico` for it when it has none of ours.
    #[arg(long)]
    pub rkt: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Wait so long until policy is in force: seconds, or 1m30s; 0: do not wait.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "60")]
    pub timeout: Duration,
    /// Prepare a system below this directory, such as an image: files are written and units enabled,
    /// nothing is started.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

fn time(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "it takes seconds, or a time with units: 90, 1m30s".to_owned())
}

/// Does it, and says what.
pub fn main(args: &NodeArgs) -> u8 {
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let code = runtime.block_on(run(args));
    runtime.shutdown_background();
    code.unwrap_or_else(|error| {
        complain(&error);
        exit::FAILURE
    })
}

async fn run(args: &NodeArgs) -> Result<u8, String> {
    let exec = Exec::new(PROGRAM_LIMIT);
    let facts = Facts::read(&args.root, &exec).await.map_err(|error| chain(&error))?;
    let plan = plan(args, &facts).map_err(|error| chain(&error))?;
    for note in &plan.notes {
        complain(note);
    }
    if args.dry_run {
        for step in &plan.steps {
            say(&format!("would {}\n", step.to_do()));
        }
        if plan.steps.is_empty() {
            say("nothing to do\n");
        }
        return Ok(exit::OK);
    }
    apply::apply(&plan, &exec, &mut |line| say(&format!("{line}\n")))
        .await
        .map_err(|error| chain(&error))?;
    if !plan.starts {
        return Ok(exit::OK);
    }
    if args.timeout.is_zero() {
        say("not waited for: `calico-agent status` says how it is\n");
        return Ok(exit::OK);
    }
    finish(args, &plan, &exec).await
}

/// Waits, and says how it ended.
async fn finish(args: &NodeArgs, plan: &Plan, exec: &Exec) -> Result<u8, String> {
    let place = Place { socket: Paths::default().api_socket(), not: plan.replaces };
    Ok(match ready::wait(&place, exec, args.timeout).await {
        Waited::Ready(status) => {
            let (node, endpoints) = (&status.node, status.endpoints.len());
            say(&format!("ready: this host is {node}, with {endpoints} pods\n"));
            exit::OK
        }
        Waited::Degraded(problems) => {
            complain(&format!("policy is in force, and something is wrong:\n{problems}"));
            exit::DEGRADED
        }
        Waited::Late(Some(reason)) => {
            let limit = args.timeout;
            complain(&format!("not ready within {limit:?}, and still at it: {reason}"));
            exit::DEGRADED
        }
        Waited::Late(None) => {
            complain(&format!(
                "no agent answers within {:?}: journalctl -u calico-agent",
                args.timeout
            ));
            exit::NOT_RUNNING
        }
        Waited::Failed(reason) => return Err(reason),
    })
}
