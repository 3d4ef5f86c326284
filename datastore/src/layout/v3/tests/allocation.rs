//! Blocks, handles and affinities as they are rewritten.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::layout::v3::write::block::{self, BlockDocument, BlockOwner};
use crate::layout::v3::write::handle::HandleDocument;
use crate::layout::v3::write::{Malformed, affinity};
use crate::layout::v3::{ipam_config, keys, reserved_cidrs};
use crate::model::{AffinityId, AffinityState, Cidr, IpamConfig, Name};

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn open(json: &str) -> BlockDocument {
    BlockDocument::open(cidr("10.0.0.0/30"), json.as_bytes()).unwrap()
}

fn text(document: BlockDocument) -> String {
    String::from_utf8(document.finish()).unwrap()
}

/// What newer and older writers store beside what we know.
const STORED: &str = r#"{"cidr":"10.0.0.0/30","affinity":"host:a","affinity_claim_time":"2026-01-01T00:00:00Z","allocations":[0,null,1,null],"unallocated":[3,1],"attributes":[{"handle_id":"n.1","secondary":{"node":"a"},"alternateOwnerAttrs":{"x":"y"}},{"handle_id":"n.2","secondary":{"node":"b"},"releasedAt":"t"}],"deleted":false,"sequenceNumber":7,"sequenceNumberForAllocation":{"0":3,"2":6},"future":{"z":[1,2.5]}}"#;

#[test]
fn a_new_block_has_the_shape_that_others_store() {
    let new = block::create(cidr("10.0.0.0/30"), &Name::from("a"), 1_700_000_000_000_000_000);
    assert_eq!(
        String::from_utf8(new.clone()).unwrap(),
        r#"{"cidr":"10.0.0.0/30","affinity":"host:a","allocations":[null,null,null,null],"unallocated":[0,1,2,3],"attributes":[],"sequenceNumber":1700000000000000000,"sequenceNumberForAllocation":{},"deleted":false}"#
    );
    let block = BlockDocument::open(cidr("10.0.0.0/30"), &new).unwrap();
    assert!(block.is_empty() && !block.is_deleted() && block.is_of(&"a".into()));
}

#[test]
fn an_assignment_changes_what_it_must_and_nothing_else() {
    let mut block = open(STORED);
    let given = block.assign(&[ip("10.0.0.3")], "n.3", &attributes(&[("node", "a")]));
    assert_eq!(given, [ip("10.0.0.3")]);
    let expected = STORED
        .replace("[0,null,1,null]", "[0,null,1,2]")
        .replace("[3,1]", "[1]")
        .replace(r#""t"}]"#, r#""t"},{"handle_id":"n.3","secondary":{"node":"a"}}]"#)
        .replace(r#""2":6}"#, r#""2":6,"3":7}"#)
        .replace(r#"Number":7"#, r#"Number":8"#);
    assert_eq!(text(block), expected);
}

#[test]
fn fractions_of_others_keep_every_digit() {
    let odd = STORED.replace("2.5", "51.24817837550540,1.7976931348623157e308,5e-324");
    let before: serde_json::Value = serde_json::from_str(&odd).unwrap();
    let mut text = odd;
    for _ in 0..5 {
        text = String::from_utf8(open(&text).finish()).unwrap();
    }
    let after: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(after["future"], before["future"]);
    assert!(text.contains("51.2481783755054,"), "{text}");
}

#[test]
fn a_release_moves_the_other_owners_up_and_the_address_to_the_end() {
    let mut block = open(STORED);
    assert_eq!(block.release(&[ip("10.0.0.0")], "n.1"), [ip("10.0.0.0")]);
    let expected = STORED
        .replace("[0,null,1,null]", "[null,null,0,null]")
        .replace("[3,1]", "[3,1,0]")
        .replace(
            r#"{"handle_id":"n.1","secondary":{"node":"a"},"alternateOwnerAttrs":{"x":"y"}},"#,
            "",
        )
        .replace(r#"{"0":3,"2":6}"#, r#"{"2":6}"#)
        .replace(r#"Number":7"#, r#"Number":8"#);
    assert_eq!(text(block), expected);
}

#[test]
fn only_the_holder_releases_and_only_what_is_free_is_given() {
    let mut block = open(STORED);
    assert!(block.release(&[ip("10.0.0.0")], "n.2").is_empty());
    assert!(block.release(&[ip("10.0.0.1"), ip("10.9.0.0"), ip("fd00::")], "n.1").is_empty());
    let none = attributes(&[]);
    assert!(
        block.assign(&[ip("10.0.0.0"), ip("10.0.0.2"), ip("10.0.0.4")], "n.3", &none).is_empty()
    );
    assert_eq!(block.held_by("n.1"), [ip("10.0.0.0")]);
    assert_eq!(text(block), STORED.replace(r#"Number":7"#, r#"Number":8"#));
}

#[test]
fn equal_owners_are_stored_once() {
    let mut block = open(STORED);
    let node = attributes(&[("node", "a")]);
    let free: Vec<IpAddr> = block.free().collect();
    assert_eq!(free, [ip("10.0.0.3"), ip("10.0.0.1")], "the queue's order");
    assert_eq!(block.assign(&free, "n.3", &node).len(), 2);
    assert_eq!(text(block.clone()).matches("n.3").count(), 1);
    assert_eq!(block.release(&[ip("10.0.0.1")], "n.3").len(), 1);
    assert!(text(block.clone()).contains("n.3"), "one address is left to it");
    assert_eq!(block.release(&[ip("10.0.0.3")], "n.3").len(), 1);
    assert!(!text(block).contains("n.3"));
    // The same owner and what a newer writer says about him are not the same.
    let mut block = open(STORED);
    block.assign(&[ip("10.0.0.1")], "n.1", &node);
    assert_eq!(text(block).matches("n.1").count(), 2);
}

#[test]
fn a_queue_that_is_missing_or_lies_is_made_anew() {
    for (queue, expected) in [
        (r#""unallocated":[3,1],"#, vec!["10.0.0.3", "10.0.0.1"]),
        ("", vec!["10.0.0.1", "10.0.0.3"]),
        (r#""unallocated":null,"#, vec!["10.0.0.1", "10.0.0.3"]),
        (r#""unallocated":[0,3,3,9,-1,"x",2],"#, vec!["10.0.0.3", "10.0.0.1"]),
        (r#""unallocated":[3],"#, vec!["10.0.0.3", "10.0.0.1"]),
    ] {
        let block = open(&STORED.replace(r#""unallocated":[3,1],"#, queue));
        let free: Vec<String> = block.free().map(|address| address.to_string()).collect();
        assert_eq!(free, expected, "{queue}");
    }
}

#[test]
fn a_block_without_numbers_gets_none() {
    let old = r#"{"cidr":"10.0.0.0/30","affinity":null,"strictAffinity":false,"allocations":[null,0,null,null],"unallocated":[0,2,3],"attributes":[{"handle_id":null,"secondary":{}}]}"#;
    let mut block = open(old);
    assert_eq!(block.owner(), BlockOwner::Nobody);
    assert_eq!(block.holder(ip("10.0.0.1")).unwrap().handle, None);
    assert!(block.release(&[ip("10.0.0.1")], "").is_empty(), "no handle is nobody's");
    block.assign(&[ip("10.0.0.0")], "h", &attributes(&[]));
    assert_eq!(
        text(block),
        r#"{"cidr":"10.0.0.0/30","affinity":null,"strictAffinity":false,"allocations":[1,0,null,null],"unallocated":[2,3],"attributes":[{"handle_id":null,"secondary":{}},{"handle_id":"h","secondary":{}}]}"#
    );
}

#[test]
fn owners() {
    for (fields, owner) in [
        (r#""affinity":"host:a""#, BlockOwner::Host("a".into())),
        (r#""affinity":"""#, BlockOwner::Nobody),
        (r#""affinity":null"#, BlockOwner::Nobody),
        (r#""x":1"#, BlockOwner::Nobody),
        (r#""affinity":null,"hostAffinity":"b""#, BlockOwner::Host("b".into())),
        (r#""affinity":"virtual:load-balancer""#, BlockOwner::Other),
        (r#""affinity":7"#, BlockOwner::Other),
    ] {
        let block = open(&STORED.replace(r#""affinity":"host:a""#, fields));
        assert_eq!(block.owner(), owner, "{fields}");
    }
}

#[test]
fn a_block_that_does_not_say_who_has_what_is_refused_by_key() {
    for json in [
        "",
        "null",
        "[]",
        &STORED.replace("[0,null,1,null]", "[0,null,2,null]"),
        &STORED.replace("[0,null,1,null]", "[0,null,-1,null]"),
        &STORED.replace("[0,null,1,null]", "[0,null,\"1\",null]"),
        &STORED.replace("[0,null,1,null]", "[0,null,1]"),
        &STORED.replace("[0,null,1,null]", "null"),
        &STORED.replace("10.0.0.0/30", "10.0.0.4/30"),
        &STORED.replace("10.0.0.0/30", "10.0.0.0/29"),
        r#"{"allocations":[null,null,null,null],"attributes":[7]}"#,
    ] {
        let Malformed { key, .. } =
            BlockDocument::open(cidr("10.0.0.0/30"), json.as_bytes()).unwrap_err();
        assert_eq!(key, "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30", "{json}");
    }
    // As large as a block may be, and no larger.
    for (block, good) in [("10.0.0.0/20", true), ("10.0.0.0/19", false)] {
        let block = cidr(block);
        let size = usize::try_from(block.size()).unwrap();
        let json = format!(r#"{{"allocations":[{}]}}"#, vec!["null"; size].join(","));
        assert_eq!(BlockDocument::open(block, json.as_bytes()).is_ok(), good, "{block}");
    }
}

#[test]
fn counts_of_a_handle() {
    let mut handle = HandleDocument::create();
    handle.set(cidr("10.0.0.0/26"), 1);
    assert_eq!(
        String::from_utf8(handle.clone().finish()).unwrap(),
        r#"{"block":{"10.0.0.0/26":1},"deleted":false}"#
    );
    handle.set(cidr("10.0.0.0/26"), 0);
    assert!(handle.is_empty());

    let stored = r#"{"id":"h","block":{"fd00::0/122":2,"10.0.0.0/26":1},"x":[1]}"#;
    let mut handle = HandleDocument::open("h", stored.as_bytes()).unwrap();
    assert_eq!(handle.count(cidr("fd00::/122")), 2, "however it is spelled");
    handle.set(cidr("fd00::/122"), 3);
    handle.set(cidr("10.0.0.0/26"), 0);
    assert!(!handle.is_empty());
    assert_eq!(
        String::from_utf8(handle.finish()).unwrap(),
        r#"{"id":"h","block":{"fd00::0/122":3},"x":[1]}"#
    );
    for bad in
        ["", "[]", r#"{"block":[]}"#, r#"{"block":{"x":1}}"#, r#"{"block":{"10.0.0.0/26":-1}}"#]
    {
        let error = HandleDocument::open("h", bad.as_bytes()).unwrap_err();
        assert_eq!(error.key, "/calico/ipam/v2/handle/h", "{bad}");
    }
    assert!(HandleDocument::open("h", br#"{"block":null}"#).unwrap().is_empty());
}

#[test]
fn states_of_an_affinity() {
    let id = AffinityId { host: "a".into(), block: cidr("10.0.0.0/26") };
    let set = |stored: &str, state| {
        let change = affinity::set_state(&id, stored.as_bytes(), state).unwrap();
        change.map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let confirmed = r#"{"state":"confirmed","deleted":false}"#;
    assert_eq!(set("", AffinityState::Confirmed).as_deref(), Some(confirmed));
    assert_eq!(set(confirmed, AffinityState::Confirmed), None);
    assert_eq!(
        set(r#"{"x":1,"state":"pending"}"#, AffinityState::Confirmed).as_deref(),
        Some(r#"{"x":1,"state":"confirmed"}"#)
    );
    assert_eq!(
        set(r#"{"state":"pendingDeletion","deleted":true}"#, AffinityState::Pending).as_deref(),
        Some(r#"{"state":"pending","deleted":false}"#)
    );
    let error = affinity::set_state(&id, b"[]", AffinityState::Pending).unwrap_err();
    assert_eq!(error.key, "/calico/ipam/v2/host/a/ipv4/block/10.0.0.0-26");
}

#[test]
fn what_a_missing_setting_means() {
    let config = |strict_affinity, auto_allocate_blocks, max_blocks_per_host| IpamConfig {
        strict_affinity,
        auto_allocate_blocks,
        max_blocks_per_host,
    };
    for (stored, expected) in [
        (None, config(false, true, 20)),
        (Some("{}"), config(false, false, 20)),
        (Some(r#"{"auto_allocate_blocks":true,"maxBlocksPerHost":0}"#), config(false, true, 20)),
        (Some(r#"{"strict_affinity":true,"maxBlocksPerHost":3}"#), config(true, false, 3)),
    ] {
        assert_eq!(ipam_config(stored.map(str::as_bytes)).unwrap(), expected, "{stored:?}");
    }
    for bad in ["x", r#"{"maxBlocksPerHost":-1}"#, r#"{"strict_affinity":"yes"}"#] {
        assert_eq!(ipam_config(Some(bad.as_bytes())).unwrap_err().key, keys::IPAM_CONFIG_KEY);
    }
}

#[test]
fn reservations() {
    let read = |spec: &str| reserved_cidrs("/k", format!(r#"{{"spec":{spec}}}"#).as_bytes());
    assert_eq!(
        read(r#"{"reservedCIDRs":["10.0.0.1","fd00::/64"]}"#).unwrap(),
        [cidr("10.0.0.1/32"), cidr("fd00::/64")]
    );
    assert!(read("{}").unwrap().is_empty());
    let error = read(r#"{"reservedCIDRs":["10.0.0.1","x"]}"#).unwrap_err();
    assert!(error.to_string().starts_with("/k is malformed (spec.reservedCIDRs[1]: "), "{error}");
}

#[test]
fn keys_of_allocation() {
    let host = Name::from("a");
    let v6 = cidr("fd80:24e2:f998:72d6::40/122");
    let key = "/calico/ipam/v2/assignment/ipv6/block/fd80:24e2:f998:72d6::40-122";
    assert_eq!(keys::block(v6), key);
    assert_eq!(keys::cidr_of_block(key), Some(v6));
    assert_eq!(keys::cidr_of_block(&keys::affinity(&host, v6)), None);
    assert_eq!(
        keys::affinity(&host, v6),
        "/calico/ipam/v2/host/a/ipv6/block/fd80:24e2:f998:72d6::40-122"
    );
    assert_eq!(keys::handle("net1.c0ffee-1"), "/calico/ipam/v2/handle/net1.c0ffee-1");
    assert_eq!(keys::id_of_handle(&keys::handle("net1.c0ffee-1")), Some("net1.c0ffee-1"));
    assert_eq!(keys::id_of_handle(key), None);
    for bad in ["", ".", "..", "a/b", "a\nb", "a\0"] {
        assert!(!keys::is_handle(bad), "{bad:?}");
        assert_eq!(keys::id_of_handle(&keys::handle(bad)), None);
    }
}
