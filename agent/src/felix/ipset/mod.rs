//! Address sets in the kernel, behind one small interface: read all of ours, write a list of
//! commands. Both speak netlink; no program is started.
//!
//! | module | what |
//! |---|---|
//! | `wire` | names of the protocol, and the socket |
//! | `element`, `list` | members and sets as the kernel says them (pure) |
//! | `batch`, `encode`, `words` | which commands go together, how they are said, and what a refusal means (pure) |
//! | `driver` | reads and writes |
//! | `plan`, `compare` | what has to be written, and what others changed (pure) |

mod batch;
mod compare;
mod driver;
pub(in crate::felix) mod element;
mod encode;
mod list;
mod plan;
/// What `ipset save` prints: the sets of tests.
#[cfg(test)]
mod save;
#[cfg(test)]
mod tests;
pub(in crate::felix) mod wire;
mod words;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, InterfaceName, Protocol};
use serde::{Deserialize, Serialize};

pub use batch::Refused;
pub use compare::compare;
pub use driver::{SetError, Sets};
pub use list::listed;
pub(crate) use plan::members_gone;
pub use plan::{Phases, full, members_of};

/// What the members of a set of the kernel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetType {
    /// `hash:net`.
    Net,
    /// `hash:ip,port`.
    Port,
    /// `hash:net,iface`: what may come out of, or go into, which interface.
    NetIface,
}

impl SetType {
    fn name(self) -> &'static str {
        match self {
            Self::Net => "hash:net",
            Self::Port => "hash:ip,port",
            Self::NetIface => "hash:net,iface",
        }
    }

    /// The module of the kernel that has it.
    fn module(self) -> &'static str {
        match self {
            Self::Net => "ip_set_hash_net",
            Self::Port => "ip_set_hash_ipport",
            Self::NetIface => "ip_set_hash_netiface",
        }
    }
}

/// What a set is, apart from its members. A set of the same name that is something else cannot be
/// used and is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetSpec {
    /// What its members are.
    pub kind: SetType,
    /// Their family.
    pub family: Family,
    /// The most members.
    pub max: u32,
    /// The kernel counts the packets that each member is found for.
    pub counters: bool,
}

impl SetSpec {
    /// With how many buckets it begins, where that is not what the kernel would take. A class mostly has
    /// few members, and there may be thousands of classes; the kernel enlarges a table that fills.
    fn hash_size(self) -> Option<u32> {
        (self.kind == SetType::NetIface).then_some(64)
    }
}

/// What the kernel counted for a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// A member of a set of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entry {
    /// A prefix, never of length 0: the kernel has none in its hash types.
    Net(Cidr),
    /// Address, protocol and port.
    Port(IpAddr, Protocol, u16),
    /// A prefix behind an interface.
    NetIface(Cidr, InterfaceName),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => write!(f, "{net}"),
            Self::Port(ip, protocol, port) => write!(f, "{ip},{protocol}:{port}"),
            Self::NetIface(net, interface) => write!(f, "{net},{interface}"),
        }
    }
}

/// A set as the kernel has it.
#[derive(Clone, Debug, Default)]
pub struct ActualSet {
    /// What it is; `None` when it is not one that we would make.
    pub spec: Option<SetSpec>,
    /// Its type and family, when it is of a type that we use: such sets can change places.
    pub shape: Option<(SetType, Family)>,
    /// Its members.
    pub members: HashSet<Entry>,
    /// Members that say that what they cover is *not* in the set (`nomatch`). We make none.
    pub negated: HashSet<Entry>,
    /// What was counted for members, where that is not nothing.
    pub counts: HashMap<Entry, Counts>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A new set.
    Create(String, SetSpec),
    /// A member comes; nothing happens when it is there.
    Add(String, Entry),
    /// A member, which is there, was counted so often: so a set that takes the place of another one
    /// goes on where that was.
    Count(String, Entry, Counts),
    /// A member goes; nothing happens when it is not there.
    Delete(String, Entry),
    /// Two sets of one type change places, in one step.
    Swap(String, String),
    /// A set goes. Refused while a rule uses it.
    Destroy(String),
}

impl Command {
    /// The set that it is about.
    pub fn set(&self) -> &str {
        match self {
            Self::Create(set, _)
            | Self::Add(set, _)
            | Self::Count(set, ..)
            | Self::Delete(set, _)
            | Self::Swap(set, _)
            | Self::Destroy(set) => set,
        }
    }
}

/// As `ipset restore` takes it.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(set, spec) => {
                let family = if spec.family == Family::V4 { "inet" } else { "inet6" };
                write!(f, "create {set} {} family {family}", spec.kind.name())?;
                let small = spec.hash_size().map(|size| format!(" hashsize {size}"));
                let small = small.unwrap_or_default();
                let counters = if spec.counters { " counters" } else { "" };
                write!(f, "{small} maxelem {}{counters}", spec.max)
            }
            Self::Add(set, entry) => write!(f, "add {set} {entry}"),
            Self::Count(set, entry, Counts { packets, bytes }) => {
                write!(f, "add {set} {entry} packets {packets} bytes {bytes}")
            }
            Self::Delete(set, entry) => write!(f, "del {set} {entry}"),
            Self::Swap(a, b) => write!(f, "swap {a} {b}"),
            Self::Destroy(set) => write!(f, "destroy {set}"),
        }
    }
}
