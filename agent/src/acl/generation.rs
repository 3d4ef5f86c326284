//! How a version of Calico names, places and orders policies.
//!
//! Every host of a cluster has to ask the same policies in the same order, also beside hosts that
//! run the original, and its versions differ in three things: which tier a policy is in, where a
//! tier stands that has no object, and which of two policies of equal order is asked first. So the
//! version of the cluster decides (`calicoVersion`), or who sets one for the agent.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use calico_datastore::model::{CalicoVersion, Name, Order, Policy, PolicyId, Tier, TierAction};

/// The tier of policies that name none.
pub(super) const DEFAULT_TIER: &str = "default";

/// The first version with tiers.
const TIERS: CalicoVersion = CalicoVersion { major: 3, minor: 29 };

/// The first version that reads a policy's tier from its `spec`.
const TIER_IN_SPEC: CalicoVersion = CalicoVersion { major: 3, minor: 32 };

/// Beginnings of names that stand for a tier as a whole, and that tier. They are of policies that
/// were made from objects of Kubernetes.
const PREFIXES: [(&str, &str); 3] = [
    ("knp.default.", DEFAULT_TIER),
    ("kanp.adminnetworkpolicy.", "adminnetworkpolicy"),
    ("kbanp.baselineadminnetworkpolicy.", "baselineadminnetworkpolicy"),
];

/// Versions that treat policies alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// Nobody says the version. A policy is in the tier of its `spec`, else of its label, else in the
    /// one whose name its own begins with when there is one, else in `default`, which needs no
    /// object. Equal orders: as before 3.32. It agrees with each of the others about a store that
    /// only such hosts wrote to.
    #[default]
    Unversioned,
    /// 3.0 to 3.28: there is no tier but `default`, and its end denies.
    OneTier,
    /// 3.29 to 3.31: the tier is what stands before the first dot of the name.
    TierInName,
    /// From 3.32 on: the tier is that of the `spec`, and equal orders are told apart by the name
    /// before the namespace.
    TierInSpec,
}

/// A tier's place: behind all that have an object come those that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// It has an object, and its order.
    Stored(Order),
    /// It needs none.
    BuiltIn,
    /// It is only named.
    Missing,
}

impl Generation {
    /// That of a version.
    pub fn of(version: Option<CalicoVersion>) -> Self {
        match version {
            None => Self::Unversioned,
            Some(version) if version < TIERS => Self::OneTier,
            Some(version) if version < TIER_IN_SPEC => Self::TierInName,
            Some(_) => Self::TierInSpec,
        }
    }

    /// The tier of a policy. `exists` says whether a tier has an object.
    pub(super) fn tier(
        self,
        id: &PolicyId,
        policy: &Policy,
        exists: impl Fn(&Name) -> bool,
    ) -> Name {
        let tier = match self {
            Self::Unversioned => {
                let named = || before_dot(id).map(Name::from).filter(exists);
                said(policy).cloned().or_else(named)
            }
            Self::OneTier => None,
            Self::TierInName => {
                let name = id.name.as_str();
                let whole = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix));
                whole.map(|(_, tier)| *tier).or_else(|| before_dot(id)).map(Name::from)
            }
            Self::TierInSpec => policy.tier.clone(),
        };
        tier.unwrap_or_else(|| Name::from(DEFAULT_TIER))
    }

    /// The tiers whose coming, going and changing concerns a policy.
    pub(super) fn tiers_to_watch(self, id: &PolicyId, policy: &Policy) -> BTreeSet<Name> {
        // The one it is in if no tier exists, and the one it is in if all do.
        [false, true].map(|exists| self.tier(id, policy, |_| exists)).into()
    }

    /// A tier's place, and what its end does. Nobody said that the end of a missing one may be
    /// passed, so it denies.
    pub(super) fn place(self, name: &Name, stored: Option<&Tier>) -> (Place, TierAction) {
        // Hosts before 3.29 know no such objects.
        match stored.filter(|_| self != Self::OneTier) {
            Some(tier) => (Place::Stored(tier.order), tier.default_action),
            None if *name == DEFAULT_TIER && !self.stores_default() => {
                (Place::BuiltIn, TierAction::Deny)
            }
            None => (Place::Missing, TierAction::Deny),
        }
    }

    /// What decides between policies of equal order.
    pub(super) fn sort_name(self, id: &PolicyId) -> Arc<str> {
        if self != Self::TierInSpec {
            return Arc::from(id.to_string());
        }
        let (namespace, kind) = match &id.namespace {
            Some(namespace) => (namespace.as_str(), "NetworkPolicy"),
            None => ("", "GlobalNetworkPolicy"),
        };
        Arc::from(format!("{}/{namespace}/{kind}", id.name))
    }

    /// True when the tier `default` is an object like any other, which the writers make.
    fn stores_default(self) -> bool {
        matches!(self, Self::TierInName | Self::TierInSpec)
    }
}

impl fmt::Display for Generation {
    /// `3.29 to 3.31`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unversioned => "no version",
            Self::OneTier => "3.0 to 3.28",
            Self::TierInName => "3.29 to 3.31",
            Self::TierInSpec => "3.32 and later",
        })
    }
}

/// The tier that a policy says it is in.
pub(super) fn said(policy: &Policy) -> Option<&Name> {
    policy.tier.as_ref().or(policy.tier_label.as_ref())
}

/// The text before the first dot of a policy's name.
fn before_dot(id: &PolicyId) -> Option<&str> {
    id.name.as_str().split_once('.').map(|(tier, _)| tier).filter(|tier| !tier.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::tests::make::{order, policy, policy_id};

    const ALL: [Generation; 4] = [
        Generation::Unversioned,
        Generation::OneTier,
        Generation::TierInName,
        Generation::TierInSpec,
    ];

    #[test]
    fn a_version_is_of_one_generation() {
        for (version, expected) in [
            ("v3.0.0", Generation::OneTier),
            ("v3.28.9", Generation::OneTier),
            ("v3.29.0", Generation::TierInName),
            ("v3.31.4", Generation::TierInName),
            ("v3.32.0", Generation::TierInSpec),
            ("v3.100.0", Generation::TierInSpec),
            ("v4.0.0", Generation::TierInSpec),
        ] {
            assert_eq!(Generation::of(version.parse().ok()), expected, "{version}");
        }
        assert_eq!(Generation::of(None), Generation::Unversioned);
    }

    /// The tier in each generation, in the order of [`ALL`]; the tiers `default` and `t1` exist.
    fn tiers(name: &str, spec: Option<&str>, label: Option<&str>) -> [String; 4] {
        let policy = Policy {
            tier: spec.map(Name::from),
            tier_label: label.map(Name::from),
            ..policy("all()")
        };
        let exists = |tier: &Name| *tier == "default" || *tier == "t1";
        ALL.map(|generation| generation.tier(&policy_id(name), &policy, exists).to_string())
    }

    #[test]
    fn the_tier_of_a_policy_in_each_generation() {
        assert_eq!(tiers("p", None, None), ["default", "default", "default", "default"]);
        assert_eq!(tiers("default.p", None, None), ["default", "default", "default", "default"]);
        // As 3.29 writes it: spec and name agree, and only older hosts know no tiers.
        assert_eq!(tiers("t1.p", Some("t1"), Some("t1")), ["t1", "default", "t1", "t1"]);
        assert_eq!(tiers("n/t1.p", Some("t1"), None), ["t1", "default", "t1", "t1"]);
        // In the name alone, or in name and label.
        assert_eq!(tiers("t1.p", None, None), ["t1", "default", "t1", "default"]);
        assert_eq!(tiers("t1.p", None, Some("t1")), ["t1", "default", "t1", "default"]);
        // A tier without object.
        assert_eq!(tiers("t9.p", None, None), ["default", "default", "t9", "default"]);
        assert_eq!(tiers("t9.p", Some("t9"), None), ["t9", "default", "t9", "t9"]);
        // Name and spec do not agree.
        assert_eq!(tiers("p", Some("t1"), None), ["t1", "default", "default", "t1"]);
        assert_eq!(tiers("t9.p", Some("t1"), Some("x")), ["t1", "default", "t9", "t1"]);
        // Names that were made from objects of Kubernetes.
        assert_eq!(tiers("knp.default.p", None, None)[2], "default");
        assert_eq!(tiers("kanp.adminnetworkpolicy.p", None, None)[2], "adminnetworkpolicy");
        assert_eq!(tiers("kanp.other.p", None, None)[2], "kanp");
        assert_eq!(tiers("ossg.p", None, None)[2], "ossg");
        assert_eq!(tiers(".p", None, None), ["default", "default", "default", "default"]);
    }

    #[test]
    fn tiers_to_watch_are_those_that_the_tier_depends_on() {
        let named = Policy { tier: Some("t1".into()), ..policy("all()") };
        let watch = |generation: Generation, policy: &Policy| -> Vec<String> {
            let tiers = generation.tiers_to_watch(&policy_id("t2.p"), policy);
            tiers.iter().map(ToString::to_string).collect()
        };
        assert_eq!(watch(Generation::Unversioned, &named), ["t1"]);
        assert_eq!(watch(Generation::Unversioned, &policy("all()")), ["default", "t2"]);
        assert_eq!(watch(Generation::OneTier, &named), ["default"]);
        assert_eq!(watch(Generation::TierInName, &named), ["t2"]);
        assert_eq!(watch(Generation::TierInSpec, &named), ["t1"]);
    }

    #[test]
    fn a_tier_without_object_and_the_end_of_each() {
        let tier = Tier { order: order(5.0), default_action: TierAction::Pass };
        let place = |generation: Generation, name: &str, stored: bool| {
            generation.place(&name.into(), stored.then_some(&tier))
        };
        let stored = (Place::Stored(order(5.0)), TierAction::Pass);
        let missing = (Place::Missing, TierAction::Deny);
        let built_in = (Place::BuiltIn, TierAction::Deny);
        for generation in [Generation::TierInName, Generation::TierInSpec] {
            assert_eq!(place(generation, "default", true), stored);
            assert_eq!(place(generation, "default", false), missing);
            assert_eq!(place(generation, "t9", false), missing);
        }
        assert_eq!(place(Generation::Unversioned, "default", true), stored);
        assert_eq!(place(Generation::Unversioned, "default", false), built_in);
        assert_eq!(place(Generation::Unversioned, "t9", false), missing);
        // Whatever is stored: hosts of that time do not see it.
        assert_eq!(place(Generation::OneTier, "default", true), built_in);
        assert!(Place::Stored(Order::LAST) < Place::BuiltIn && Place::BuiltIn < Place::Missing);
    }

    #[test]
    fn equal_orders_are_told_apart_by_namespace_or_by_name_first() {
        let sorted = |generation: Generation| {
            let mut ids = ["b", "a/c", "c.x", "z/a", "c"].map(policy_id);
            ids.sort_by_key(|id| generation.sort_name(id));
            ids.map(|id| id.to_string())
        };
        for generation in &ALL[..3] {
            assert_eq!(sorted(*generation), ["a/c", "b", "c", "c.x", "z/a"]);
        }
        // A dot sorts before the slash behind a whole name.
        assert_eq!(sorted(Generation::TierInSpec), ["z/a", "b", "c.x", "c", "a/c"]);
    }
}
