//! What the history of all blocks must be, whoever wrote them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use calico_e2e::etcd::Version;
use serde_json::Value;

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Story {
    /// Versions of blocks.
    pub(crate) versions: usize,
    /// Addresses that were given to somebody.
    pub(crate) given: usize,
    /// Those of them that are in another host's block.
    pub(crate) borrowed: usize,
    /// Blocks that went.
    pub(crate) gone: usize,
    /// Everybody who ever had an address, by the block's key.
    pub(crate) owners: BTreeMap<String, BTreeSet<String>>,
}

/// One block at one moment.
#[derive(Clone, Debug, Default)]
struct Block {
    /// Ordinal, handle.
    owners: BTreeMap<usize, String>,
    number: u64,
}

/// Every address is free before it is given to somebody, at every revision; nobody loses one before
/// the revision at which he began to go, with the block or without; and no two versions of a block
/// have one number.
pub(crate) fn judge(history: &[Version], ends: &BTreeMap<String, i64>) -> Result<Story> {
    let mut story = Story::default();
    let mut blocks: BTreeMap<&str, Block> = BTreeMap::new();
    for Version { revision, key, value } in history {
        let what = || format!("{key} at {revision}: {value:?}");
        let before = blocks.remove(key.as_str()).unwrap_or_default();
        let document = value.as_ref().map(|value| serde_json::from_str(value)).transpose();
        let document: Option<Value> = document.with_context(what)?;
        let now = document.as_ref().map(read).transpose().with_context(what)?;
        for (ordinal, owner) in &before.owners {
            let kept = now.as_ref().is_some_and(|now| now.owners.contains_key(ordinal));
            let may_go = ends.get(owner).is_some_and(|end| end <= revision);
            ensure!(kept || may_go, "{owner} lives and loses {ordinal}: {}", what());
        }
        let Some((now, document)) = now.zip(document) else {
            story.gone += 1;
            continue;
        };
        ensure!(now.number > before.number, "no new number: {}", what());
        for (ordinal, owner) in &now.owners {
            match before.owners.get(ordinal) {
                Some(had) => ensure!(had == owner, "{ordinal} was {had}'s: {}", what()),
                None => {
                    story.given += 1;
                    story.borrowed += usize::from(is_borrowed(&document, *ordinal));
                }
            }
        }
        story.versions += 1;
        story.owners.entry(key.clone()).or_default().extend(now.owners.values().cloned());
        blocks.insert(key, now);
    }
    Ok(story)
}

fn read(document: &Value) -> Result<Block> {
    let allocations = document["allocations"].as_array().context("no allocations")?;
    let free = document["unallocated"].as_array().context("no queue")?;
    // Those of a new block are null, or an empty list.
    let attributes = document["attributes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut owners = BTreeMap::new();
    for (ordinal, index) in allocations.iter().enumerate() {
        let queued = free.iter().filter(|free| free.as_u64() == Some(ordinal as u64)).count();
        let Some(index) = index.as_u64() else {
            ensure!(queued == 1, "{ordinal} is free and {queued} times in the queue");
            continue;
        };
        ensure!(queued == 0, "{ordinal} is given out and in the queue");
        let owner = attributes.get(usize::try_from(index)?).context("an owner is missing")?;
        let handle = owner["handle_id"].as_str().context("an owner without a handle")?;
        owners.insert(ordinal, handle.to_owned());
    }
    let number = document["sequenceNumber"].as_u64().context("no number")?;
    Ok(Block { owners, number })
}

/// The address belongs to a pod of a host that the block is not of.
fn is_borrowed(document: &Value, ordinal: usize) -> bool {
    let owner = document["allocations"][ordinal].as_u64().and_then(|index| index.try_into().ok());
    let attributes = owner.map_or(&Value::Null, |index: usize| &document["attributes"][index]);
    let node = attributes["secondary"]["node"].as_str().unwrap_or_default();
    document["affinity"].as_str() != Some(&format!("host:{node}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-31";

    /// A block of two addresses: who has them.
    fn version(number: u64, owners: [Option<&str>; 2]) -> Version {
        let list: Vec<&str> = owners.iter().flatten().copied().collect();
        let index = |owner| list.iter().position(|known| *known == owner);
        let free: Vec<usize> = (0..2).filter(|ordinal| owners[*ordinal].is_none()).collect();
        let attribute = |owner| json!({ "handle_id": owner, "secondary": { "node": "a" } });
        let value = json!({
            "affinity": "host:b",
            "allocations": owners.map(|owner| owner.and_then(index)),
            "unallocated": free,
            "attributes": list.iter().map(attribute).collect::<Vec<_>>(),
            "sequenceNumber": number,
        });
        let revision = i64::try_from(number).unwrap();
        Version { revision, key: KEY.to_owned(), value: Some(value.to_string()) }
    }

    fn gone(revision: i64) -> Version {
        Version { revision, key: KEY.to_owned(), value: None }
    }

    fn ends() -> BTreeMap<String, i64> {
        BTreeMap::from([("x".to_owned(), 3), ("y".to_owned(), 5), ("z".to_owned(), 5)])
    }

    #[test]
    fn an_address_that_rests_in_between_may_have_another_owner() {
        let story = judge(
            &[
                version(1, [Some("x"), None]),
                version(2, [Some("x"), Some("y")]),
                version(3, [None, Some("y")]),
                version(4, [Some("z"), Some("y")]),
                version(5, [None, Some("y")]),
                gone(6),
                version(7, [Some("y"), None]),
            ],
            &ends(),
        );
        let story = story.unwrap();
        assert_eq!((story.versions, story.given, story.borrowed, story.gone), (6, 4, 4, 1));
        assert_eq!(story.owners[KEY].len(), 3);
    }

    #[test]
    fn what_must_not_be_is_found() {
        let first = || version(1, [Some("x"), None]);
        for second in [
            version(3, [Some("y"), None]),
            version(1, [Some("x"), None]),
            // He has begun to go at 3.
            version(2, [None, None]),
            gone(2),
        ] {
            judge(&[first(), second.clone()], &ends()).expect_err(&format!("{second:?}"));
        }
        judge(&[version(1, [Some("nobody"), None]), gone(9)], &ends()).expect_err("he lives");
        judge(&[first(), gone(3)], &ends()).expect("he goes");
        for (pointer, value) in [
            ("/unallocated/0", json!(0)),
            ("/unallocated", json!([])),
            ("/unallocated", json!([1, 1])),
            ("/allocations/0", json!(1)),
        ] {
            let mut one = first();
            let mut block: Value = serde_json::from_str(&one.value.unwrap()).unwrap();
            *block.pointer_mut(pointer).unwrap() = value;
            one.value = Some(block.to_string());
            judge(&[one], &ends()).expect_err(pointer);
        }
    }
}
