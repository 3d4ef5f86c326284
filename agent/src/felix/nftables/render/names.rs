//! Names of chains and sets. All of them begin with a letter and are no word of nft's language.
//!
//! A set that changes its shape is another set: its name tells the shape, so a rule that names it is
//! written again, and no set that is in use is ever deleted.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use calico_datastore::model::Family;
use sha2::{Digest as _, Sha256};

use super::place::Place;
use crate::desired::{ClassId, SetId};
use crate::felix::iptables::uses::Subject;
use crate::felix::nftables::object::Name;
use crate::felix::ruleset::Direction;
use crate::felix::ruleset::deny::DenyPoint;

/// The map from the source's class.
pub const FROM: &str = "pods-from";
/// The map from the destination's class.
pub const TO: &str = "pods-to";
/// The chain that leads external addresses to their pods.
pub const EXTERNAL: &str = "external-to-pods";
/// The longest name that we make; the kernel takes 255.
const LONGEST: usize = 200;

/// Prefix and text, or a hash of the text where it is too long, could be mistaken for a hash, or holds
/// what nft does not take.
fn named(prefix: &str, text: &str) -> Name {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    let fits = prefix.len() + text.len() <= LONGEST && !text.starts_with('_');
    if fits && !text.is_empty() && text.bytes().all(plain) {
        return Arc::from(format!("{prefix}{text}"));
    }
    Arc::from(format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(Sha256::digest(text))))
}

/// The chain of a policy or a profile.
pub fn rules(place: Place, subject: &Subject) -> Name {
    let way = match place.direction() {
        Direction::Ingress => 'i',
        Direction::Egress => 'o',
    };
    let place = place.prefix();
    match subject {
        Subject::Policy(id) => named(&format!("{place}p{way}-"), &id.to_string()),
        Subject::Profile(name) => named(&format!("{place}pr{way}-"), name.as_str()),
    }
}

/// The chain that reports what is dropped at a point, and drops it.
pub fn deny(place: Place, point: &DenyPoint) -> Name {
    Arc::from(format!("{}deny-{}", place.prefix(), point.tag()))
}

/// The chain of a class.
pub fn class(id: &ClassId, direction: Direction) -> Name {
    Arc::from(format!("{}{id}", class_prefix(direction)))
}

fn class_prefix(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "to-class-",
        Direction::Egress => "from-class-",
    }
}

/// The text of the class's id whose chain has that name.
pub fn class_of_chain(name: &str) -> Option<&str> {
    Direction::ALL.iter().find_map(|direction| name.strip_prefix(class_prefix(*direction)))
}

/// The chain of one tier of what has the chain `of`.
pub fn tier(of: &str, number: usize) -> Name {
    Arc::from(format!("{of}/{number}"))
}

/// What a host endpoint's chain is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostChain {
    /// A place, and what the host itself receives or sends.
    Own(Place),
    /// What passes through.
    Forward(Direction),
}

/// The chain of a host endpoint; `None`: of all interfaces that have none of their own.
pub fn host(chain: HostChain, interface: Option<&str>) -> Name {
    let (place, what) = match chain {
        HostChain::Own(place) => (place, ""),
        HostChain::Forward(direction) => (Place::Host(direction), "forward-"),
    };
    let way = match place.direction() {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let place = place.prefix();
    let place = if place == "host-" { "" } else { place };
    // No interface has a name with a slash.
    match interface {
        Some(name) => Arc::from(format!("{place}{what}{way}-host-{name}")),
        None => Arc::from(format!("{place}{what}{way}-host/others")),
    }
}

/// The chain that lets fail-safe ports pass.
pub fn failsafe(direction: Direction, untracked: bool) -> Name {
    let raw = if untracked { "raw-" } else { "" };
    match direction {
        Direction::Ingress => Arc::from(format!("{raw}failsafe-in")),
        Direction::Egress => Arc::from(format!("{raw}failsafe-out")),
    }
}

/// The chain that counts what is dropped, and drops it, or rejects it. `early`: nobody has counted
/// yet that the packet is for the pod.
pub fn ends(direction: Direction, rejects: bool, early: bool) -> Name {
    let what = if rejects { "reject" } else { "drop" };
    let early = if early { "-early" } else { "" };
    match direction {
        Direction::Ingress => Arc::from(format!("{what}-to-pod{early}")),
        Direction::Egress => Arc::from(format!("{what}-from-pod")),
    }
}

/// Sets whose members are endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OfPods {
    /// The addresses of every endpoint.
    Known,
    /// The prefixes that endpoints may send from besides.
    Spoofed,
    /// Counts what they send.
    Sent,
    /// Counts what they send from those prefixes.
    SentSpoofed,
    /// Counts what is sent to them.
    Received,
    /// Counts what they may not send.
    DeniedFrom,
    /// Counts what they may not send from those prefixes.
    DeniedSpoofed,
    /// Counts what may not be sent to them.
    DeniedTo,
}

impl OfPods {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Known,
        Self::Spoofed,
        Self::Sent,
        Self::SentSpoofed,
        Self::Received,
        Self::DeniedFrom,
        Self::DeniedSpoofed,
        Self::DeniedTo,
    ];

    /// True for those with listed prefixes.
    pub fn is_spoofed(self) -> bool {
        matches!(self, Self::Spoofed | Self::SentSpoofed | Self::DeniedSpoofed)
    }

    /// True for those that count.
    pub fn counts(self) -> bool {
        !matches!(self, Self::Known | Self::Spoofed)
    }
}

/// The name of such a set. `nets`: some of its elements are prefixes.
pub fn of_pods(set: OfPods, family: Family, nets: bool) -> Name {
    let name = match set {
        OfPods::Known => "pods",
        OfPods::Spoofed => "spoofed",
        OfPods::Sent => "sent",
        OfPods::SentSpoofed => "sent-spoofed",
        OfPods::Received => "received",
        OfPods::DeniedFrom => "denied-from",
        OfPods::DeniedSpoofed => "denied-spoofed",
        OfPods::DeniedTo => "denied-to",
    };
    let nets = if nets && !set.is_spoofed() { "-nets" } else { "" };
    Arc::from(format!("{name}{}{nets}", family.number()))
}

/// Every set that may count, and what: those that are not there count nothing. What is denied comes last,
/// as a packet is counted there after it was counted in one of the others. (No set counts what a receiver
/// was never asked about: what its sender may not send is not looked up for it.)
pub fn counting(family: Family) -> impl Iterator<Item = (Name, OfPods)> {
    let all = OfPods::ALL.into_iter().filter(|set| set.counts());
    let shapes = |set: &OfPods| if set.is_spoofed() { vec![true] } else { vec![false, true] };
    all.flat_map(move |set| {
        shapes(&set).into_iter().map(move |nets| (of_pods(set, family, nets), set))
    })
}

/// The interfaces whose frames are checked.
pub const CHECKED: &str = "mac-checked";
/// Each of them with its MAC.
pub const MACS: &str = "macs";

/// The set of all pools.
pub fn all_pools(family: Family) -> Name {
    Arc::from(format!("pools{}", family.number()))
}

/// The set of the pools whose packets are masqueraded on their way out.
pub fn masq_pools(family: Family) -> Name {
    Arc::from(format!("masquerade{}", family.number()))
}

/// What a set of a rule is, in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Prefixes of this length.
    Length(u8),
    /// Ranges.
    Ranges,
    /// Ports.
    Ports,
}

/// A set of a selector or a named port, or a part of it.
pub fn set(family: Family, id: &SetId, part: Part) -> Name {
    let id = id.as_str().replace(':', "-");
    let name = named(&format!("set{}-", family.number()), &id);
    match part {
        Part::Ports => name,
        Part::Length(length) if length == family.host_len() => name,
        Part::Length(length) => Arc::from(format!("{name}/{length}")),
        Part::Ranges => Arc::from(format!("{name}/ranges")),
    }
}
