//! Answers.

use std::fmt;

use calico_datastore::model::{Name, PolicyId};

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A rule of a policy.
    Policy {
        /// The tier that the policy is in.
        tier: Name,
        /// The policy.
        policy: PolicyId,
        /// Its place in the list of the direction *as stored*, counted from 0; rules that can never
        /// match count.
        rule: usize,
    },
    /// No rule of this tier decided, and its end denies.
    EndOfTier(Name),
    /// A rule of a profile; `rule` as for a policy. The built-in profile that allows everything has
    /// one rule.
    Profile {
        /// The profile.
        profile: Name,
        /// The rule.
        rule: usize,
    },
    /// The endpoint lists a profile that is not there: it drops.
    MissingProfile(Name),
    /// Neither a tier nor a profile decided: dropped.
    NothingAllows,
    /// The endpoint is administratively down: dropped.
    Inactive,
    /// The near address is none of the endpoint's: dropped.
    NotItsAddress,
    /// A workload wraps packets of its own for a tunnel: dropped.
    Tunnel,
    /// Of a connection that was let through: accepted.
    Answered,
    /// Of no connection, nor the first of one: dropped.
    Invalid,
    /// A failsafe port of the host: accepted.
    Failsafe,
    /// Nothing of the kind that is asked for says anything: what is forwarded, untracked or before
    /// translation of addresses goes on.
    NotAsked,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { tier, policy, rule } => {
                write!(f, "rule {rule} of policy {policy} in tier {tier}")
            }
            Self::EndOfTier(tier) => write!(f, "end of tier {tier}"),
            Self::Profile { profile, rule } => write!(f, "rule {rule} of profile {profile}"),
            Self::MissingProfile(profile) => write!(f, "missing profile {profile}"),
            Self::NothingAllows => f.write_str("nothing allows it"),
            Self::Inactive => f.write_str("the endpoint is down"),
            Self::NotItsAddress => f.write_str("not the endpoint's address"),
            Self::Tunnel => f.write_str("a tunnel of a workload"),
            Self::Answered => f.write_str("of a connection that was let through"),
            Self::Invalid => f.write_str("of no connection"),
            Self::Failsafe => f.write_str("a failsafe port"),
            Self::NotAsked => f.write_str("no policy is about it"),
        }
    }
}

/// An answer, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Verdict {
    /// False: dropped.
    pub allowed: bool,
    /// What decided.
    pub reason: Reason,
}

impl Verdict {
    pub(crate) fn allow(reason: Reason) -> Self {
        Self { allowed: true, reason }
    }

    pub(crate) fn deny(reason: Reason) -> Self {
        Self { allowed: false, reason }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.allowed { "allowed" } else { "denied" }, self.reason)
    }
}
