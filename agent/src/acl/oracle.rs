//! The oracle: the same calculation from scratch and without any index. For tests only.
//!
//! It knows nothing between two calls, walks over everything, and shares only what is a pure
//! function of its input with the real thing: the resolution of one rule list and the BGP part.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use calico_datastore::model::{
    AffinityState, Cidr, Labels, Name, NamedPort, Order, Policy, PolicyId, PolicyKind, Pool,
    Profile, ResourceId, Tier, TierAction, Update, WorkloadEndpoint, WorkloadEndpointId,
};

use imbl::{OrdMap, OrdSet};

use super::bgp::BgpTable;
use super::notices;
use super::pools;
use super::rules::{self, Resolved};
use super::set_spec::SetSpec;
use crate::config::Settings;
use crate::desired::{
    AclClass, AddressSet, DesiredState, DirectionAcl, HostEndpoints, HostTiers, LocalEndpoint,
    LocalHostEndpoint, Member, SetId, SetKind, TierAcl,
};

/// Every object of the store.
#[derive(Clone, Debug, Default)]
pub(super) struct World(HashMap<ResourceId, Update>);

/// The minor version of Calico 3 whose rules hold, if any.
type Minor = Option<u16>;

/// Something that selectors look at.
struct Item {
    labels: Labels,
    addresses: Vec<Cidr>,
    ports: Vec<NamedPort>,
}

impl World {
    /// Takes a change.
    pub(super) fn apply(&mut self, update: &Update) {
        if *update == Update::deleted(update.id()) {
            self.0.remove(&update.id());
        } else {
            self.0.insert(update.id(), update.clone());
        }
    }

    /// The update that makes an object what it is now: present or gone.
    pub(super) fn get(&self, id: &ResourceId) -> Update {
        self.0.get(id).cloned().unwrap_or_else(|| Update::deleted(id.clone()))
    }

    /// Every object, as the updates of a first snapshot.
    pub(super) fn snapshot(&self) -> impl Iterator<Item = Update> + '_ {
        self.0.values().cloned()
    }

    fn profile(&self, name: &Name) -> Option<&Profile> {
        match self.0.get(&ResourceId::Profile(name.clone())) {
            Some(Update::Profile(_, Some(profile))) if *name != Profile::DEFAULT_ALLOW => {
                Some(profile)
            }
            _ => None,
        }
    }

    fn tier(&self, name: &str) -> Option<Tier> {
        match self.0.get(&ResourceId::Tier(name.into())) {
            Some(Update::Tier(_, Some(tier))) => Some(**tier),
            _ => None,
        }
    }

    /// Own labels over those of the first profile over those of the second…
    fn effective(&self, own: &Labels, profiles: &[Name]) -> Labels {
        let mut all = BTreeMap::new();
        for name in profiles.iter().rev() {
            for (k, v) in self.profile(name).iter().flat_map(|profile| profile.labels.iter()) {
                all.insert(Arc::clone(k), Arc::clone(v));
            }
        }
        all.extend(own.iter().map(|(k, v)| (Arc::clone(k), Arc::clone(v))));
        all.into_iter().collect()
    }

    fn items(&self) -> Vec<Item> {
        let item = |update: &Update| {
            let (labels, profiles, addresses, ports) = match update {
                Update::WorkloadEndpoint(_, Some(e)) => {
                    (&e.labels, &e.profiles, e.addresses.clone(), e.ports.clone())
                }
                Update::HostEndpoint(_, Some(e)) => {
                    let addresses = e.expected_addresses.iter().map(|ip| Cidr::host(*ip));
                    (&e.labels, &e.profiles, addresses.collect(), e.ports.clone())
                }
                Update::NetworkSet(_, Some(set)) => {
                    (&set.labels, &set.profiles, set.nets.clone(), Vec::new())
                }
                _ => return None,
            };
            Some(Item { labels: self.effective(labels, profiles), addresses, ports })
        };
        self.0.values().filter_map(item).collect()
    }

    fn policies(&self) -> BTreeMap<&PolicyId, &Policy> {
        let policy = |update| match update {
            &Update::Policy(ref id, Some(ref policy)) => Some((id, &**policy)),
            _ => None,
        };
        self.0.values().filter_map(policy).collect()
    }

    fn local(&self, node: &Name) -> BTreeMap<&WorkloadEndpointId, &WorkloadEndpoint> {
        let endpoint = |update| match update {
            &Update::WorkloadEndpoint(ref id, Some(ref endpoint)) if id.node == *node => {
                Some((id, &**endpoint))
            }
            _ => None,
        };
        self.0.values().filter_map(endpoint).collect()
    }

    /// The tier that a policy is in, and the text that tells equal orders apart.
    fn tier_and_text(&self, id: &PolicyId, policy: &Policy, version: Minor) -> (String, String) {
        let name = id.name.as_str();
        let prefix = name.split('.').next().filter(|prefix| prefix.len() < name.len());
        let prefix = prefix.filter(|prefix| !prefix.is_empty());
        let spec = policy.tier.as_ref().map(Name::as_str);
        let label = policy.tier_label.as_ref().map(Name::as_str);
        let tier = match version {
            None => {
                let existing = prefix.filter(|prefix| self.tier(prefix).is_some());
                spec.or(label).or(existing)
            }
            Some(..29) => None,
            Some(29..32) if name.starts_with("knp.default.") => None,
            Some(29..32) if name.starts_with("kanp.adminnetworkpolicy.") => {
                Some("adminnetworkpolicy")
            }
            Some(29..32) => prefix,
            Some(32..) => spec,
        };
        let text = match (&id.namespace, version) {
            (Some(namespace), Some(32..)) => format!("{name}/{namespace}/NetworkPolicy"),
            (None, Some(32..)) => format!("{name}//GlobalNetworkPolicy"),
            (Some(namespace), _) => format!("{namespace}/{name}"),
            (None, _) => name.to_owned(),
        };
        (tier.unwrap_or("default").to_owned(), text)
    }

    /// The minor version of Calico 3 whose rules hold, and the notice about one that is none.
    fn version(&self, settings: &Settings) -> (Minor, Option<String>) {
        if let Some(version) = settings.calico_version {
            return (Some(version.minor), None);
        }
        let stored = match self.0.get(&ResourceId::ClusterInformation) {
            Some(Update::ClusterInformation(Some(information))) => {
                information.calico_version.as_deref()
            }
            _ => None,
        };
        let minor = stored.and_then(|text| text.strip_prefix("v3.")?.split('.').next());
        let minor = minor.and_then(|minor| minor.parse().ok());
        (minor, stored.and_then(notices::of_version))
    }

    /// What is to be said about a policy that an endpoint of this host needs.
    fn needed_policy(&self, id: &PolicyId, version: Minor) -> Option<String> {
        let policy = self.policies()[id];
        let tier = self.tier_and_text(id, policy, version).0;
        notices::of_policy(policy, &Name::from(tier))
    }

    /// The tiers of the policies that match labels and that `applies` says yes to.
    fn tiers(
        &self,
        labels: &Labels,
        version: Minor,
        applies: impl Fn(&Policy) -> bool,
    ) -> HostTiers {
        // (how far its tier is from existing, tier's order, tier, policy's order, text) decides.
        let mut ranked = BTreeMap::new();
        for (id, policy) in self.policies() {
            if !applies(policy) || !policy.selector.matches(labels) {
                continue;
            }
            let (tier, text) = self.tier_and_text(id, policy, version);
            let (missing, order, action) = match self.tier(&tier) {
                Some(_) | None if version.is_some_and(|v| v < 29) => {
                    (0, Order::LAST, TierAction::Deny)
                }
                Some(object) => (0, object.order, object.default_action),
                None if tier == "default" && version.is_none() => {
                    (1, Order::LAST, TierAction::Deny)
                }
                None => (2, Order::LAST, TierAction::Deny),
            };
            let rank = (missing, order, tier, policy.order, text, id.clone());
            ranked.insert(rank, (policy, action));
        }
        let direction = |governs: fn(&Policy) -> bool| {
            let mut tiers: Vec<TierAcl> = Vec::new();
            for ((_, _, tier, _, _, id), (policy, action)) in &ranked {
                if !governs(policy) {
                    continue;
                }
                if tiers.last().is_none_or(|last| last.tier != tier.as_str()) {
                    tiers.push(TierAcl {
                        tier: Name::from(tier.as_str()),
                        policies: Vec::new(),
                        default_action: *action,
                    });
                }
                tiers.last_mut().unwrap().policies.push(id.clone());
            }
            tiers
        };
        HostTiers {
            ingress: direction(|policy| policy.governs_ingress),
            egress: direction(|policy| policy.governs_egress),
        }
    }

    fn class(&self, endpoint: &WorkloadEndpoint, version: Minor) -> AclClass {
        if !endpoint.active {
            return AclClass::default();
        }
        let labels = self.effective(&endpoint.labels, &endpoint.profiles);
        let tiers = self.tiers(&labels, version, |policy| policy.kind == PolicyKind::Normal);
        let direction = |tiers| DirectionAcl { tiers, profiles: endpoint.profiles.clone() };
        AclClass {
            active: true,
            ingress: direction(tiers.ingress),
            egress: direction(tiers.egress),
        }
    }

    /// The rules of a profile that somebody lists, and what is to be said about it.
    fn listed_profile(&self, name: &Name) -> (Resolved, Option<String>) {
        let built_in = |rules| Resolved { rules, ..Resolved::default() };
        let resolved = match self.profile(name) {
            Some(profile) => rules::resolve(&profile.ingress, &profile.egress),
            None if *name == Profile::DEFAULT_ALLOW => built_in(rules::allow_all()),
            None => built_in(rules::drop_all()),
        };
        (resolved, notices::of_profile(name, self.profile(name)))
    }

    /// The host endpoints of a host.
    fn host_endpoints(&self, node: &Name, version: Minor) -> HostEndpoints {
        let mut state = HostEndpoints::default();
        let mut needed = BTreeMap::new();
        for update in self.0.values() {
            let Update::HostEndpoint(id, Some(endpoint)) = update else { continue };
            if endpoint.node != *node {
                continue;
            }
            let labels = self.effective(&endpoint.labels, &endpoint.profiles);
            let of =
                |kind| self.tiers(&labels, version, move |policy: &Policy| policy.kind == kind);
            let addresses = BTreeSet::from_iter(endpoint.expected_addresses.iter().copied());
            let local = LocalHostEndpoint {
                interface: endpoint.interface.clone(),
                addresses: addresses.into_iter().collect(),
                normal: of(PolicyKind::Normal),
                forward: self.tiers(&labels, version, |policy| {
                    policy.apply_on_forward && policy.kind == PolicyKind::Normal
                }),
                untracked: of(PolicyKind::Untracked),
                pre_dnat: of(PolicyKind::PreDnat).ingress,
                profiles: endpoint.profiles.clone(),
            };
            let directions = [
                (&local.normal.ingress, &local.normal.egress),
                (&local.forward.ingress, &local.forward.egress),
                (&local.untracked.ingress, &local.untracked.egress),
                (&local.pre_dnat, &Vec::new()),
            ];
            let tiers =
                directions.iter().flat_map(|(ingress, egress)| ingress.iter().chain(*egress));
            for policy in tiers.flat_map(|tier| &tier.policies) {
                let object = self.policies()[policy];
                let resolved = rules::resolve(&object.ingress, &object.egress);
                needed.extend(resolved.sets);
                state.policies.insert(policy.clone(), Arc::new(resolved.rules));
            }
            for name in &local.profiles {
                let (resolved, _) = self.listed_profile(name);
                needed.extend(resolved.sets);
                state.profiles.insert(name.clone(), Arc::new(resolved.rules));
            }
            state.endpoints.insert(id.clone(), Arc::new(local));
        }
        state.sets = self.sets(needed);
        state
    }

    /// The sets that rules need.
    fn sets(&self, needed: BTreeMap<SetId, SetSpec>) -> OrdMap<SetId, AddressSet> {
        let items = self.items();
        let mut sets = OrdMap::new();
        for (id, spec) in needed {
            let mut set =
                AddressSet { kind: SetKind::Net, selector: Arc::from(""), members: OrdSet::new() };
            match &spec {
                SetSpec::Addresses(selector) => {
                    set.selector = Arc::from(selector.canonical());
                    for item in items.iter().filter(|item| selector.matches(&item.labels)) {
                        set.members.extend(item.addresses.iter().copied().map(Member::Net));
                    }
                }
                SetSpec::Ports(selector, protocol, name) => {
                    set.kind = SetKind::Port;
                    set.selector = Arc::from(format!("{selector}; {protocol}; {name}"));
                    for item in items.iter().filter(|item| selector.matches(&item.labels)) {
                        for port in &item.ports {
                            if port.name != *name || port.protocol != *protocol {
                                continue;
                            }
                            for cidr in &item.addresses {
                                let address = cidr.address();
                                set.members.insert(Member::Port(address, *protocol, port.port));
                            }
                        }
                    }
                }
            }
            sets.insert(id, set);
        }
        sets
    }

    /// The desired state of a host.
    pub(super) fn desired(&self, node: &Name, settings: &Settings) -> DesiredState {
        let mut state = DesiredState::default();
        let (version, unheard) = self.version(settings);
        let mut notice = |id: ResourceId, text: Option<String>| {
            if let Some(text) = text {
                state.notices.insert(Arc::from(id.to_string()), Arc::from(text));
            }
        };
        let mut needed = BTreeMap::new();
        notice(ResourceId::ClusterInformation, unheard);

        let local = self.local(node);
        for (&id, &endpoint) in &local {
            let winner = local.iter().find(|(_, other)| other.interface == endpoint.interface);
            let winner = *winner.unwrap().0;
            if winner != id {
                let text = notices::of_rival(endpoint.interface.as_str(), winner);
                notice(ResourceId::WorkloadEndpoint(id.clone()), text);
                continue;
            }
            let acl = self.class(endpoint, version);
            let class = acl.id();
            for direction in [&acl.ingress, &acl.egress] {
                for policy in direction.tiers.iter().flat_map(|tier| &tier.policies) {
                    let object = self.policies()[policy];
                    let resolved = rules::resolve(&object.ingress, &object.egress);
                    needed.extend(resolved.sets);
                    state.policies.insert(policy.clone(), Arc::new(resolved.rules));
                    notice(ResourceId::Policy(policy.clone()), self.needed_policy(policy, version));
                }
                for name in &direction.profiles {
                    let (resolved, text) = self.listed_profile(name);
                    needed.extend(resolved.sets);
                    state.profiles.insert(name.clone(), Arc::new(resolved.rules));
                    notice(ResourceId::Profile(name.clone()), text);
                }
            }
            let addresses = BTreeSet::from_iter(endpoint.addresses.iter().copied());
            let spoof = BTreeSet::from_iter(endpoint.spoof.iter().copied());
            let local = LocalEndpoint {
                interface: endpoint.interface.clone(),
                active: endpoint.active,
                mac: endpoint.mac,
                addresses: addresses.into_iter().collect(),
                nat: endpoint.nat.clone(),
                spoof: spoof.into_iter().collect(),
                class: class.clone(),
            };
            state.endpoints.insert(id.clone(), Arc::new(local));
            state.classes.insert(class, Arc::new(acl));
        }

        for (id, policy) in self.policies() {
            if policy.needed_everywhere && policy.kind == PolicyKind::Normal {
                let resolved = rules::resolve(&policy.ingress, &policy.egress);
                needed.extend(resolved.sets);
                state.policies.insert(id.clone(), Arc::new(resolved.rules));
                notice(ResourceId::Policy(id.clone()), self.needed_policy(id, version));
            }
        }

        state.sets = self.sets(needed);
        state.host_endpoints = self.host_endpoints(node, version);
        for policy in state.host_endpoints.policies.keys() {
            notice(ResourceId::Policy(policy.clone()), self.needed_policy(policy, version));
        }
        for name in state.host_endpoints.profiles.keys() {
            notice(ResourceId::Profile(name.clone()), self.listed_profile(name).1);
        }

        let mut bgp = BgpTable::default();
        let mut pools: BTreeMap<&Name, &Pool> = BTreeMap::new();
        for update in self.0.values() {
            match update {
                Update::Node(name, value) => {
                    bgp.set_node(name, value.as_ref());
                }
                Update::BgpConfiguration(name, value) => {
                    bgp.set_configuration(name, value.as_ref());
                }
                Update::Pool(name, Some(pool)) => {
                    pools.insert(name, pool);
                }
                Update::HostEndpoint(id, Some(endpoint)) => {
                    let said = notices::of_host_endpoint(endpoint);
                    notice(ResourceId::HostEndpoint(id.clone()), said);
                }
                Update::Policy(id, Some(policy)) if policy.kind != PolicyKind::Normal => {
                    assert!(!state.policies.contains_key(id));
                }
                Update::Affinity(id, Some(affinity))
                    if id.host == *node && affinity.state == AffinityState::Confirmed =>
                {
                    state.blocks.insert(id.block);
                }
                _ => {}
            }
        }
        let mut exported = BTreeMap::new();
        for (&name, pool) in &pools {
            let first = *pools.iter().find(|(_, other)| other.cidr == pool.cidr).unwrap().0;
            let shadow = (first != name).then_some(first);
            notice(ResourceId::Pool(name.clone()), notices::of_pool(pool, shadow));
            if shadow.is_none() {
                state.pools.insert(pool.cidr, pool.nat_outgoing);
                state.overlays.extend(pools::overlay(pool).map(|overlay| (pool.cidr, overlay)));
                exported.insert(pool.cidr, !pool.disable_bgp_export);
            }
        }
        state.bgp = Arc::new(bgp.state(node, exported.into_iter().collect()));
        state
    }
}
