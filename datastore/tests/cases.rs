//! Replays the original's own tables of prefixes and of keys.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a replay that cannot go on has failed")]

mod shared;

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::{Cidr, Family, Name, PolicyId, ResourceId};
use serde_json::Value;
use shared::{load, text};

fn list<'a>(file: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    file[name].as_array().unwrap().iter()
}

fn cidr(value: &Value) -> Cidr {
    text(value).parse().unwrap()
}

fn address(value: &Value) -> IpAddr {
    text(value).parse().unwrap()
}

/// The prefix of everything of a family.
fn whole(address: IpAddr) -> Cidr {
    Cidr::new(address, 0).unwrap()
}

/// What the model says of each table, with the number of its cases. A table that is not here is
/// about something that the model does not do: a trie, and leaving prefixes out of a set that others
/// of it cover, which sets of the kernel do not need.
#[test]
fn prefixes() {
    let Some(file) = load("cases/cidrs.json") else { return };
    let mut counts = BTreeMap::new();
    let mut replayed = |name: &'static str, agrees: &dyn Fn(&Value) -> bool| {
        for case in list(&file, name) {
            assert!(agrees(case), "{name}: {case}");
            *counts.entry(name).or_insert(0) += 1;
        }
    };
    let version = |cidr: Cidr| match cidr.family() {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    replayed("address_parse", &|case| {
        let parsed = cidr(&case["input"]);
        let canonical = parsed.address().to_string() == text(&case["canonical"]);
        canonical && parsed.is_host() && case["version"] == version(parsed)
    });
    replayed("cidr_parse", &|case| {
        let parsed = cidr(&case["input"]);
        let canonical = parsed.to_string() == text(&case["canonical"]);
        canonical && case["version"] == version(parsed) && case["prefix_len"] == parsed.prefix_len()
    });
    replayed("address_add", &|case| {
        let from = address(&case["addr"]);
        let (all, n) = (whole(from), u128::from(case["n"].as_u64().unwrap()));
        all.nth(all.index_of(from).unwrap() + n) == Some(address(&case["result"]))
    });
    replayed("contains", &|case| {
        case["contains"] == cidr(&case["cidr"]).contains(address(&case["addr"]))
    });
    replayed("single_address", &|case| case["single"] == cidr(&case["cidr"]).is_host());
    replayed("common_prefix", &|case| {
        let (a, b, common) = (cidr(&case["a"]), cidr(&case["b"]), cidr(&case["common"]));
        let both = |prefix: &Cidr| prefix.covers(&a) && prefix.covers(&b);
        // And no longer one covers both.
        both(&common) && common.halves().is_none_or(|(low, high)| !both(&low) && !both(&high))
    });
    replayed("zero_prefix_split", &|case| {
        let (low, high) = cidr(&case["in"]).halves().unwrap();
        list(case, "out").map(cidr).eq([low, high])
    });
    replayed("block_ordinals", &|case| {
        let (block, address) = (cidr(&case["cidr"]), address(&case["addr"]));
        let ordinal = case["ordinal"].as_u64().map(u128::from);
        block.index_of(address) == ordinal && block.nth(ordinal.unwrap()) == Some(address)
    });
    let expected = [
        ("address_parse", 3),
        ("address_add", 8),
        ("block_ordinals", 12),
        ("cidr_parse", 4),
        ("common_prefix", 15),
        ("contains", 8),
        ("single_address", 10),
        ("zero_prefix_split", 2),
    ];
    assert_eq!(counts, BTreeMap::from(expected));
    let not_ours = ["overlap_suppression", "trie_permutation_sets", "trie_sequences"];
    let tables = file.as_object().unwrap().keys().filter(|name| !name.starts_with('_'));
    assert!(
        tables
            .map(String::as_str)
            .all(|name| { counts.contains_key(name) || not_ours.contains(&name) })
    );
}

/// Keys of resources mean what the original takes them for; keys of the older layout and of status
/// mean nothing here.
#[test]
fn keys() {
    let Some(file) = load("cases/etcd-keys.json") else { return };
    let (mut objects, mut refused, mut ignored) = (0, 0, 0);
    for case in list(&file, "keys").chain(list(&file, "bgp_peer_keys")) {
        let path = text(&case["path"]);
        let decoded = v3::decode(path, b"{}");
        if !path.starts_with(v3::RESOURCES_PREFIX) {
            assert_eq!(decoded, Decoded::Ignored, "{path}");
            assert_eq!((v3::LAYOUT.id_of)(path), None, "{path}");
            ignored += 1;
        } else if case["should_fail"] == true {
            let nameless = matches!(&decoded, Decoded::Rejected(refused) if refused.id.is_none());
            assert!(nameless, "{path}: {decoded:?}");
            refused += 1;
        } else {
            let name = Name::from(text(&case["key"]["Name"]));
            let id = match text(&case["key"]["Kind"]) {
                "FelixConfiguration" => ResourceId::FelixConfiguration(name),
                "NetworkPolicy" => {
                    let namespace = Some(Name::from(text(&case["key"]["Namespace"])));
                    ResourceId::Policy(PolicyId { namespace, name })
                }
                other => panic!("{other}"),
            };
            assert_eq!((v3::LAYOUT.id_of)(path).as_ref(), Some(&id), "{path}");
            let Decoded::Object(update) = decoded else { panic!("{path}: {decoded:?}") };
            assert_eq!(update.id(), id, "{path}");
            assert_eq!(v3::keys::key_of(&id).as_deref(), Some(path));
            objects += 1;
        }
    }
    // Of the older layout 19 keys, of BGP peers 5, of status 3.
    assert_eq!((objects, refused, ignored), (2, 2, 27));
}
