//! Addresses out of one block.

use std::net::IpAddr;

use super::handle::Handle;
use super::retry::{Outcome, Tries, swap};
use super::world::ReadBlock;
use super::{Ipam, IpamError, Owner};
use crate::layout::v3::keys;
use crate::layout::v3::write::block::BlockDocument;
use crate::model::Cidr;
use crate::store::Store;

impl<S: Store> Ipam<S> {
    /// Gives the owner those addresses of a block that `choose` finds in it. While others write
    /// the block, it chooses again; nothing chosen, or no block any more, is nothing given.
    ///
    /// When this fails, what may have happened is undone as far as the store lets us. What could
    /// not be undone is still in the handle.
    pub(super) async fn take(
        &self,
        owner: &Owner,
        handle: &mut Handle<'_>,
        cidr: Cidr,
        known: Option<ReadBlock>,
        choose: impl Fn(&BlockDocument) -> Vec<IpAddr>,
    ) -> Result<Vec<IpAddr>, IpamError> {
        let mut tried = Vec::new();
        let taken = self.try_take(owner, handle, cidr, known, choose, &mut tried).await;
        if taken.is_err()
            && let Err(error) = self.undo(owner, cidr, &tried).await
        {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, handle = owner.handle, %cidr, "an assignment is not undone");
        }
        taken
    }

    async fn try_take(
        &self,
        owner: &Owner,
        handle: &mut Handle<'_>,
        cidr: Cidr,
        mut known: Option<ReadBlock>,
        choose: impl Fn(&BlockDocument) -> Vec<IpAddr>,
        tried: &mut Vec<IpAddr>,
    ) -> Result<Vec<IpAddr>, IpamError> {
        let key = keys::block(cidr);
        let mut tries = Tries::new(&key);
        let mut raised = false;
        loop {
            let read = match known.take() {
                Some(read) => Some(read),
                None => self.read_block(cidr).await?,
            };
            let (held, chosen) = match &read {
                Some(read) => (read.document.held_by(&owner.handle).len(), choose(&read.document)),
                None => (0, Vec::new()),
            };
            let Some(ReadBlock { mut document, revision }) = read.filter(|_| !chosen.is_empty())
            else {
                if raised {
                    self.set_count(handle, cidr, held).await?;
                }
                return Ok(Vec::new());
            };
            let given = document.assign(&chosen, &owner.handle, &owner.attributes);
            tried.clone_from(&given);
            // Before the block, so that an interrupted call leaves a handle that finds it.
            raised = true;
            self.set_count(handle, cidr, held + given.len()).await?;
            let landed = |now: &[u8]| {
                BlockDocument::open(cidr, now).is_ok_and(|now| {
                    given.iter().all(|address| {
                        now.holder(*address).is_some_and(|holder| {
                            holder.handle.as_ref() == Some(&owner.handle)
                                && holder.attributes == owner.attributes
                        })
                    })
                })
            };
            match swap(&self.store, &key, Some(revision), &document.finish(), landed).await? {
                Outcome::Done => return Ok(given),
                Outcome::Conflict => {
                    handle.forget();
                    tries.again().await?;
                }
            }
        }
    }

    /// Gives back addresses of a block that were free before.
    pub(super) async fn undo(
        &self,
        owner: &Owner,
        cidr: Cidr,
        addresses: &[IpAddr],
    ) -> Result<(), IpamError> {
        let which = |_: &BlockDocument| addresses.to_vec();
        // A write that is still under way would come true after we looked.
        let released = self.release_in(cidr, &owner.handle, None, which, true).await?;
        self.set_count(&mut Handle::unread(&owner.handle), cidr, released.left).await
    }
}
