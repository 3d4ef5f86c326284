//! Which processes are ours.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many programs that have ended are remembered when nobody forgets them.
pub(super) const REMEMBERED: usize = 64;

/// The programs that run, and those that have ended and may have left events behind: whoever hears
/// from the kernel what a process did can tell whether it is one of ours. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Children(Arc<Mutex<BTreeMap<u32, Option<u64>>>>);

impl Children {
    /// True when a process of that number is or was ours.
    pub fn contains(&self, pid: u32) -> bool {
        self.lock().contains_key(&pid)
    }

    /// Those that have ended, for [`Children::forget`].
    pub fn ended(&self) -> Vec<u32> {
        self.lock().iter().filter(|(_, end)| end.is_some()).map(|(pid, _)| *pid).collect()
    }

    /// Forgets those that have ended: their numbers may be somebody else's from now on.
    pub fn forget(&self, pids: &[u32]) {
        let mut children = self.lock();
        for pid in pids {
            // Another child of ours may run under the same number.
            if children.get(pid).is_some_and(Option::is_some) {
                children.remove(pid);
            }
        }
    }

    pub(super) fn started(&self, pid: u32) {
        self.lock().insert(pid, None);
    }

    /// `order` grows from child to child.
    pub(super) fn end(&self, pid: u32, order: u64) {
        let mut children = self.lock();
        children.insert(pid, Some(order));
        let ended = || children.iter().filter_map(|(pid, end)| Some((end.as_ref()?, *pid)));
        if ended().count() > REMEMBERED
            && let Some((_, oldest)) = ended().min()
        {
            children.remove(&oldest);
        }
    }

    /// Nothing inside can be left half-changed, so a panic elsewhere does not matter here.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Option<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes the end of a child, also when nobody waits for it any more.
pub(super) struct Running<'a>(pub(super) &'a Children, pub(super) Option<u32>, pub(super) u64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(pid) = self.1 {
            self.0.end(pid, self.2);
        }
    }
}
