//! What happens when nobody interferes.

use super::*;

#[test]
fn the_first_pod_of_a_host_gets_the_first_address_of_a_new_block() {
    let store = small();
    let ipam = host(&store, "a");
    let request = Request { v4: 1, v6: 1, ..Request::default() };
    let given = run(ipam.assign(&owner("a", "net.1"), &request)).unwrap();
    assert_eq!(given.len(), 2);
    assert_eq!((given[0].pool, given[1].pool), (cidr("10.0.0.0/28"), cidr("fd00::/124")));
    let block = Cidr::new(given[0].address, 30).unwrap();
    assert_eq!(given[0].address, block.address(), "the first address is one like any other");
    assert_eq!(
        store.text(&keys::affinity(&"a".into(), block)).as_deref(),
        Some(r#"{"state":"confirmed","deleted":false}"#)
    );
    let v6 = Cidr::new(given[1].address, 126).unwrap();
    let handle = store.text(&keys::handle("net.1")).unwrap();
    assert_eq!(handle, format!(r#"{{"block":{{"{block}":1,"{v6}":1}},"deleted":false}}"#));
    check_rest(&store);

    let mine = run(ipam.of_handle("net.1")).unwrap();
    assert_eq!(mine.len(), 2);
    assert_eq!(mine[0].attributes["node"], "a");
    assert_eq!(run(ipam.of_host()).unwrap(), mine);
    assert_eq!(run(host(&store, "b").of_host()).unwrap(), []);
    assert_eq!(run(ipam.handles("net.")).unwrap(), ["net.1"]);
    assert_eq!(run(ipam.handles("net2.")).unwrap(), Vec::<String>::new());

    let back = run(ipam.release_handle("net.1")).unwrap();
    assert_eq!(back, addresses(&given));
    assert!(held(&store).is_empty() && counts(&store).is_empty());
    assert_eq!(run(ipam.release_handle("net.1")).unwrap(), Vec::<IpAddr>::new());
    check_rest(&store);
}

#[test]
fn an_address_rests_before_it_is_used_again() {
    let store = small();
    let ipam = host(&store, "a");
    let mut seen = Vec::new();
    for i in 0..4 {
        let handle = format!("net.{i}");
        let given = run(ipam.assign(&owner("a", &handle), &v4(1))).unwrap();
        seen.extend(addresses(&given));
        run(ipam.release_handle(&handle)).unwrap();
    }
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), 4, "{seen:?}");
}

#[test]
fn more_than_a_block_has() {
    let store = small();
    let ipam = host(&store, "a");
    let given = run(ipam.assign(&owner("a", "net.1"), &v4(11))).unwrap();
    let distinct: BTreeSet<_> = addresses(&given).into_iter().collect();
    assert_eq!(distinct.len(), 11);
    check_rest(&store);
    assert_eq!(run(ipam.release_handle("net.1")).unwrap().len(), 11);
    check_rest(&store);
}

#[test]
fn all_or_nothing() {
    let store = small();
    let ipam = host(&store, "a");
    let request = Request { v4: 2, v6: 17, ..Request::default() };
    let error = run(ipam.assign(&owner("a", "net.1"), &request)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no IPv6 address is left in p6: every address is taken or reserved"
    );
    assert!(held(&store).is_empty() && counts(&store).is_empty());
    // What the owner had before stays his.
    let before = run(ipam.assign(&owner("a", "net.1"), &v4(1))).unwrap();
    run(ipam.assign(&owner("a", "net.1"), &request)).unwrap_err();
    assert_eq!(held(&store).into_keys().collect::<Vec<_>>(), addresses(&before));
    check_rest(&store);
}

#[test]
fn two_hosts_have_blocks_of_their_own_and_borrow_only_at_the_end() {
    let store = small();
    let (a, b) = (host(&store, "a"), host(&store, "b"));
    let first = run(a.assign(&owner("a", "net.1"), &v4(1))).unwrap()[0].address;
    let second = run(b.assign(&owner("b", "net.2"), &v4(1))).unwrap()[0].address;
    assert_ne!(Cidr::new(first, 30).unwrap(), Cidr::new(second, 30).unwrap());
    // The rest of the pool, three of them in the block of a.
    let rest = run(b.assign(&owner("b", "net.3"), &v4(14))).unwrap();
    let block = Cidr::new(first, 30).unwrap();
    assert_eq!(rest.iter().filter(|given| block.contains(given.address)).count(), 3);
    let of_b = run(b.of_host()).unwrap();
    assert_eq!(of_b.len(), 15, "also what it borrowed");
    assert_eq!(run(a.of_host()).unwrap().len(), 1, "not what others borrowed from it");
    let error = run(a.assign(&owner("a", "net.4"), &v4(1))).unwrap_err();
    assert!(matches!(
        error,
        IpamError::NoAddress { family: crate::model::Family::V4, why: Shortage::Full, .. }
    ));
    assert_eq!(run(b.release_handle("net.3")).unwrap().len(), 14);
    run(a.assign(&owner("a", "net.4"), &v4(1))).unwrap();
    check_rest(&store);
}

#[test]
fn one_address_goes_back() {
    let store = small();
    let ipam = host(&store, "a");
    let given = addresses(&run(ipam.assign(&owner("a", "net.1"), &v4(2))).unwrap());
    assert!(!run(ipam.release(given[0], "net.2")).unwrap(), "not his");
    assert!(!run(ipam.release(ip("172.16.0.1"), "net.1")).unwrap(), "nobody's");
    assert_eq!(held(&store).len(), 2);
    assert!(run(ipam.release(given[0], "net.1")).unwrap());
    check_rest(&store);
    assert!(!run(ipam.release(given[0], "net.1")).unwrap(), "twice");
    assert!(run(host(&store, "b").release(given[1], "net.1")).unwrap(), "from any host");
    assert!(held(&store).is_empty() && counts(&store).is_empty());
}

#[test]
fn what_can_be_no_handle_is_refused() {
    let store = small();
    let ipam = host(&store, "a");
    for bad in ["", "a/b", ".."] {
        let owner = owner("a", bad);
        assert!(matches!(run(ipam.assign(&owner, &v4(1))), Err(IpamError::InvalidHandle { .. })));
        assert!(matches!(run(ipam.release_handle(bad)), Err(IpamError::InvalidHandle { .. })));
    }
    assert_eq!(store.take_writes(), Vec::<String>::new());
}

#[test]
fn a_handle_that_is_missing_or_lies_is_no_obstacle() {
    let store = small();
    let ipam = host(&store, "a");
    for damage in
        [None, Some(r#"{"block":{"10.9.0.0/30":4}}"#), Some(r#"{"block":{}}"#), Some("nonsense")]
    {
        let given = run(ipam.assign(&owner("a", "net.1"), &v4(2))).unwrap();
        let key = keys::handle("net.1");
        match damage {
            Some(text) => put(&store, &key, text),
            None => delete(&store, &key),
        }
        let found = run(ipam.of_handle("net.1")).unwrap();
        assert_eq!(found.len(), 2, "{damage:?}");
        assert_eq!(run(ipam.release_handle("net.1")).unwrap(), addresses(&given), "{damage:?}");
        assert!(held(&store).is_empty() && store.text(&key).is_none(), "{damage:?}");
    }
}

#[test]
fn the_common_case_costs_few_calls() {
    let store = small();
    let ipam = host(&store, "a");
    run(ipam.assign(&owner("a", "net.0"), &v4(1))).unwrap();
    let before = store.calls();
    run(ipam.assign(&owner("a", "net.1"), &v4(1))).unwrap();
    // Six reads at once, the block and at once what is near it, the handle, the block again: four
    // times to the store and back.
    assert_eq!(store.calls() - before, 10);
    store.take_writes();
    let before = store.calls();
    run(ipam.release_handle("net.1")).unwrap();
    assert_eq!(store.calls() - before, 5);
    assert_eq!(store.take_writes().len(), 2);
}
