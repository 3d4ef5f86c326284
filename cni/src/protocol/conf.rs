//! The network configuration on standard input.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Dns, Success, Version};

/// A network configuration. The names are those of the original plugin; unknown keys are ignored.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct NetConf {
    /// `cniVersion`.
    pub version: Version,
    /// `name`: the network, and its default profile.
    pub name: String,
    /// `type`.
    pub kind: String,
    /// `mtu`, bytes; absent or 0: what the agent found.
    pub mtu: Option<u32>,
    /// `nodename`.
    pub nodename: Option<String>,
    /// `etcd_endpoints`, or `etcd_scheme` and `etcd_authority`, as URLs.
    pub etcd_endpoints: Vec<String>,
    /// `etcd_ca_cert_file`.
    pub etcd_ca: Option<PathBuf>,
    /// `etcd_cert_file`.
    pub etcd_cert: Option<PathBuf>,
    /// `etcd_key_file`.
    pub etcd_key: Option<PathBuf>,
    /// `etcd_username`.
    pub etcd_username: Option<String>,
    /// `etcd_password`.
    pub etcd_password: Option<String>,
    /// `datastore`: `etcd`, or `dir:<admin directory>`; absent: as `agent.toml` says.
    pub datastore: Option<String>,
    /// `config_dir`, `run_dir`, `state_dir` of the agent, where they are not the usual ones.
    pub config_dir: Option<PathBuf>,
    /// See `config_dir`.
    pub run_dir: Option<PathBuf>,
    /// See `config_dir`.
    pub state_dir: Option<PathBuf>,
    /// `policy_setup_timeout_seconds`: how long ADD waits for the policy; 0: not at all.
    pub policy_timeout: Option<Duration>,
    /// `endpoint_status_dir`.
    pub endpoint_status_dir: Option<PathBuf>,
    /// `gateway`: `link-local`, `host`, or absent: `host` for versions before 0.3.0 (rkt), whose
    /// port forwarding needs an address of the host there.
    pub gateway: Option<String>,
    /// `labels` of every endpoint of the network, and `args.cni.labels`.
    pub labels: BTreeMap<String, String>,
    /// `ips` in `args.cni` or `runtimeConfig`: addresses that the pod is to have.
    pub ips: Vec<IpAddr>,
    /// `runtimeConfig`.
    pub runtime: RuntimeConfig,
    /// `dns`: passed through.
    pub dns: Dns,
    /// `ipam`.
    pub ipam: IpamConf,
    /// `prevResult`.
    pub previous: Option<Success>,
    /// `cni.dev/valid-attachments` of GC: (container id, interface).
    pub valid_attachments: Option<Vec<(String, String)>>,
    /// The whole document, as it was: what a delegated plugin gets.
    pub document: Map<String, Value>,
}

/// `ipam`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct IpamConf {
    /// `type`: `calico-ipam`, or another plugin to delegate to.
    pub kind: String,
    /// `subnet`: the pool is created if none contains it.
    pub subnet: Option<String>,
    /// `assign_ipv4`; absent: true.
    pub assign_ipv4: Option<bool>,
    /// `assign_ipv6`; absent: false.
    pub assign_ipv6: Option<bool>,
    /// `ipv4_pools`: names or CIDRs.
    pub ipv4_pools: Vec<String>,
    /// `ipv6_pools`.
    pub ipv6_pools: Vec<String>,
}

/// What the runtime adds.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RuntimeConfig {
    /// `portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// `mac`.
    pub mac: Option<String>,
}

/// A forwarded port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Of the host.
    pub host_port: u16,
    /// Of the pod.
    pub container_port: u16,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
    /// Of the host.
    pub host_ip: Option<IpAddr>,
}
