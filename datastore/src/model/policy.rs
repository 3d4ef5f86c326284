//! Policies and the tiers that order them.

use std::cmp::Ordering;
use std::fmt;

use super::{Name, Rule, Selector};

/// The place of a policy in its tier or of a tier among tiers: a finite number, lowest first.
/// Absent (`Order::LAST`) sorts behind every number. Ties are broken by a text that the calculation
/// makes of the name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Order(f64);

impl Order {
    /// Behind everything that has a number.
    pub const LAST: Self = Self(f64::INFINITY);

    /// An order, or `None` for NaN, which JSON cannot carry.
    pub fn new(value: f64) -> Option<Self> {
        // -0.0 and 0.0 are one place.
        (!value.is_nan()).then_some(Self(value + 0.0))
    }
}

impl Eq for Order {}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::LAST { f.write_str("last") } else { write!(f, "{}", self.0) }
    }
}

/// What a policy is called. Global and namespaced policies live in different spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// `None` for a GlobalNetworkPolicy.
    pub namespace: Option<Name>,
    /// The name as stored, tier prefix included (`default.allow-dns`).
    pub name: Name,
}

impl fmt::Display for PolicyId {
    /// `namespace/name` or `name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// Which packets a policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// Connections, after address translation.
    Normal,
    /// Before connection tracking; host endpoints only.
    Untracked,
    /// Before destination address translation; host endpoints only.
    PreDnat,
}

/// A policy: rules for the endpoints that its selector matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The tier that the object names in its `spec`. Which tier it is in follows from that, from
    /// its label and from its name, and from the version of Calico.
    pub tier: Option<Name>,
    /// The tier that its label names; read only where `spec` names none.
    pub tier_label: Option<Name>,
    /// Its place inside the tier.
    pub order: Order,
    /// The endpoints it applies to, namespace and service accounts folded in.
    pub selector: Selector,
    /// Rules for packets to the endpoint.
    pub ingress: Vec<Rule>,
    /// Rules for packets from the endpoint.
    pub egress: Vec<Rule>,
    /// True when it governs packets to the endpoint.
    pub governs_ingress: bool,
    /// True when it governs packets from the endpoint.
    pub governs_egress: bool,
    /// Which packets it looks at.
    pub kind: PolicyKind,
    /// Also applies to what a host endpoint forwards.
    pub apply_on_forward: bool,
    /// In force on every host from the start, whether an endpoint there needs it or not: its writer
    /// knows that one soon will.
    pub needed_everywhere: bool,
}

/// What happens to a packet that no policy of a tier decided, when one of them governs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TierAction {
    /// It is dropped.
    Deny,
    /// It goes on to the next tier.
    Pass,
}

/// A tier: a step in the order of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Its place among the tiers.
    pub order: Order,
    /// What its end does.
    pub default_action: TierAction,
}
