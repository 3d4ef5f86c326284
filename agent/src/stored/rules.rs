//! Classes, policies and rules as they stand in the file.

use std::sync::Arc;

use calico_datastore::model::{
    Action, Cidr, Family, IcmpMatch, Name, PolicyId, Protocol, TierAction,
};
use serde::{Deserialize, Serialize};

use super::text::{Ports, Text};
use crate::desired::{AclClass, ActiveRule, ActiveRules, DirectionAcl, SetId, SideMatch, TierAcl};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A policy's name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyName {
    namespace: Option<Arc<str>>,
    name: Arc<str>,
}

impl From<&PolicyId> for PolicyName {
    fn from(id: &PolicyId) -> Self {
        Self { namespace: id.namespace.as_ref().map(text), name: text(&id.name) }
    }
}

impl From<PolicyName> for PolicyId {
    fn from(id: PolicyName) -> Self {
        Self { namespace: id.namespace.map(|name| Name::from(&*name)), name: Name::from(&*id.name) }
    }
}

/// A name as text.
pub(super) fn text(name: &Name) -> Arc<str> {
    Arc::from(name.as_str())
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(remote = "TierAction", rename_all = "lowercase")]
enum TierActionText {
    Deny,
    Pass,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tier {
    tier: Arc<str>,
    policies: Vec<PolicyName>,
    #[serde(with = "TierActionText")]
    default_action: TierAction,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Direction {
    tiers: Vec<Tier>,
    profiles: Vec<Arc<str>>,
}

/// Tiers as they are written.
pub(super) fn written_tiers(tiers: &[TierAcl]) -> Vec<Tier> {
    let tier = |tier: &TierAcl| Tier {
        tier: text(&tier.tier),
        policies: tier.policies.iter().map(PolicyName::from).collect(),
        default_action: tier.default_action,
    };
    tiers.iter().map(tier).collect()
}

/// What was written again.
pub(super) fn tiers(tiers: Vec<Tier>) -> Vec<TierAcl> {
    let tier = |tier: Tier| TierAcl {
        tier: Name::from(&*tier.tier),
        policies: tier.policies.into_iter().map(PolicyId::from).collect(),
        default_action: tier.default_action,
    };
    tiers.into_iter().map(tier).collect()
}

impl From<&DirectionAcl> for Direction {
    fn from(acl: &DirectionAcl) -> Self {
        Self { tiers: written_tiers(&acl.tiers), profiles: acl.profiles.iter().map(text).collect() }
    }
}

impl From<Direction> for DirectionAcl {
    fn from(acl: Direction) -> Self {
        Self {
            tiers: tiers(acl.tiers),
            profiles: acl.profiles.iter().map(|name| Name::from(&**name)).collect(),
        }
    }
}

/// An ACL class. Its id stands beside it only for people: it follows from the content, and must.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    pub(super) id: String,
    active: bool,
    ingress: Direction,
    egress: Direction,
}

impl From<&AclClass> for Class {
    fn from(class: &AclClass) -> Self {
        Self {
            id: class.id().to_string(),
            active: class.active,
            ingress: Direction::from(&class.ingress),
            egress: Direction::from(&class.egress),
        }
    }
}

impl From<Class> for AclClass {
    fn from(class: Class) -> Self {
        Self { active: class.active, ingress: class.ingress.into(), egress: class.egress.into() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(remote = "Action", rename_all = "lowercase")]
enum ActionText {
    Allow,
    Deny,
    Log,
    Pass,
}

/// `IPv4` or `IPv6`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(remote = "Family")]
enum FamilyText {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct FamilyField(#[serde(with = "FamilyText")] Family);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Icmp {
    #[serde(rename = "type")]
    icmp_type: u8,
    code: Option<u8>,
}

impl From<IcmpMatch> for Icmp {
    fn from(icmp: IcmpMatch) -> Self {
        Self { icmp_type: icmp.icmp_type, code: icmp.code }
    }
}

impl From<Icmp> for IcmpMatch {
    fn from(icmp: Icmp) -> Self {
        Self { icmp_type: icmp.icmp_type, code: icmp.code }
    }
}

/// One side of a rule; what is not there is no criterion.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Side {
    #[serde(skip_serializing_if = "is_default")]
    nets: Vec<Text<Cidr>>,
    #[serde(skip_serializing_if = "is_default")]
    not_nets: Vec<Text<Cidr>>,
    #[serde(skip_serializing_if = "is_default")]
    sets: Vec<Arc<str>>,
    #[serde(skip_serializing_if = "is_default")]
    not_sets: Vec<Arc<str>>,
    #[serde(skip_serializing_if = "is_default")]
    ports: Vec<Text<Ports>>,
    #[serde(skip_serializing_if = "is_default")]
    named_ports: Vec<Arc<str>>,
    #[serde(skip_serializing_if = "is_default")]
    not_ports: Vec<Text<Ports>>,
    #[serde(skip_serializing_if = "is_default")]
    not_named_ports: Vec<Arc<str>>,
}

impl From<&SideMatch> for Side {
    fn from(side: &SideMatch) -> Self {
        let nets = |nets: &[Cidr]| nets.iter().copied().map(Text).collect();
        let sets = |sets: &[SetId]| sets.iter().map(|id| Arc::from(id.as_str())).collect();
        Self {
            nets: nets(&side.nets),
            not_nets: nets(&side.not_nets),
            sets: sets(&side.sets),
            not_sets: sets(&side.not_sets),
            ports: side.ports.iter().map(|range| Text(Ports(*range))).collect(),
            named_ports: sets(&side.named_ports),
            not_ports: side.not_ports.iter().map(|range| Text(Ports(*range))).collect(),
            not_named_ports: sets(&side.not_named_ports),
        }
    }
}

impl From<Side> for SideMatch {
    fn from(side: Side) -> Self {
        let nets = |nets: Vec<Text<Cidr>>| nets.into_iter().map(|Text(net)| net).collect();
        let sets = |sets: Vec<Arc<str>>| sets.into_iter().map(SetId::new).collect();
        let ports = |ports: Vec<Text<Ports>>| ports.into_iter().map(|Text(Ports(r))| r).collect();
        Self {
            nets: nets(side.nets),
            not_nets: nets(side.not_nets),
            sets: sets(side.sets),
            not_sets: sets(side.not_sets),
            ports: ports(side.ports),
            named_ports: sets(side.named_ports),
            not_ports: ports(side.not_ports),
            not_named_ports: sets(side.not_named_ports),
        }
    }
}

/// A rule; what is not there is no criterion.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// Its place in the policy as written; without it, its place in this list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<u32>,
    #[serde(with = "ActionText")]
    action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    family: Option<FamilyField>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<Text<Protocol>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_protocol: Option<Text<Protocol>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    icmp: Option<Icmp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_icmp: Option<Icmp>,
    #[serde(default, skip_serializing_if = "is_default")]
    source: Side,
    #[serde(default, skip_serializing_if = "is_default")]
    destination: Side,
}

impl Rule {
    fn written(place: u32, rule: &ActiveRule) -> Self {
        Self {
            origin: (rule.origin != place).then_some(rule.origin),
            action: rule.action,
            family: rule.family.map(FamilyField),
            protocol: rule.protocol.map(Text),
            not_protocol: rule.not_protocol.map(Text),
            icmp: rule.icmp.map(Icmp::from),
            not_icmp: rule.not_icmp.map(Icmp::from),
            source: Side::from(&rule.source),
            destination: Side::from(&rule.destination),
        }
    }

    fn active(self, place: u32) -> ActiveRule {
        let rule = self;
        ActiveRule {
            origin: rule.origin.unwrap_or(place),
            action: rule.action,
            family: rule.family.map(|FamilyField(family)| family),
            protocol: rule.protocol.map(|Text(protocol)| protocol),
            not_protocol: rule.not_protocol.map(|Text(protocol)| protocol),
            icmp: rule.icmp.map(IcmpMatch::from),
            not_icmp: rule.not_icmp.map(IcmpMatch::from),
            source: rule.source.into(),
            destination: rule.destination.into(),
        }
    }
}

/// The rules of one direction for the file.
pub(super) fn written(rules: &[ActiveRule]) -> Vec<Rule> {
    (0..).zip(rules).map(|(place, rule)| Rule::written(place, rule)).collect()
}

/// The rules of both directions again.
pub(super) fn active(ingress: Vec<Rule>, egress: Vec<Rule>) -> Arc<ActiveRules> {
    let again =
        |rules: Vec<Rule>| (0..).zip(rules).map(|(place, rule)| rule.active(place)).collect();
    Arc::new(ActiveRules { ingress: again(ingress), egress: again(egress) })
}
