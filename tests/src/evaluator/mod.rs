//! Who may talk to whom, read straight from the keys and values in etcd: an evaluator that shares
//! no line with the agent, to be compared with what packets really do.
//!
//! It is written for being read beside Calico's documentation, not for speed: every question walks
//! through every object. It knows the v3 layout only, and what it means for workload endpoints only: of
//! host endpoints the crate `calico-reference` tells.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::world::{Pair, RESOURCES};

mod net;
mod objects;
mod order;
mod rule;
mod selector;

pub use net::Net;
pub use objects::{Direction, Endpoint, NetworkSet, Policy, Profile, Tier};
pub use rule::{Action, Rule};
pub use selector::{Labels, Selector};

/// The first packet of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub from: IpAddr,
    /// Destination address, of the same family.
    pub to: IpAddr,
    /// The number of its protocol.
    pub protocol: u8,
    /// Source port, of TCP and UDP.
    pub source_port: Option<u16>,
    /// Destination port, of TCP and UDP.
    pub port: Option<u16>,
    /// Type and code, of ICMP of either family.
    pub icmp: Option<(u8, u8)>,
}

/// An answer, with the reason for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It goes through.
    pub passes: bool,
    /// What decided.
    pub reason: String,
}

/// Everything that can have a label: what rules may speak of.
#[derive(Debug, Default)]
pub struct Members {
    endpoints: Vec<(Labels, Endpoint)>,
    sets: Vec<(Labels, NetworkSet)>,
}

impl Members {
    /// True when `address` belongs to something that the selector means.
    pub fn contains(&self, selector: &Selector, address: IpAddr) -> bool {
        let endpoint = |(labels, e): &(Labels, Endpoint)| {
            e.addresses.contains(&address) && selector.matches(labels)
        };
        let set = |(labels, s): &(Labels, NetworkSet)| {
            s.nets.iter().any(|net| net.contains(address)) && selector.matches(labels)
        };
        self.endpoints.iter().any(endpoint) || self.sets.iter().any(set)
    }

    /// True when an endpoint with this address, meant by the selector, calls this port so.
    pub fn has_port(
        &self,
        selector: Option<&Selector>,
        name: &str,
        address: IpAddr,
        protocol: u8,
        port: u16,
    ) -> bool {
        self.endpoints.iter().any(|(labels, endpoint)| {
            endpoint.addresses.contains(&address)
                && selector.is_none_or(|s| s.matches(labels))
                && endpoint.ports.iter().any(|p| *p == (name.to_owned(), protocol, port))
        })
    }
}

/// A state of the datastore.
#[derive(Debug, Default)]
pub struct Evaluator {
    members: Members,
    tiers: Vec<Tier>,
    policies: Vec<Policy>,
    profiles: BTreeMap<String, Profile>,
    /// 29 of Calico 3.29, when somebody says whose order of policies holds.
    version: Option<u32>,
    /// Keys that hold something else than they should, with the reason: absent objects.
    pub refused: BTreeMap<String, String>,
}

impl Evaluator {
    /// Reads a datastore.
    pub fn new(pairs: impl IntoIterator<Item = Pair>) -> Self {
        let mut this = Self::default();
        let (mut endpoints, mut sets) = (Vec::new(), Vec::new());
        let mut of_cluster = None;
        for (key, value) in pairs {
            let Some(path) = key.strip_prefix(RESOURCES) else { continue };
            let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            let result =
                serde_json::from_str::<Value>(&value).map_err(Into::into).and_then(|json| {
                    match path[..] {
                        ["workloadendpoints", namespace, name] => {
                            endpoints.extend(Endpoint::parse(&json, namespace, name)?);
                        }
                        ["hostendpoints", _] => endpoints.push(Endpoint::parse_host(&json)?),
                        ["globalnetworksets", _] => sets.push(NetworkSet::parse(&json, None)?),
                        ["networksets", namespace, _] => {
                            sets.push(NetworkSet::parse(&json, Some(namespace))?);
                        }
                        ["profiles", name] => {
                            this.profiles.insert(name.to_owned(), Profile::parse(&json)?);
                        }
                        ["clusterinformations", "default"] => {
                            let version = json["spec"]["calicoVersion"].as_str();
                            of_cluster = version.and_then(order::minor);
                        }
                        ["tiers", name] => this.tiers.push(Tier::parse(&json, name)?),
                        ["globalnetworkpolicies", name] => {
                            this.policies.push(Policy::parse(&json, None, name)?);
                        }
                        ["networkpolicies", namespace, name] => {
                            this.policies.push(Policy::parse(&json, Some(namespace), name)?);
                        }
                        ["felixconfigurations", "default"] => this.version = order::version(&json),
                        _ => {}
                    }
                    anyhow::Ok(())
                });
            if let Err(error) = result {
                this.refused.insert(key, format!("{error:#}"));
            }
        }
        this.profiles.insert("projectcalico-default-allow".to_owned(), Profile::allow_all());
        this.version = this.version.or(of_cluster);
        this.arrange_tiers();
        let inherit = |labels: &Labels, profiles: &[String]| {
            let mut all = labels.clone();
            for profile in profiles.iter().filter_map(|name| this.profiles.get(name)) {
                for (key, value) in &profile.labels {
                    all.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            all
        };
        let endpoints =
            endpoints.into_iter().map(|e: Endpoint| (inherit(&e.labels, &e.profiles), e));
        let sets = sets.into_iter().map(|s: NetworkSet| (inherit(&s.labels, &s.profiles), s));
        this.members = Members { endpoints: endpoints.collect(), sets: sets.collect() };
        this
    }

    /// The pod with this address.
    pub fn endpoint(&self, address: IpAddr) -> Option<&Endpoint> {
        self.found(address).map(|(_, endpoint)| endpoint)
    }

    fn found(&self, address: IpAddr) -> Option<&(Labels, Endpoint)> {
        self.members.endpoints.iter().find(|(_, e)| e.is_workload && e.addresses.contains(&address))
    }

    /// What the endpoint that has the near address says of a packet in one direction.
    pub fn judge(&self, direction: Direction, packet: &Packet) -> Verdict {
        let near = if direction == Direction::Ingress { packet.to } else { packet.from };
        let Some((labels, endpoint)) = self.found(near) else {
            return Verdict { passes: false, reason: format!("no endpoint has {near}") };
        };
        for tier in &self.tiers {
            let mut policies = self
                .policies
                .iter()
                .filter(|p| p.tier.as_ref() == Some(&tier.name))
                .filter(|p| p.governs(direction) && p.selector.matches(labels))
                .peekable();
            if policies.peek().is_none() {
                continue;
            }
            let decided = policies.find_map(|policy| {
                let rule = policy.rules(direction).iter().enumerate().find(|(_, rule)| {
                    rule.action != Action::Log && rule.matches(packet, &self.members)
                })?;
                Some((policy, rule))
            });
            let passes = match decided {
                Some((policy, (number, rule))) => match rule.action {
                    Action::Allow | Action::Deny => {
                        let passes = rule.action == Action::Allow;
                        let action = rule.action;
                        let reason = format!(
                            "{action:?} by rule {number} of policy {} in tier {}",
                            policy.id, tier.name
                        );
                        return Verdict { passes, reason };
                    }
                    Action::Pass | Action::Log => true,
                },
                None => tier.passes,
            };
            if !passes {
                return Verdict { passes, reason: format!("end of tier {}", tier.name) };
            }
        }
        self.judge_by_profiles(endpoint, direction, packet)
    }

    fn judge_by_profiles(
        &self,
        endpoint: &Endpoint,
        direction: Direction,
        packet: &Packet,
    ) -> Verdict {
        for name in &endpoint.profiles {
            let Some(profile) = self.profiles.get(name) else {
                return Verdict { passes: false, reason: format!("missing profile {name}") };
            };
            let mut rules = profile.rules(direction).iter().enumerate();
            let first = rules.find(|(_, rule)| {
                rule.action != Action::Log && rule.matches(packet, &self.members)
            });
            if let Some((number, rule)) = first
                && rule.action != Action::Pass
            {
                let reason = format!("{:?} by rule {number} of profile {name}", rule.action);
                return Verdict { passes: rule.action == Action::Allow, reason };
            }
        }
        Verdict { passes: false, reason: "end of profiles".to_owned() }
    }

    /// The names of the policies that select the pod with this address.
    pub fn policies_of(&self, address: IpAddr) -> Vec<String> {
        let Some((labels, _)) = self.found(address) else { return Vec::new() };
        let all = self.policies.iter().filter(|p| p.selector.matches(labels));
        all.map(|policy| policy.id.clone()).collect()
    }

    /// Everything that governs the endpoint with this address, for people.
    pub fn describe(&self, address: IpAddr) -> String {
        let Some((labels, endpoint)) = self.found(address) else {
            return format!("no endpoint has {address}");
        };
        let mut text = format!("{address}: profiles {:?}, labels {labels:?}\n", endpoint.profiles);
        for tier in &self.tiers {
            for policy in self.policies.iter().filter(|p| p.tier.as_ref() == Some(&tier.name)) {
                if policy.selector.matches(labels) {
                    text += &format!(
                        "  tier {} (passes: {}) policy {}\n",
                        tier.name, tier.passes, policy.id
                    );
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests;
