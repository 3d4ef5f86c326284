//! The pool of a network that names its subnet, as calico-rkt's users write it.

use calico_datastore::layout::Decoded;
use calico_datastore::layout::v3::keys::POOLS_PREFIX;
use calico_datastore::layout::v3::{self, keys, write::pool};
use calico_datastore::model::{Cidr, Name, Update};
use calico_datastore::store::Store;

use crate::protocol::{CniError, Code};
use crate::{birth, failure};

/// A stored pool, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its name.
    pub(crate) name: Name,
    /// Its addresses.
    pub(crate) cidr: Cidr,
    /// Whether pods may get addresses from it.
    pub(crate) enabled: bool,
}

/// What is to be done for a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// This pool has all of it.
    Use(Cidr),
    /// No pool has any of it.
    Create,
    /// A pool has a part of it: a second one over the same addresses would give them twice.
    Overlap(Known),
}

/// Decides for a subnet among the pools. Of several that contain it (nobody should have made them)
/// the smallest counts.
pub(crate) fn plan(subnet: &Cidr, pools: &[Known]) -> Plan {
    let containing = pools.iter().filter(|pool| pool.cidr.covers(subnet));
    if let Some(pool) = containing.max_by_key(|pool| pool.cidr.prefix_len()) {
        return Plan::Use(pool.cidr);
    }
    match pools.iter().find(|pool| subnet.covers(&pool.cidr)) {
        Some(pool) => Plan::Overlap(pool.clone()),
        None => Plan::Create,
    }
}

/// Every pool of the store. What does not parse is no pool.
///
/// # Errors
/// When the store does not answer.
pub(crate) async fn list<S: Store>(store: &S) -> Result<Vec<Known>, CniError> {
    let stored = store.list(POOLS_PREFIX).await;
    let stored = stored.map_err(|error| failure::store("the pools cannot be listed", &error))?;
    let pools = stored.iter().filter_map(|(key, stored)| match v3::decode(key, &stored.value) {
        Decoded::Object(Update::Pool(name, Some(pool))) => {
            Some(Known { name, cidr: pool.cidr, enabled: !pool.disabled })
        }
        _ => None,
    });
    Ok(pools.collect())
}

/// The pool that has a subnet's addresses; made when there is none.
///
/// # Errors
/// When the subnet is none, a pool has a part of it, or the store does not answer.
pub(crate) async fn ensure<S: Store>(store: &S, subnet: &str) -> Result<Cidr, CniError> {
    let invalid = |details: String| {
        let msg = format!("ipam.subnet {subnet:?} cannot be used");
        CniError::new(Code::InvalidConfig, msg, details)
    };
    let cidr: Cidr = subnet.parse().map_err(|error| invalid(failure::chain(&error)))?;
    let overlap = |pool: Known| {
        invalid(format!(
            "the pool {} ({}) has a part of it: name that pool's addresses, or a subnet of them",
            pool.name, pool.cidr
        ))
    };
    match plan(&cidr, &list(store).await?) {
        Plan::Use(pool) => return Ok(pool),
        Plan::Overlap(pool) => return Err(overlap(pool)),
        Plan::Create => {}
    }
    let size = pool::block_size(&cidr);
    if cidr.prefix_len() < 8 {
        return Err(invalid(format!("{cidr} is more than a pool should have (/8 at most)")));
    }
    tracing::debug!(%cidr, size, "the pool is made");
    let key = keys::pool(&pool::name_of(&cidr));
    let made = store.create(&key, &pool::create(&cidr, &birth::now()?)).await;
    let msg = || format!("the pool of {cidr} cannot be made");
    if made.map_err(|error| failure::store(msg(), &error))? {
        return Ok(cidr);
    }
    // Another pod of the network was faster, or a pool of that name has other addresses.
    match plan(&cidr, &list(store).await?) {
        Plan::Use(pool) => Ok(pool),
        Plan::Overlap(pool) => Err(overlap(pool)),
        Plan::Create => Err(CniError::new(
            Code::Datastore,
            msg(),
            format!(
                "{key} is there and has other addresses, or cannot be read; rename or repair it"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::store::memory::Memory;

    fn known(name: &str, cidr: &str) -> Known {
        Known { name: name.into(), cidr: cidr.parse().unwrap(), enabled: true }
    }

    #[test]
    fn a_subnet_is_made_only_where_no_pool_is() {
        let pools = [
            known("wide", "192.168.0.0/16"),
            known("narrow", "192.168.4.0/24"),
            known("six", "fd80::/64"),
        ];
        for (subnet, expected) in [
            ("192.168.0.0/16", Plan::Use("192.168.0.0/16".parse().unwrap())),
            ("192.168.9.0/24", Plan::Use("192.168.0.0/16".parse().unwrap())),
            ("192.168.4.0/26", Plan::Use("192.168.4.0/24".parse().unwrap())),
            ("192.0.0.0/8", Plan::Overlap(known("wide", "192.168.0.0/16"))),
            ("10.1.0.0/16", Plan::Create),
            ("fd80::/48", Plan::Overlap(known("six", "fd80::/64"))),
            ("fd81::/64", Plan::Create),
        ] {
            assert_eq!(plan(&subnet.parse().unwrap(), &pools), expected, "{subnet}");
        }
    }

    #[tokio::test]
    async fn the_pool_is_made_once() {
        let store = Memory::default();
        let cidr: Cidr = "10.1.0.0/16".parse().unwrap();
        assert_eq!(ensure(&store, "10.1.0.0/16").await, Ok(cidr));
        assert_eq!(store.take_writes().len(), 1);
        assert_eq!(ensure(&store, "10.1.2.0/24").await, Ok(cidr));
        assert_eq!(store.take_writes(), [""; 0]);
        for bad in ["10.0.0.0/8", "x", "10.1.0.0/33", "0.0.0.0/0"] {
            let error = ensure(&store, bad).await.unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig as u32, "{bad}");
        }
        assert_eq!(store.take_writes(), [""; 0]);
    }

    #[tokio::test]
    async fn somebody_else_was_faster() {
        let store = Memory::default();
        let theirs = pool::create(&"10.1.0.0/16".parse().unwrap(), &birth::now().unwrap());
        let key = keys::pool(&Name::from("10-1-0-0-16"));
        store.race(&key, std::str::from_utf8(&theirs).unwrap());
        assert!(ensure(&store, "10.1.0.0/16").await.is_ok());
        let store = Memory::with(&[(&key, r#"{"spec":{"cidr":"10.9.0.0/16"}}"#)]);
        let error = ensure(&store, "10.1.0.0/16").await.unwrap_err();
        assert!(error.details.contains(&key), "{error}");
    }
}
