//! A cluster in memory: what is written to it is checked after every step.

mod choices;
mod exactly;
mod failures;
mod interleaved;
mod model;
mod outdated;
mod plain;
mod sizes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::layout::v3::keys;
use crate::layout::v3::write::block::BlockDocument;
use crate::layout::v3::write::handle::HandleDocument;
use crate::store::Store;
use crate::store::memory::Memory;

/// Runs what never waits for anything but a pause.
fn run<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().build().unwrap().block_on(work)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

/// The key and the value of a pool.
fn pool(name: &str, spec: &str) -> (String, String) {
    (format!("{}{name}", keys::POOLS_PREFIX), format!(r#"{{"spec":{spec}}}"#))
}

fn cluster(entries: &[(String, String)]) -> Arc<Memory> {
    let entries: Vec<_> = entries.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    Arc::new(Memory::with(&entries))
}

/// One pool of four blocks with four addresses each, and the same of IPv6.
fn small() -> Arc<Memory> {
    cluster(&[
        pool("p4", r#"{"cidr":"10.0.0.0/28","blockSize":30}"#),
        pool("p6", r#"{"cidr":"fd00::/124","blockSize":126}"#),
    ])
}

fn host(store: &Arc<Memory>, name: &str) -> Ipam<Arc<Memory>> {
    Ipam::new(store.clone(), Name::from(name))
}

fn owner(host: &str, handle: &str) -> Owner {
    let attributes = [("node", host), ("timestamp", "2026-01-01 00:00:00 +0000 UTC")];
    let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    Owner { handle: handle.to_owned(), attributes }
}

fn v4(count: usize) -> Request {
    Request { v4: count, ..Request::default() }
}

fn addresses(assigned: &[Assigned]) -> Vec<IpAddr> {
    assigned.iter().map(|assigned| assigned.address).collect()
}

/// Puts a value as somebody else does.
fn put(store: &Memory, key: &str, value: &str) {
    run(store.put(key, value.as_bytes(), None)).unwrap();
    store.take_writes();
}

fn delete(store: &Memory, key: &str) {
    run(store.delete(key)).unwrap();
}

/// Every address that some handle has, by address; checks each block on the way.
fn held(store: &Memory) -> BTreeMap<IpAddr, String> {
    let mut held = BTreeMap::new();
    for key in store.keys() {
        let Some(cidr) = keys::cidr_of_block(&key) else { continue };
        let text = store.text(&key).unwrap();
        check_block(cidr, &text);
        for found in BlockDocument::open(cidr, text.as_bytes()).unwrap().held() {
            let handle = found.handle.unwrap_or_default();
            assert_eq!(held.insert(found.address, handle), None, "{} twice", found.address);
        }
    }
    held
}

/// The stored queue is exactly what is not allocated, and every owner has an address.
fn check_block(cidr: Cidr, text: &str) {
    let json: Value = serde_json::from_str(text).unwrap();
    let allocations = json["allocations"].as_array().unwrap();
    assert_eq!(allocations.len() as u128, cidr.size(), "{text}");
    let free: BTreeSet<u64> =
        (0..allocations.len() as u64).filter(|i| allocations[*i as usize].is_null()).collect();
    let queue = json["unallocated"].as_array().unwrap();
    let told: BTreeSet<u64> = queue.iter().map(|n| n.as_u64().unwrap()).collect();
    assert_eq!((told.len(), &told), (queue.len(), &free), "{text}");
    let used: BTreeSet<u64> = allocations.iter().filter_map(Value::as_u64).collect();
    assert_eq!(used.len(), json["attributes"].as_array().unwrap().len(), "{text}");
    let numbers = json["sequenceNumberForAllocation"].as_object();
    if let Some(numbers) = numbers.filter(|_| json["sequenceNumber"].is_u64()) {
        let numbered: BTreeSet<u64> = numbers.keys().map(|n| n.parse().unwrap()).collect();
        assert!(numbered.is_disjoint(&free), "{text}");
    }
}

/// What the handles say, by handle and block.
fn counts(store: &Memory) -> BTreeMap<(String, Cidr), u64> {
    let mut counts = BTreeMap::new();
    for key in store.keys() {
        let Some(id) = keys::id_of_handle(&key) else { continue };
        let document = HandleDocument::open(id, store.text(&key).unwrap().as_bytes()).unwrap();
        assert!(!document.is_empty(), "{id} has nothing and is there");
        counts.extend(document.blocks().map(|(block, count)| ((id.to_owned(), block), count)));
    }
    counts
}

/// What they should say.
fn true_counts(store: &Memory) -> BTreeMap<(String, Cidr), u64> {
    let mut counts = BTreeMap::new();
    for key in store.keys() {
        let Some(cidr) = keys::cidr_of_block(&key) else { continue };
        let block = BlockDocument::open(cidr, store.text(&key).unwrap().as_bytes()).unwrap();
        for held in block.held() {
            *counts.entry((held.handle.unwrap_or_default(), cidr)).or_default() += 1;
        }
    }
    counts
}

/// Nothing is under way: handles are right, and so is every claim.
#[track_caller]
fn check_rest(store: &Memory) {
    held(store);
    assert_eq!(counts(store), true_counts(store));
    for key in store.keys() {
        let Some((_, rest)) = key.split_once("/host/") else { continue };
        let (name, block) = rest.split_once('/').unwrap();
        let text = store.text(&key).unwrap();
        let block = store.text(&format!("{}{block}", keys::BLOCKS_PREFIX));
        assert!(text.contains("confirmed"), "{key}: {text}");
        assert!(block.unwrap().contains(&format!(r#""host:{name}""#)), "{key}");
    }
}
