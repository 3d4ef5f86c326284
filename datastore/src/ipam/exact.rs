//! Addresses that somebody asks for.

use std::net::IpAddr;

use super::assign::Taking;
use super::error::IpamError;
use super::retry::Tries;
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
            let Some(read) = self.read_block(cidr).await? else {
                self.claim(cidr).await?;
                tries.again().await?;
                continue;
            };
            if let Some(holder) = read.document.holder(address) {
                if holder.handle.as_ref() == Some(&owner.handle) {
                    // Asked again after an answer that got lost.
                    taking.given.push((cidr, Assigned { address, pool: pool.cidr }, false));
                    return Ok(());
                }
                return Err(IpamError::Taken { address, handle: holder.handle });
            }
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
