//! The content of the file: everything that a desired state holds and that follows from the
//! datastore alone, and the settings that the datastore said.
//!
//! Equal states give equal text, whenever and by whomever they were calculated: every list has the
//! order of its keys, and neither a generation nor a time is in it. The types are the file's own, so
//! that a field renamed in the desired state does not change what is on disk. A change of them is a
//! new version.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_datastore::model::{
    AsNumber, Cidr, FelixConfiguration, InterfaceName, Mac, Name, PolicyId, WorkloadEndpointId,
};
use serde::{Deserialize, Serialize};

use super::StoreSettings;
use super::hosts::Hosts;
use super::rules::{Class, PolicyName, Rule, active, text, written};
use super::text::{Members, Text};
use crate::desired::{
    AclClass, ActiveRules, AddressSet, BgpState, ClassId, DesiredState, LocalEndpoint, MeshPeer,
    SetId, SetKind,
};
use crate::felix::ruleset::sets_named;

/// Something in the content names something that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject} names {object}, which is not in it")]
pub struct Dangling {
    /// Who names it.
    pub subject: String,
    /// What is not there.
    pub object: String,
}

/// Raw parameters of a FelixConfiguration.
type Parameters = BTreeMap<Arc<str>, Arc<str>>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Felix {
    node: Option<Parameters>,
    cluster: Option<Parameters>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    address: IpAddr,
    node: Arc<str>,
    as_number: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportedPool {
    pool: Text<Cidr>,
    export: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bgp {
    node: Arc<str>,
    /// The datastore has a Node, and no address of it. One that has an address is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unaddressed: bool,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    as_number: u32,
    listen_port: Option<u16>,
    log_severity: String,
    mesh: Vec<Peer>,
    pools: Vec<ExportedPool>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    pool: Text<Cidr>,
    masquerade: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Endpoint {
    orchestrator: Arc<str>,
    workload: Arc<str>,
    endpoint: Arc<str>,
    interface: Text<InterfaceName>,
    active: bool,
    mac: Option<Text<Mac>>,
    addresses: Vec<Text<Cidr>>,
    nat: Vec<(IpAddr, IpAddr)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    spoof: Vec<Text<Cidr>>,
    class: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) id: PolicyName,
    pub(super) ingress: Vec<Rule>,
    pub(super) egress: Vec<Rule>,
}

impl Policy {
    /// As it is written.
    pub(super) fn of(id: &PolicyId, rules: &ActiveRules) -> Self {
        Self { id: id.into(), ingress: written(&rules.ingress), egress: written(&rules.egress) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) name: Arc<str>,
    pub(super) ingress: Vec<Rule>,
    pub(super) egress: Vec<Rule>,
}

impl Profile {
    /// As it is written.
    pub(super) fn of(name: &Name, rules: &ActiveRules) -> Self {
        Self { name: text(name), ingress: written(&rules.ingress), egress: written(&rules.egress) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(remote = "SetKind", rename_all = "lowercase")]
enum KindText {
    Net,
    Port,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Set {
    id: Arc<str>,
    #[serde(with = "KindText")]
    kind: SetKind,
    selector: Arc<str>,
    members: Members,
}

impl Set {
    /// As it is written.
    pub(super) fn of(id: &SetId, set: &AddressSet) -> Self {
        Self {
            id: Arc::from(id.as_str()),
            kind: set.kind,
            selector: Arc::clone(&set.selector),
            members: Members(set.members.clone()),
        }
    }

    /// What was written again.
    pub(super) fn into_set(self) -> (SetId, AddressSet) {
        let Self { id, kind, selector, members } = self;
        (SetId::new(id), AddressSet { kind, selector, members: members.0 })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notice {
    subject: Arc<str>,
    message: Arc<str>,
}

/// The content. Making one costs as much as there are endpoints and rules; the members of sets are
/// shared.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    felix: Felix,
    bgp: Bgp,
    pools: Vec<Pool>,
    blocks: Vec<Text<Cidr>>,
    endpoints: Vec<Endpoint>,
    classes: Vec<Class>,
    policies: Vec<Policy>,
    profiles: Vec<Profile>,
    notices: Vec<Notice>,
    sets: Vec<Set>,
    /// Version 1 has none.
    #[serde(default)]
    hosts: Hosts,
}

impl Content {
    /// What is to be kept of a state and of what the datastore says about settings.
    pub(super) fn of(state: &DesiredState, settings: &StoreSettings) -> Self {
        let parameters = |felix: &Option<Arc<FelixConfiguration>>| {
            felix.as_ref().map(|felix| felix.parameters.clone())
        };
        Self {
            felix: Felix {
                node: parameters(&settings.node),
                cluster: parameters(&settings.cluster),
            },
            bgp: bgp(&state.bgp),
            pools: state
                .pools
                .iter()
                .map(|(pool, masquerade)| Pool { pool: Text(*pool), masquerade: *masquerade })
                .collect(),
            blocks: state.blocks.iter().copied().map(Text).collect(),
            endpoints: state.endpoints.iter().map(|(id, one)| endpoint(id, one)).collect(),
            classes: state.classes.values().map(|class| Class::from(&**class)).collect(),
            policies: state.policies.iter().map(|(id, rules)| Policy::of(id, rules)).collect(),
            profiles: state.profiles.iter().map(|(name, rules)| Profile::of(name, rules)).collect(),
            notices: state
                .notices
                .iter()
                .map(|(subject, message)| Notice {
                    subject: Arc::clone(subject),
                    message: Arc::clone(message),
                })
                .collect(),
            sets: state.sets.iter().map(|(id, set)| Set::of(id, set)).collect(),
            hosts: Hosts::of(state),
        }
    }

    /// The state and the settings again; everything that does not stand in the content is as by
    /// default.
    ///
    /// # Errors
    /// When something names what is not there.
    pub(super) fn state(self, node: &Name) -> Result<(DesiredState, StoreSettings), Dangling> {
        let felix = |parameters: Option<Parameters>| {
            parameters.map(|parameters| Arc::new(FelixConfiguration { parameters }))
        };
        let settings =
            StoreSettings { node: felix(self.felix.node), cluster: felix(self.felix.cluster) };
        let mut state = DesiredState {
            bgp: Arc::new(bgp_state(self.bgp)),
            pools: self.pools.into_iter().map(|one| (one.pool.0, one.masquerade)).collect(),
            blocks: self.blocks.into_iter().map(|Text(block)| block).collect(),
            notices: self.notices.into_iter().map(|one| (one.subject, one.message)).collect(),
            ..DesiredState::default()
        };
        for class in self.classes {
            let said = class.id.clone();
            let class = AclClass::from(class);
            let id = class.id();
            if id.as_str() != said {
                return Err(Dangling { subject: format!("class {said}"), object: id.to_string() });
            }
            state.classes.insert(id, Arc::new(class));
        }
        let ids: BTreeMap<String, ClassId> =
            state.classes.keys().map(|id| (id.to_string(), id.clone())).collect();
        for one in self.endpoints {
            let id = WorkloadEndpointId {
                node: node.clone(),
                orchestrator: Name::from(&*one.orchestrator),
                workload: Name::from(&*one.workload),
                endpoint: Name::from(&*one.endpoint),
            };
            let Some(class) = ids.get(&one.class).cloned() else {
                let (subject, object) = (format!("endpoint {id}"), format!("class {}", one.class));
                return Err(Dangling { subject, object });
            };
            let endpoint = LocalEndpoint {
                interface: one.interface.0,
                active: one.active,
                mac: one.mac.map(|Text(mac)| mac),
                addresses: one.addresses.into_iter().map(|Text(cidr)| cidr).collect(),
                nat: one.nat,
                spoof: one.spoof.into_iter().map(|Text(cidr)| cidr).collect(),
                class,
            };
            state.endpoints.insert(id, Arc::new(endpoint));
        }
        for one in self.policies {
            state.policies.insert(PolicyId::from(one.id), active(one.ingress, one.egress));
        }
        for one in self.profiles {
            state.profiles.insert(Name::from(&*one.name), active(one.ingress, one.egress));
        }
        state.sets = self.sets.into_iter().map(Set::into_set).collect();
        check(&state)?;
        self.hosts.join(&mut state)?;
        Ok((state, settings))
    }
}

fn bgp(bgp: &BgpState) -> Bgp {
    Bgp {
        node: text(&bgp.node),
        unaddressed: bgp.registered && bgp.ipv4.is_none() && bgp.ipv6.is_none(),
        ipv4: bgp.ipv4,
        ipv6: bgp.ipv6,
        as_number: bgp.as_number.0,
        listen_port: bgp.listen_port,
        log_severity: bgp.log_severity.clone(),
        mesh: bgp
            .mesh
            .iter()
            .map(|peer| Peer {
                address: peer.address,
                node: text(&peer.node),
                as_number: peer.as_number.0,
            })
            .collect(),
        pools: bgp
            .pools
            .iter()
            .map(|(pool, export)| ExportedPool { pool: Text(*pool), export: *export })
            .collect(),
    }
}

fn bgp_state(bgp: Bgp) -> BgpState {
    let peer = |peer: Peer| MeshPeer {
        address: peer.address,
        node: Name::from(&*peer.node),
        as_number: AsNumber(peer.as_number),
    };
    BgpState {
        node: Name::from(&*bgp.node),
        registered: bgp.unaddressed || bgp.ipv4.is_some() || bgp.ipv6.is_some(),
        ipv4: bgp.ipv4,
        ipv6: bgp.ipv6,
        as_number: AsNumber(bgp.as_number),
        mesh: bgp.mesh.into_iter().map(peer).collect(),
        listen_port: bgp.listen_port,
        pools: bgp.pools.into_iter().map(|one| (one.pool.0, one.export)).collect(),
        log_severity: bgp.log_severity,
    }
}

fn endpoint(id: &WorkloadEndpointId, endpoint: &LocalEndpoint) -> Endpoint {
    Endpoint {
        orchestrator: text(&id.orchestrator),
        workload: text(&id.workload),
        endpoint: text(&id.endpoint),
        interface: Text(endpoint.interface.clone()),
        active: endpoint.active,
        mac: endpoint.mac.map(Text),
        addresses: endpoint.addresses.iter().copied().map(Text).collect(),
        nat: endpoint.nat.clone(),
        spoof: endpoint.spoof.iter().copied().map(Text).collect(),
        class: endpoint.class.to_string(),
    }
}

/// What a class names must be there, and what a rule names.
fn check(state: &DesiredState) -> Result<(), Dangling> {
    for (id, class) in &state.classes {
        for direction in [&class.ingress, &class.egress] {
            let policies = direction.tiers.iter().flat_map(|tier| &tier.policies);
            let policies = policies.filter(|id| !state.policies.contains_key(*id));
            let policies = policies.map(|id| format!("policy {id}"));
            let profiles = direction.profiles.iter();
            let profiles = profiles.filter(|name| !state.profiles.contains_key(*name));
            let profiles = profiles.map(|name| format!("profile {name}"));
            if let Some(object) = policies.chain(profiles).next() {
                return Err(Dangling { subject: format!("class {id}"), object });
            }
        }
    }
    let policies = state.policies.iter().map(|(id, rules)| (format!("policy {id}"), rules));
    let profiles = state.profiles.iter().map(|(name, rules)| (format!("profile {name}"), rules));
    for (subject, rules) in policies.chain(profiles) {
        if let Some(id) = sets_named(rules).find(|id| !state.sets.contains_key(*id)) {
            return Err(Dangling { subject, object: format!("set {id}") });
        }
    }
    Ok(())
}
