//! Claims of blocks: an affinity that is pending, the block, then an affinity that is confirmed.
//!
//! Whoever creates the block has it; an affinity only says who tries. So two hosts that want the
//! same block both write an affinity of their own, one of them creates the block, and the other
//! takes its affinity back. What an interrupted claim leaves is resumed by the next one.
//!
//! A block is given up the other way round: an affinity that says so, the block removed as it was
//! read, the affinity removed. Where that is interrupted it is finished as long as the pool cannot be
//! used, and taken back as soon as it can: nobody else would ever use the block.
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

use super::assign::beside;
use super::occupied::Occupied;
use super::retry::{Outcome, Tries, create_beside, remove, swap};
use super::world::Listed;
use super::{Ipam, IpamError};
use crate::layout::Decoded;
use crate::layout::v3::write::{Malformed, affinity, block};
use crate::layout::v3::{self, keys};
use crate::model::{AffinityId, AffinityState, Cidr, Family, Update};
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
                // There is one already: of what was interrupted, or of another process of ours.
                let taken_up = match self.read_affinity(&id).await? {
                    Some((stored, state)) => self.take_up(&id, &stored, state).await?,
                    None => false,
                };
                if !taken_up {
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

    /// Gives up a block of this host's when nobody has an address of it, or goes on with that where
    /// it was interrupted. False: it stays.
    pub(super) async fn give_up(&self, cidr: Cidr) -> Result<bool, IpamError> {
        let (id, _) = self.claim_key(cidr);
        // The block first: see `take_up`.
        let read = self.read_block(cidr).await?;
        let Some((stored, state)) = self.read_affinity(&id).await? else { return Ok(false) };
        let Some(read) = read.filter(|read| read.document.is_of(&self.host)) else {
            if state != AffinityState::PendingDeletion {
                return Ok(false);
            }
            // The block went, and whoever removed it came no further.
            let key = keys::affinity(&id.host, cidr);
            return Ok(remove(&self.store, &key, stored.revision).await? == Outcome::Done);
        };
        if !read.document.is_empty() {
            if state == AffinityState::PendingDeletion {
                self.keep(&id).await?;
            }
            return Ok(false);
        }
        if !self.set_state(&id, &stored, AffinityState::PendingDeletion).await? {
            return Ok(false);
        }
        match remove(&self.store, &keys::block(cidr), read.revision).await? {
            Outcome::Done => {
                self.withdraw(&id).await?;
                Ok(true)
            }
            Outcome::Conflict => {
                // Somebody took an address in between, or is about to.
                self.keep(&id).await?;
                Ok(false)
            }
        }
    }

    /// Those of our interrupted claims that may be carried on: the block is there, or nobody has made
    /// one of another size there in between. The others are taken back, and so is what is left of a
    /// block that was given up. Each with the blocks that overlap it, and with what was seen of all.
    pub(super) async fn still_wanted(
        &self,
        family: Family,
        interrupted: Vec<(Cidr, AffinityState)>,
    ) -> Result<(Vec<(Cidr, Vec<Cidr>)>, Seen), IpamError> {
        if interrupted.is_empty() {
            return Ok((Vec::new(), Seen::default()));
        }
        let Listed { blocks, seen } = self.list_blocks(&keys::blocks_of(family)).await?;
        let mut wanted = Vec::new();
        for (block, state) in interrupted {
            let beside = beside(&block, blocks.keys());
            let possible = state == AffinityState::Pending && beside.is_empty();
            if blocks.contains_key(&block) || possible {
                wanted.push((block, beside));
            } else {
                self.abandon(block).await?;
            }
        }
        Ok((wanted, seen))
    }

    /// Makes an affinity that is there one of a claim under way. False: it changes under our hands.
    ///
    /// Whoever gives up the block reads it, sees to it that the affinity says so, and removes the
    /// block as he read it. So here the affinity comes first and then the block is written anew: one
    /// who read it before cannot remove it, and one who reads it later has to change the affinity
    /// again, after which it is not confirmed.
    async fn take_up(
        &self,
        id: &AffinityId,
        stored: &Stored,
        state: AffinityState,
    ) -> Result<bool, IpamError> {
        if state == AffinityState::Confirmed && self.read_block(id.block).await?.is_some() {
            return Ok(true);
        }
        let pending = self.set_state(id, stored, AffinityState::Pending).await?;
        if pending {
            self.renew(id.block).await?;
        }
        Ok(pending)
    }

    /// Our block stays, though somebody was about to give it up.
    async fn keep(&self, id: &AffinityId) -> Result<(), IpamError> {
        match self.read_affinity(id).await? {
            Some((stored, AffinityState::PendingDeletion))
                if self.set_state(id, &stored, AffinityState::Pending).await? => {}
            _ => return Ok(()),
        }
        if self.renew(id.block).await? {
            self.confirm(id).await?;
            return Ok(());
        }
        // Another process of ours got it removed after all.
        self.withdraw(id).await
    }

    /// Writes our block as it is, so that it is no longer the one that somebody read. False: it is
    /// not there, or not ours.
    async fn renew(&self, cidr: Cidr) -> Result<bool, IpamError> {
        let key = keys::block(cidr);
        let mut tries = Tries::new(&key);
        loop {
            let read = self.read_block(cidr).await?;
            let Some(read) = read.filter(|read| read.document.is_of(&self.host)) else {
                return Ok(false);
            };
            let value = read.document.finish();
            let landed = |now: &[u8]| now == value;
            match swap(&self.store, &key, Some(read.revision), &value, landed).await? {
                Outcome::Done => return Ok(true),
                Outcome::Conflict => tries.again().await?,
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

    /// False: the affinity was taken away or changed, or somebody is giving up the block.
    async fn confirm(&self, id: &AffinityId) -> Result<bool, IpamError> {
        match self.read_affinity(id).await? {
            Some((_, AffinityState::Confirmed)) => Ok(true),
            Some((stored, AffinityState::Pending)) => {
                self.set_state(id, &stored, AffinityState::Confirmed).await
            }
            Some((_, AffinityState::PendingDeletion)) | None => Ok(false),
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
