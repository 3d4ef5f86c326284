//! Addresses back into their blocks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::handle::{Handle, check};
use super::retry::{Outcome, Tries, remove, swap};
use super::world::ReadBlock;
use super::{Ipam, IpamError};
use crate::layout::v3::keys;
use crate::layout::v3::write::block::{BlockDocument, BlockOwner};
use crate::layout::v3::write::handle::HandleDocument;
use crate::model::Cidr;
use crate::store::{Store, Stored};

/// What became of a handle's addresses in a block.
#[derive(Debug, Default)]
pub(super) struct Released {
    /// Those taken back.
    pub(super) addresses: Vec<IpAddr>,
    /// How many the handle still has in the block.
    pub(super) left: usize,
}

impl<S: Store> Ipam<S> {
    pub(super) async fn release_all(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        check(handle)?;
        let key = keys::handle(handle);
        let mut tries = Tries::new(&key);
        let mut released = Vec::new();
        loop {
            let (stored, blocks) = self.blocks_with(handle).await?;
            let releases = blocks.into_iter().map(|(cidr, read)| {
                let all = |block: &BlockDocument| block.held_by(handle);
                self.release_in(cidr, handle, Some(read), all, false)
            });
            for outcome in futures::future::join_all(releases).await {
                released.extend(outcome?.addresses);
            }
            // Last, so that an interrupted release finds the rest.
            let gone = match &stored {
                Some(stored) => remove(&self.store, &key, stored.revision).await?,
                None => Outcome::Done,
            };
            match gone {
                Outcome::Done => return Ok(released),
                // It got another address in between.
                Outcome::Conflict => tries.again().await?,
            }
        }
    }

    pub(super) async fn release_one(
        &self,
        address: IpAddr,
        handle: &str,
    ) -> Result<bool, IpamError> {
        check(handle)?;
        let key = keys::handle(handle);
        let (stored, own, pools) = tokio::try_join!(
            async { Ok(self.store.get(&key).await?) },
            async { Ok(self.affinities().await?) },
            self.pools(),
        )?;
        let document = stored
            .as_ref()
            .map(|stored| HandleDocument::open(handle, &stored.value))
            .transpose()?
            .unwrap_or_else(HandleDocument::create);
        let named = document.blocks().map(|(block, _)| block);
        let mut blocks: BTreeSet<Cidr> = named.chain(own.into_keys()).collect();
        blocks.extend(pools.block_of(address).map(|(_, block)| block));
        let mut handle_state = Handle::read(handle, stored);
        let mut released = false;
        for cidr in blocks.into_iter().filter(|block| block.contains(address)) {
            let which = |_: &BlockDocument| vec![address];
            let outcome = self.release_in(cidr, handle, None, which, false).await?;
            released |= !outcome.addresses.is_empty();
            self.set_count(&mut handle_state, cidr, outcome.left).await?;
        }
        Ok(released)
    }

    /// The handle as it is stored, and every block in which it has addresses: those that it names,
    /// and those of this host, which it does not name when somebody interrupted or repaired it.
    pub(super) async fn blocks_with(
        &self,
        handle: &str,
    ) -> Result<(Option<Stored>, Vec<(Cidr, ReadBlock)>), IpamError> {
        let key = keys::handle(handle);
        let (stored, own) = tokio::try_join!(self.store.get(&key), self.affinities())?;
        let document =
            stored.as_ref().map(|stored| HandleDocument::open(handle, &stored.value)).transpose();
        let (named, read) = match document {
            Ok(document) => {
                let named: BTreeSet<Cidr> =
                    document.iter().flat_map(HandleDocument::blocks).map(|(b, _)| b).collect();
                let all: BTreeSet<Cidr> = named.iter().copied().chain(own.into_keys()).collect();
                (named, self.read_blocks(all).await?)
            }
            Err(error) => {
                tracing::warn!(%error, "looking for the addresses of a handle in every block");
                let all = self.list_blocks(keys::BLOCKS_PREFIX).await?.blocks;
                (BTreeSet::new(), all.into_iter().collect())
            }
        };
        let mut blocks = Vec::new();
        for (cidr, read) in read {
            match read {
                Ok(read) if !read.document.held_by(handle).is_empty() => blocks.push((cidr, read)),
                Ok(_) => {}
                Err(error) if named.contains(&cidr) => return Err(error.into()),
                // One bad block must not keep every pod from being taken down.
                Err(error) => tracing::warn!(%error, "a block is left out"),
            }
        }
        Ok((stored, blocks))
    }

    /// Takes back those addresses of a block that `which` finds and the handle has.
    ///
    /// With `fence` the block is written even when there is nothing to take back: a write of ours
    /// that is still under way fails then.
    pub(super) async fn release_in(
        &self,
        cidr: Cidr,
        handle: &str,
        mut known: Option<ReadBlock>,
        which: impl Fn(&BlockDocument) -> Vec<IpAddr>,
        fence: bool,
    ) -> Result<Released, IpamError> {
        let key = keys::block(cidr);
        let mut tries = Tries::new(&key);
        loop {
            let read = match known.take() {
                Some(read) => Some(read),
                None => self.read_block(cidr).await?,
            };
            let Some(ReadBlock { mut document, revision }) = read else {
                return Ok(Released::default());
            };
            let addresses = document.release(&which(&document), handle);
            let left = document.held_by(handle).len();
            if addresses.is_empty() && !fence {
                return Ok(Released { addresses, left });
            }
            // Nobody will ever give out an address of a block that is nobody's and empty.
            let outcome = if document.is_empty() && document.owner() == BlockOwner::Nobody {
                remove(&self.store, &key, revision).await?
            } else {
                let landed = |now: &[u8]| {
                    let now = BlockDocument::open(cidr, now);
                    now.is_ok_and(|now| {
                        let held = now.held_by(handle);
                        !addresses.iter().any(|address| held.contains(address))
                    })
                };
                swap(&self.store, &key, Some(revision), &document.finish(), landed).await?
            };
            match outcome {
                Outcome::Done => return Ok(Released { addresses, left }),
                Outcome::Conflict => tries.again().await?,
            }
        }
    }
}
