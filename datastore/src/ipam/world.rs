//! What an assignment has to know before it begins, read in one go.

use std::collections::{BTreeMap, BTreeSet};

use super::pools::{Pools, Reserved};
use super::{Ipam, IpamError};
use crate::layout::Decoded;
use crate::layout::v3::write::Malformed;
use crate::layout::v3::write::block::BlockDocument;
use crate::layout::v3::{self, keys};
use crate::model::{AffinityState, Cidr, IpamConfig, Labels, Update};
use crate::store::{Seen, Store, StoreError, Stored};

/// Pools, configuration, and what this host has claimed.
#[derive(Debug)]
pub(super) struct World {
    pub(super) pools: Pools,
    pub(super) reserved: Reserved,
    pub(super) config: IpamConfig,
    /// The claims of this host, in order.
    pub(super) affinities: BTreeMap<Cidr, AffinityState>,
}

/// A block as it was read.
#[derive(Clone, Debug)]
pub(super) struct ReadBlock {
    pub(super) document: BlockDocument,
    pub(super) revision: i64,
}

/// The blocks that there were at one moment.
#[derive(Debug)]
pub(super) struct Listed {
    /// One that cannot be read is there, but gives out nothing; one that is being deleted is not
    /// there: a claim clears it away.
    pub(super) blocks: BTreeMap<Cidr, Result<ReadBlock, Malformed>>,
    /// What a claim takes for granted.
    pub(super) seen: Seen,
}

/// A block that is being deleted counts as gone.
pub(super) fn open(cidr: Cidr, stored: Option<&Stored>) -> Result<Option<ReadBlock>, Malformed> {
    let Some(stored) = stored else { return Ok(None) };
    let document = BlockDocument::open(cidr, &stored.value)?;
    let read = ReadBlock { document, revision: stored.revision };
    Ok((!read.document.is_deleted()).then_some(read))
}

impl<S: Store> Ipam<S> {
    pub(super) async fn world(&self) -> Result<World, IpamError> {
        let (pools, reservations, config, affinities) = tokio::try_join!(
            self.pools(),
            async { Ok(self.store.list(keys::RESERVATIONS_PREFIX).await?) },
            async { Ok(self.store.get(keys::IPAM_CONFIG_KEY).await?) },
            async { Ok(self.affinities().await?) },
        )?;
        let mut reserved = Vec::new();
        for (key, stored) in &reservations {
            // One that cannot be read may keep any address.
            reserved.extend(v3::reserved_cidrs(key, &stored.value)?);
        }
        let config = v3::ipam_config(config.as_ref().map(|stored| stored.value.as_slice()))?;
        Ok(World { pools, reserved: Reserved(reserved), config, affinities })
    }

    /// The pools as this host sees them. A pool that cannot be read is none.
    pub(super) async fn pools(&self) -> Result<Pools, IpamError> {
        let node = keys::node(&self.host);
        let (stored, node) =
            tokio::try_join!(self.store.list(keys::POOLS_PREFIX), self.store.get(&node))?;
        let mut pools = Vec::new();
        for (key, stored) in stored {
            match v3::decode(&key, &stored.value) {
                Decoded::Object(Update::Pool(name, Some(pool))) => pools.push((name, pool)),
                Decoded::Rejected(rejection) => {
                    tracing::warn!(key, reason = rejection.reason, "an IPPool is malformed");
                }
                _ => {}
            }
        }
        Ok(Pools::new(pools, self.labels(node.as_ref())))
    }

    /// The labels of this host's Node. No node, no labels; a node that cannot be read may have any.
    fn labels(&self, node: Option<&Stored>) -> Option<Labels> {
        let Some(stored) = node else { return Some(Labels::default()) };
        match v3::decode(&keys::node(&self.host), &stored.value) {
            Decoded::Object(Update::Node(_, Some(node))) => Some(node.labels.clone()),
            other => {
                tracing::warn!(?other, "the Node of this host cannot be read");
                None
            }
        }
    }

    /// What this host has claimed. A claim that cannot be read is none of ours to use.
    pub(super) async fn affinities(&self) -> Result<BTreeMap<Cidr, AffinityState>, StoreError> {
        let mut affinities = BTreeMap::new();
        for (key, stored) in self.store.list(&keys::affinities_of(&self.host)).await? {
            match v3::decode(&key, &stored.value) {
                Decoded::Object(Update::Affinity(id, Some(affinity))) => {
                    affinities.insert(id.block, affinity.state);
                }
                Decoded::Rejected(rejection) => {
                    tracing::warn!(key, reason = rejection.reason, "an affinity is malformed");
                }
                _ => {}
            }
        }
        Ok(affinities)
    }

    pub(super) async fn read_block(&self, block: Cidr) -> Result<Option<ReadBlock>, IpamError> {
        let stored = self.store.get(&keys::block(block)).await?;
        Ok(open(block, stored.as_ref())?)
    }

    /// Blocks, read side by side; those that are gone are left out.
    pub(super) async fn read_blocks(
        &self,
        blocks: impl IntoIterator<Item = Cidr>,
    ) -> Result<Vec<(Cidr, Result<ReadBlock, Malformed>)>, StoreError> {
        let reads = blocks.into_iter().map(|block| async move {
            let stored = self.store.get(&keys::block(block)).await?;
            Ok((block, open(block, stored.as_ref()).transpose()))
        });
        let read = futures::future::try_join_all(reads).await?;
        Ok(read.into_iter().filter_map(|(block, found)| Some((block, found?))).collect())
    }

    /// The blocks that share addresses with one of these and are another one. Asks only for what
    /// can, all at once, and for nothing twice: the blocks of a host are often side by side.
    pub(super) async fn blocks_beside(&self, these: &[Cidr]) -> Result<Vec<Cidr>, StoreError> {
        let around: BTreeSet<String> =
            these.iter().flat_map(|block| keys::blocks_around(*block)).collect();
        let reads = around.into_iter().map(|prefix| async move {
            if keys::cidr_of_block(&prefix).is_none() {
                return self.store.list(&prefix).await;
            }
            // A whole key is read as one: that is less work for the store.
            let stored = self.store.get(&prefix).await?;
            Ok(stored.map(|stored| (prefix, stored)).into_iter().collect())
        });
        let near = futures::future::try_join_all(reads).await?.into_iter().flatten();
        let beside = near.filter_map(|(key, stored)| {
            let cidr = keys::cidr_of_block(&key)?;
            let beside = these.iter().any(|block| *block != cidr && block.overlaps(&cidr));
            // Few are, so the others are not even parsed. One that cannot be read is there.
            (beside && !matches!(open(cidr, Some(&stored)), Ok(None))).then_some(cidr)
        });
        Ok(beside.collect())
    }

    /// Every block of the cluster, or of one family, by the prefix of their keys.
    pub(super) async fn list_blocks(&self, prefix: &str) -> Result<Listed, StoreError> {
        let listed = self.store.list(prefix).await?;
        let seen = Seen::of(prefix, &listed);
        let mut blocks = BTreeMap::new();
        for (key, stored) in listed {
            let Some(cidr) = keys::cidr_of_block(&key) else { continue };
            if let Some(block) = open(cidr, Some(&stored)).transpose() {
                blocks.insert(cidr, block);
            }
        }
        Ok(Listed { blocks, seen })
    }
}
