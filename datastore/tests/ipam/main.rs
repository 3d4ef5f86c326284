//! Address management against a real etcd, and over blocks as real writers left them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed"
)]

mod contention;
mod latency;
mod recorded;
#[path = "../shared/mod.rs"]
mod shared;
#[allow(dead_code, reason = "the tests of the client use the rest")]
#[path = "../etcd/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_datastore::backend::etcd3::Etcd3;
use calico_datastore::ipam::{Ipam, Owner};
use calico_datastore::layout::v3::keys;
use calico_datastore::layout::v3::write::block::BlockDocument;
use calico_datastore::model::Name;
use calico_datastore::store::Store;

fn owner(host: &str, handle: &str) -> Owner {
    let attributes = [("node", host), ("timestamp", "2026-01-01 00:00:00 +0000 UTC")];
    let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    Owner { handle: handle.to_owned(), attributes }
}

fn ipam(store: &Etcd3, host: &str) -> Ipam<Etcd3> {
    Ipam::new(store.clone(), Name::from(host))
}

async fn put_pool(store: &Etcd3, name: &str, spec: &str) {
    let value = format!(r#"{{"spec":{spec}}}"#);
    let key = format!("{}{name}", keys::POOLS_PREFIX);
    Store::put(store, &key, value.as_bytes(), None).await.unwrap();
}

/// Who has which address, from every block in the store; none is free and taken at once.
async fn held(store: &impl Store) -> BTreeMap<IpAddr, String> {
    let mut held = BTreeMap::new();
    for (key, stored) in store.list(keys::BLOCKS_PREFIX).await.unwrap() {
        let cidr = keys::cidr_of_block(&key).unwrap();
        let block = BlockDocument::open(cidr, &stored.value).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&stored.value).unwrap();
        let queue: Vec<_> = json["unallocated"].as_array().unwrap().iter().collect();
        let free: Vec<_> = block.free().map(|address| cidr.index_of(address).unwrap()).collect();
        assert_eq!(queue, free.iter().map(|n| *n as u64).collect::<Vec<_>>(), "{key}");
        for found in block.held() {
            assert_eq!(held.insert(found.address, found.handle.unwrap_or_default()), None);
        }
    }
    held
}
