//! The store fails, or loses an answer, or the caller is killed, at every single call.

use super::*;

/// Runs the work with a failure at each of its calls in turn: on a store made anew each time.
fn at_every_call<T>(
    make: impl Fn() -> Arc<Memory>,
    work: impl Fn(&Arc<Memory>) -> Result<T, IpamError>,
    check: impl Fn(&Arc<Memory>, &Result<T, IpamError>, &str),
) {
    let store = make();
    let before = store.calls();
    assert!(work(&store).is_ok(), "it works when nothing fails");
    let calls = store.calls() - before;
    assert!(calls >= 5, "{calls}");
    let (mut failed, mut mended) = (0, 0);
    for call in 0..calls {
        for fault in ["one", "lost", "killed"] {
            let store = make();
            match fault {
                "one" => store.fail_after(call, 1),
                "lost" => store.lose_answer(call),
                _ => store.fail_after(call, u64::MAX / 2),
            }
            let result = work(&store);
            store.heal();
            match &result {
                Ok(_) => mended += 1,
                Err(IpamError::Store(_)) => failed += 1,
                Err(other) => panic!("{fault} at {call}: {other}"),
            }
            check(&store, &result, &format!("{fault} at {call}"));
        }
    }
    assert!(failed > 0 && mended > 0, "{failed} {mended}");
}

fn of(store: &Memory, handle: &str) -> Vec<IpAddr> {
    held(store).into_iter().filter(|(_, by)| by == handle).map(|(address, _)| address).collect()
}

/// Whatever happened to the assignment: it is all there or all gone, and nothing is lost.
fn check_assignment(store: &Arc<Memory>, result: &Result<Vec<Assigned>, IpamError>, at: &str) {
    let others = held(store).into_values().filter(|by| by != "net.1").count();
    let ipam = host(store, "a");
    match result {
        Ok(given) => {
            let mut given = addresses(given);
            given.sort();
            assert_eq!(of(store, "net.1"), given, "{at}");
            assert_eq!(counts(store), true_counts(store), "{at}");
        }
        Err(_) if at.starts_with("killed") => {
            // A killed call cannot clean up, but leaves a handle for everything that it took.
            let counts = counts(store);
            for (key, count) in true_counts(store) {
                assert!(counts.get(&key).is_some_and(|told| *told >= count), "{at}: {key:?}");
            }
        }
        Err(_) => assert_eq!(of(store, "net.1"), Vec::<IpAddr>::new(), "{at}"),
    }
    let mut back = run(ipam.release_handle("net.1")).unwrap();
    back.sort();
    if let Ok(given) = result {
        let mut given = addresses(given);
        given.sort();
        assert_eq!(back, given, "{at}");
    }
    assert_eq!(of(store, "net.1"), Vec::<IpAddr>::new(), "{at}");
    assert_eq!(store.text(&keys::handle("net.1")), None, "{at}");
    // Every address can be had again, which also carries on what was begun of a claim.
    let request = Request { v4: 16 - others, v6: 16, ..Request::default() };
    let rest = run(ipam.assign(&owner("a", "net.9"), &request)).unwrap();
    assert_eq!(rest.len(), 32 - others, "{at}");
    check_rest(store);
}

#[test]
fn the_first_assignment_of_a_host() {
    let request = Request { v4: 1, v6: 1, ..Request::default() };
    let assign = |store: &Arc<Memory>| run(host(store, "a").assign(&owner("a", "net.1"), &request));
    at_every_call(small, assign, check_assignment);
}

/// The claims of one pass were all listed before: for the second one the first one's block is news.
#[test]
fn an_assignment_that_claims_several_blocks() {
    let assign = |store: &Arc<Memory>| run(host(store, "a").assign(&owner("a", "net.1"), &v4(9)));
    at_every_call(small, assign, check_assignment);
}

#[test]
fn an_assignment_from_several_blocks_some_of_them_borrowed() {
    let make = || {
        let store = small();
        run(host(&store, "b").assign(&owner("b", "net.0"), &v4(5))).unwrap();
        run(host(&store, "a").assign(&owner("a", "net.0"), &v4(2))).unwrap();
        store
    };
    let assign = |store: &Arc<Memory>| run(host(store, "a").assign(&owner("a", "net.1"), &v4(9)));
    at_every_call(make, assign, check_assignment);
}

#[test]
fn an_assignment_that_was_asked_for() {
    let make = || {
        let store = small();
        run(host(&store, "b").assign_exactly(&owner("b", "net.0"), &[ip("10.0.0.1")])).unwrap();
        store
    };
    let wanted = ["10.0.0.2", "10.0.0.5"].map(ip);
    let assign =
        |store: &Arc<Memory>| run(host(store, "a").assign_exactly(&owner("a", "net.1"), &wanted));
    at_every_call(make, assign, check_assignment);
}

#[test]
fn a_release() {
    let make = || {
        let store = small();
        run(host(&store, "b").assign_exactly(&owner("b", "net.0"), &[ip("10.0.0.1")])).unwrap();
        let mine = ["10.0.0.2", "10.0.0.5", "fd00::3"].map(ip);
        run(host(&store, "a").assign_exactly(&owner("a", "net.1"), &mine)).unwrap();
        store
    };
    let release = |store: &Arc<Memory>| run(host(store, "a").release_handle("net.1"));
    at_every_call(make, release, |store, result, at| {
        if let Ok(back) = result {
            assert_eq!(back.len(), 3, "{at}");
        }
        let left = of(store, "net.1");
        assert!(result.is_err() || left.is_empty(), "{at}");
        assert_eq!(run(host(store, "a").release_handle("net.1")).unwrap(), left, "{at}");
        assert_eq!(held(store).into_keys().collect::<Vec<_>>(), [ip("10.0.0.1")], "{at}");
        check_rest(store);
    });

    let one = |store: &Arc<Memory>| run(host(store, "a").release(ip("10.0.0.2"), "net.1"));
    at_every_call(make, one, |store, result, at| {
        if let Ok(had) = result {
            assert!(*had, "{at}");
        }
        run(host(store, "a").release(ip("10.0.0.2"), "net.1")).unwrap();
        assert_eq!(of(store, "net.1"), ["10.0.0.5", "fd00::3"].map(ip), "{at}");
        check_rest(store);
    });
}

/// An empty block of host `a` whose pool `p4` is disabled, and a pool `q4` that is not.
fn unusable() -> Arc<Memory> {
    let store = small();
    run(host(&store, "a").assign(&owner("a", "net.1"), &v4(1))).unwrap();
    run(host(&store, "a").release_handle("net.1")).unwrap();
    let (key, value) = pool("p4", r#"{"cidr":"10.0.0.0/28","blockSize":30,"disabled":true}"#);
    put(&store, &key, &value);
    let (key, value) = pool("q4", r#"{"cidr":"10.1.0.0/28","blockSize":30}"#);
    put(&store, &key, &value);
    store
}

/// The affinity of host `a` and the block, for each block of the pool `p4`.
fn claims(store: &Memory) -> Vec<(Option<String>, Option<String>)> {
    let blocks = (0..4).map(|index| cidr("10.0.0.0/28").nth(index * 4).unwrap());
    let blocks = blocks.map(|address| Cidr::new(address, 30).unwrap());
    let claim = |block| {
        let affinity = keys::affinity(&"a".into(), block);
        (store.text(&affinity), store.text(&keys::block(block)))
    };
    blocks.map(claim).collect()
}

#[test]
fn giving_up_a_block() {
    let assign = |store: &Arc<Memory>| run(host(store, "a").assign(&owner("a", "net.1"), &v4(1)));
    let strict = r#"{"strict_affinity":true,"auto_allocate_blocks":true}"#;
    // Another host that may borrow finds every address, whoever has the blocks.
    for (name, config) in [("b", None), ("a", None), ("a", Some(strict))] {
        at_every_call(unusable, assign, |store, result, at| {
            let at = format!("{at}, {name} {config:?}");
            let (key, value) = pool("p4", r#"{"cidr":"10.0.0.0/28","blockSize":30}"#);
            put(store, &key, &value);
            delete(store, &pool("q4", "").0);
            if let Ok(given) = result {
                assert_eq!(of(store, "net.1"), addresses(given), "{at}");
            }
            run(host(store, "a").release_handle("net.1")).unwrap();
            if let Some(config) = config {
                put(store, keys::IPAM_CONFIG_KEY, config);
            }
            // No address of the pool was lost.
            let given = run(host(store, name).assign(&owner(name, "net.2"), &v4(16)));
            assert_eq!(given.map(|given| given.len()).ok(), Some(16), "{at}");
            held(store);
            assert_eq!(counts(store), true_counts(store), "{at}");
            for (affinity, block) in claims(store).into_iter().filter(|_| name == "a") {
                assert!(block.unwrap().contains("host:a"), "{at}");
                assert!(affinity.unwrap().contains("confirmed"), "{at}");
            }
        });
    }
}

/// The pool stays as it is: the next call finishes what was begun.
#[test]
fn giving_up_a_block_is_finished() {
    let assign = |store: &Arc<Memory>| run(host(store, "a").assign(&owner("a", "net.1"), &v4(1)));
    at_every_call(unusable, assign, |store, _, at| {
        run(host(store, "a").release_handle("net.1")).unwrap();
        run(host(store, "a").assign(&owner("a", "net.2"), &v4(1))).unwrap();
        assert_eq!(claims(store), vec![(None, None); 4], "{at}");
        check_rest(store);
    });
}

/// Somebody took an address in between, and then it was interrupted: other hosts must hear whose the
/// block is, whether the pool can be used or not.
#[test]
fn giving_up_a_block_that_is_used_again() {
    for usable in [false, true] {
        let store = unusable();
        let block = claims(&store).iter().position(|(affinity, _)| affinity.is_some()).unwrap();
        let block = cidr("10.0.0.0/28").nth(block as u128 * 4).unwrap();
        let (key, value) = pool("p4", r#"{"cidr":"10.0.0.0/28","blockSize":30}"#);
        let disabled = store.text(&key).unwrap();
        put(&store, &key, &value);
        run(host(&store, "a").assign_exactly(&owner("a", "net.1"), &[block])).unwrap();
        if !usable {
            put(&store, &key, &disabled);
        }
        let affinity = keys::affinity(&"a".into(), Cidr::new(block, 30).unwrap());
        put(&store, &affinity, r#"{"state":"pendingDeletion","deleted":false}"#);
        run(host(&store, "a").assign(&owner("a", "net.2"), &v4(1))).unwrap();
        assert_eq!(of(&store, "net.1"), [block]);
        check_rest(&store);
    }
}

/// A write that was answered with an error comes true only after we looked.
#[test]
fn a_write_that_is_late_finds_a_fence() {
    let store = small();
    let ipam = host(&store, "a");
    let first = run(ipam.assign(&owner("a", "net.0"), &v4(1))).unwrap()[0].address;
    let block = Cidr::new(first, 30).unwrap();
    let key = keys::block(block);
    let before = run(store.get(&key)).unwrap().unwrap();
    // The block's write and its repetition fail; the reads between them, and undoing it, do not.
    let mut late = BlockDocument::open(block, &before.value).unwrap();
    let free = late.free().next().unwrap();
    late.assign(&[free], "net.1", &owner("a", "net.1").attributes);
    run(ipam.undo(&owner("a", "net.1"), block, &[free])).unwrap();
    let landed = run(store.replace(&key, &late.finish(), before.revision)).unwrap();
    assert!(!landed, "an address without a handle");
    check_rest(&store);
}
