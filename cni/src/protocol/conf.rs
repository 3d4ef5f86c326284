//! The network configuration on standard input.

mod del;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{CniError, Dns, Success, Version};

/// The `type` of our own address management.
pub const CALICO_IPAM: &str = "calico-ipam";

/// A network configuration. The names are those of the original plugin; unknown keys are ignored.
#[derive(Clone, PartialEq, Default)]
pub struct NetConf {
    /// `cniVersion`.
    pub version: Version,
    /// `name`: the network, and its default profile.
    pub name: String,
    /// `type`.
    pub kind: String,
    /// `mtu`, bytes; absent or 0: what the agent found.
    pub mtu: Option<u32>,
    /// `nodename`, or its old name `hostname`.
    pub nodename: Option<String>,
    /// `nodename_file`: holds the node's name, where it is not the usual one.
    pub nodename_file: Option<PathBuf>,
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
    /// `datastore`: `etcd`, `directory`, or `dir:/path`; absent: what `datastore_type` says
    /// (`etcdv3` is `etcd` here), else as `agent.toml` says.
    pub datastore: Option<String>,
    /// `config_dir`, `run_dir`, `state_dir` of the agent, where they are not the usual ones.
    pub config_dir: Option<PathBuf>,
    /// See `config_dir`.
    pub run_dir: Option<PathBuf>,
    /// See `config_dir`.
    pub state_dir: Option<PathBuf>,
    /// `policy_setup_timeout_seconds`: how long ADD waits for the policy, at most an
    /// hour; 0: not at all.
    pub policy_timeout: Option<Duration>,
    /// `endpoint_status_dir`.
    pub endpoint_status_dir: Option<PathBuf>,
    /// `gateway`: `link-local`, `host`, or absent: `host` for versions before 0.3.0 (rkt), whose
    /// port forwarding needs an address of the host there.
    pub gateway: Option<String>,
    /// `labels` of every endpoint of the network, and those that the runtime adds for a pod
    /// (`args.cni.labels`, or Mesos's own). The runtime cannot change one of the network.
    pub labels: BTreeMap<String, String>,
    /// `ips` of `runtimeConfig`, else of `args.cni`: addresses that the pod is to have.
    pub ips: Vec<IpAddr>,
    /// `runtimeConfig`.
    pub runtime: RuntimeConfig,
    /// `dns`, passed through; what `runtimeConfig.dns` says replaces it, field by field.
    pub dns: Dns,
    /// `ipam`.
    pub ipam: IpamConf,
    /// `prevResult`, when it can be read.
    pub previous: Option<Success>,
    /// `cni.dev/valid-attachments` of GC: (container id, interface). `null` is an empty list: what
    /// Go's runtimes write when no container is left.
    pub valid_attachments: Option<Vec<(String, String)>>,
    /// What DEL does not know, since it overlooked a mistake.
    pub overlooked: Overlooked,
    /// The whole document.
    pub document: Map<String, Value>,
}

/// Mistakes that do not keep a DEL from what it can do without the field.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Overlooked {
    /// `name`: without it the addresses of a pod that has no record are not found.
    pub name: Option<CniError>,
    /// One of those that say where the datastore is: another one is no substitute.
    pub datastore: Option<CniError>,
}

impl NetConf {
    /// Whether the gateway in the result is an address of the host (true), or 169.254.1.1 and its
    /// like. See [`NetConf::gateway`].
    pub fn says_host_as_gateway(&self) -> bool {
        match self.gateway.as_deref() {
            Some(gateway) => gateway == "host",
            None => self.version.has_one_address_per_family(),
        }
    }
}

impl fmt::Debug for NetConf {
    /// Without the password: the document has it too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetConf")
            .field("version", &self.version)
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("nodename", &self.nodename)
            .field("datastore", &self.datastore)
            .field("etcd_endpoints", &self.etcd_endpoints)
            .field("ipam", &self.ipam)
            .field("ips", &self.ips)
            .field("labels", &self.labels)
            .field("runtime", &self.runtime)
            .field("previous", &self.previous)
            .finish_non_exhaustive()
    }
}

/// `ipam`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct IpamConf {
    /// `type`: `calico-ipam` (also when absent), or another plugin to delegate to, whose fields
    /// are its own: those below are not read then.
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

impl IpamConf {
    /// Whether addresses come from another plugin.
    pub fn is_delegated(&self) -> bool {
        self.kind != CALICO_IPAM
    }
}

/// What the runtime adds.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RuntimeConfig {
    /// `portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// `mac`, in any of the usual forms.
    pub mac: Option<String>,
}

/// A forwarded port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Of the host; 0: none.
    pub host_port: u16,
    /// Of the pod.
    pub container_port: u16,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
    /// Of the host.
    pub host_ip: Option<IpAddr>,
}

#[cfg(test)]
mod tests;
