//! Network sets: addresses with labels that are not endpoints.

use std::fmt;

use super::{Cidr, Labels, Name};

/// What a network set is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkSetId {
    /// `None` for a GlobalNetworkSet.
    pub namespace: Option<Name>,
    /// The object's name.
    pub name: Name,
}

impl fmt::Display for NetworkSetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// A network set. Its members may overlap each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    /// Its addresses, of both families.
    pub nets: Vec<Cidr>,
    /// What selectors see, its namespace included.
    pub labels: Labels,
    /// The profile it inherits labels from (`kns.<namespace>`).
    pub profiles: Vec<Name>,
}
