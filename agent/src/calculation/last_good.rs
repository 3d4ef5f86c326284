//! What a refused value counts as: nothing, or the last version that could be read.
//!
//! Of the four kinds that policy is made of: policies, tiers, profiles and network sets. A policy
//! that were kept while its tier or its set is gone would mean something else than it did. Of
//! endpoints no address is ever kept: whose it is has to be known, not remembered. So a host endpoint
//! that names its interface goes on policing that, and is in no set; any other endpoint is absent.
//!
//! Pure. What is in force follows from the objects, from what is refused, and from the mode of now;
//! when the mode comes, before or after, does not matter.

use std::collections::HashMap;
use std::sync::Arc;

use calico_datastore::layout::Rejection;
use calico_datastore::model::{HostEndpoint, ResourceId, Update};
use imbl::OrdSet;

use crate::config::InvalidPolicy;

/// A version of an object that could be read.
#[derive(Debug)]
struct Version {
    update: Update,
    /// It is what the store holds. False: the store holds a value that was refused.
    current: bool,
}

/// The last versions, and what is refused.
#[derive(Debug, Default)]
pub(super) struct LastGood {
    mode: InvalidPolicy,
    versions: HashMap<ResourceId, Version>,
    /// Refused objects by their keys.
    refused: HashMap<String, ResourceId>,
    /// The same, the other way round.
    keys: HashMap<ResourceId, String>,
}

impl LastGood {
    /// Takes a batch: the updates that are to be applied in the place of these.
    pub(super) fn take(
        &mut self,
        updates: Vec<Update>,
        rejections: &[Rejection],
        accepted: &[String],
    ) -> Vec<Update> {
        for Rejection { key, id, .. } in rejections {
            if let Some(id) = id.as_ref().filter(|id| may_be_kept(id)) {
                self.refused.insert(key.clone(), id.clone());
                self.keys.insert(id.clone(), key.clone());
            }
        }
        let mut applied = Vec::with_capacity(updates.len());
        for update in updates {
            let id = update.id();
            if may_be_kept(&id) {
                applied.extend(self.note(id, update));
            } else {
                applied.push(update);
            }
        }
        for key in accepted {
            let Some(id) = self.refused.remove(key) else { continue };
            self.keys.remove(&id);
            if self.versions.get(&id).is_some_and(|version| !version.current) {
                self.versions.remove(&id);
                if self.mode == InvalidPolicy::KeepLast {
                    applied.push(Update::deleted(id));
                }
            }
        }
        applied
    }

    /// Another mode holds: the updates that follow from it.
    pub(super) fn set_mode(&mut self, mode: InvalidPolicy) -> Vec<Update> {
        if std::mem::replace(&mut self.mode, mode) == mode {
            return Vec::new();
        }
        let refused = self.versions.iter().filter(|(_, version)| !version.current);
        let updates = refused.map(|(id, version)| match mode {
            InvalidPolicy::Absent => Update::deleted(id.clone()),
            InvalidPolicy::KeepLast => version.update.clone(),
        });
        updates.collect()
    }

    /// The keys of refused values whose last version is in force.
    pub(super) fn kept(&self) -> OrdSet<String> {
        if self.mode == InvalidPolicy::Absent {
            return OrdSet::new();
        }
        let kept = self.refused.iter().filter(|(_, id)| self.is_older(id));
        kept.map(|(key, _)| key.clone()).collect()
    }

    /// True when the last version of a refused object is in force.
    pub(super) fn keeps(&self, id: &ResourceId) -> bool {
        self.mode == InvalidPolicy::KeepLast && self.keys.contains_key(id) && self.is_older(id)
    }

    /// True when what is in force is not what the store holds. An object of which one of several keys
    /// is refused is what the others say.
    fn is_older(&self, id: &ResourceId) -> bool {
        self.versions.get(id).is_some_and(|version| !version.current)
    }

    /// Remembers an update. Returns what is to be applied in its place.
    fn note(&mut self, id: ResourceId, update: Update) -> Option<Update> {
        if update != Update::deleted(id.clone()) {
            match kept_of(&update) {
                Some(kept) => {
                    self.versions.insert(id, Version { update: kept, current: true });
                }
                None => drop(self.versions.remove(&id)),
            }
            return Some(update);
        }
        if !self.keys.contains_key(&id) {
            self.versions.remove(&id);
            return Some(update);
        }
        match self.versions.get_mut(&id) {
            Some(version) => {
                version.current = false;
                match (self.mode, &version.update) {
                    (InvalidPolicy::Absent, _) => Some(update),
                    // What is in force has addresses.
                    (InvalidPolicy::KeepLast, kept @ Update::HostEndpoint(..)) => {
                        Some(kept.clone())
                    }
                    (InvalidPolicy::KeepLast, _) => None,
                }
            }
            None => Some(update),
        }
    }
}

/// True of the kinds that policy is made of, and of host endpoints.
fn may_be_kept(id: &ResourceId) -> bool {
    matches!(
        id,
        ResourceId::Policy(_)
            | ResourceId::Tier(_)
            | ResourceId::Profile(_)
            | ResourceId::NetworkSet(_)
            | ResourceId::HostEndpoint(_)
    )
}

/// What counts of a version when the next one is refused.
fn kept_of(update: &Update) -> Option<Update> {
    let Update::HostEndpoint(id, Some(endpoint)) = update else { return Some(update.clone()) };
    // Without a name its addresses say which interfaces it is about.
    endpoint.interface.as_ref()?;
    let nowhere =
        HostEndpoint { expected_addresses: Vec::new(), left_out: None, ..(**endpoint).clone() };
    Some(Update::HostEndpoint(id.clone(), Some(Arc::new(nowhere))))
}

#[cfg(test)]
pub(super) mod tests;
