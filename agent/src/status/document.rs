//! What `calico-agent status` answers: one document, for people as a table and for programs as
//! JSON. Fields are only ever added.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::drift::Change;
use crate::felix::tally::EndpointCounters;
use crate::reconcile::{EndpointState, Problem};
use crate::routes::bird::BgpSession;

/// In one word, how the host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overall {
    /// No complete snapshot yet, or it is not in the kernel yet.
    Starting,
    /// Everything that the store asks for is in force.
    Ready,
    /// The host works, but something in the lists below needs somebody.
    Degraded,
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusDocument {
    /// This host's name in the datastore.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// The agent's process id.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// In one word.
    pub state: Overall,
    /// Loops of the agent that give no sign of life. The rest of this document may be old then.
    #[serde(default)]
    pub hanging: Vec<HangingLoop>,
    /// The datastore.
    pub datastore: DatastoreStatus,
    /// Set while what is in force comes from disk, because the datastore has not answered since the
    /// host was started.
    #[serde(default)]
    pub stored: Option<StoredStatus>,
    /// What rkt may have left behind; absent while it is not looked for.
    #[serde(default)]
    pub collector: Option<CollectorStatus>,
    /// The number of the newest calculated state; 0 before the first.
    pub generation: u64,
    /// The parts of the dataplane.
    pub parts: Vec<PartStatus>,
    /// Every endpoint of this host.
    pub endpoints: Vec<EndpointStatus>,
    /// Why their packets are not told.
    #[serde(default)]
    pub counters_error: Option<String>,
    /// Every host endpoint of this host.
    #[serde(default)]
    pub host_endpoints: Vec<HostEndpointStatus>,
    /// Ports of this host that others lead to its endpoints, and whether policy lets the outside in.
    #[serde(default)]
    pub forwarded_ports: Vec<ForwardedPortStatus>,
    /// Why there are none to show.
    #[serde(default)]
    pub forwarded_ports_error: Option<String>,
    /// How many other things are in force.
    pub counts: BTreeMap<String, usize>,
    /// What is in the store but not in force, and settings that were refused.
    pub notices: Vec<Problem>,
    /// BGP sessions as BIRD reports them.
    pub bgp: Vec<BgpSession>,
    /// Why there are no sessions to show.
    pub bgp_error: Option<String>,
}

/// A loop of the agent that does not answer the watchdog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HangingLoop {
    /// `felix`, `routes`, `datastore`…
    pub name: String,
    /// For how long it has been silent.
    pub seconds: u64,
}

/// The datastore as seen from here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreStatus {
    /// Which it is, and where: `etcd http://…`, `directory /etc/calico/resources`.
    #[serde(default)]
    pub location: Option<String>,
    /// True once a complete snapshot was read and while nothing is waited for.
    pub in_sync: bool,
    /// What is waited for.
    pub waiting: Option<String>,
    /// The last revision that was read.
    pub revision: i64,
    /// Keys whose values were refused. Of a directory also its files.
    pub rejected: Vec<RejectedKey>,
    /// Kinds that are in the store but not supported yet, and staged policies, which are never
    /// enforced, with their number.
    pub unsupported: BTreeMap<String, usize>,
    /// What the registration of this host has come to.
    pub registration: String,
    /// Whose names and order of policies hold, and who says so. Empty before the first complete
    /// snapshot.
    #[serde(default)]
    pub policy_order: String,
}

/// A policy from disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredStatus {
    /// When it was last known to be what the datastore says: RFC 3339.
    pub since: String,
    /// How long ago that was; `None` when this host's clock says that it is still to come.
    pub age_seconds: Option<u64>,
}

/// What rkt may have left behind, and what of it was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorStatus {
    /// How many pods rkt has; `None`: not known, so nothing is collected on its account.
    pub rkt_pods: Option<usize>,
    /// What looks left behind. It is removed when it has looked so for the grace period.
    pub suspected: Vec<SuspectedStatus>,
    /// How many things were removed since the agent started.
    pub collected: u64,
}

/// Something that looks left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspectedStatus {
    /// `orchestrator/workload/endpoint`, or the handle of addresses.
    pub subject: String,
    /// What says so.
    pub reason: String,
    /// For how long.
    pub seconds: u64,
}

/// A refused key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedKey {
    /// The key.
    pub key: String,
    /// Why.
    pub reason: String,
    /// What counts in its place.
    #[serde(default)]
    pub instead: Instead,
}

/// What counts in the place of a value that was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instead {
    /// Nothing: the object is absent.
    #[default]
    Absent,
    /// Nothing, and it is a host endpoint: what only it polices is open.
    AbsentOpen,
    /// The last version that could be read (`InvalidPolicy`).
    LastVersion,
    /// Of the last version of a host endpoint its interface and its policy; its addresses are in no set.
    WithoutAddresses,
    /// It is a file of a directory: the reason says it.
    AsTheReasonSays,
}

/// One part of the dataplane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartStatus {
    /// `felix`, `routes`, `bird`.
    pub name: String,
    /// The generation that is completely in force; `None` before the first, and after a failure.
    pub applied: Option<u64>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What people should know: the dataplane in use and why, counters.
    pub facts: BTreeMap<String, String>,
    /// How often something of ours was found changed by others since the start, and put right.
    #[serde(default)]
    pub repairs_total: u64,
    /// What that was, one entry for each thing; the newest hundred.
    #[serde(default)]
    pub repairs: Vec<RepairStatus>,
}

/// Something of ours that others changed, and that was put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// What was changed.
    pub subject: String,
    /// How it was found the last time.
    pub change: Change,
    /// What exactly, the last time; may be empty.
    pub detail: String,
    /// How often since the start.
    pub count: u64,
    /// When, the last time: RFC 3339.
    pub last: String,
}

/// A port of this host that leads to an endpoint. From the host itself it is reached always.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardedPortStatus {
    /// `tcp`, `udp`…
    pub protocol: String,
    /// The port of the host.
    pub port: u16,
    /// Only at these addresses of the host; `None`: at all.
    pub host_address: Option<String>,
    /// Where it leads: `orchestrator/workload/endpoint`.
    pub endpoint: String,
    /// That endpoint's address.
    pub address: IpAddr,
    /// That endpoint's port, which policy sees.
    pub endpoint_port: u16,
    /// Who forwards it: `rkt`, `portmap`.
    pub by: String,
    /// Policy lets a connection in that comes from an address that no rule names.
    pub from_outside: bool,
    /// The rule that decides, or what is missing.
    pub reason: String,
    /// Prefixes from which it is reached nevertheless, of those that rules name.
    pub also_from: Vec<String>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// `orchestrator/workload/endpoint`.
    pub endpoint: String,
    /// The host side of its veth pair.
    pub interface: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its external addresses that are in force. What it asks for and does not have is a problem.
    #[serde(default)]
    pub external_addresses: Vec<ExternalAddressStatus>,
    /// The first characters of its ACL class, as in the chain names.
    pub class: String,
    /// The policies that govern it, in order: `tier/policy`.
    pub policies: Vec<String>,
    /// Its profiles, in order.
    pub profiles: Vec<String>,
    /// The state of all parts together: error before down before up.
    pub state: EndpointState,
    /// Its packets; absent while they are not counted.
    #[serde(default)]
    pub counters: Option<EndpointCounters>,
}

/// An external address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAddressStatus {
    /// By this address it is reached.
    pub address: IpAddr,
    /// The endpoint's own address behind it, which policy sees.
    pub leads_to: IpAddr,
}

/// One host endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEndpointStatus {
    /// Its name.
    pub endpoint: String,
    /// What it says that it is about: an interface, `*`, or its expected addresses.
    pub about: String,
    /// The interfaces that it is about and that are there.
    pub interfaces: Vec<String>,
    /// The policies that govern it, in order: `tier/policy`.
    pub policies: Vec<String>,
    /// Its profiles, in order.
    pub profiles: Vec<String>,
    /// Whether it is in force.
    pub state: EndpointState,
}
