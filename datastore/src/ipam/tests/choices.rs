//! Which pools and blocks are used, and which are not.

use super::*;
use crate::model::{Family, IpamConfig};

fn one(store: &Arc<Memory>, pools: &[PoolChoice]) -> Result<Cidr, IpamError> {
    let request = Request { v4: 1, pools_v4: pools.to_vec(), ..Request::default() };
    let given = run(host(store, "a").assign(&owner("a", "net.1"), &request))?;
    run(host(store, "a").release_handle("net.1"))?;
    Ok(given[0].pool)
}

fn named(name: &str) -> PoolChoice {
    PoolChoice::Name(name.into())
}

#[test]
fn pools_that_may_be_used() {
    let node = (keys::node(&"a".into()), r#"{"metadata":{"labels":{"rack":"r1"}}}"#.to_owned());
    let store = cluster(&[
        node,
        pool("a-disabled", r#"{"cidr":"10.1.0.0/28","blockSize":30,"disabled":true}"#),
        pool("b-tunnels", r#"{"cidr":"10.2.0.0/28","blockSize":30,"allowedUses":["Tunnel"]}"#),
        pool("c-manual", r#"{"cidr":"10.3.0.0/28","blockSize":30,"assignmentMode":"Manual"}"#),
        pool("d-rack2", r#"{"cidr":"10.4.0.0/28","blockSize":30,"nodeSelector":"rack == 'r2'"}"#),
        pool("e-rack1", r#"{"cidr":"10.5.0.0/28","blockSize":30,"nodeSelector":"rack == 'r1'"}"#),
        pool("f-twin", r#"{"cidr":"10.5.0.0/28","blockSize":31}"#),
        pool("g-six", r#"{"cidr":"fd00::/124","blockSize":126}"#),
        pool("h-other", r#"{"cidr":"10.6.0.0/28","blockSize":30}"#),
        pool("i-broken", r#"{"cidr":"nonsense"}"#),
    ]);
    assert_eq!(one(&store, &[]).unwrap(), cidr("10.5.0.0/28"));
    assert_eq!(one(&store, &[named("c-manual")]).unwrap(), cidr("10.3.0.0/28"));
    assert_eq!(one(&store, &[PoolChoice::Cidr(cidr("10.6.0.0/28"))]).unwrap(), cidr("10.6.0.0/28"));
    let both = [named("h-other"), named("e-rack1")];
    assert_eq!(one(&store, &both).unwrap(), cidr("10.6.0.0/28"), "in the order given");
    for (name, expected) in [
        ("a-disabled", Unusable::Disabled),
        ("b-tunnels", Unusable::NotForWorkloads),
        ("d-rack2", Unusable::NotForNode),
        ("f-twin", Unusable::Shadowed("e-rack1".into())),
        ("g-six", Unusable::OtherFamily),
        ("i-broken", Unusable::Missing),
        ("nothing", Unusable::Missing),
    ] {
        match one(&store, &[named("e-rack1"), named(name)]).unwrap_err() {
            IpamError::Pool { choice, why } => assert_eq!((choice, why), (named(name), expected)),
            other => panic!("{other}"),
        }
    }
    // Without a Node there are no labels.
    delete(&store, &keys::node(&"a".into()));
    assert_eq!(one(&store, &[]).unwrap(), cidr("10.6.0.0/28"));
    // A Node that cannot be read may have any: then a selector does not match, nor does its contrary.
    put(&store, &keys::node(&"a".into()), "nonsense");
    put(
        &store,
        &pool("d-rack2", "").0,
        r#"{"spec":{"cidr":"10.4.0.0/28","blockSize":30,"nodeSelector":"!has(rack)"}}"#,
    );
    assert_eq!(one(&store, &[]).unwrap(), cidr("10.6.0.0/28"));
    let error = one(&cluster(&[]), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no IPv4 address is left: there is no IPPool that this host may use"
    );
}

#[test]
fn a_block_of_a_pool_that_is_no_longer_for_us_is_given_up() {
    let store = cluster(&[
        pool("p", r#"{"cidr":"10.1.0.0/28","blockSize":30}"#),
        pool("q", r#"{"cidr":"10.2.0.0/28","blockSize":30}"#),
    ]);
    let ipam = host(&store, "a");
    let given = run(ipam.assign(&owner("a", "net.1"), &v4(1))).unwrap();
    let block = Cidr::new(given[0].address, 30).unwrap();
    assert!(cidr("10.1.0.0/28").covers(&block));
    put(
        &store,
        &pool("p", "").0,
        r#"{"spec":{"cidr":"10.1.0.0/28","blockSize":30,"disabled":true}}"#,
    );
    let given = run(ipam.assign(&owner("a", "net.2"), &v4(1))).unwrap();
    assert!(cidr("10.2.0.0/28").contains(given[0].address));
    assert!(store.text(&keys::block(block)).is_some(), "somebody has an address of it");
    run(ipam.release_handle("net.1")).unwrap();
    assert!(store.text(&keys::block(block)).is_some());
    run(ipam.assign(&owner("a", "net.3"), &v4(1))).unwrap();
    assert_eq!(store.text(&keys::block(block)), None);
    assert_eq!(store.text(&keys::affinity(&"a".into(), block)), None);
    check_rest(&store);
}

fn configured(config: &str) -> Arc<Memory> {
    let store = small();
    put(&store, keys::IPAM_CONFIG_KEY, config);
    store
}

fn shortage(result: Result<Vec<Assigned>, IpamError>) -> Shortage {
    match result.unwrap_err() {
        IpamError::NoAddress { family: Family::V4, why, .. } => why,
        other => panic!("{other}"),
    }
}

#[test]
fn strict_affinity_borrows_nothing() {
    let store = configured(r#"{"strict_affinity":true,"auto_allocate_blocks":true}"#);
    run(host(&store, "b").assign(&owner("b", "net.0"), &v4(1))).unwrap();
    let ipam = host(&store, "a");
    assert_eq!(shortage(run(ipam.assign(&owner("a", "net.1"), &v4(13)))), Shortage::Strict);
    assert_eq!(run(ipam.assign(&owner("a", "net.1"), &v4(12))).unwrap().len(), 12);
    assert_eq!(shortage(run(ipam.assign(&owner("a", "net.2"), &v4(1)))), Shortage::Strict);
    put(&store, keys::IPAM_CONFIG_KEY, r#"{"auto_allocate_blocks":true}"#);
    run(ipam.assign(&owner("a", "net.2"), &v4(3))).unwrap();
    check_rest(&store);
}

#[test]
fn no_more_blocks_than_allowed() {
    let store = configured(r#"{"auto_allocate_blocks":true,"maxBlocksPerHost":2}"#);
    let ipam = host(&store, "a");
    let why = shortage(run(ipam.assign(&owner("a", "net.1"), &v4(9))));
    assert_eq!(why, Shortage::BlockLimit(2));
    run(ipam.assign(&owner("a", "net.1"), &v4(8))).unwrap();
    assert_eq!(shortage(run(ipam.assign(&owner("a", "net.2"), &v4(1)))), Shortage::BlockLimit(2));
    // It may still borrow, and blocks of the other family are counted apart.
    run(host(&store, "b").assign(&owner("b", "net.3"), &v4(1))).unwrap();
    let request = Request { v4: 1, v6: 1, ..Request::default() };
    run(ipam.assign(&owner("a", "net.2"), &request)).unwrap();
    check_rest(&store);
    assert_eq!(IpamConfig::default().max_blocks_per_host, 20);
}

#[test]
fn no_block_is_claimed_when_nobody_may() {
    let store = configured("{}");
    let ipam = host(&store, "a");
    let why = shortage(run(ipam.assign(&owner("a", "net.1"), &v4(1))));
    assert_eq!(why, Shortage::NoAutoAllocate);
    assert!(held(&store).is_empty());
    assert_eq!(store.take_writes(), Vec::<String>::new());
}

#[test]
fn reserved_addresses_are_not_given_out() {
    let store = small();
    let key = format!("{}r", keys::RESERVATIONS_PREFIX);
    put(&store, &key, r#"{"spec":{"reservedCIDRs":["10.0.0.0/29","10.0.0.9","10.0.0.14/31"]}}"#);
    let ipam = host(&store, "a");
    let given = addresses(&run(ipam.assign(&owner("a", "net.1"), &v4(5))).unwrap());
    let expected = ["10.0.0.8", "10.0.0.10", "10.0.0.11", "10.0.0.12", "10.0.0.13"];
    assert_eq!(given.into_iter().collect::<BTreeSet<_>>(), expected.map(ip).into());
    assert_eq!(shortage(run(ipam.assign(&owner("a", "net.2"), &v4(1)))), Shortage::Full);
    let blocks = store.keys().iter().filter_map(|key| keys::cidr_of_block(key)).count();
    assert_eq!(blocks, 2, "what is all reserved is not claimed");
    // One that cannot be read may reserve anything.
    put(&store, &key, "nonsense");
    match run(ipam.assign(&owner("a", "net.2"), &v4(1))).unwrap_err() {
        IpamError::Malformed(malformed) => assert_eq!(malformed.key, key),
        other => panic!("{other}"),
    }
}

#[test]
fn a_malformed_block_is_named_and_nobody_elses_matter() {
    let store = small();
    let (a, b) = (host(&store, "a"), host(&store, "b"));
    let given = run(a.assign(&owner("a", "net.1"), &v4(1))).unwrap();
    let key = keys::block(Cidr::new(given[0].address, 30).unwrap());
    put(&store, &key, r#"{"affinity":"host:a","allocations":[7,null,null,null]}"#);
    assert_eq!(run(b.assign(&owner("b", "net.2"), &v4(12))).unwrap().len(), 12);
    assert_eq!(shortage(run(b.assign(&owner("b", "net.3"), &v4(1)))), Shortage::Full);
    for error in [
        run(a.assign(&owner("a", "net.4"), &v4(1))).unwrap_err(),
        run(a.release_handle("net.1")).unwrap_err(),
    ] {
        match error {
            IpamError::Malformed(malformed) => assert_eq!(malformed.key, key),
            other => panic!("{other}"),
        }
    }
    // It is not in the way of those who have nothing to do with it.
    assert_eq!(run(b.release_handle("net.2")).unwrap().len(), 12);
    assert_eq!(run(a.assign(&owner("a", "net.4"), &v4(1))).unwrap().len(), 1);
    assert_eq!(run(a.release_handle("net.4")).unwrap().len(), 1);
}

#[test]
fn blocks_that_were_being_given_up_are_used_again() {
    let store = small();
    let ipam = host(&store, "a");
    let given = run(ipam.assign(&owner("a", "net.1"), &v4(1))).unwrap();
    let block = Cidr::new(given[0].address, 30).unwrap();
    let affinity = keys::affinity(&"a".into(), block);
    let giving_up = r#"{"state":"pendingDeletion","deleted":false}"#;
    put(&store, &affinity, giving_up);
    let before = run(store.get(&keys::block(block))).unwrap().unwrap();
    let given = run(ipam.assign(&owner("a", "net.2"), &v4(3))).unwrap();
    assert!(given.iter().all(|given| block.contains(given.address)), "{given:?}");
    check_rest(&store);
    // Whoever read the block before cannot remove it any more, also when nothing was taken from it.
    run(ipam.release_handle("net.1")).unwrap();
    run(ipam.release_handle("net.2")).unwrap();
    put(&store, &affinity, giving_up);
    let seen = run(ipam.list_blocks(&keys::blocks_of(Family::V4))).unwrap().seen;
    let after = run(store.get(&keys::block(block))).unwrap().unwrap();
    run(ipam.claim(block, &seen)).unwrap();
    for read in [before, after] {
        assert!(!run(store.delete_if(&keys::block(block), read.revision)).unwrap());
    }
    check_rest(&store);
    // The block is gone, or another host's: that is what is left of it.
    for of_b in [false, true] {
        let text = store.text(&keys::block(block)).unwrap();
        delete(&store, &keys::block(block));
        put(&store, &affinity, giving_up);
        if of_b {
            put(&store, &keys::block(block), &text.replace("host:a", "host:b"));
            put(&store, &keys::affinity(&"b".into(), block), r#"{"state":"confirmed"}"#);
        }
        run(ipam.assign(&owner("a", "net.3"), &v4(1))).unwrap();
        check_rest(&store);
        run(ipam.release_handle("net.3")).unwrap();
        if !of_b {
            run(ipam.claim(block, &seen)).unwrap();
        }
    }
}

#[test]
fn blocks_that_are_no_hosts() {
    let store = small();
    let ipam = host(&store, "a");
    let given = run(ipam.assign(&owner("a", "net.1"), &v4(1))).unwrap();
    let block = Cidr::new(given[0].address, 30).unwrap();
    delete(&store, &keys::affinity(&"a".into(), block));
    let text = store.text(&keys::block(block)).unwrap();
    // Not of a host: nothing is borrowed from it.
    put(&store, &keys::block(block), &text.replace("host:a", "virtual:lb"));
    let given = run(ipam.assign(&owner("a", "net.2"), &v4(12))).unwrap();
    assert!(given.iter().all(|given| !block.contains(given.address)));
    assert_eq!(shortage(run(ipam.assign(&owner("a", "net.3"), &v4(1)))), Shortage::Full);
    put(&store, &keys::block(block), &text.replace("\"host:a\"", "null"));
    run(ipam.assign(&owner("a", "net.3"), &v4(3))).unwrap();
    // The last address of a block that is nobody's takes the block with it.
    run(ipam.release_handle("net.3")).unwrap();
    assert!(store.text(&keys::block(block)).is_some());
    run(ipam.release_handle("net.1")).unwrap();
    assert_eq!(store.text(&keys::block(block)), None);
}

#[test]
fn an_interrupted_claim_is_resumed_and_a_lost_one_is_withdrawn() {
    let store = small();
    let (a, b) = (host(&store, "a"), host(&store, "b"));
    let block = cidr("10.0.0.8/30");
    let pending = r#"{"state":"pending","deleted":false}"#;
    put(&store, &keys::affinity(&"a".into(), block), pending);
    let given = run(a.assign(&owner("a", "net.1"), &v4(1))).unwrap();
    assert_eq!(given[0].address, ip("10.0.0.8"));
    check_rest(&store);
    // The other host was late for the same block.
    put(&store, &keys::affinity(&"b".into(), block), pending);
    let given = run(b.assign(&owner("b", "net.2"), &v4(1))).unwrap();
    assert!(!block.contains(given[0].address));
    assert_eq!(store.text(&keys::affinity(&"b".into(), block)), None);
    check_rest(&store);
    // The block exists and is ours, only the confirmation is missing.
    put(&store, &keys::affinity(&"a".into(), block), pending);
    assert_eq!(run(a.assign(&owner("a", "net.3"), &v4(1))).unwrap()[0].address, ip("10.0.0.9"));
    check_rest(&store);
    // A block that somebody is deleting is cleared away and made anew.
    let text = store.text(&keys::block(block)).unwrap();
    run(a.release_handle("net.1")).unwrap();
    run(a.release_handle("net.3")).unwrap();
    put(&store, &keys::block(block), &text.replace(r#""deleted":false"#, r#""deleted":true"#));
    let given = run(a.assign_exactly(&owner("a", "net.4"), &[ip("10.0.0.8")])).unwrap();
    assert_eq!(given[0].address, ip("10.0.0.8"));
    check_rest(&store);
}

#[test]
fn pools_without_end_are_walked_through_in_no_time() {
    let reservation = format!("{}r", keys::RESERVATIONS_PREFIX);
    let store = cluster(&[
        pool("a", r#"{"cidr":"fd00:0:0:0:8000::/65"}"#),
        pool("b", r#"{"cidr":"fd00::/64"}"#),
        (reservation, r#"{"spec":{"reservedCIDRs":["fd00::/66"]}}"#.to_owned()),
    ]);
    for name in ["a", "b", "c", "d", "e", "f"] {
        let request = Request { v6: 1, pools_v6: vec![named("b")], ..Request::default() };
        let given = run(host(&store, name).assign(&owner(name, name), &request)).unwrap();
        assert!(cidr("fd00::4000:0:0:0/66").contains(given[0].address), "{given:?}");
    }
    check_rest(&store);
}
