//! Address sets: what a selector or a named port stands for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use calico_datastore::model::{Cidr, Protocol};
use imbl::OrdSet;

/// The identity of a set, in the original's form: `s:` (selector) or `n:` (named port) and the
/// unpadded base64url of a SHA-224 of what it stands for. The same after a restart, and the same
/// as the original's.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(Arc<str>);

impl SetId {
    /// An id of that text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetId({})", self.0)
    }
}

/// What the members of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Prefixes.
    Net,
    /// Address, protocol and port.
    Port,
}

/// A member of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    /// A prefix; a single address is a /32 or /128.
    Net(Cidr),
    /// A port of an endpoint.
    Port(IpAddr, Protocol, u16),
}

/// A set of either family's members; each dataplane splits it.
#[derive(Clone, Debug)]
pub struct AddressSet {
    /// What its members are.
    pub kind: SetKind,
    /// The selector it stands for, for people: `status`, `explain`.
    pub selector: Arc<str>,
    /// The members.
    pub members: OrdSet<Member>,
}

impl PartialEq for AddressSet {
    /// Costs what differs: members that are shared in memory are not looked at.
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.selector == other.selector
            && (self.members.ptr_eq(&other.members) || self.members == other.members)
    }
}

impl Eq for AddressSet {}
