//! Claims of blocks: an affinity that is pending, the block, then an affinity that is confirmed.
//!
//! Whoever creates the block has it; an affinity only says who tries. So two hosts that want the
//! same block both write an affinity of their own, one of them creates the block, and the other
//! takes its affinity back. What an interrupted claim leaves is resumed by the next one.
//!
//! That settles two claims of one block. Two blocks of different sizes over the same addresses are
//! two keys, and two hosts could each create one of them when they read the pool before and after its
//! `blockSize` was changed. So a block is created on condition that nothing that could overlap it has
//! come since the blocks were listed, and what was listed does not: whoever is later, whatever he
//! thinks of the pool, fails, lists again and sees.
//!
//! A condition on the pool would be weaker, since it says nothing of blocks that other programs make;
//! and to look afterwards and give way needs a time in which there are two. What remains is a program
//! that comes later than we and does not look itself.

use std::time::{SystemTime, UNIX_EPOCH};

use super::occupied::Occupied;
use super::retry::{Outcome, Tries, create_beside, remove, swap};
use super::world::Listed;
use super::{Ipam, IpamError};
use crate::layout::Decoded;
use crate::layout::v3::write::{Malformed, affinity, block};
use crate::layout::v3::{self, keys};
use crate::model::{AffinityId, AffinityState, Cidr, Update};
use crate::store::{Seen, Store, Stored};

/// Who has a block after a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// This host.
    Ours,
    /// Another host, or nobody: it or one that overlaps it is there, and we did not make it.
    Theirs,
}

impl<S: Store> Ipam<S> {
    /// Makes a block of this host's, unless somebody else has it or has made one that overlaps it
    /// since the blocks were listed. That none of `listed` does is for the caller to see.
    pub(super) async fn claim(&self, cidr: Cidr, listed: &Seen) -> Result<Claimed, IpamError> {
        // Of all that may come, only what can overlap keeps us: hosts that claim at once would keep
        // each other from it otherwise.
        let mut listed = listed.clone().within(keys::blocks_around(cidr));
        let (id, key) = self.claim_key(cidr);
        let mut tries = Tries::new(&key);
        loop {
            let pending = affinity::create(AffinityState::Pending);
            let landed = |now: &[u8]| now == pending;
            if swap(&self.store, &key, None, &pending, landed).await? == Outcome::Conflict {
                // There is one already: of an interrupted claim, or of another process of ours.
                let Some((stored, state)) = self.read_affinity(&id).await? else {
                    tries.again().await?;
                    continue;
                };
                if state != AffinityState::Pending
                    && self.read_block(cidr).await?.is_none()
                    && !self.set_state(&id, &stored, AffinityState::Pending).await?
                {
                    tries.again().await?;
                    continue;
                }
            }
            match self.create_block(cidr, &mut listed).await? {
                Some(Claimed::Ours) if self.confirm(&id).await? => return Ok(Claimed::Ours),
                Some(Claimed::Theirs) => {
                    self.withdraw(&id).await?;
                    return Ok(Claimed::Theirs);
                }
                Some(Claimed::Ours) | None => tries.again().await?,
            }
        }
    }

    /// Takes back a claim that did not come to a block.
    pub(super) async fn abandon(&self, cidr: Cidr) -> Result<(), IpamError> {
        let (id, _) = self.claim_key(cidr);
        self.withdraw(&id).await
    }

    /// Gives up a block of this host's when nobody has an address of it. False: it stays.
    pub(super) async fn give_up(&self, cidr: Cidr) -> Result<bool, IpamError> {
        let (id, _) = self.claim_key(cidr);
        let Some(read) = self.read_block(cidr).await? else { return Ok(false) };
        if !read.document.is_of(&self.host) || !read.document.is_empty() {
            return Ok(false);
        }
        let Some((stored, _)) = self.read_affinity(&id).await? else { return Ok(false) };
        if !self.set_state(&id, &stored, AffinityState::PendingDeletion).await? {
            return Ok(false);
        }
        match remove(&self.store, &keys::block(cidr), read.revision).await? {
            Outcome::Done => {
                self.withdraw(&id).await?;
                Ok(true)
            }
            Outcome::Conflict => {
                // Somebody took an address in between.
                self.confirm(&id).await?;
                Ok(false)
            }
        }
    }

    fn claim_key(&self, block: Cidr) -> (AffinityId, String) {
        (AffinityId { host: self.host.clone(), block }, keys::affinity(&self.host, block))
    }

    async fn read_affinity(
        &self,
        id: &AffinityId,
    ) -> Result<Option<(Stored, AffinityState)>, IpamError> {
        let key = keys::affinity(&id.host, id.block);
        let Some(stored) = self.store.get(&key).await? else { return Ok(None) };
        match v3::decode(&key, &stored.value) {
            Decoded::Object(Update::Affinity(_, Some(affinity))) => {
                Ok(Some((stored, affinity.state)))
            }
            // Marked as deleted: to be taken over, not to be trusted.
            Decoded::Object(_) => Ok(Some((stored, AffinityState::PendingDeletion))),
            Decoded::Rejected(rejection) => Err(Malformed { key, reason: rejection.reason }.into()),
            Decoded::Ignored | Decoded::Unsupported { .. } | Decoded::Part(_) => Ok(None),
        }
    }

    /// False: somebody else changed the affinity.
    async fn set_state(
        &self,
        id: &AffinityId,
        stored: &Stored,
        state: AffinityState,
    ) -> Result<bool, IpamError> {
        let Some(value) = affinity::set_state(id, &stored.value, state)? else { return Ok(true) };
        let key = keys::affinity(&id.host, id.block);
        let landed = |now: &[u8]| now == value;
        let outcome = swap(&self.store, &key, Some(stored.revision), &value, landed).await?;
        Ok(outcome == Outcome::Done)
    }

    /// Creates the block, or says whose the addresses are. `None`: they change under our hands;
    /// `listed` is what there is now.
    async fn create_block(
        &self,
        cidr: Cidr,
        listed: &mut Seen,
    ) -> Result<Option<Claimed>, IpamError> {
        let key = keys::block(cidr);
        // Higher than what an earlier block of these addresses had.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let value = block::create(cidr, &self.host, u64::try_from(now).unwrap_or(u64::MAX));
        if create_beside(&self.store, &key, listed, &value).await? == Outcome::Done {
            return Ok(Some(Claimed::Ours));
        }
        let Some(stored) = self.store.get(&key).await? else {
            let all = keys::blocks_of(cidr.family());
            let Listed { blocks, seen } = self.list_blocks(&all).await?;
            let others: Occupied = blocks.keys().collect();
            *listed = seen.within(keys::blocks_around(cidr));
            return Ok(others.beside(&cidr).map(|_| Claimed::Theirs));
        };
        let document = block::BlockDocument::open(cidr, &stored.value)?;
        if document.is_deleted() {
            remove(&self.store, &key, stored.revision).await?;
            return Ok(None);
        }
        let ours = document.is_of(&self.host);
        Ok(Some(if ours { Claimed::Ours } else { Claimed::Theirs }))
    }

    /// False: the affinity was taken away or changed.
    async fn confirm(&self, id: &AffinityId) -> Result<bool, IpamError> {
        match self.read_affinity(id).await? {
            Some((_, AffinityState::Confirmed)) => Ok(true),
            Some((stored, _)) => self.set_state(id, &stored, AffinityState::Confirmed).await,
            None => Ok(false),
        }
    }

    /// Takes our affinity back. One that is confirmed stays: another process of ours may have got
    /// the block in between.
    async fn withdraw(&self, id: &AffinityId) -> Result<(), IpamError> {
        if let Some((stored, state)) = self.read_affinity(id).await?
            && state != AffinityState::Confirmed
        {
            remove(&self.store, &keys::affinity(&id.host, id.block), stored.revision).await?;
        }
        Ok(())
    }
}
