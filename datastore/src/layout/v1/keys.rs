//! Keys of the v1 layout, in both directions.

use crate::layout::v3;
use crate::layout::v3::IPAM_PREFIX;
use crate::model::{
    Cidr, FelixConfiguration, HostEndpointId, Name, PolicyId, Profile, ResourceId,
    WorkloadEndpointId,
};

/// Endpoints, policy, settings, pools.
pub const V1_PREFIX: &str = "/calico/v1/";

/// What BIRD is told.
pub const BGP_PREFIX: &str = "/calico/bgp/v1/";

/// Whether anything may be programmed.
pub const READY_KEY: &str = "/calico/v1/Ready";

/// The tier that every writer but pycalico puts its policies into.
pub const DEFAULT_TIER: &str = "default";

/// Status of hosts and endpoints.
const STATUS_PREFIX: &str = "/calico/felix/v1/host/";

/// The longest name, in bytes: what etcd's keys and the kernel's logs can do with.
const NAME_MAX: usize = 512;

/// What a key says by itself.
#[derive(Debug, PartialEq)]
pub(super) enum Key {
    /// A whole object.
    Object(ResourceId),
    /// A part of an object, and which.
    Part(ResourceId, Piece),
    /// Something that the model does not have; what v3 calls its kind.
    Unsupported(&'static str),
    /// Nothing that concerns this agent.
    Ignored,
    /// A key of a kind that the model has, but malformed; why.
    Invalid(String),
}

/// Which part of an object a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A profile's tags.
    Tags,
    /// A profile's labels.
    Labels,
    /// A profile's rules.
    Rules,
    /// A setting of the cluster or of a host, by its name.
    Setting(Name),
    /// That there is such a node.
    Metadata,
    /// The address at which other hosts reach a node.
    BirdIp,
    /// The address of a node's IPIP tunnel.
    TunnelAddress,
    /// The address at which a node speaks BGP.
    BgpAddress(Ip),
    /// The network that this address is in.
    BgpNetwork(Ip),
    /// An AS number, a node's own or the cluster's.
    AsNumber,
    /// Whether every node peers with every other.
    Mesh,
    /// BIRD's log level.
    LogLevel,
}

/// A family, as keys have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ip {
    V4,
    V6,
}

/// Reads a key.
pub(super) fn parse(key: &str) -> Key {
    let parsed = if let Some(rest) = key.strip_prefix(V1_PREFIX) {
        v1(rest)
    } else if let Some(rest) = key.strip_prefix(BGP_PREFIX) {
        bgp(rest)
    } else if key.starts_with(IPAM_PREFIX) {
        Ok(match v3::keys::parse(key) {
            v3::keys::Key::Object(id) => Key::Object(id),
            v3::keys::Key::Invalid(reason) => Key::Invalid(reason),
            _ => Key::Ignored,
        })
    } else {
        Ok(Key::Ignored)
    };
    parsed.unwrap_or_else(Key::Invalid)
}

fn v1(rest: &str) -> Result<Key, String> {
    let segments: Vec<&str> = rest.split('/').collect();
    Ok(match segments[..] {
        ["Ready"] => Key::Object(ResourceId::ClusterInformation),
        ["config", name] => setting(Name::from(FelixConfiguration::CLUSTER), name),
        ["host", host, "config", "IpInIpTunnelAddr"] => {
            Key::Part(ResourceId::Node(host_name(host)?), Piece::TunnelAddress)
        }
        ["host", host, "config", name] => {
            setting(FelixConfiguration::name_of(&host_name(host)?), name)
        }
        ["host", host, "metadata"] => {
            Key::Part(ResourceId::Node(host_name(host)?), Piece::Metadata)
        }
        ["host", host, "bird_ip"] => Key::Part(ResourceId::Node(host_name(host)?), Piece::BirdIp),
        ["host", host, "workload", orchestrator, workload, "endpoint", endpoint] => {
            Key::Object(ResourceId::WorkloadEndpoint(WorkloadEndpointId {
                node: host_name(host)?,
                orchestrator: name(orchestrator)?,
                workload: name(workload)?,
                endpoint: name(endpoint)?,
            }))
        }
        ["host", host, "endpoint", endpoint] => {
            let (host, endpoint) = (host_name(host)?, name(endpoint)?);
            Key::Object(ResourceId::HostEndpoint(HostEndpointId {
                name: Name::from(format!("{host}/{endpoint}")),
            }))
        }
        // The built-in profile of v3, which this layout knows nothing of.
        ["policy", "profile", Profile::DEFAULT_ALLOW, _] => Key::Ignored,
        ["policy", "profile", profile, piece] => {
            let piece = match piece {
                "tags" => Piece::Tags,
                "labels" => Piece::Labels,
                "rules" => Piece::Rules,
                _ => return Ok(Key::Ignored),
            };
            Key::Part(ResourceId::Profile(name(profile)?), piece)
        }
        ["policy", "tier", tier, "metadata"] => Key::Object(ResourceId::Tier(tier_name(tier)?)),
        ["policy", "tier", tier, "policy", policy] => Key::Object(ResourceId::Policy(PolicyId {
            namespace: None,
            name: policy_name(&tier_name(tier)?, &name(policy)?),
        })),
        ["ipam", "v4" | "v6", "pool", pool] => {
            cidr_of_pool(pool).ok_or_else(|| format!("{pool:?} is no CIDR"))?;
            Key::Object(ResourceId::Pool(Name::from(pool)))
        }
        _ => Key::Ignored,
    })
}

/// Settings that are something else: what pycalico keeps for itself, and where BGP's were once.
fn setting(object: Name, name: &str) -> Key {
    if name.is_empty() || name == "marker" || name.starts_with("bgp_") {
        return Key::Ignored;
    }
    Key::Part(ResourceId::FelixConfiguration(object), Piece::Setting(Name::from(name)))
}

fn bgp(rest: &str) -> Result<Key, String> {
    let segments: Vec<&str> = rest.split('/').collect();
    let cluster = || ResourceId::BgpConfiguration(Name::from("default"));
    Ok(match segments[..] {
        ["global", "as_num"] => Key::Part(cluster(), Piece::AsNumber),
        ["global", "node_mesh"] => Key::Part(cluster(), Piece::Mesh),
        ["global", "loglevel"] => Key::Part(cluster(), Piece::LogLevel),
        ["global", "peer_v4" | "peer_v6", _] | ["host", _, "peer_v4" | "peer_v6", _] => {
            Key::Unsupported("bgppeers")
        }
        ["global", "custom_filters", "v4" | "v6", _] => Key::Unsupported("bgpfilters"),
        ["host", host, "loglevel"] => {
            let name = FelixConfiguration::name_of(&host_name(host)?);
            Key::Part(ResourceId::BgpConfiguration(name), Piece::LogLevel)
        }
        ["host", host, what] => {
            let piece = match what {
                "ip_addr_v4" => Piece::BgpAddress(Ip::V4),
                "ip_addr_v6" => Piece::BgpAddress(Ip::V6),
                "network_v4" => Piece::BgpNetwork(Ip::V4),
                "network_v6" => Piece::BgpNetwork(Ip::V6),
                "as_num" => Piece::AsNumber,
                _ => return Ok(Key::Ignored),
            };
            Key::Part(ResourceId::Node(host_name(host)?), piece)
        }
        _ => Key::Ignored,
    })
}

/// The name of a policy by itself: its own in the tier that almost all are in, else behind its
/// tier's, as v3 writes it. Two tiers may have policies of one name.
fn policy_name(tier: &Name, policy: &Name) -> Name {
    if *tier == DEFAULT_TIER { policy.clone() } else { Name::from(format!("{tier}.{policy}")) }
}

/// The tier in the key of a policy.
pub(super) fn tier_of(key: &str) -> Name {
    let tier = key.split('/').nth(5).unwrap_or(DEFAULT_TIER);
    Name::from(tier)
}

/// The host in the key of something of a host.
pub(super) fn host_of(key: &str) -> Name {
    Name::from(key.split('/').nth(4).unwrap_or_default())
}

/// The prefix in the key of a pool: the dash stands for the slash.
pub(super) fn cidr_of_pool(segment: &str) -> Option<Cidr> {
    let (address, len) = segment.rsplit_once('-')?;
    format!("{address}/{len}").parse().ok()
}

/// Names of hosts and of tiers are never escaped.
fn host_name(segment: &str) -> Result<Name, String> {
    v3::keys::check_name(segment)?;
    Ok(Name::from(segment))
}

fn tier_name(segment: &str) -> Result<Name, String> {
    host_name(segment)
}

fn name(segment: &str) -> Result<Name, String> {
    check_name(&unescape(segment)).map(Name::from)
}

/// Names become parts of comments in the kernel and of log lines. Beside the characters of v3 there
/// are those that writers escape, and a few that orchestrators use.
pub(super) fn check_name(text: &str) -> Result<&str, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-/%:@~+=,".contains(&b);
    if (1..=NAME_MAX).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(plain)
    {
        Ok(text)
    } else {
        let shown: String = text.chars().take(NAME_MAX).collect();
        Err(format!("{shown:?} is not a name (one or more of A-Z a-z 0-9 _ . - / % : @ ~ + = ,)"))
    }
}

/// `%` first, so that a literal `%2f` survives; nothing else is escaped.
fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f")
}

/// The reverse, in the reverse order. Capitals (`%2F`) are not escapes.
fn unescape(segment: &str) -> String {
    segment.replace("%2f", "/").replace("%25", "%")
}

/// Where a host says that it is alive; it vanishes when the host does not write it again.
pub fn host_status(host: &Name) -> String {
    format!("{STATUS_PREFIX}{host}/status")
}

/// Where a host's last report stays when the host does not.
pub fn host_last_status(host: &Name) -> String {
    format!("{STATUS_PREFIX}{host}/last_reported_status")
}

/// The prefix of a host's workload endpoint statuses.
pub fn workload_statuses_of(host: &Name) -> String {
    format!("{STATUS_PREFIX}{host}/workload/")
}

/// Where the status of a workload endpoint is written.
pub fn workload_status(id: &WorkloadEndpointId) -> String {
    let [orchestrator, workload, endpoint] =
        [&id.orchestrator, &id.workload, &id.endpoint].map(|name| escape(name.as_str()));
    let prefix = workload_statuses_of(&id.node);
    format!("{prefix}{orchestrator}/{workload}/endpoint/{endpoint}")
}

/// The workload endpoint that a status key is about, so that left-over statuses can be found.
pub fn workload_of_status(key: &str) -> Option<WorkloadEndpointId> {
    let segments: Vec<&str> = key.strip_prefix(STATUS_PREFIX)?.split('/').collect();
    match segments[..] {
        [node, "workload", orchestrator, workload, "endpoint", endpoint] => {
            Some(WorkloadEndpointId {
                node: node.into(),
                orchestrator: unescape(orchestrator).into(),
                workload: unescape(workload).into(),
                endpoint: unescape(endpoint).into(),
            })
        }
        _ => None,
    }
}

/// The prefix of a host's host endpoint statuses.
pub fn host_endpoint_statuses_of(host: &Name) -> String {
    format!("{STATUS_PREFIX}{host}/endpoint/")
}

/// Where the status of a host endpoint is written.
pub fn host_endpoint_status(host: &Name, id: &HostEndpointId) -> String {
    let id = id.name.as_str();
    let own = id.strip_prefix(host.as_str()).and_then(|rest| rest.strip_prefix('/'));
    format!("{}{}", host_endpoint_statuses_of(host), escape(own.unwrap_or(id)))
}

/// The key of an object that is one; `None` for one that is many, and for one that only another
/// layout can have.
pub fn key_of(id: &ResourceId) -> Option<String> {
    let path = match id {
        ResourceId::ClusterInformation => "Ready".to_owned(),
        ResourceId::WorkloadEndpoint(id) => {
            let [orchestrator, workload, endpoint] =
                [&id.orchestrator, &id.workload, &id.endpoint].map(|name| escape(name.as_str()));
            let node = &id.node;
            format!("host/{node}/workload/{orchestrator}/{workload}/endpoint/{endpoint}")
        }
        ResourceId::HostEndpoint(id) => {
            let (host, endpoint) = id.name.as_str().split_once('/')?;
            format!("host/{host}/endpoint/{}", escape(endpoint))
        }
        ResourceId::Tier(tier) => format!("policy/tier/{tier}/metadata"),
        ResourceId::Pool(name) => {
            let family = match cidr_of_pool(name.as_str())?.family() {
                crate::model::Family::V4 => "v4",
                crate::model::Family::V6 => "v6",
            };
            format!("ipam/{family}/pool/{name}")
        }
        ResourceId::Block(_) | ResourceId::Affinity(_) => return v3::keys::key_of(id),
        _ => return None,
    };
    Some(format!("{V1_PREFIX}{path}"))
}
