//! What to look at in one run: what the world made stale, and what others touched.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_datastore::model::{Cidr, WorkloadEndpointId};

use super::super::changes::{Place, Touched};
use super::super::intent::Stale;
use super::Routes;

/// What to look at in one run.
pub(super) struct Work {
    pub(super) all: bool,
    pub(super) destinations: BTreeSet<Cidr>,
    pub(super) neighbours: BTreeSet<(u32, IpAddr)>,
    pub(super) endpoints: BTreeSet<WorkloadEndpointId>,
}

impl Work {
    pub(super) fn add(&mut self, stale: Stale) {
        self.all |= stale.everything;
        self.destinations.extend(stale.destinations);
        self.neighbours.extend(stale.neighbours);
        self.endpoints.extend(stale.endpoints);
    }

    pub(super) fn add_places(
        &mut self,
        (destinations, keys): (BTreeSet<Cidr>, BTreeSet<(u32, IpAddr)>),
    ) {
        self.destinations.extend(destinations);
        self.neighbours.extend(keys);
    }
}

impl Routes {
    /// Adds the interfaces over which, as far as is known, touched destinations are reached: what
    /// took their place says nothing of them.
    pub(super) fn expand(&self, touched: &mut Touched) {
        for destination in &touched.destinations {
            for (route, _) in self.actual.at(destination) {
                match route.device {
                    Some(device) if self.intent.is_watched(device) => {
                        touched.interfaces.insert(device);
                    }
                    Some(_) => touched.everything = true,
                    None => touched.marked = true,
                }
            }
        }
    }
}

/// Marks a place to be read again.
pub(super) fn touch(touched: &mut Touched, place: Place) {
    match place {
        Place::Route(_) => touched.everything = true,
        Place::Neighbour(device, _) => drop(touched.interfaces.insert(device)),
    }
}
