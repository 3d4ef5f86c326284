//! The options of `calico-agent explain`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{DirectoryArgs, Output, RunArgs};
use crate::explain::Question;

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
    /// Where its files are.
    #[command(flatten)]
    pub directories: DirectoryArgs,
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
            directories: self.directories.clone(),
            nodename: self.nodename.clone(),
            etcd_endpoints: self.etcd_endpoints.clone(),
            datastore: self.datastore.clone(),
            ..RunArgs::default()
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
