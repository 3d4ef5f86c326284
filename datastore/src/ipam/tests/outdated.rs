//! Hosts that read a pool before and after its `blockSize` was changed, at work at once.

use futures::future::join_all;

use super::claim::Claimed;
use super::interleaved::{Yielding, on};
use super::*;
use crate::model::Family;

const POOL: &str = "10.1.0.0/26";

fn set_size(store: &Memory, size: u8) {
    let (key, value) = pool("p", &format!(r#"{{"cidr":"{POOL}","blockSize":{size}}}"#));
    put(store, &key, &value);
}

fn blocks(store: &Memory) -> Vec<Cidr> {
    store.keys().iter().filter_map(|key| keys::cidr_of_block(key)).collect()
}

/// No address is in two blocks, nor held twice.
#[track_caller]
fn check_apart(store: &Memory, seed: u64) {
    let blocks = blocks(store);
    for (index, one) in blocks.iter().enumerate() {
        let other = blocks[index + 1..].iter().find(|other| other.overlaps(one));
        assert_eq!(other, None, "{seed}: {one} and {other:?}");
    }
    held(store);
    check_rest(store);
}

/// Pods of hosts that believe in different sizes; how many got an address.
fn race(seed: u64, before: u8, after: u8, exactly: bool) -> (Arc<Memory>, usize) {
    let store = cluster(&[]);
    set_size(&store, before);
    let now = Yielding::new(store.clone(), seed);
    let outdated = now.with_pools_of_now();
    set_size(&store, after);
    let pods = (0..8_usize).map(|i| {
        let name = ["a", "b", "c", "d"][i % 4];
        let view = if i % 2 == 0 { &outdated } else { &now };
        let ipam = on(view, name);
        async move {
            let owner = owner(name, &format!("net.{i}"));
            // All in the same corner, where the blocks meet.
            let address = cidr(POOL).nth(i as u128).unwrap();
            match exactly {
                true => ipam.assign_exactly(&owner, &[address]).await,
                false => ipam.assign(&owner, &v4(1)).await,
            }
        }
    });
    let results = run(join_all(pods));
    for result in &results {
        match result {
            Ok(given) => assert_eq!(given.len(), 1),
            Err(IpamError::NoAddress { .. } | IpamError::Overlap { .. }) => {}
            Err(other) => panic!("{seed}: {other}"),
        }
    }
    (store, results.iter().filter(|result| result.is_ok()).count())
}

#[test]
fn blocks_of_two_sizes_are_never_both_used() {
    for (before, after) in [(26, 28), (28, 26), (28, 29)] {
        for seed in 0..60 {
            let (store, given) = race(seed, before, after, false);
            check_apart(&store, seed);
            assert_eq!(held(&store).len(), given, "{seed}");
            // They borrow from whoever came first.
            assert_eq!(given, 8, "{seed}");
        }
    }
}

#[test]
fn nor_for_addresses_that_are_asked_for() {
    for (before, after) in [(26, 28), (28, 26)] {
        for seed in 0..60 {
            let (store, given) = race(seed, before, after, true);
            check_apart(&store, seed);
            assert_eq!(held(&store).len(), given, "{seed}");
            assert!(given > 0, "{seed}");
        }
    }
}

/// What another program made in between: it came first, so it stays.
#[test]
fn a_block_that_somebody_made_after_we_looked() {
    let store = cluster(&[]);
    set_size(&store, 26);
    let foreign = cidr("10.1.0.16/28");
    let seen = run(host(&store, "a").list_blocks(&keys::blocks_of(Family::V4))).unwrap().seen;
    let value = crate::layout::v3::write::block::create(foreign, &"z".into(), 1);
    put(&store, &keys::affinity(&"z".into(), foreign), r#"{"state":"confirmed"}"#);
    put(&store, &keys::block(foreign), std::str::from_utf8(&value).unwrap());
    for (block, claimed) in [(POOL, Claimed::Theirs), ("10.1.0.32/28", Claimed::Ours)] {
        assert_eq!(run(host(&store, "a").claim(cidr(block), &seen)).unwrap(), claimed);
    }
    assert_eq!(blocks(&store), [foreign, cidr("10.1.0.32/28")]);
    check_rest(&store);
}

/// Blocks that overlap already, made by others: an address of both is given by neither, and each
/// host goes on with what is its own.
#[test]
fn blocks_that_overlap_give_nothing_to_others() {
    let store = cluster(&[]);
    set_size(&store, 26);
    for (name, block) in [("y", POOL), ("z", "10.1.0.16/28")] {
        let (name, block) = (Name::from(name), cidr(block));
        let value = crate::layout::v3::write::block::create(block, &name, 1);
        put(&store, &keys::block(block), std::str::from_utf8(&value).unwrap());
        put(&store, &keys::affinity(&name, block), r#"{"state":"confirmed"}"#);
    }
    let ipam = host(&store, "a");
    match run(ipam.assign(&owner("a", "net.a"), &v4(1))) {
        Err(IpamError::NoAddress { why: Shortage::Full, .. }) => {}
        other => panic!("{other:?}"),
    }
    match run(ipam.assign_exactly(&owner("a", "net.a"), &[ip("10.1.0.17")])) {
        Err(IpamError::Overlap { .. }) => {}
        other => panic!("{other:?}"),
    }
    let beside = run(ipam.assign_exactly(&owner("a", "net.a"), &[ip("10.1.0.1")])).unwrap();
    assert_eq!(addresses(&beside), [ip("10.1.0.1")], "which is in one of them only");
    check_rest(&store);
}

/// A block of a host, made by a program that did not look; or only begun.
fn made(store: &Memory, name: &str, block: &str, state: &str) {
    let (name, block) = (Name::from(name), cidr(block));
    let value = crate::layout::v3::write::block::create(block, &name, 1);
    put(store, &keys::block(block), std::str::from_utf8(&value).unwrap());
    let state = format!(r#"{{"state":"{state}"}}"#);
    put(store, &keys::affinity(&name, block), &state);
}

/// The same for those who have them: what is in one of them only is given, and the rest comes from
/// elsewhere.
#[test]
fn blocks_that_overlap_give_what_they_have_alone() {
    for state in ["confirmed", "pending"] {
        for (size, more) in [(26, 64), (28, 16)] {
            let store = cluster(&[]);
            let spec = format!(r#"{{"cidr":"10.1.0.0/25","blockSize":{size}}}"#);
            let (key, value) = pool("p", &spec);
            put(&store, &key, &value);
            made(&store, "y", POOL, state);
            made(&store, "z", "10.1.0.16/28", state);
            let shared = cidr("10.1.0.16/28");
            let take = |name: &str, count: usize| {
                let owner = owner(name, &format!("net.{name}"));
                run(host(&store, name).assign(&owner, &v4(count))).unwrap()
            };
            let z = take("z", 1);
            assert!(cidr("10.1.0.64/26").contains(z[0].address), "{z:?}");
            let y = take("y", 48);
            let alone = |given: &Assigned| {
                cidr(POOL).contains(given.address) && !shared.contains(given.address)
            };
            assert!(y.iter().all(alone), "{y:?}");
            // More of them than are left of its own.
            let y = take("y", more - 1);
            assert!(y.iter().all(|given| cidr("10.1.0.64/26").contains(given.address)), "{y:?}");
            assert_eq!(held(&store).len(), 48 + more);
            check_rest(&store);
        }
    }
}
