//! Which pools a host may use, and the blocks that they consist of. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest, Sha224};

use super::PoolChoice;
use super::error::{IpamError, Shortage, Unusable};
use super::occupied::Occupied;
use crate::model::{Cidr, Family, Labels, Name, Pool};

/// Every pool, and the host that asks. Pools should not overlap. Where they do, an address is in
/// the pool with the lowest name, and every address is in one block only.
#[derive(Clone, Debug)]
pub(super) struct Pools {
    all: Vec<(Name, Arc<Pool>)>,
    /// The labels of this host's Node; `None`: they cannot be read.
    labels: Option<Labels>,
}

impl Pools {
    pub(super) fn new(mut all: Vec<(Name, Arc<Pool>)>, labels: Option<Labels>) -> Self {
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self { all, labels }
    }

    /// A pool by its index.
    pub(super) fn get(&self, index: usize) -> Option<&(Name, Arc<Pool>)> {
        self.all.get(index)
    }

    /// The pool that counts for a block or an address: the first that shares an address with it,
    /// when it has all of it.
    pub(super) fn index_of(&self, block: &Cidr) -> Option<usize> {
        let index = self.all.iter().position(|(_, pool)| pool.cidr.overlaps(block))?;
        self.all[index].1.cidr.covers(block).then_some(index)
    }

    /// The block that an address is in, and its pool.
    pub(super) fn block_of(&self, address: IpAddr) -> Option<(usize, Cidr)> {
        let index = self.index_of(&Cidr::host(address))?;
        let block = Cidr::new(address, self.all[index].1.block_size).ok()?;
        Some((index, block))
    }

    /// What is against the use of a pool for a pod of this host. That a pool gives out nothing by
    /// itself is not: it may have been named.
    pub(super) fn unusable(&self, index: usize) -> Option<Unusable> {
        let Some((_, pool)) = self.all.get(index) else { return Some(Unusable::Missing) };
        if pool.disabled {
            return Some(Unusable::Disabled);
        }
        if !pool.for_workloads {
            return Some(Unusable::NotForWorkloads);
        }
        let selected = match &self.labels {
            Some(labels) => pool.node_selector.matches(labels),
            None => pool.node_selector.is_all(),
        };
        if !selected {
            return Some(Unusable::NotForNode);
        }
        let before = self.all.iter().take(index);
        let mut shadows = before.filter(|(_, other)| other.cidr.covers(&pool.cidr));
        shadows.next().map(|(name, _)| Unusable::Shadowed(name.clone()))
    }

    /// The pools to take addresses from, in order of preference.
    ///
    /// # Errors
    /// When one that was named cannot be used, or there is none.
    pub(super) fn choose(
        &self,
        family: Family,
        choices: &[PoolChoice],
    ) -> Result<Vec<usize>, IpamError> {
        let mut chosen = Vec::new();
        for choice in choices {
            let index = self.all.iter().position(|(name, pool)| match choice {
                PoolChoice::Name(wanted) => name == wanted,
                PoolChoice::Cidr(wanted) => pool.cidr == *wanted,
            });
            let why = match index {
                None => Some(Unusable::Missing),
                Some(index) if self.all[index].1.cidr.family() != family => {
                    Some(Unusable::OtherFamily)
                }
                Some(index) => self.unusable(index),
            };
            if let Some(why) = why {
                return Err(IpamError::Pool { choice: choice.clone(), why });
            }
            chosen.extend(index.filter(|index| !chosen.contains(index)));
        }
        if choices.is_empty() {
            let automatic = self.all.iter().enumerate().filter(|(index, (_, pool))| {
                pool.cidr.family() == family && !pool.manual && self.unusable(*index).is_none()
            });
            chosen.extend(automatic.map(|(index, _)| index));
        }
        if chosen.is_empty() {
            return Err(IpamError::NoAddress { family, pools: Vec::new(), why: Shortage::NoPool });
        }
        Ok(chosen)
    }

    /// The blocks of a pool in the order in which `host` tries them: each once, from a place that
    /// depends on the host, so that hosts do not meet. Without those that are all reserved, or that
    /// touch a pool which goes before or a block that there is, of whatever size.
    pub(super) fn blocks(
        &self,
        index: usize,
        host: &Name,
        reserved: &Reserved,
        occupied: &Arc<Occupied>,
    ) -> Blocks {
        let Some((_, pool)) = self.all.get(index) else { return Blocks::default() };
        let Some(bits) = pool.block_size.checked_sub(pool.cidr.prefix_len()) else {
            return Blocks::default();
        };
        let count = 1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX);
        let hash = Sha224::new().chain_update(host.as_str()).finalize();
        let mut seed = [0; 16];
        seed.copy_from_slice(&hash[..16]);
        Blocks {
            pool: Some(pool.cidr),
            block_size: pool.block_size,
            count,
            start: u128::from_be_bytes(seed) % count,
            tried: 0,
            taboo: self.all.iter().take(index).map(|(_, pool)| pool.cidr).collect(),
            reserved: reserved.clone(),
            occupied: occupied.clone(),
        }
    }
}

/// The addresses that are never given out unless somebody asks for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Reserved(pub(super) Vec<Cidr>);

impl Reserved {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|cidr| cidr.contains(address))
    }
}

/// The blocks of a pool, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    pool: Option<Cidr>,
    block_size: u8,
    count: u128,
    start: u128,
    tried: u128,
    /// Pools that go before.
    taboo: Vec<Cidr>,
    reserved: Reserved,
    occupied: Arc<Occupied>,
}

impl Blocks {
    /// The block at a place of the pool.
    fn block(&self, pool: Cidr, place: u128) -> Option<Cidr> {
        let shift = pool.family().host_len() - self.block_size;
        Cidr::new(pool.nth(place << shift)?, self.block_size).ok()
    }

    /// How many blocks from `block` at `place` on are out of the question.
    fn excluded(&self, pool: Cidr, place: u128, block: Cidr) -> u128 {
        let touched = self.taboo.iter().find(|taboo| taboo.overlaps(&block));
        let all = || self.reserved.0.iter().find(|reserved| reserved.covers(&block));
        let there = || self.occupied.overlapping(&block);
        let Some(range) = touched.or_else(all).copied().or_else(there) else { return 0 };
        // A range of a pool can be longer than anybody could count.
        let shift = pool.family().host_len() - self.block_size;
        let from = pool.index_of(range.address()).unwrap_or(0) >> shift;
        let blocks = (range.size() >> shift).max(1);
        from.saturating_add(blocks).min(self.count).saturating_sub(place).max(1)
    }
}

impl Iterator for Blocks {
    type Item = Cidr;

    fn next(&mut self) -> Option<Cidr> {
        let pool = self.pool?;
        while self.tried < self.count {
            let ahead = self.count - self.start;
            let place =
                if self.tried < ahead { self.start + self.tried } else { self.tried - ahead };
            let block = self.block(pool, place)?;
            match self.excluded(pool, place, block) {
                0 => {
                    self.tried += 1;
                    return Some(block);
                }
                skipped => self.tried = self.tried.saturating_add(skipped),
            }
        }
        None
    }
}
