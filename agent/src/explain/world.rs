//! Everything that an answer depends on: a value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_datastore::model::Name;

use super::directory::Directory;
use super::document::Basis;
use super::uplink::Interfaces;
use crate::desired::{DesiredState, Externals};

/// What should be in force on one host.
#[derive(Clone, Debug)]
pub struct Place {
    /// The state.
    pub state: Arc<DesiredState>,
    /// The addresses of the host itself.
    pub addresses: BTreeSet<IpAddr>,
    /// Where external addresses lead.
    pub externals: Externals,
    /// Its interfaces.
    pub interfaces: Interfaces,
}

impl Place {
    /// A host of whose interfaces nothing is known: external addresses lead where they do while all of
    /// them are up.
    pub fn new(state: Arc<DesiredState>, addresses: BTreeSet<IpAddr>) -> Self {
        let externals = Externals::of(&state, |_| true);
        Self { state, addresses, externals, interfaces: Interfaces::default() }
    }
}

/// Everything that an answer depends on.
#[derive(Clone, Debug)]
pub struct World {
    /// Who is who.
    pub directory: Directory,
    /// The hosts whose policy is known.
    pub places: BTreeMap<Name, Place>,
    /// What it was all calculated from.
    pub basis: Basis,
    /// What may make it different in reality.
    pub notes: Vec<String>,
}
