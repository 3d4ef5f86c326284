//! The command line.
//!
//! Only what is typed: what it means together with environment and files is decided in `config`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Flags;
use crate::explain::Question;
use crate::paths::Paths;

/// The exit codes, in `--help` and for [`std::process::exit`].
pub mod exit {
    /// Everything went well, or the agent was told to stop.
    pub const OK: u8 = 0;
    /// It does not work: configuration, no dataplane, no right to program it. The reason is the
    /// last line of the log.
    pub const FAILURE: u8 = 1;
    /// `plan`: the agent would write something.
    pub const CHANGES: u8 = 2;
    /// `status`: the agent answers, and something keeps the host from being as it should be.
    pub const DEGRADED: u8 = 3;
    /// `status`, `denied`, `explain`: no agent answers.
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
  calico-agent run --ip 172.18.18.101 --etcd-endpoints http://172.18.18.1:2379
  calico-agent run --datastore dir:/etc/calico/resources     one host by itself, without etcd
  calico-agent status
  calico-agent check                      what this host lacks, and what to do about it
  calico-agent plan                       what the agent would write now
  calico-agent explain --from web --to 10.0.0.7 --port 443     whether policy allows it, and why
  calico-agent denied --follow            which packets policy denies, and why
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
  3  status: degraded, the output says what is missing
  4  status, denied, explain: no agent is running
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
    /// Print the version.
    Version,
}

/// `calico-agent run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Where agent.toml is.
    #[arg(long, value_name = "DIR", env = "CALICO_CONFIG_DIR", default_value = "/etc/calico")]
    pub config_dir: PathBuf,
    /// Sockets and the endpoint files: what is gone after a reboot.
    #[arg(long, value_name = "DIR", env = "CALICO_RUN_DIR", default_value = "/run/calico")]
    pub run_dir: PathBuf,
    /// The node's name, the last good policy, BIRD's configuration: what survives a reboot.
    #[arg(long, value_name = "DIR", env = "CALICO_STATE_DIR", default_value = "/var/lib/calico")]
    pub state_dir: PathBuf,
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
        Paths {
            config_dir: self.config_dir.clone(),
            run_dir: self.run_dir.clone(),
            state_dir: self.state_dir.clone(),
        }
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
    /// The run directory of the agent that is asked.
    #[arg(long, value_name = "DIR", env = "CALICO_RUN_DIR", default_value = "/run/calico")]
    pub run_dir: PathBuf,
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
    /// The run directory of the agent that is asked.
    #[arg(long, value_name = "DIR", env = "CALICO_RUN_DIR", default_value = "/run/calico")]
    pub run_dir: PathBuf,
}

/// `calico-agent reset`.
#[derive(Clone, Debug, Args)]
pub struct ResetArgs {
    /// Only list what would be removed. Writes nothing, and does not mind a running agent.
    #[arg(long)]
    pub dry_run: bool,
    /// Where agent.toml is.
    #[arg(long, value_name = "DIR", env = "CALICO_CONFIG_DIR", default_value = "/etc/calico")]
    pub config_dir: PathBuf,
    /// The agent's run directory.
    #[arg(long, value_name = "DIR", env = "CALICO_RUN_DIR", default_value = "/run/calico")]
    pub run_dir: PathBuf,
    /// The agent's state directory.
    #[arg(long, value_name = "DIR", env = "CALICO_STATE_DIR", default_value = "/var/lib/calico")]
    pub state_dir: PathBuf,
}

impl ResetArgs {
    /// The three directories.
    pub fn paths(&self) -> Paths {
        Paths {
            config_dir: self.config_dir.clone(),
            run_dir: self.run_dir.clone(),
            state_dir: self.state_dir.clone(),
        }
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

/// `calico-agent explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Who sends: a pod, an address, a network, a host, or `outside`.
    #[arg(long, value_name = "POD|IP", required_unless_present = "graph")]
    pub from: Option<String>,
    /// Who is sent to.
    #[arg(long, value_name = "POD|IP", required_unless_present = "graph")]
    pub to: Option<String>,
    /// Instead: who reaches whom on this host, as a graph; for --protocol and --port, or without
    /// them for every port that policies name.
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with_all = ["from", "to"])]
    pub graph: Option<GraphFormat>,
    /// tcp, udp, sctp, icmp, or a number [default: tcp].
    #[arg(long, value_name = "NAME")]
    pub protocol: Option<String>,
    /// The destination's port: a number, or the name that its endpoint gives to one.
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// The source's port.
    #[arg(long, value_name = "PORT")]
    pub source_port: Option<u16>,
    /// Type of the ICMP message [default: echo request].
    #[arg(long = "type", value_name = "NUMBER")]
    pub icmp_type: Option<u8>,
    /// Code of the ICMP message [default: 0].
    #[arg(long = "code", value_name = "NUMBER")]
    pub icmp_code: Option<u8>,
    /// By which interface of a host it passes, which says whose host endpoint is asked: eth0, or
    /// calico-02=eth0; may be given several times [default: as routes and addresses say].
    #[arg(long, value_name = "[HOST=]NAME")]
    pub interface: Vec<String>,
    /// Calculate it from the datastore that this host is told to use, and do not ask the agent.
    #[arg(long)]
    pub offline: bool,
    /// As if these manifests were applied; may be given several times. Implies --offline.
    #[arg(long, value_name = "FILE")]
    pub with: Vec<PathBuf>,
    /// As if this object were not there: GlobalNetworkPolicy/default.x, NetworkPolicy/ns/default.y;
    /// may be given several times. Implies --offline.
    #[arg(long, value_name = "KIND/NAME")]
    pub without: Vec<String>,
    /// Which datastore: etcd, etcdv2, or dir:/path. Implies --offline [env: CALICO_DATASTORE].
    #[arg(long, value_name = "STORE")]
    pub datastore: Option<String>,
    /// URLs of etcd with commas between. Implies --offline [env: ETCD_ENDPOINTS].
    #[arg(long, value_name = "URLS")]
    pub etcd_endpoints: Option<String>,
    /// This host's name in the cluster, when it is calculated [env: NODENAME].
    #[arg(long, value_name = "NAME")]
    pub nodename: Option<String>,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The same as --output json.
    #[arg(long)]
    pub json: bool,
    /// Where agent.toml is.
    #[arg(long, value_name = "DIR", env = "CALICO_CONFIG_DIR", default_value = "/etc/calico")]
    pub config_dir: PathBuf,
    /// The run directory of the agent that is asked.
    #[arg(long, value_name = "DIR", env = "CALICO_RUN_DIR", default_value = "/run/calico")]
    pub run_dir: PathBuf,
    /// The agent's state directory.
    #[arg(long, value_name = "DIR", env = "CALICO_STATE_DIR", default_value = "/var/lib/calico")]
    pub state_dir: PathBuf,
}

impl ExplainArgs {
    /// True when it is to be calculated from the datastore.
    pub fn is_offline(&self) -> bool {
        self.offline
            || self.datastore.is_some()
            || self.etcd_endpoints.is_some()
            || !self.with.is_empty()
            || !self.without.is_empty()
    }

    /// What is asked.
    pub fn question(&self) -> Question {
        Question {
            from: self.from.clone().unwrap_or_default(),
            to: self.to.clone().unwrap_or_default(),
            protocol: self.protocol.clone(),
            port: self.port.clone(),
            source_port: self.source_port,
            interface: (!self.interface.is_empty()).then(|| self.interface.join(",")),
            icmp_type: self.icmp_type,
            icmp_code: self.icmp_code,
        }
    }

    /// What `run` would be told, to look at the datastore that it would use.
    pub fn run(&self) -> RunArgs {
        RunArgs {
            config_dir: self.config_dir.clone(),
            run_dir: self.run_dir.clone(),
            state_dir: self.state_dir.clone(),
            nodename: self.nodename.clone(),
            ip: None,
            ip6: None,
            as_number: None,
            etcd_endpoints: self.etcd_endpoints.clone(),
            datastore: self.datastore.clone(),
        }
    }
}

/// How a graph is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// The language of Graphviz.
    Dot,
    /// A picture.
    Svg,
    /// The document that the others are made of.
    Json,
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
