//! A verdict's reason in words.

use std::fmt;

use super::{Hook, Reason, RuleAt, Side};

impl fmt::Display for Side {
    /// Whose rules decide: `egress` or `ingress`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "egress",
            Self::Destination => "ingress",
        })
    }
}

impl fmt::Display for Hook {
    /// As in a policy: `doNotTrack`, `preDNAT`, `host`, `applyOnForward`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untracked => "doNotTrack",
            Self::PreDnat => "preDNAT",
            Self::Host => "host",
            Self::Forward => "applyOnForward",
        })
    }
}

impl fmt::Display for RuleAt {
    /// The path below `spec`: `ingress[2]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.side, self.index)
    }
}

impl fmt::Display for Reason {
    /// What decided, without what it decided: `policy web of tier default, ingress[1]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { tier, policy, rule } => {
                write!(f, "policy {policy} of tier {tier}, {rule}")
            }
            Self::NoSuchPolicy { tier, policy } => {
                write!(f, "policy {policy} of tier {tier} does not exist")
            }
            Self::EndOfTier(tier) => write!(f, "no policy of tier {tier} allows it"),
            Self::Profile { profile, rule } => write!(f, "profile {profile}, {rule}"),
            Self::NoSuchProfile(profile) => write!(f, "profile {profile} does not exist"),
            Self::NothingAllows => f.write_str("no policy and no profile allows it"),
            Self::NotInForce => f.write_str("the endpoint is not in force"),
            Self::NotOfPods => {
                f.write_str("no policy is asked: its interface does not begin with InterfacePrefix")
            }
            Self::NotItsAddress => f.write_str("the address is not the endpoint's"),
            Self::FamilyOff => f.write_str("the family is switched off"),
            Self::Tunnel => f.write_str("endpoints may not make tunnels"),
            Self::Loopback => f.write_str("loopback addresses are the host's own"),
            Self::NeighbourDiscovery => f.write_str("it is neighbour discovery"),
            Self::OpenStack => f.write_str("OpenStack's guests may ask their host for it"),
            Self::ToHost => f.write_str("DefaultEndpointToHostAction is Drop"),
            Self::FromHost => f.write_str("it comes from the host itself"),
            Self::Failsafe => f.write_str("it is a fail-safe port"),
            Self::GoesOn => f.write_str("nothing decides there, so it goes on"),
        }
    }
}
