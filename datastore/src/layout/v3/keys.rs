//! Keys of the v3 layout, in both directions.

mod blocks;

use crate::model::{
    AffinityId, Cidr, Family, FelixConfiguration, HostEndpointId, Name, NetworkSetId, PolicyId,
    ResourceId, WorkloadEndpointId,
};

pub use blocks::{block, blocks_around, blocks_of};

/// Everything that `calicoctl` manages.
pub const RESOURCES_PREFIX: &str = "/calico/resources/v3/projectcalico.org/";

/// Address allocation: blocks, affinities, handles.
pub const IPAM_PREFIX: &str = "/calico/ipam/v2/";

/// Every Profile lies under this prefix.
pub const PROFILES_PREFIX: &str = "/calico/resources/v3/projectcalico.org/profiles/";

/// Every Node lies under this prefix.
pub const NODES_PREFIX: &str = "/calico/resources/v3/projectcalico.org/nodes/";

/// Every IPPool lies under this prefix.
pub const POOLS_PREFIX: &str = "/calico/resources/v3/projectcalico.org/ippools/";

/// Every IPReservation lies under this prefix.
pub const RESERVATIONS_PREFIX: &str = "/calico/resources/v3/projectcalico.org/ipreservations/";

/// Every allocation block lies under this prefix, of both families.
pub const BLOCKS_PREFIX: &str = "/calico/ipam/v2/assignment/";

/// Every handle lies under this prefix.
pub const HANDLES_PREFIX: &str = "/calico/ipam/v2/handle/";

/// How addresses are allocated in the whole cluster.
pub const IPAM_CONFIG_KEY: &str = "/calico/ipam/v2/config";

/// ClusterInformation `default`: whether the store is ready.
pub const READY_KEY: &str = "/calico/resources/v3/projectcalico.org/clusterinformations/default";

/// Status of hosts and workload endpoints; `no-region` since the agent knows no OpenStack regions.
const STATUS_PREFIX: &str = "/calico/felix/v2/no-region/host/";

/// Status of host endpoints, which never moved to v2.
const STATUS_V1_PREFIX: &str = "/calico/felix/v1/host/";

/// What a key says by itself.
#[derive(Debug, PartialEq)]
pub(in crate::layout) enum Key {
    /// An object that the model has.
    Object(ResourceId),
    /// A resource that the model does not have, staged policies among them, which are never
    /// enforced; its plural.
    Unsupported(String),
    /// Nothing that concerns this agent.
    Ignored,
    /// A key of a kind that the model has, but malformed; why.
    Invalid(String),
}

/// Kinds that only other components use.
const IGNORED_KINDS: [&str; 4] = ["blockaffinities", "ipamblocks", "ipamconfigs", "ipamhandles"];

/// Reads a key.
pub(in crate::layout) fn parse(key: &str) -> Key {
    if let Some(rest) = key.strip_prefix(RESOURCES_PREFIX) {
        let (plural, path) = rest.split_once('/').unwrap_or((rest, ""));
        parse_resource(plural, path).unwrap_or_else(Key::Invalid)
    } else if let Some(rest) = key.strip_prefix(IPAM_PREFIX) {
        parse_ipam(rest).unwrap_or_else(Key::Invalid)
    } else {
        Key::Ignored
    }
}

fn parse_resource(plural: &str, path: &str) -> Result<Key, String> {
    let id = match plural {
        "clusterinformations" => match path {
            "default" => ResourceId::ClusterInformation,
            // There is only one; the original reads no other.
            _ => return Ok(Key::Ignored),
        },
        "felixconfigurations" => ResourceId::FelixConfiguration(global(path)?),
        "bgpconfigurations" => ResourceId::BgpConfiguration(global(path)?),
        "nodes" => ResourceId::Node(global(path)?),
        "ippools" => ResourceId::Pool(global(path)?),
        "tiers" => ResourceId::Tier(global(path)?),
        // The built-in profile is never stored; what is stored under its name must not replace it.
        "profiles" if path == crate::model::Profile::DEFAULT_ALLOW => return Ok(Key::Ignored),
        "profiles" => ResourceId::Profile(global(path)?),
        "hostendpoints" => ResourceId::HostEndpoint(HostEndpointId { name: global(path)? }),
        "globalnetworkpolicies" => {
            ResourceId::Policy(PolicyId { namespace: None, name: global(path)? })
        }
        "networkpolicies" => {
            let (namespace, name) = namespaced(path)?;
            ResourceId::Policy(PolicyId { namespace: Some(namespace), name })
        }
        "globalnetworksets" => {
            ResourceId::NetworkSet(NetworkSetId { namespace: None, name: global(path)? })
        }
        "networksets" => {
            let (namespace, name) = namespaced(path)?;
            ResourceId::NetworkSet(NetworkSetId { namespace: Some(namespace), name })
        }
        "workloadendpoints" => {
            let (namespace, name) = namespaced(path)?;
            let [node, orchestrator, workload, endpoint] = split_endpoint_name(name.as_str())
                .ok_or_else(|| {
                    format!(
                        "{name:?} is not <node>-<orchestrator>-<workload>-<endpoint> with the \
                         dashes inside each part doubled"
                    )
                })?;
            ResourceId::WorkloadEndpoint(WorkloadEndpointId {
                node: node.into(),
                orchestrator: orchestrator.into(),
                workload: format!("{namespace}/{workload}").into(),
                endpoint: endpoint.into(),
            })
        }
        ignored if IGNORED_KINDS.contains(&ignored) => return Ok(Key::Ignored),
        other => return Ok(Key::Unsupported(other.to_owned())),
    };
    Ok(Key::Object(id))
}

fn global(path: &str) -> Result<Name, String> {
    check_name(path)?;
    Ok(Name::from(path))
}

fn namespaced(path: &str) -> Result<(Name, Name), String> {
    let (namespace, name) =
        path.split_once('/').ok_or_else(|| format!("{path:?} is not <namespace>/<name>"))?;
    Ok((global(namespace)?, global(name)?))
}

/// Names become parts of file names, of comments in the kernel and of log lines, so only the
/// characters that an honest writer uses are accepted: `A-Z a-z 0-9 _ . -`.
pub(in crate::layout) fn check_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if !name.is_empty() && name != "." && name != ".." && name.bytes().all(plain) {
        Ok(())
    } else {
        Err(format!("{name:?} is not a name (one or more of A-Z a-z 0-9 _ . -)"))
    }
}

/// Splits the name of a workload endpoint. A dash before another dash stands for one dash of the
/// part it is in; any other dash ends the part.
fn split_endpoint_name(name: &str) -> Option<[String; 4]> {
    let mut parts = vec![String::new()];
    let mut characters = name.chars().peekable();
    while let Some(c) = characters.next() {
        if c == '-' && characters.next_if_eq(&'-').is_none() {
            parts.push(String::new());
        } else {
            parts.last_mut()?.push(c);
        }
    }
    // A dash at an end would make two names read alike (`a---b`).
    let whole = |part: &String| !part.is_empty() && !part.starts_with('-') && !part.ends_with('-');
    parts.iter().all(whole).then_some(parts)?.try_into().ok()
}

fn join_endpoint_name(parts: [&str; 4]) -> String {
    parts.map(|part| part.replace('-', "--")).join("-")
}

fn parse_ipam(rest: &str) -> Result<Key, String> {
    let segments: Vec<&str> = rest.split('/').collect();
    Ok(match segments[..] {
        ["assignment", family @ ("ipv4" | "ipv6"), "block", block] => {
            Key::Object(ResourceId::Block(parse_block(family, block)?))
        }
        ["host", host, family @ ("ipv4" | "ipv6"), "block", block] => {
            let id = AffinityId { host: global(host)?, block: parse_block(family, block)? };
            Key::Object(ResourceId::Affinity(id))
        }
        _ => Key::Ignored,
    })
}

/// `192.168.0.0-26` and `fd80::-122`: a CIDR whose slash is a dash.
fn parse_block(family: &str, text: &str) -> Result<Cidr, String> {
    let bad = || format!("{text:?} is not an {family} block with a dash for the slash");
    let (address, len) = text.rsplit_once('-').ok_or_else(bad)?;
    let cidr: Cidr = format!("{address}/{len}").parse().map_err(|_| bad())?;
    // Host bits, or another spelling of the address, would make two keys name one block.
    let exact = block_segment(cidr) == format!("{family}/block/{text}");
    if exact { Ok(cidr) } else { Err(bad()) }
}

fn family_directory(cidr: Cidr) -> &'static str {
    match cidr.family() {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn block_segment(cidr: Cidr) -> String {
    format!("{}/block/{}-{}", family_directory(cidr), cidr.address(), cidr.prefix_len())
}

/// The key of an object; `None` for an id that only another layout can have (a workload without a
/// namespace).
pub fn key_of(id: &ResourceId) -> Option<String> {
    let path = match id {
        ResourceId::ClusterInformation => "clusterinformations/default".to_owned(),
        ResourceId::FelixConfiguration(name) => format!("felixconfigurations/{name}"),
        ResourceId::BgpConfiguration(name) => format!("bgpconfigurations/{name}"),
        ResourceId::Node(name) => format!("nodes/{name}"),
        ResourceId::Pool(name) => format!("ippools/{name}"),
        ResourceId::Tier(name) => format!("tiers/{name}"),
        ResourceId::Profile(name) => format!("profiles/{name}"),
        ResourceId::HostEndpoint(id) => format!("hostendpoints/{}", id.name),
        ResourceId::Policy(PolicyId { namespace: None, name }) => {
            format!("globalnetworkpolicies/{name}")
        }
        ResourceId::Policy(PolicyId { namespace: Some(namespace), name }) => {
            format!("networkpolicies/{namespace}/{name}")
        }
        ResourceId::NetworkSet(NetworkSetId { namespace: None, name }) => {
            format!("globalnetworksets/{name}")
        }
        ResourceId::NetworkSet(NetworkSetId { namespace: Some(namespace), name }) => {
            format!("networksets/{namespace}/{name}")
        }
        ResourceId::WorkloadEndpoint(id) => {
            let (namespace, workload) = id.workload.as_str().split_once('/')?;
            let parts =
                [id.node.as_str(), id.orchestrator.as_str(), workload, id.endpoint.as_str()];
            format!("workloadendpoints/{namespace}/{}", join_endpoint_name(parts))
        }
        ResourceId::Block(cidr) => {
            return Some(block(*cidr));
        }
        ResourceId::Affinity(id) => {
            return Some(affinity(&id.host, id.block));
        }
    };
    Some(format!("{RESOURCES_PREFIX}{path}"))
}

/// The key of a node.
pub fn node(name: &Name) -> String {
    format!("{NODES_PREFIX}{name}")
}

/// The name in the key of a node; `None` for a key of something else. Not checked: what is stored
/// under a name that is none can still be named.
pub fn name_of_node(key: &str) -> Option<&str> {
    key.strip_prefix(NODES_PREFIX)
}

/// The key of a pool.
pub fn pool(name: &Name) -> String {
    format!("{POOLS_PREFIX}{name}")
}

/// The key of a profile.
pub fn profile(name: &Name) -> String {
    format!("{RESOURCES_PREFIX}profiles/{name}")
}

/// The key of a workload endpoint; `None` for one without a namespace, which only another layout
/// can have.
pub fn workload_endpoint(id: &WorkloadEndpointId) -> Option<String> {
    key_of(&ResourceId::WorkloadEndpoint(id.clone()))
}

/// What the keys of all endpoints of one workload on its node begin with: the interfaces of a pod.
pub fn workload_endpoints_beside(id: &WorkloadEndpointId) -> Option<String> {
    let (namespace, workload) = id.workload.as_str().split_once('/')?;
    let parts = [id.node.as_str(), id.orchestrator.as_str(), workload];
    let parts = parts.map(|part| part.replace('-', "--")).join("-");
    Some(format!("{RESOURCES_PREFIX}workloadendpoints/{namespace}/{parts}-"))
}

/// What the keys of all endpoints of a node that one orchestrator made in a namespace begin with.
pub fn workload_endpoints_of(node: &Name, orchestrator: &str, namespace: &str) -> String {
    let parts = [node.as_str(), orchestrator].map(|part| part.replace('-', "--")).join("-");
    format!("{RESOURCES_PREFIX}workloadendpoints/{namespace}/{parts}-")
}

/// The key of the FelixConfiguration of the whole cluster.
pub fn felix_configuration_default() -> String {
    format!("{RESOURCES_PREFIX}felixconfigurations/{}", FelixConfiguration::CLUSTER)
}

/// The key of the FelixConfiguration of one node.
pub fn felix_configuration_of(node: &Name) -> String {
    format!("{RESOURCES_PREFIX}felixconfigurations/{}", FelixConfiguration::name_of(node))
}

/// The block in the key of one; `None` for a key of something else.
pub fn cidr_of_block(key: &str) -> Option<Cidr> {
    match parse(key) {
        Key::Object(ResourceId::Block(cidr)) => Some(cidr),
        _ => None,
    }
}

/// The key of a host's affinity to a block.
pub fn affinity(host: &Name, block: Cidr) -> String {
    format!("{}{}", affinities_of(host), block_segment(block))
}

/// The key of a handle.
pub fn handle(id: &str) -> String {
    format!("{HANDLES_PREFIX}{id}")
}

/// The handle in the key of one; `None` for a key of something else.
pub fn id_of_handle(key: &str) -> Option<&str> {
    key.strip_prefix(HANDLES_PREFIX).filter(|id| is_handle(id))
}

/// Whether a text can be a handle: it is one segment of a key, and of a path where the store is a
/// directory.
pub fn is_handle(id: &str) -> bool {
    !matches!(id, "" | "." | "..") && !id.contains(|c: char| c == '/' || c.is_control())
}

/// The prefix of a host's block affinities, of both families.
pub fn affinities_of(host: &Name) -> String {
    format!("{IPAM_PREFIX}host/{host}/")
}

/// Where a host says that it is alive; written with a lease.
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
    format!(
        "{}{}/{}/endpoint/{}",
        workload_statuses_of(&id.node),
        escape(id.orchestrator.as_str()),
        escape(id.workload.as_str()),
        escape(id.endpoint.as_str())
    )
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
    format!("{STATUS_V1_PREFIX}{host}/endpoint/")
}

/// Where the status of a host endpoint is written.
pub fn host_endpoint_status(host: &Name, id: &HostEndpointId) -> String {
    format!("{}{}", host_endpoint_statuses_of(host), escape(id.name.as_str()))
}

/// `%` first, so that a literal `%2f` survives; nothing else is escaped.
fn escape(segment: &str) -> String {
    segment.replace('%', "%25").replace('/', "%2f")
}

fn unescape(segment: &str) -> String {
    segment.replace("%2f", "/").replace("%25", "%")
}
