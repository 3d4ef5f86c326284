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

#[test]
fn giving_up_a_block() {
    let make = || {
        let store = small();
        run(host(&store, "a").assign(&owner("a", "net.1"), &v4(1))).unwrap();
        run(host(&store, "a").release_handle("net.1")).unwrap();
        let (key, _) = pool("p4", "");
        put(&store, &key, r#"{"spec":{"cidr":"10.0.0.0/28","blockSize":30,"disabled":true}}"#);
        let (key, value) = pool("q4", r#"{"cidr":"10.1.0.0/28","blockSize":30}"#);
        put(&store, &key, &value);
        store
    };
    let assign = |store: &Arc<Memory>| run(host(store, "a").assign(&owner("a", "net.1"), &v4(1)));
    at_every_call(make, assign, |store, result, at| {
        let (key, value) = pool("p4", r#"{"cidr":"10.0.0.0/28","blockSize":30}"#);
        put(store, &key, &value);
        delete(store, &pool("q4", "").0);
        if let Ok(given) = result {
            assert_eq!(of(store, "net.1"), addresses(given), "{at}");
        }
        run(host(store, "a").release_handle("net.1")).unwrap();
        // No address of the pool was lost, whoever wants them.
        assert_eq!(run(host(store, "b").assign(&owner("b", "net.2"), &v4(16))).unwrap().len(), 16);
        held(store);
        assert_eq!(counts(store), true_counts(store), "{at}");
    });
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
