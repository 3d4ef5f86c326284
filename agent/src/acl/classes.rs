//! ACL classes in use: what endpoints with the same ordered policies and profiles share.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::desired::{AclClass, ClassId};

/// The classes in use. Like everything that is counted, a class is dropped only in
/// [`ClassTable::sweep`].
#[derive(Debug, Default)]
pub(super) struct ClassTable {
    users: BTreeMap<ClassId, u32>,
    unused: Vec<ClassId>,
}

impl ClassTable {
    /// One endpoint more is of the class. True when it is the first.
    pub(super) fn acquire(
        &mut self,
        id: &ClassId,
        class: AclClass,
        desired: &mut OrdMap<ClassId, Arc<AclClass>>,
    ) -> bool {
        if let Some(users) = self.users.get_mut(id) {
            *users += 1;
            return false;
        }
        self.users.insert(id.clone(), 1);
        desired.insert(id.clone(), Arc::new(class));
        true
    }

    /// One endpoint less is of the class.
    pub(super) fn release(&mut self, id: &ClassId) {
        if let Some(users) = self.users.get_mut(id) {
            *users -= 1;
            if *users == 0 {
                self.unused.push(id.clone());
            }
        }
    }

    /// True when no class is in use.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.unused.is_empty()
    }

    /// Drops the classes without endpoints; returns them.
    pub(super) fn sweep(
        &mut self,
        desired: &mut OrdMap<ClassId, Arc<AclClass>>,
    ) -> Vec<Arc<AclClass>> {
        let mut dropped = Vec::new();
        for id in std::mem::take(&mut self.unused) {
            if self.users.get(&id).is_some_and(|users| *users == 0) {
                self.users.remove(&id);
                dropped.extend(desired.remove(&id));
            }
        }
        dropped
    }
}
