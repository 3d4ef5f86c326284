//! Allocation blocks as others stored them: what an assignment and a release make of them.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::layout::v3::write::block::BlockDocument;
use calico_datastore::model::Cidr;
use serde_json::Value;

const HANDLE: &str = "fuzz.handle";

libfuzzer_sys::fuzz_target!(|value: &[u8]| {
    let cidr: Cidr = "10.0.0.0/30".parse().expect("a CIDR");
    let Ok(stored) = BlockDocument::open(cidr, value) else { return };
    let open = |bytes: &[u8]| BlockDocument::open(cidr, bytes).expect("what was written is read");
    let free: BTreeSet<_> = stored.free().collect();
    let held: BTreeSet<_> = stored.held().map(|held| held.address).collect();
    assert!(free.is_disjoint(&held));
    assert_eq!(free.len() + held.len(), 4);

    let before: Vec<_> = stored.held().collect();
    let mine = stored.held_by(HANDLE);
    let queue: Vec<_> = stored.free().collect();
    let mut block = stored.clone();
    assert_eq!(block.assign(&queue, HANDLE, &BTreeMap::new()), queue);
    let mut block = open(&block.finish());
    assert_eq!(block.free().next(), None);
    for one in &before {
        assert_eq!(block.holder(one.address).as_ref(), Some(one), "others keep what they have");
    }
    assert_eq!(block.release(&queue, HANDLE), queue);
    let block = open(&block.finish());
    assert_eq!(block.held().collect::<Vec<_>>(), before);
    assert_eq!(block.held_by(HANDLE), mine);
    assert_eq!(block.owner(), stored.owner());

    // What is not known is as it was, and where it was.
    let ours = |name: &String| {
        ["allocations", "unallocated", "sequenceNumber", "sequenceNumberForAllocation"]
            .contains(&name.as_str())
            || name == "attributes"
    };
    let fields = |bytes: &[u8]| match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => {
            fields.into_iter().filter(|(name, _)| !ours(name)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(fields(&block.finish()), fields(value));
});
