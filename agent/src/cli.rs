//! The command line.
//!
//! Only what is typed: what it means together with environment and files is decided in `config`.

mod directories;
mod explain;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::directories::{AgentArgs, DirectoryArgs};
pub use self::explain::{ExplainArgs, GraphFormat};
use crate::config::Flags;
use crate::paths::Paths;
use crate::verbs::diags::DiagsArgs;
use crate::verbs::group::{AddGroupArgs, AddToGroupArgs, ShowGroupsArgs};
use crate::verbs::log_level::LogLevelArgs;
use crate::verbs::master::MasterArgs;
use crate::verbs::node::NodeArgs;
use crate::verbs::place::etcd_urls;
use crate::verbs::reload::ReloadArgs;

/// The exit codes, in `--help` and for [`std::process::exit`].
pub mod exit {
    /// Everything went well, or the agent was told to stop.
    pub const OK: u8 = 0;
    /// It does not work: configuration, no dataplane, no right to program it. The reason is the
    /// last line of the log.
    pub const FAILURE: u8 = 1;
    /// `plan`: the agent would write something.
    pub const CHANGES: u8 = 2;
    /// `status`, `node`: the agent answers, and something keeps the host from being as it should be.
    pub const DEGRADED: u8 = 3;
    /// `status`, `denied`, `explain`, `node`, `log-level`, `reload`: no agent answers.
    pub const NOT_RUNNING: u8 = 4;
    /// `reset`: an agent is running, or what one started; nothing was touched.
    pub const RUNNING: u8 = 5;
    /// `explain`: policy denies it.
    pub const DENIED: u8 = 6;
    /// `explain`: what is known allows it, and one side is not known here.
    pub const UNKNOWN: u8 = 7;
    /// The command line is wrong: `EX_USAGE` of sysexits(3). clap's own code is 2, which is what
    /// `plan` says when there is something to do.
    pub const USAGE: u8 = 64;
}

const AFTER_HELP: &str = "\
In a hurry:
  calico-agent node --ip=172.18.18.101 --etcd=172.18.18.1:2379 --rkt     this host becomes a node
  calico-agent run --ip 172.18.18.101 --etcd-endpoints http://172.18.18.1:2379
  calico-agent run --datastore dir:/etc/calico/resources     one host by itself, without etcd
  calico-agent status
  calico-agent check                      what this host lacks, and what to do about it
  calico-agent plan                       what the agent would write now
  calico-agent explain --from web --to 10.0.0.7 --port 443     whether policy allows it, and why
  calico-agent denied --follow            which packets policy denies, and why
  calico-agent diags                      one file for somebody who helps, without secrets
  systemctl status calico-agent; journalctl -u calico-agent
  journalctl CALICO_ENDPOINT=<endpoint>   what happened to one endpoint

Settings, the strongest first: command line, environment (CALICO_DATASTORE, ETCD_ENDPOINTS, NODENAME,
IP, IP6, AS, FELIX_<Parameter>), agent.toml in the configuration directory, FelixConfiguration node.<name> and
default in the datastore.

Exit codes:
  0  well (status: the host is as it should be; check: nothing failed; plan: nothing to do;
     explain: policy allows it, or is not asked)
  1  it does not work; the last line says why (check: something failed; plan: it could not tell)
  2  plan: the agent would write something
  3  status, node: degraded or not ready yet, the output says what is missing
  4  status, denied, explain, node, log-level, reload: no agent is running
  5  reset: an agent is running, or what one started (BIRD too); nothing was touched
  6  explain: policy denies it
  7  explain: what is known allows it, and one side is not known here
  64  wrong command line";

/// Enforces Calico's policy on this host and distributes its routes.
#[derive(Clone, Debug, Parser)]
#[command(name = "calico-agent", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the agent until it is told to stop.
    Run(RunArgs),
    /// Ask the running agent how this host is.
    Status(StatusArgs),
    /// Look for what this host lacks, and say what to do. Changes nothing; needs no running agent.
    ///
    /// What the agent does to a kernel is tried in a network namespace that is gone afterwards. Each
    /// line is `ok`, `warn` or `fail`; the exit code is 1 when anything failed. Beside its own
    /// environment it counts what the unit gets from calico.env in the configuration directory.
    Check(CheckArgs),
    /// Show what the agent would write now. Writes nothing; needs no running agent.
    ///
    /// Rules as iptables-restore takes them, address sets as ipset restore does, routes and neighbours
    /// as ip does, kernel parameters, and a diff of BIRD's configuration. The exit code is 0 when
    /// nothing is to be done, 2 when something is, 1 when it cannot be told. What is written to the
    /// datastore is not shown. It counts calico.env as `check` does.
    Plan(PlanArgs),
    /// Say whether policy allows a packet, and which rule decides.
    ///
    /// Asks the running agent; or, with --offline, --datastore or --with, calculates it from the
    /// datastore, for every host that is concerned and with changes that are not applied yet.
    /// A peer is an address, a network, `host` or the name of a host, `outside`, or a pod: by its
    /// workload (namespace/name, or the name alone), its interface, its endpoint as `status` shows it,
    /// or the beginning of its name, such as the container's id. The exit code is 0 when it is allowed
    /// or policy is not asked, 6 when it is denied, 7 when one side is not known here, 1 when it cannot
    /// be told, 4 when no agent answers.
    Explain(ExplainArgs),
    /// Show which packets policy has denied of late, and what denied them.
    ///
    /// The setting DeniedLog must be on: the kernel then reports some packets a second of each policy
    /// that denies. The exit code is 1 when nothing is reported, with the reason; 4 without an agent.
    Denied(DeniedArgs),
    /// Remove what the agent, or an original Felix before it, left on this host, and only that.
    ///
    /// Rules, chains and address sets of both kinds of iptables and both families, pod routes and
    /// blackholes, neighbours of pods, files of endpoints, the stored policy, BIRD's configuration.
    /// Pods that still run are policed by nobody afterwards. It refuses while an agent or its BIRD runs, needs no
    /// datastore and leaves what is there as it is. The exit code is 0 also when there was nothing to
    /// remove, 1 when something could not be removed: it is named.
    Reset(ResetArgs),
    /// Make this host a node: configure it, start the units, wait until policy is in force.
    ///
    /// What `calicoctl node` did. It writes what is given into /etc/calico (a setting stays in the
    /// file where it is), lets rkt find the CNI plugin (--rkt), enables and starts the units. Done again
    /// it changes nothing. The exit code is 0 when the host is as it should be, 3 when policy is in
    /// force and something is wrong, or the time is over and the agent is still starting, 4 when none
    /// answers, 1 when it could not be done.
    Node(NodeArgs),
    /// Make a group of pods: they reach each other, and send anywhere. It is a profile.
    #[command(name = "addgroup")]
    AddGroup(AddGroupArgs),
    /// Make a pod of this host a member of a group.
    #[command(name = "addtogroup")]
    AddToGroup(AddToGroupArgs),
    /// List the groups: all profiles, those of networks too.
    #[command(name = "showgroups")]
    ShowGroups(ShowGroupsArgs),
    /// Say that no master is needed any more.
    Master(MasterArgs),
    /// Write everything that helps to find out what is wrong into one file, without secrets.
    ///
    /// Status, rules, sets, routes, BIRD, journal, versions, configuration, and what the datastore
    /// holds. What cannot be had is named in it. It needs no running agent, and changes nothing.
    Diags(DiagsArgs),
    /// Change what the running agent writes to the journal.
    LogLevel(LogLevelArgs),
    /// Have the running agent read agent.toml again, and wait for what it says to that.
    ///
    /// What `systemctl reload calico-agent` does. Settings count at once; what needs a restart is
    /// named. A file with a mistake changes nothing: the exit code is 1 then, and each mistake is said
    /// with its line and column.
    Reload(ReloadArgs),
    /// Print the version.
    Version(VersionArgs),
}

/// `calico-agent version`.
#[derive(Clone, Debug, Args)]
pub struct VersionArgs {
    /// No effect: as calicoctl took it.
    #[arg(long, value_name = "ADDRESS", value_parser = etcd_urls, hide = true)]
    pub etcd: Option<String>,
}

/// `calico-agent run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Where its files are.
    #[command(flatten)]
    pub directories: DirectoryArgs,
    /// This host's name in the cluster [env: NODENAME].
    #[arg(long, value_name = "NAME")]
    pub nodename: Option<String>,
    /// This host's IPv4 address, with or without /prefix, or none [env: IP].
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// This host's IPv6 address, with or without /prefix, or none [env: IP6].
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,
    /// This host's AS number, plain or dotted [env: AS].
    #[arg(long, value_name = "NUMBER")]
    pub as_number: Option<String>,
    /// URLs of etcd with commas between [env: ETCD_ENDPOINTS].
    #[arg(long, value_name = "URLS")]
    pub etcd_endpoints: Option<String>,
    /// Which datastore: etcd, etcdv2 (what Calico up to 2.6 keeps), or dir:/path with manifests as
    /// calicoctl takes them; then no etcd is needed [env: CALICO_DATASTORE].
    #[arg(long, value_name = "STORE")]
    pub datastore: Option<String>,
}

impl RunArgs {
    /// The three directories.
    pub fn paths(&self) -> Paths {
        self.directories.paths()
    }

    /// What goes before environment and file.
    pub fn flags(&self) -> Flags {
        Flags {
            nodename: self.nodename.clone(),
            ip: self.ip.clone(),
            ip6: self.ip6.clone(),
            as_number: self.as_number.clone(),
            etcd_endpoints: self.etcd_endpoints.clone(),
            datastore: self.datastore.clone(),
        }
    }
}

/// `calico-agent status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Where etcd should be: a warning when the agent that answers uses another one.
    #[arg(long, value_name = "ADDRESS", value_parser = etcd_urls)]
    pub etcd: Option<String>,
    /// Whom to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// `calico-agent denied`.
#[derive(Clone, Debug, Args)]
pub struct DeniedArgs {
    /// Go on with those that come, until interrupted.
    #[arg(long, short)]
    pub follow: bool,
    /// Only of this endpoint, or of what is part of its name or of its interface's.
    #[arg(long, value_name = "TEXT")]
    pub endpoint: Option<String>,
    /// How to print them; json = one object a line.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Whom to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// `calico-agent reset`.
#[derive(Clone, Debug, Args)]
pub struct ResetArgs {
    /// Only list what would be removed. Writes nothing, and does not mind a running agent.
    #[arg(long)]
    pub dry_run: bool,
    /// No effect: it asks nobody but this host, and what the datastore holds stays.
    #[arg(long, value_name = "ADDRESS", value_parser = etcd_urls)]
    pub etcd: Option<String>,
    /// Where its files are.
    #[command(flatten)]
    pub directories: DirectoryArgs,
}

impl ResetArgs {
    /// The three directories.
    pub fn paths(&self) -> Paths {
        self.directories.paths()
    }
}

/// `calico-agent check`: the options of `run`, to look at what a run with them would find.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// As `run`.
    #[command(flatten)]
    pub run: RunArgs,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// `calico-agent plan`: the options of `run`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// As `run`.
    #[command(flatten)]
    pub run: RunArgs,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_and_directories() {
        let cli = Cli::parse_from([
            "calico-agent",
            "run",
            "--ip=10.0.0.1",
            "--run-dir",
            "/x",
            "--as-number=1.10",
        ]);
        let Command::Run(run) = cli.command else { panic!() };
        assert_eq!(run.flags().ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(run.flags().as_number.as_deref(), Some("1.10"));
        assert_eq!(run.flags().nodename, None);
        assert_eq!(run.paths().run_dir, PathBuf::from("/x"));
    }

    #[test]
    fn the_help_names_each_exit_code() {
        let help = Cli::command().render_help().to_string();
        let codes = [exit::OK, exit::FAILURE, exit::CHANGES, exit::DEGRADED, exit::NOT_RUNNING];
        let more = [exit::RUNNING, exit::DENIED, exit::UNKNOWN, exit::USAGE];
        for code in codes.into_iter().chain(more) {
            assert!(help.contains(&format!("\n  {code}  ")), "{code} is missing in\n{help}");
        }
        assert!(Cli::try_parse_from(["calico-agent", "status", "--output", "yaml"]).is_err());
    }
}
