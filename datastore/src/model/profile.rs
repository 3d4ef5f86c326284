//! Profiles: the rules and labels that an endpoint lists by name.

use super::{Labels, Name, Rule};

/// A profile. An endpoint asks its profiles, in the order it lists them, when no tier decided.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Profile {
    /// Rules for packets to the endpoint.
    pub ingress: Vec<Rule>,
    /// Rules for packets from the endpoint.
    pub egress: Vec<Rule>,
    /// Labels that its endpoints inherit; the endpoint's own label of the same key wins, then the
    /// first profile in its list.
    pub labels: Labels,
}

impl Profile {
    /// The built-in profile that allows everything. It is never stored.
    pub const DEFAULT_ALLOW: &'static str = "projectcalico-default-allow";

    /// The name of [`Self::DEFAULT_ALLOW`].
    pub fn default_allow_name() -> Name {
        Name::from(Self::DEFAULT_ALLOW)
    }
}
