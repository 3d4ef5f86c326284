//! The count that a handle keeps of its addresses in each block.
//!
//! It is raised before the block is written and lowered after it, so that whoever finds a handle
//! finds every address of it. It is always *set* to what the block says, never added to: whatever
//! an interrupted call left is right again after the next one.

use super::retry::{Outcome, Tries, remove, swap};
use super::{Ipam, IpamError};
use crate::layout::v3::keys;
use crate::layout::v3::write::handle::HandleDocument;
use crate::model::Cidr;
use crate::store::{Store, Stored};

/// A handle, and what is known of it from the last time that it was read.
#[derive(Debug)]
pub(super) struct Handle<'a> {
    pub(super) id: &'a str,
    /// Absent: it was written since, and has to be read again.
    known: Option<Option<Stored>>,
}

impl<'a> Handle<'a> {
    pub(super) fn unread(id: &'a str) -> Self {
        Self { id, known: None }
    }

    pub(super) fn read(id: &'a str, stored: Option<Stored>) -> Self {
        Self { id, known: Some(stored) }
    }

    /// Others may have written it.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }
}

/// Refuses what can be no handle: an empty one would be everybody's.
pub(super) fn check(id: &str) -> Result<(), IpamError> {
    if keys::is_handle(id) {
        Ok(())
    } else {
        Err(IpamError::InvalidHandle { handle: id.to_owned() })
    }
}

impl<S: Store> Ipam<S> {
    /// Makes the handle say that it has `count` addresses of `block`. A handle without addresses
    /// goes.
    pub(super) async fn set_count(
        &self,
        handle: &mut Handle<'_>,
        block: Cidr,
        count: usize,
    ) -> Result<(), IpamError> {
        let key = keys::handle(handle.id);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let mut tries = Tries::new(&key);
        loop {
            let stored = match handle.known.take() {
                Some(known) => known,
                None => self.store.get(&key).await?,
            };
            let mut document = match &stored {
                Some(stored) => HandleDocument::open(handle.id, &stored.value)?,
                None => HandleDocument::create(),
            };
            if document.count(block) == count {
                handle.known = Some(stored);
                return Ok(());
            }
            document.set(block, count);
            let revision = stored.map(|stored| stored.revision);
            let outcome = match revision {
                Some(revision) if document.is_empty() => {
                    remove(&self.store, &key, revision).await?
                }
                _ => {
                    let value = document.finish();
                    swap(&self.store, &key, revision, &value, |now| now == value).await?
                }
            };
            match outcome {
                Outcome::Done => return Ok(()),
                Outcome::Conflict => tries.again().await?,
            }
        }
    }
}
