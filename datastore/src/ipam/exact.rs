//! Addresses that somebody asks for.

use std::net::IpAddr;

use super::assign::Taking;
use super::error::IpamError;
use super::occupied::Occupied;
use super::retry::Tries;
use super::world::Listed;
use super::{Assigned, Ipam};
use crate::layout::v3::keys;
use crate::layout::v3::write::block::BlockDocument;
use crate::store::Store;

impl<S: Store> Ipam<S> {
    /// Gives the owner one address.
    ///
    /// A reservation is no obstacle: the original's documentation of IPReservation says that it is
    /// about automatic assignment only, and that who asks for an address overrides it. Reserving
    /// addresses and handing them out by hand is what it is used for.
    pub(super) async fn take_exactly(
        &self,
        taking: &mut Taking<'_>,
        address: IpAddr,
    ) -> Result<(), IpamError> {
        let pools = &taking.world.pools;
        let outside = |pool| IpamError::OutsidePools { address, pool };
        let (index, cidr) = pools.block_of(address).ok_or_else(|| outside(None))?;
        let (name, pool) = pools.get(index).cloned().ok_or_else(|| outside(None))?;
        if let Some(why) = pools.unusable(index) {
            return Err(outside(Some((name, why))));
        }
        let strict = taking.world.config.strict_affinity;
        let owner = taking.owner;
        let mut tries = Tries::new(keys::block(cidr));
        loop {
            // The pool may have had blocks of another size, or be new where there was another one.
            let Listed { blocks, seen } = self.list_blocks(&keys::blocks_of(cidr.family())).await?;
            let occupied: Occupied = blocks.keys().collect();
            let mut around = Vec::new();
            for (block, read) in blocks {
                if block.contains(address) {
                    around.push((block, read?));
                }
            }
            let holder = around.iter().find_map(|(block, read)| {
                read.document.holder(address).map(|holder| (*block, holder))
            });
            if let Some((cidr, holder)) = holder {
                if holder.handle.as_ref() == Some(&owner.handle) {
                    // Asked again after an answer that got lost.
                    taking.given.push((cidr, Assigned { address, pool: pool.cidr }, false));
                    return Ok(());
                }
                return Err(IpamError::Taken { address, handle: holder.handle });
            }
            if let [(block, _), (other, _), ..] = around[..] {
                // Another program made one of them: what is free in one may be taken in the other
                // a moment later.
                return Err(IpamError::Overlap { address, block, other });
            }
            let at = around.iter().position(|(block, _)| *block == cidr).unwrap_or(0);
            let Some((cidr, read)) = around.into_iter().nth(at) else {
                if let Some(other) = occupied.overlapping(&cidr) {
                    return Err(IpamError::Overlap { address, block: cidr, other });
                }
                self.claim(cidr, &seen).await?;
                tries.again().await?;
                continue;
            };
            if strict && !read.document.is_of(&self.host) {
                return Err(IpamError::Strict { address, block: cidr });
            }
            let choose = |block: &BlockDocument| {
                let allowed = !strict || block.is_of(&self.host);
                let free = allowed && block.free().any(|free| free == address);
                if free { vec![address] } else { Vec::new() }
            };
            let taken = self.take(owner, &mut taking.handle, cidr, Some(read), choose).await?;
            if taken.is_empty() {
                // Somebody was faster: the next look says who.
                tries.again().await?;
                continue;
            }
            taking.given.push((cidr, Assigned { address, pool: pool.cidr }, true));
            return Ok(());
        }
    }
}
