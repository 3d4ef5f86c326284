//! Nobody loses what the other one wrote: fields that only one of both knows, and fields that
//! neither knows.

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::programs::{Lab, Maker, Originals, pool};

const BLOCK: &str = "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-29";
const AFFINITY: &str = "/calico/ipam/v2/host/calico-01/ipv4/block/10.65.0.0-29";
/// What every version of the original stores in a block.
const KNOWN: [&str; 8] = [
    "cidr",
    "affinity",
    "allocations",
    "unallocated",
    "attributes",
    "sequenceNumber",
    "sequenceNumberForAllocation",
    "deleted",
];

fn read(lab: &Lab, key: &str) -> Result<Map<String, Value>> {
    let text = lab.cluster.etcd.get(key)?.with_context(|| format!("no {key}"))?;
    serde_json::from_str(&text).context(text)
}

fn write(lab: &Lab, key: &str, document: &Map<String, Value>) -> Result<()> {
    lab.cluster.etcd.put(key, &Value::Object(document.clone()).to_string())?;
    Ok(())
}

#[test]
fn what_the_original_knows_more_of_a_block_stays() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let lab = Lab::new(originals, "origfields", &[pool("v4", "10.65.0.0/29", 29)])?;
    let first = lab.add(0, Maker::Theirs, ("network1", ""))?;
    let theirs = read(&lab, BLOCK)?;
    let more: Vec<_> = theirs.keys().filter(|field| !KNOWN.contains(&field.as_str())).collect();
    let has_time = lab.originals.is_at_least(3, 32)?;
    ensure!(!has_time || more.iter().any(|field| *field == "affinity_claim_time"), "{more:?}");

    let second = lab.add(0, Maker::Ours, ("network1", ""))?;
    let both = read(&lab, BLOCK)?;
    ensure!(both.keys().eq(theirs.keys()), "{both:?} after {theirs:?}");
    for field in ["cidr", "affinity", "deleted"].iter().copied().chain(more.iter().map(|m| &***m)) {
        ensure!(both[field] == theirs[field], "{field}: {both:?} after {theirs:?}");
    }
    ensure!(both["allocations"] == json!([0, 1, null, null, null, null, null, null]), "{both:?}");
    ensure!(both["attributes"][0] == theirs["attributes"][0], "{both:?} after {theirs:?}");
    let fields = |at: usize| both["attributes"][at]["secondary"].as_object().map(Map::keys);
    let (ours, original) = fields(1).zip(fields(0)).context("no attributes")?;
    ensure!(ours.clone().eq(original.clone()), "{ours:?} and {original:?}");
    let number = |document: &Map<String, Value>| document["sequenceNumber"].as_u64();
    ensure!(number(&both) == number(&theirs).map(|number| number + 1), "{both:?}");

    // Theirs takes back its own after that, by the numbers that it finds.
    lab.remove(0, Maker::Theirs, first)?;
    ensure!(read(&lab, BLOCK)?["allocations"][1] == 0, "ours is not there any more");
    lab.remove(0, Maker::Ours, second)?;
    println!("{} fields beyond the common ones: {more:?}", more.len());
    Ok(())
}

#[test]
fn what_nobody_knows_stays() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let lab = Lab::new(originals, "origunknown", &[pool("v4", "10.65.0.0/29", 29)])?;
    let first = lab.add(0, Maker::Theirs, ("network1", ""))?;
    let handle = format!("/calico/ipam/v2/handle/network1.{}", first.uuid);
    let news = json!({ "of": ["tomorrow", 1, 1.5, null, { "deep": true }], "big": u64::MAX });
    for key in [BLOCK, AFFINITY, &handle] {
        let mut document = read(&lab, key)?;
        document.insert("news".to_owned(), news.clone());
        if let Some(owner) = document.get_mut("attributes").and_then(|all| all.get_mut(0)) {
            owner["alternateOwnerAttrs"] = json!({ "node": "calico-02" });
            owner["news"] = news.clone();
        }
        write(&lab, key, &document)?;
    }
    let second = lab.add(0, Maker::Ours, ("network1", ""))?;
    let block = read(&lab, BLOCK)?;
    let owner = &block["attributes"][0];
    ensure!(block["allocations"][1] == 1, "ours is not in this block: {block:?}");
    ensure!(block["news"] == news && owner["news"] == news, "{block:?}");
    ensure!(owner["alternateOwnerAttrs"]["node"] == "calico-02", "{block:?}");
    ensure!(block["attributes"][1].get("news").is_none(), "given to another: {block:?}");

    lab.remove(0, Maker::Ours, second)?;
    let block = read(&lab, BLOCK)?;
    ensure!(block["news"] == news && block["attributes"][0]["news"] == news, "{block:?}");
    ensure!(block["attributes"].as_array().map(Vec::len) == Some(1), "{block:?}");
    ensure!(read(&lab, AFFINITY)?["news"] == news, "the affinity lost it");
    ensure!(read(&lab, &handle)?["news"] == news, "the handle lost it");
    // The control: theirs writes only what it knows, so these bytes were ours.
    let third = lab.add(0, Maker::Theirs, ("network1", ""))?;
    ensure!(!read(&lab, BLOCK)?.contains_key("news"), "the original did not write this block");
    for pod in [first, third] {
        lab.remove(0, Maker::Theirs, pod)?;
    }
    Ok(())
}
