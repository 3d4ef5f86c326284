//! Rules of policies and profiles.

use std::fmt;
use std::str::FromStr;

use super::{Cidr, Family, Name, Selector};

/// What a rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Accept; nothing after it is asked.
    Allow,
    /// Drop.
    Deny,
    /// Log and go on with the next rule.
    Log,
    /// Leave this tier and go on with the next (`next-tier` in v1); in the last one, with the
    /// profiles.
    Pass,
}

/// An IP protocol by its number, 1–255.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(u8);

/// The text names no protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a protocol")]
pub struct InvalidProtocol(pub String);

impl Protocol {
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDPLITE: Self = Self(136);

    /// A protocol by number; 0 is not one that a rule can name.
    pub fn from_number(number: u8) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// The protocol number of the IP header.
    pub fn number(self) -> u8 {
        self.0
    }

    /// True for TCP, UDP and SCTP: the ones that port criteria and named ports apply to.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl FromStr for Protocol {
    type Err = InvalidProtocol;

    /// A name in any case (`tcp`, `UDPLite`) or a number as digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || InvalidProtocol(text.to_owned());
        Ok(match text.to_ascii_lowercase().as_str() {
            "icmp" => Self::ICMP,
            "tcp" => Self::TCP,
            "udp" => Self::UDP,
            "icmpv6" => Self::ICMPV6,
            "sctp" => Self::SCTP,
            "udplite" => Self::UDPLITE,
            digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().and_then(Self::from_number).ok_or_else(bad)?
            }
            _ => return Err(bad()),
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("icmp"),
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::ICMPV6 => f.write_str("icmpv6"),
            Self::SCTP => f.write_str("sctp"),
            Self::UDPLITE => f.write_str("udplite"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Ports `first` to `last`, both included, 0–65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// The text is not a port, a range or a port name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port, a range first:last, or a port name")]
pub struct InvalidPort(pub String);

impl PortRange {
    /// The range, or `None` when `first > last`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// One port.
    pub fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}:{}", self.first, self.last)
        }
    }
}

/// A list of ports: a packet matches when any entry does. Empty = no criterion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Ports by number.
    pub ranges: Vec<PortRange>,
    /// Ports by name, resolved to (address, protocol, port) of the endpoints that have them.
    pub named: Vec<Name>,
}

impl Ports {
    /// True when there is no criterion.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.named.is_empty()
    }
}

/// An ICMP or ICMPv6 type, and possibly a code. Negated, the *pair* is negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// Type, 0–254.
    pub icmp_type: u8,
    /// Code, 0–255.
    pub code: Option<u8>,
}

/// One side of a rule. All criteria are AND-ed; each list is OR-ed inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Prefixes of either family. When the list is not empty but holds none of a packet's family,
    /// the rule does not exist for that family.
    pub nets: Vec<Cidr>,
    /// Prefixes that must not match; the same family rule applies.
    pub not_nets: Vec<Cidr>,
    /// Addresses of known endpoints and network sets whose labels match. Namespaces and service
    /// accounts have been folded in by the layout.
    pub selector: Option<Selector>,
    /// Every address that is *not* in the set of this selector, foreign addresses included.
    pub not_selector: Option<Selector>,
    /// Ports that must match.
    pub ports: Ports,
    /// Ports that must not match.
    pub not_ports: Ports,
}

/// A criterion that this agent cannot evaluate. It is never dropped as if it were not there, but in
/// a Deny that is then all the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unevaluable {
    /// `services`: Kubernetes services are not known in etcd.
    Services,
    /// `http`: nothing on this host looks into HTTP.
    Http,
}

/// One rule of a policy or a profile. Every criterion must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What happens on a match.
    pub action: Action,
    /// Only this family.
    pub family: Option<Family>,
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Any protocol but this one.
    pub not_protocol: Option<Protocol>,
    /// Only this ICMP type.
    pub icmp: Option<IcmpMatch>,
    /// Any ICMP message but this one.
    pub not_icmp: Option<IcmpMatch>,
    /// Where the packet comes from.
    pub source: Peer,
    /// Where the packet goes to.
    pub destination: Peer,
    /// Set when the rule has a criterion that cannot be evaluated here. Such a rule never matches,
    /// whatever its action (an unresolved service is a set without members), and is reported with
    /// the name of its policy.
    pub unevaluable: Option<Unevaluable>,
}

impl Rule {
    /// A rule that matches every packet.
    pub fn any(action: Action) -> Self {
        Self {
            action,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Peer::default(),
            destination: Peer::default(),
            unevaluable: None,
        }
    }
}
