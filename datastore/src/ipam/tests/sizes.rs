//! Blocks of another size than those that the pool has now: an address is in one of them only.

use super::occupied::Occupied;
use super::*;
use crate::model::Family;

const POOL: &str = "p";

fn set_pool(store: &Memory, cidr: &str, size: u8) {
    let spec = format!(r#"{{"cidr":"{cidr}","blockSize":{size}}}"#);
    let (key, value) = pool(POOL, &spec);
    put(store, &key, &value);
}

/// A pool with blocks of a size, three addresses that host `a` has of it, and the block of these.
fn begun(cidr: &str, size: u8) -> (Arc<Memory>, Cidr) {
    let store = cluster(&[]);
    set_pool(&store, cidr, size);
    let given = run(host(&store, "a").assign(&owner("a", "net.old"), &v4(3))).unwrap();
    (store, Cidr::new(given[0].address, size).unwrap())
}

fn assign(store: &Arc<Memory>, name: &str, count: usize) -> Result<Vec<Assigned>, IpamError> {
    run(host(store, name).assign(&owner(name, &format!("net.{name}")), &v4(count)))
}

fn exactly(store: &Arc<Memory>, name: &str, address: IpAddr) -> Result<Vec<Assigned>, IpamError> {
    run(host(store, name).assign_exactly(&owner(name, &format!("net.{name}")), &[address]))
}

/// `name` can have as many addresses more, each once, and no more than that.
#[track_caller]
fn check_left(store: &Arc<Memory>, name: &str, count: usize, why: Shortage) {
    let before = held(store).len();
    match assign(store, name, count + 1) {
        Err(IpamError::NoAddress { family: Family::V4, why: told, .. }) => assert_eq!(told, why),
        other => panic!("{other:?}"),
    }
    assert_eq!(assign(store, name, count).unwrap().len(), count);
    // That no address is held twice is looked at there.
    assert_eq!(held(store).len(), before + count);
    check_rest(store);
    run(host(store, name).release_handle(&format!("net.{name}"))).unwrap();
    assert_eq!(held(store).len(), before);
}

#[test]
fn a_pool_that_was_deleted_and_is_made_again_larger() {
    for name in ["a", "b"] {
        let (store, old) = begun("10.1.0.0/28", 28);
        delete(&store, &pool(POOL, "").0);
        set_pool(&store, "10.1.0.0/25", 26);
        // The rest of the old block and the whole of the other one.
        check_left(&store, name, 13 + 64, Shortage::Full);
        let keys = store.keys();
        let blocks: Vec<Cidr> = keys.iter().filter_map(|key| keys::cidr_of_block(key)).collect();
        assert_eq!(blocks, [old, cidr("10.1.0.64/26")]);
    }
}

#[test]
fn the_block_size_of_a_pool_is_changed() {
    // What is next to the old block, in a new one that cannot be made, is out of reach.
    for (old, new, reachable) in [(28, 30, 64), (28, 27, 48), (28, 26, 16), (26, 28, 64)] {
        for name in ["a", "b"] {
            let (store, block) = begun("10.1.0.0/26", old);
            set_pool(&store, "10.1.0.0/26", new);
            check_left(&store, name, reachable - 3, Shortage::Full);
            let text = store.text(&keys::block(block)).unwrap();
            assert!(text.contains("net.old") && text.contains("host:a"), "{text}");
        }
        let (store, block) = begun("10.1.0.0/26", old);
        set_pool(&store, "10.1.0.0/26", new);
        let config = r#"{"strict_affinity":true,"auto_allocate_blocks":true}"#;
        put(&store, keys::IPAM_CONFIG_KEY, config);
        let of_block = usize::try_from(block.size()).unwrap();
        check_left(&store, "b", reachable - of_block, Shortage::Strict);
    }
}

#[test]
fn an_address_that_is_asked_for_is_looked_for_in_blocks_of_every_size() {
    for (old, new) in [(28, 26), (28, 30), (26, 28)] {
        let (store, block) = begun("10.1.0.0/26", old);
        set_pool(&store, "10.1.0.0/26", new);
        let [first, fourth] = [0, 3].map(|index| block.nth(index).unwrap());
        match exactly(&store, "b", first).unwrap_err() {
            IpamError::Taken { handle, .. } => assert_eq!(handle.as_deref(), Some("net.old")),
            other => panic!("{other}"),
        }
        put(&store, keys::IPAM_CONFIG_KEY, r#"{"strict_affinity":true}"#);
        match exactly(&store, "b", fourth).unwrap_err() {
            IpamError::Strict { block: told, .. } => assert_eq!(told, block),
            other => panic!("{other}"),
        }
        delete(&store, keys::IPAM_CONFIG_KEY);
        let given = exactly(&store, "b", fourth).unwrap();
        assert_eq!(given, [Assigned { address: fourth, pool: cidr("10.1.0.0/26") }]);
        assert_eq!(run(host(&store, "b").of_host()).unwrap()[0].block, block);
        assert_eq!(exactly(&store, "b", fourth).unwrap(), given, "asked again");
        assert_eq!(held(&store).len(), 4);
        check_rest(&store);
        assert!(run(host(&store, "c").release(fourth, "net.b")).unwrap());
        check_rest(&store);
    }
}

#[test]
fn an_address_that_is_asked_for_beside_a_block_of_another_size() {
    for (size, made) in [(27, false), (30, true)] {
        let (store, old) = begun("10.1.0.0/26", 28);
        set_pool(&store, "10.1.0.0/26", size);
        let around = Cidr::new(old.address(), 27).unwrap();
        let beside = (0..32).filter_map(|index| around.nth(index));
        let beside = beside.filter(|address| !old.contains(*address)).nth(5).unwrap();
        match exactly(&store, "a", beside) {
            Ok(_) => assert!(made),
            Err(IpamError::Overlap { address, block, other }) => {
                assert_eq!((address, block, other, made), (beside, around, old, false));
                assert_eq!(store.keys().iter().filter(|key| key.contains("/host/")).count(), 1);
            }
            Err(other) => panic!("{other}"),
        }
        held(&store);
        check_rest(&store);
    }
}

#[test]
fn an_interrupted_claim_of_another_size() {
    for others in [false, true] {
        let store = cluster(&[]);
        set_pool(&store, "10.1.0.0/26", 26);
        if others {
            assign(&store, "b", 1).unwrap();
        }
        let pending = keys::affinity(&"a".into(), cidr("10.1.0.16/28"));
        put(&store, &pending, r#"{"state":"pending"}"#);
        let given = assign(&store, "a", 1).unwrap()[0].address;
        // Carried on, or taken back where somebody has a larger one.
        assert_eq!(cidr("10.1.0.16/28").contains(given), !others);
        assert_eq!(store.text(&pending).is_none(), others);
        held(&store);
        check_rest(&store);
    }
}

/// A block that is larger than any can be covers more of a pool than can be counted one by one.
#[test]
fn a_block_over_a_whole_pool() {
    let store = cluster(&[
        pool(POOL, r#"{"cidr":"fd00::/64","blockSize":122}"#),
        (keys::block(cidr("fd00::/48")), "{}".to_owned()),
    ]);
    let request = Request { v6: 1, ..Request::default() };
    match run(host(&store, "a").assign(&owner("a", "net.a"), &request)).unwrap_err() {
        IpamError::NoAddress { why: Shortage::Full, .. } => {}
        other => panic!("{other}"),
    }
    delete(&store, &keys::block(cidr("fd00::/48")));
    run(host(&store, "a").assign(&owner("a", "net.a"), &request)).unwrap();
}

#[test]
fn what_overlaps() {
    let all = |text: &str| -> Vec<Cidr> { text.split(' ').map(cidr).collect() };
    let sets = ["10.0.0.0/28 10.0.0.32/30", "10.0.0.4/30 10.0.0.0/26 10.0.0.64/31", "fd00::/122"];
    for set in sets.map(all) {
        let occupied: Occupied = set.iter().collect();
        for len in 20..=32 {
            for index in 0..=255_u8 {
                let block = Cidr::new(IpAddr::from([10, 0, 0, index]), len).unwrap();
                let found = occupied.overlapping(&block);
                let expected = set.iter().any(|other| other.overlaps(&block));
                assert_eq!(found.is_some(), expected, "{block} in {set:?}");
                let right = |found: &Cidr| found.overlaps(&block) && set.contains(found);
                assert!(found.as_ref().is_none_or(right), "{block}: {found:?}");
            }
        }
    }
}

#[test]
fn what_a_claim_costs() {
    let store = small();
    let before = store.calls();
    run(host(&store, "a").assign(&owner("a", "net.1"), &v4(1))).unwrap();
    // Six reads at once; the blocks; the affinity, the block, the affinity read and confirmed; the
    // block, the handle, the block again.
    assert_eq!(store.calls() - before, 14);
    let before = store.calls();
    run(host(&store, "b").assign_exactly(&owner("b", "net.2"), &[ip("fd00::5")])).unwrap();
    // The same, but the block comes from a second list of the blocks.
    assert_eq!(store.calls() - before, 14);
}

#[test]
fn what_an_address_of_an_own_block_costs() {
    let store = cluster(&[pool(POOL, r#"{"cidr":"10.1.2.0/24"}"#)]);
    let ipam = host(&store, "a");
    run(ipam.assign(&owner("a", "net.1"), &v4(1))).unwrap();
    let before = store.calls();
    run(ipam.assign(&owner("a", "net.2"), &v4(1))).unwrap();
    // Six reads at once; at once the block, the /24 that it is in, and the /20, /21 and /22 that
    // begin elsewhere; the handle, the block.
    assert_eq!(store.calls() - before, 6 + 5 + 2);
}
