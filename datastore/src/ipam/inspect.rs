//! Who has which address.

use super::handle::check;
use super::{Allocation, Ipam, IpamError};
use crate::layout::v3::keys;
use crate::layout::v3::write::block::{BlockDocument, Held};
use crate::store::Store;

/// The attribute that names the host of an address.
const NODE: &str = "node";

impl<S: Store> Ipam<S> {
    pub(super) async fn allocations_of(&self, handle: &str) -> Result<Vec<Allocation>, IpamError> {
        check(handle)?;
        let (_, blocks) = self.blocks_with(handle).await?;
        let held = blocks.iter().flat_map(|(_, read)| allocations(&read.document));
        Ok(held.filter(|found| found.handle.as_deref() == Some(handle)).collect())
    }

    pub(super) async fn allocations_here(&self) -> Result<Vec<Allocation>, IpamError> {
        let mut found = Vec::new();
        for read in self.list_blocks(keys::BLOCKS_PREFIX).await?.blocks.into_values() {
            match read {
                Ok(read) => {
                    let own = read.document.is_of(&self.host);
                    // What old writers gave out in a block of ours without saying for whom is ours.
                    found.extend(allocations(&read.document).filter(|allocation| {
                        match allocation.attributes.get(NODE) {
                            Some(node) => self.host == node.as_str(),
                            None => own,
                        }
                    }));
                }
                Err(error) => tracing::warn!(%error, "a block is left out"),
            }
        }
        Ok(found)
    }

    pub(super) async fn handles_with(&self, prefix: &str) -> Result<Vec<String>, IpamError> {
        let found = self.store.list(&keys::handle(prefix)).await?;
        Ok(found.iter().filter_map(|(key, _)| keys::id_of_handle(key)).map(str::to_owned).collect())
    }
}

fn allocations(block: &BlockDocument) -> impl Iterator<Item = Allocation> {
    let cidr = block.cidr();
    block.held().map(move |Held { address, handle, attributes }| Allocation {
        address,
        block: cidr,
        handle,
        attributes,
    })
}
