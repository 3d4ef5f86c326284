//! The `spec` of each kind, fields in Go's order.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Spec;

macro_rules! kind {
    ($type:ident, $plural:literal) => {
        impl Spec for $type {
            const KIND: &'static str = stringify!($type);
            const PLURAL: &'static str = $plural;
        }
    };
}

kind!(ClusterInformation, "clusterinformations");
kind!(FelixConfiguration, "felixconfigurations");
kind!(BGPConfiguration, "bgpconfigurations");
kind!(IPPool, "ippools");
kind!(WorkloadEndpoint, "workloadendpoints");
kind!(Profile, "profiles");
kind!(Tier, "tiers");
kind!(GlobalNetworkPolicy, "globalnetworkpolicies");
kind!(NetworkPolicy, "networkpolicies");

impl Spec for Node {
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";
    const HAS_STATUS: bool = true;
}

/// Whether the datastore may be used.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterInformation {
    /// 32 hexadecimal digits.
    #[serde(rename = "clusterGUID")]
    pub cluster_guid: String,
    /// `bgp`.
    #[serde(rename = "clusterType")]
    pub cluster_type: String,
    /// `v3.29.0`.
    #[serde(rename = "calicoVersion")]
    pub calico_version: String,
    /// Anything but true stops every client.
    #[serde(rename = "datastoreReady")]
    pub datastore_ready: bool,
}

/// Settings of all hosts (`default`) or of one (`node.<name>`).
#[derive(Clone, Debug, Default, Serialize)]
pub struct FelixConfiguration {
    /// `Drop`, `Return` or `Accept`.
    #[serde(rename = "defaultEndpointToHostAction", skip_serializing_if = "Option::is_none")]
    pub endpoint_to_host: Option<String>,
    /// Always there since 3.13.
    #[serde(rename = "bpfLogLevel")]
    pub bpf_log_level: String,
}

/// BGP of the cluster.
#[derive(Clone, Debug, Serialize)]
pub struct BGPConfiguration {
    /// `Info`.
    #[serde(rename = "logSeverityScreen")]
    pub log_severity: String,
    /// Every node peers with every other.
    #[serde(rename = "nodeToNodeMeshEnabled")]
    pub mesh: bool,
    /// The AS of nodes that have no own.
    #[serde(rename = "asNumber")]
    pub as_number: u32,
}

/// A host.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Its addresses as a router.
    pub bgp: NodeBgp,
}

/// A host's addresses as a router.
#[derive(Clone, Debug, Serialize)]
pub struct NodeBgp {
    /// Address and prefix length.
    #[serde(rename = "ipv4Address")]
    pub ipv4: String,
    /// Address and prefix length.
    #[serde(rename = "ipv6Address")]
    pub ipv6: String,
}

/// A range from which pods get addresses.
#[derive(Clone, Debug, Serialize)]
pub struct IPPool {
    /// The range.
    pub cidr: String,
    /// `Never`, `Always` or `CrossSubnet`.
    #[serde(rename = "vxlanMode")]
    pub vxlan_mode: String,
    /// `Never`, `Always` or `CrossSubnet`.
    #[serde(rename = "ipipMode")]
    pub ipip_mode: String,
    /// Pods reach the world under their host's address.
    #[serde(rename = "natOutgoing", skip_serializing_if = "std::ops::Not::not")]
    pub nat_outgoing: bool,
    /// Prefix length of the blocks that hosts take.
    #[serde(rename = "blockSize")]
    pub block_size: u8,
    /// Which nodes use it.
    #[serde(rename = "nodeSelector")]
    pub node_selector: String,
    /// What for.
    #[serde(rename = "allowedUses")]
    pub allowed_uses: Vec<String>,
}

impl IPPool {
    /// A pool without overlay for pods and tunnels.
    pub fn plain(cidr: &str, block_size: u8, nat_outgoing: bool) -> Self {
        Self {
            cidr: cidr.to_owned(),
            vxlan_mode: "Never".to_owned(),
            ipip_mode: "Never".to_owned(),
            nat_outgoing,
            block_size,
            node_selector: "all()".to_owned(),
            allowed_uses: vec!["Workload".to_owned(), "Tunnel".to_owned()],
        }
    }
}

/// A pod's interface.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WorkloadEndpoint {
    /// `cni`.
    pub orchestrator: String,
    /// The host.
    pub node: String,
    /// rkt: the pod's UUID.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface's name inside the pod.
    pub endpoint: String,
    /// Its addresses as /32 and /128.
    #[serde(rename = "ipNetworks")]
    pub networks: Vec<String>,
    /// Its networks.
    pub profiles: Vec<String>,
    /// The host side of its veth.
    #[serde(rename = "interfaceName")]
    pub interface: String,
    /// The pod side's Ethernet address.
    pub mac: String,
    /// Ports that policies may name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
}

/// A port with a name.
#[derive(Clone, Debug, Serialize)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: u16,
    #[serde(rename = "hostPort")]
    host_port: u16,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

impl NamedPort {
    /// A port of the pod itself.
    pub fn new(name: &str, protocol: &str, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            protocol: protocol.to_owned(),
            port,
            host_port: 0,
            host_ip: String::new(),
        }
    }
}

/// Rules and labels of a network.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// To the pod.
    pub ingress: Vec<Rule>,
    /// From the pod.
    pub egress: Vec<Rule>,
    /// Labels that its endpoints inherit.
    #[serde(rename = "labelsToApply")]
    pub labels_to_apply: BTreeMap<String, String>,
}

/// A stage of policies.
#[derive(Clone, Debug, Serialize)]
pub struct Tier {
    /// Lower comes first.
    pub order: u32,
    /// `Deny` or `Pass`, for pods which a policy of the tier selects and none decides.
    #[serde(rename = "defaultAction")]
    pub default_action: String,
}

/// Rules for the endpoints that a selector matches.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NetworkPolicy {
    /// Absent in default-tier policies of 3.29.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Lower comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// To the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Rule>,
    /// From the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Rule>,
    /// Which endpoints.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// `Ingress`, `Egress`.
    pub types: Vec<String>,
}

/// The same without namespace.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct GlobalNetworkPolicy(pub NetworkPolicy);

/// One rule.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rule {
    /// `Allow`, `Deny`, `Log` or `Pass`.
    pub action: String,
    /// 4 or 6.
    #[serde(rename = "ipVersion", skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<u8>,
    /// `TCP`, `UDP`…
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Where from.
    pub source: Entity,
    /// Where to.
    pub destination: Entity,
}

impl Rule {
    /// A rule that matches everything.
    pub fn new(action: &str) -> Self {
        Self { action: action.to_owned(), ..Self::default() }
    }

    /// Only this protocol.
    #[must_use]
    pub fn protocol(mut self, protocol: &str) -> Self {
        self.protocol = Some(protocol.to_owned());
        self
    }

    /// Only from there.
    #[must_use]
    pub fn from(mut self, source: Entity) -> Self {
        self.source = source;
        self
    }

    /// Only to there.
    #[must_use]
    pub fn to(mut self, destination: Entity) -> Self {
        self.destination = destination;
        self
    }
}

/// One side of a rule.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Entity {
    /// Addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<String>,
    /// Endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Port numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

impl Entity {
    /// The endpoints that `selector` matches.
    pub fn selector(selector: &str) -> Self {
        Self { selector: Some(selector.to_owned()), ..Self::default() }
    }

    /// These ports.
    pub fn ports(ports: impl IntoIterator<Item = Port>) -> Self {
        Self { ports: ports.into_iter().collect(), ..Self::default() }
    }
}

/// A port in a rule.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Port {
    /// `80`.
    Number(u16),
    /// `"http"`, `"8000:8100"`.
    Text(String),
}
