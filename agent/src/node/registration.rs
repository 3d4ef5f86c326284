//! What this host should say about itself in the datastore when it starts. Pure: values in, values
//! out.
//!
//! The decisions: which addresses count, whether another node has them, what people must know.
//! How that is written down is the layout's ([`mod@write`]).

use std::net::IpAddr;

use calico_datastore::layout::v3::keys;
use calico_datastore::layout::v3::write::{self, Birth, Change, Malformed};
use calico_datastore::model::{AsNumber, Name};
use write::felix::HostAction;
use write::node::{AddressChange, AddressEdit, NodeEdit};

use super::addresses::HostAddress;
use crate::config::{AddressChoice, NodeConfig};
use crate::reconcile::Problem;

/// Who this host is and what it was told about itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub name: Name,
    /// What was said about its IPv4 address.
    pub ip: AddressChoice,
    /// What was said about its IPv6 address.
    pub ip6: AddressChoice,
    /// Its AS number, when one was said.
    pub as_number: Option<AsNumber>,
    /// Do not look whether another node has the address.
    pub skip_address_check: bool,
    /// `clusterType` of a cluster that is not there yet.
    pub cluster_type: String,
    /// `DefaultEndpointToHostAction` is set on this host, so that the datastore has no say.
    pub host_action_overridden: bool,
    /// Make the ClusterInformation where there is none, which declares the store ready.
    pub may_initialise: bool,
}

impl Identity {
    /// The host of this name as it was configured.
    pub fn new(name: Name, config: &NodeConfig, host_action_overridden: bool) -> Self {
        Self {
            name,
            ip: config.ip,
            ip6: config.ip6,
            as_number: config.as_number,
            skip_address_check: config.skip_address_check,
            cluster_type: config.cluster_type.clone().unwrap_or_else(|| "bgp".to_owned()),
            host_action_overridden,
            may_initialise: true,
        }
    }

    /// Addresses that it was given and that none of these is: of a network that is not up yet, or wrong.
    pub fn absent(&self, interfaces: &[HostAddress]) -> Vec<IpAddr> {
        let given = [self.ip, self.ip6].into_iter().filter_map(|choice| match choice {
            AddressChoice::Fixed(address, _) => Some(address),
            AddressChoice::Stored | AddressChoice::Absent | AddressChoice::Detect => None,
        });
        given.filter(|own| interfaces.iter().all(|interface| interface.address != *own)).collect()
    }
}

/// What is stored cannot be built on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The value is not of the shape it should have.
    #[error(transparent)]
    Malformed(Malformed),
    /// Most likely one host under two spellings: what is stored under the other one would not be
    /// its own.
    #[error(
        "the datastore has a node {other}, which differs from this one's name {own} only in case: \
         set NODENAME={other}, or delete that node if this host is another one or was renamed"
    )]
    OtherCase {
        /// This host's name.
        own: String,
        /// The other node.
        other: String,
    },
    /// Two hosts with one address: routes to one of them would be lost.
    #[error(
        "node {other} has the address {address} too: set another IP, delete that node if it is \
         gone, or set DISABLE_NODE_IP_CHECK=true"
    )]
    AddressInUse {
        /// The other node.
        other: String,
        /// The address.
        address: IpAddr,
    },
}

/// A node and the addresses that it is stored with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Claim {
    /// What a stored Node claims; `None`: the key is not a Node's.
    pub fn read(key: &str, value: &[u8]) -> Option<Self> {
        let node = keys::name_of_node(key)?.to_owned();
        Some(Self { node, addresses: write::node::claimed_addresses(value) })
    }
}

/// The Node, and what people should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// The new value.
    pub change: Change,
    /// Standing conditions for `status`.
    pub problems: Vec<Problem>,
    /// What is worth a warning once.
    pub notes: Vec<String>,
    /// Its addresses after the change, for the log.
    pub addresses: Vec<IpAddr>,
}

/// Plans the Node of this host.
///
/// `others` are the Nodes as stored; this host's own is skipped. `interfaces` are the addresses of
/// this host: an address given without a prefix length takes that of the interface that has it.
///
/// # Errors
/// When the stored Node is malformed, or another node has the address, or a new Node would differ
/// from another one only in the case of its name.
pub fn plan_node(
    identity: &Identity,
    stored: Option<&[u8]>,
    others: &[Claim],
    interfaces: &[HostAddress],
    birth: &Birth,
) -> Result<NodePlan, PlanError> {
    let name = &identity.name;
    let mut problems = vec![];
    if let Some(other) = others.iter().find(|other| is_other_case(&other.node, name)) {
        let error = PlanError::OtherCase { own: name.to_string(), other: other.node.clone() };
        if stored.is_none() {
            return Err(error);
        }
        // Both were there before: they may be two hosts after all.
        problems.push(problem(name.as_str(), &error.to_string()));
    }
    let edit = NodeEdit {
        as_number: identity.as_number,
        ipv4: address_edit("ipv4Address", identity.ip, interfaces, &mut problems),
        ipv6: address_edit("ipv6Address", identity.ip6, interfaces, &mut problems),
    };
    let node = write::node::edit(name, &edit, stored, birth).map_err(PlanError::Malformed)?;
    let changes = [&node.ipv4, &node.ipv6];
    let addresses: Vec<_> = changes.iter().filter_map(|change| change.address()).collect();
    if !identity.skip_address_check {
        check_conflicts(name, &addresses, others)?;
    }
    if addresses.is_empty() {
        problems.push(problem(
            "IP",
            "this node has no address, so BGP is off and other hosts cannot reach its pods: set \
             IP=<address>[/<prefix>] or --ip",
        ));
    }
    let notes = changes.into_iter().filter_map(note).collect();
    Ok(NodePlan { change: node.change, problems, notes, addresses })
}

/// Plans ClusterInformation: made where there is none and left alone where there is one, ready or
/// not — an administrator may have taken the datastore out of service.
pub fn plan_cluster(stored: Option<&[u8]>, guid: &str, kind: &str, birth: &Birth) -> Change {
    stored.is_none().then(|| write::cluster::create(guid, kind, birth))
}

/// Plans the FelixConfiguration of this node: packets from pods to their host are left to the
/// host's own rules unless somebody said otherwise, as calico/node does.
///
/// # Errors
/// When the stored object is malformed.
pub fn plan_felix(
    identity: &Identity,
    stored: Option<&[u8]>,
    birth: &Birth,
) -> Result<Change, PlanError> {
    if identity.host_action_overridden {
        return Ok(None);
    }
    write::felix::default_host_action(&identity.name, HostAction::Return, stored, birth)
        .map_err(PlanError::Malformed)
}

/// What was said about an address: with the prefix that was given, else that of the interface that
/// has it.
fn address_edit(
    field: &str,
    choice: AddressChoice,
    interfaces: &[HostAddress],
    problems: &mut Vec<Problem>,
) -> AddressEdit {
    match choice {
        AddressChoice::Stored => AddressEdit::Keep,
        AddressChoice::Absent => AddressEdit::Remove,
        AddressChoice::Detect => {
            problems.push(problem(
                field,
                "the address cannot be detected yet: what is stored stays; set IP / IP6",
            ));
            AddressEdit::Keep
        }
        AddressChoice::Fixed(address, prefix) => {
            let interface = interfaces.iter().find(|interface| interface.address == address);
            if interface.is_none() {
                problems.push(problem(
                    &address.to_string(),
                    "no interface of this host has the node's address (wrong IP, or not up yet)",
                ));
            }
            AddressEdit::Set(address, prefix.or(interface.map(|interface| interface.prefix_len)))
        }
    }
}

/// Another address than before is worth a warning; the same in another network is not.
fn note(change: &AddressChange) -> Option<String> {
    let before = change.moved_from()?;
    let now = change.after.as_ref().map_or("none".to_owned(), ToString::to_string);
    Some(format!("this node was stored with address {before}, now {now}"))
}

fn check_conflicts(own: &Name, addresses: &[IpAddr], others: &[Claim]) -> Result<(), PlanError> {
    for other in others.iter().filter(|other| *own != *other.node) {
        if let Some(address) = other.addresses.iter().find(|theirs| addresses.contains(theirs)) {
            return Err(PlanError::AddressInUse { other: other.node.clone(), address: *address });
        }
    }
    Ok(())
}

fn is_other_case(other: &str, own: &Name) -> bool {
    *own != *other && own.as_str().eq_ignore_ascii_case(other)
}

fn problem(subject: &str, message: &str) -> Problem {
    Problem { subject: subject.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
pub(crate) mod tests;
