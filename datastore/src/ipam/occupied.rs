//! The blocks that there are, as ranges that no new block may touch. Pure.
//!
//! A block's key says its size, so two sizes of block over the same addresses are two keys: what
//! remains of a pool that was deleted, or that had another `blockSize`, is not found by the key of
//! a block that the pool has now.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::model::Cidr;

/// Blocks of any size, of one family or both.
#[derive(Clone, Debug, Default)]
pub(super) struct Occupied {
    blocks: BTreeSet<Cidr>,
    /// The sizes that there are: few, so that looking for what is around a block is quick.
    prefix_lens: BTreeSet<u8>,
}

impl Occupied {
    /// One that shares an address with `block`: itself, one around it, or one in it.
    pub(super) fn overlapping(&self, block: &Cidr) -> Option<Cidr> {
        self.blocks.get(block).copied().or_else(|| self.beside(block))
    }

    /// The same, but not the block itself.
    pub(super) fn beside(&self, block: &Cidr) -> Option<Cidr> {
        let shorter = self.prefix_lens.range(..block.prefix_len());
        let mut around = shorter.filter_map(|len| Cidr::new(block.address(), *len).ok());
        around.find(|around| self.blocks.contains(around)).or_else(|| {
            // The order is by address: the next one is inside, or none is.
            let mut after = self.blocks.range((Bound::Excluded(block), Bound::Unbounded));
            after.next().filter(|next| block.covers(next)).copied()
        })
    }
}

impl<'a> FromIterator<&'a Cidr> for Occupied {
    fn from_iter<I: IntoIterator<Item = &'a Cidr>>(blocks: I) -> Self {
        let blocks: BTreeSet<Cidr> = blocks.into_iter().copied().collect();
        let prefix_lens = blocks.iter().map(Cidr::prefix_len).collect();
        Self { blocks, prefix_lens }
    }
}
