//! Addresses for an owner: from blocks of this host, from a block that it claims, from blocks of
//! others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::claim::Claimed;
use super::error::{IpamError, Shortage, Unusable};
use super::handle::{Handle, check};
use super::occupied::Occupied;
use super::retry::Tries;
use super::world::{Listed, ReadBlock, World};
use super::{Assigned, Ipam, Owner, PoolChoice, Request};
use crate::layout::v3::keys;
use crate::layout::v3::write::Malformed;
use crate::layout::v3::write::block::{BlockDocument, BlockOwner};
use crate::model::{AffinityState, Cidr, Family, Name};
use crate::store::Store;

/// An assignment under way.
#[derive(Debug)]
pub(super) struct Taking<'a> {
    pub(super) owner: &'a Owner,
    pub(super) world: World,
    pub(super) handle: Handle<'a>,
    /// What the owner has by now: the block, the address, and whether it had it not before.
    pub(super) given: Vec<(Cidr, Assigned, bool)>,
}

/// The wanted addresses of one family.
#[derive(Debug)]
struct Need {
    family: Family,
    left: usize,
    /// The pools, in order of preference.
    pools: Vec<usize>,
    /// A block of this host that could not be read.
    malformed: Option<Malformed>,
    /// The blocks that overlap the one that is taken from: made by other programs, or before blocks
    /// were made on condition that there are none.
    shared: Vec<Cidr>,
}

impl<S: Store> Ipam<S> {
    pub(super) async fn assign_any(
        &self,
        owner: &Owner,
        request: &Request,
    ) -> Result<Vec<Assigned>, IpamError> {
        let mut taking = self.begin(owner).await?;
        let result = async {
            for (family, left, choices) in [
                (Family::V4, request.v4, &request.pools_v4),
                (Family::V6, request.v6, &request.pools_v6),
            ] {
                if left > 0 {
                    self.take_family(&mut taking, family, left, choices).await?;
                }
            }
            Ok(())
        };
        let result = result.await;
        self.end(taking, result).await
    }

    pub(super) async fn assign_these(
        &self,
        owner: &Owner,
        addresses: &[IpAddr],
    ) -> Result<Vec<Assigned>, IpamError> {
        let mut taking = self.begin(owner).await?;
        let mut result = Ok(());
        for address in addresses {
            result = self.take_exactly(&mut taking, *address).await;
            if result.is_err() {
                break;
            }
        }
        self.end(taking, result).await
    }

    async fn begin<'a>(&self, owner: &'a Owner) -> Result<Taking<'a>, IpamError> {
        check(&owner.handle)?;
        let key = keys::handle(&owner.handle);
        let (world, stored) =
            tokio::try_join!(self.world(), async { Ok(self.store.get(&key).await?) })?;
        let handle = Handle::read(&owner.handle, stored);
        Ok(Taking { owner, world, handle, given: Vec::new() })
    }

    /// All or nothing.
    async fn end(
        &self,
        taking: Taking<'_>,
        result: Result<(), IpamError>,
    ) -> Result<Vec<Assigned>, IpamError> {
        if result.is_err() {
            let mut blocks: BTreeMap<Cidr, Vec<IpAddr>> = BTreeMap::new();
            for (block, assigned, new) in &taking.given {
                if *new {
                    blocks.entry(*block).or_default().push(assigned.address);
                }
            }
            for (block, addresses) in blocks {
                if let Err(error) = self.undo(taking.owner, block, &addresses).await {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, ?addresses, "addresses are not given back");
                }
            }
        }
        result.map(|()| taking.given.into_iter().map(|(_, assigned, _)| assigned).collect())
    }

    async fn take_family(
        &self,
        taking: &mut Taking<'_>,
        family: Family,
        left: usize,
        choices: &[PoolChoice],
    ) -> Result<(), IpamError> {
        let pools = taking.world.pools.choose(family, choices)?;
        let mut need = Need { family, left, pools, malformed: None, shared: Vec::new() };
        self.give_up_unusable(taking, family).await;
        self.take_from_own(taking, &mut need).await?;
        let mut tries = Tries::new(keys::BLOCKS_PREFIX);
        while need.left > 0 {
            let Some(why) = self.take_from_any(taking, &mut need).await? else {
                tries.again().await?;
                continue;
            };
            if let Some(malformed) = need.malformed {
                return Err(malformed.into());
            }
            let names = need.pools.iter().filter_map(|index| taking.world.pools.get(*index));
            let pools = names.map(|(name, _)| name.clone()).collect();
            return Err(IpamError::NoAddress { family, pools, why });
        }
        Ok(())
    }

    /// Blocks of this host, of the chosen pools.
    async fn take_from_own(
        &self,
        taking: &mut Taking<'_>,
        need: &mut Need,
    ) -> Result<(), IpamError> {
        let mut own = Vec::new();
        for (block, state) in &taking.world.affinities {
            let pool = taking.world.pools.index_of(block);
            let rank = pool.and_then(|pool| need.pools.iter().position(|chosen| *chosen == pool));
            own.extend(rank.map(|rank| (rank, *block, *state)));
        }
        own.sort_by_key(|(rank, block, _)| (*rank, *block));
        let confirmed = own.iter().filter(|(_, _, state)| *state == AffinityState::Confirmed);
        let confirmed: Vec<Cidr> = confirmed.map(|(_, block, _)| *block).collect();
        // What overlaps is looked for while the blocks are read: no further time to the store.
        let (blocks, near) =
            tokio::try_join!(self.read_blocks(confirmed.clone()), self.blocks_beside(&confirmed))?;
        for (block, read) in blocks {
            match read {
                Ok(read) if read.document.is_of(&self.host) => {
                    let beside = beside(&block, &near);
                    self.take_unshared(taking, need, block, Some(read), beside).await?;
                }
                Ok(_) => {}
                Err(error) => need.remember(error),
            }
            if need.left == 0 {
                return Ok(());
            }
        }
        // A claim that was interrupted is carried on. So is one that was to be given up: whoever began
        // that may have been stopped, and if not, he finds that the block is no longer as he read it.
        let rest = own.iter().filter(|(_, _, state)| *state != AffinityState::Confirmed);
        let rest = rest.map(|(_, block, state)| (*block, *state)).collect();
        let (rest, seen) = self.still_wanted(need.family, rest).await?;
        for (block, beside) in rest {
            match self.claim(block, &seen).await {
                Ok(Claimed::Ours) => self.take_unshared(taking, need, block, None, beside).await?,
                Ok(Claimed::Theirs) => 0,
                Err(IpamError::Malformed(error)) => {
                    need.remember(error);
                    0
                }
                Err(error) => return Err(error),
            };
            if need.left == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whatever there is in the cluster as of now. Answers why there is not more; `None` when
    /// others were faster, so that there may be.
    async fn take_from_any(
        &self,
        taking: &mut Taking<'_>,
        need: &mut Need,
    ) -> Result<Option<Shortage>, IpamError> {
        let Listed { blocks: listed, seen } =
            self.list_blocks(&keys::blocks_of(need.family)).await?;
        let occupied: Arc<Occupied> = Arc::new(listed.keys().collect());
        let mut lost = false;
        let (own, others): (Vec<_>, Vec<_>) = listed
            .iter()
            .filter_map(|(cidr, read)| Some((*cidr, read.as_ref().ok()?)))
            // What is free in one of two that overlap may be taken in the other a moment later.
            .filter(|(cidr, _)| occupied.beside(cidr).is_none())
            .filter(|(cidr, _)| {
                let pool = taking.world.pools.index_of(cidr);
                pool.is_some_and(|pool| need.pools.contains(&pool))
            })
            .partition(|(_, read)| read.document.is_of(&self.host));
        for (cidr, read) in own {
            lost |= self.take_listed(taking, need, cidr, read, false).await?;
        }
        let of_host = |read: &&Result<ReadBlock, Malformed>| {
            read.as_ref().is_ok_and(|read| read.document.is_of(&self.host))
        };
        let mut count = listed.values().filter(of_host).count();
        let limit = taking.world.config.max_blocks_per_host;
        let auto = taking.world.config.auto_allocate_blocks;
        for pool in need.pools.clone() {
            let World { pools, reserved, .. } = &taking.world;
            // Each listed block is passed at once, so this ends however large the pool is.
            for block in pools.blocks(pool, &self.host, reserved, &occupied) {
                if need.left == 0 || !auto || count >= limit as usize {
                    break;
                }
                match self.claim(block, &seen).await? {
                    Claimed::Ours => {
                        count += 1;
                        let wanted = need.left;
                        let taken = self.take_from(taking, need, block, None, false).await?;
                        lost |= taken < wanted;
                    }
                    Claimed::Theirs => lost = true,
                }
            }
        }
        if !taking.world.config.strict_affinity {
            for (cidr, read) in rotated(&others, &self.host) {
                lost |= self.take_listed(taking, need, *cidr, read, true).await?;
            }
        }
        if lost || need.left == 0 {
            return Ok(None);
        }
        let World { pools, reserved, .. } = &taking.world;
        let mut blocks =
            need.pools.iter().flat_map(|pool| pools.blocks(*pool, &self.host, reserved, &occupied));
        let unclaimed = blocks.next().is_some();
        let spare = others.iter().any(|(_, read)| read.document.free().next().is_some());
        Ok(Some(match (unclaimed, auto) {
            (true, false) => Shortage::NoAutoAllocate,
            (true, true) => Shortage::BlockLimit(limit),
            (false, _) if taking.world.config.strict_affinity && spare => Shortage::Strict,
            (false, _) => Shortage::Full,
        }))
    }

    /// True when somebody else took what was free when the block was listed.
    async fn take_listed(
        &self,
        taking: &mut Taking<'_>,
        need: &mut Need,
        cidr: Cidr,
        read: &ReadBlock,
        borrowed: bool,
    ) -> Result<bool, IpamError> {
        if borrowed && read.document.owner() == BlockOwner::Other {
            return Ok(false);
        }
        let reserved = &taking.world.reserved;
        let free = read.document.free().filter(|address| !reserved.contains(*address));
        let hoped = free.take(need.left).count();
        if hoped == 0 {
            return Ok(false);
        }
        let taken = self.take_from(taking, need, cidr, Some(read.clone()), borrowed).await?;
        Ok(taken < hoped)
    }

    /// Takes what is needed from a block of this host; returns how many addresses it gave. One that
    /// is in another block too may be taken there a moment later, or long since.
    async fn take_unshared(
        &self,
        taking: &mut Taking<'_>,
        need: &mut Need,
        cidr: Cidr,
        known: Option<ReadBlock>,
        beside: Vec<Cidr>,
    ) -> Result<usize, IpamError> {
        if !beside.is_empty() {
            tracing::warn!(block = %cidr, ?beside, "blocks overlap: what is in both is not given");
        }
        need.shared = beside;
        let taken = self.take_from(taking, need, cidr, known, false).await;
        need.shared.clear();
        taken
    }

    /// Takes what is needed from a block; returns how many addresses it gave.
    async fn take_from(
        &self,
        taking: &mut Taking<'_>,
        need: &mut Need,
        cidr: Cidr,
        known: Option<ReadBlock>,
        borrowed: bool,
    ) -> Result<usize, IpamError> {
        let Some(pool) = taking.world.pools.index_of(&cidr) else { return Ok(0) };
        let Some(pool) = taking.world.pools.get(pool).map(|(_, pool)| pool.cidr) else {
            return Ok(0);
        };
        let reserved = &taking.world.reserved;
        let choose = |block: &BlockDocument| {
            let shared = |address: &IpAddr| need.shared.iter().any(|cidr| cidr.contains(*address));
            let free = block.free().filter(|address| !reserved.contains(*address));
            let free = free.filter(|address| !shared(address));
            let allowed = borrowed || block.is_of(&self.host);
            if allowed { free.take(need.left).collect() } else { Vec::new() }
        };
        let taken = self.take(taking.owner, &mut taking.handle, cidr, known, choose).await?;
        need.left -= taken.len();
        let count = taken.len();
        let assigned = taken.into_iter().map(|address| (cidr, Assigned { address, pool }, true));
        taking.given.extend(assigned);
        Ok(count)
    }

    /// Blocks whose pool is disabled or no longer for this host serve nobody: those that are empty
    /// go, and what was begun of that is finished. That this fails is no reason to give no address.
    async fn give_up_unusable(&self, taking: &Taking<'_>, family: Family) {
        let pools = &taking.world.pools;
        for (block, state) in &taking.world.affinities {
            let pool = pools.index_of(block).and_then(|pool| pools.unusable(pool));
            let unusable = matches!(pool, Some(Unusable::Disabled | Unusable::NotForNode));
            if unusable && block.family() == family && *state != AffinityState::Pending {
                match self.give_up(*block).await {
                    Ok(true) => tracing::info!(%block, "a block is given up"),
                    Ok(false) => {}
                    Err(error) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(error, %block, "a block cannot be given up");
                    }
                }
            }
        }
    }
}

impl Need {
    fn remember(&mut self, error: Malformed) {
        tracing::warn!(%error, "a block of this host is left out");
        self.malformed.get_or_insert(error);
    }
}

/// Those of `all` that share addresses with a block, but not the block itself.
pub(super) fn beside<'a>(block: &Cidr, all: impl IntoIterator<Item = &'a Cidr>) -> Vec<Cidr> {
    all.into_iter().filter(|other| *other != block && other.overlaps(block)).copied().collect()
}

/// The same list from a place that depends on the host: hosts that borrow should not all begin
/// with the same block.
fn rotated<'a, T>(list: &'a [T], host: &Name) -> impl Iterator<Item = &'a T> {
    let sum = host
        .as_str()
        .bytes()
        .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let start = sum.checked_rem(list.len()).unwrap_or(0);
    list.iter().cycle().skip(start).take(list.len())
}
