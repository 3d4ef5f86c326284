//! Addresses that are asked for.

use super::*;

fn exactly(
    store: &Arc<Memory>,
    name: &str,
    handle: &str,
    address: &str,
) -> Result<Vec<Assigned>, IpamError> {
    run(host(store, name).assign_exactly(&owner(name, handle), &[ip(address)]))
}

#[test]
fn a_free_address_is_given_and_its_block_claimed() {
    let store = small();
    let given = exactly(&store, "a", "net.1", "10.0.0.6").unwrap();
    assert_eq!(given, [Assigned { address: ip("10.0.0.6"), pool: cidr("10.0.0.0/28") }]);
    assert!(store.text(&keys::block(cidr("10.0.0.4/30"))).unwrap().contains("host:a"));
    check_rest(&store);
    // Asked again by the same, as after a lost answer; and by another.
    assert_eq!(exactly(&store, "a", "net.1", "10.0.0.6").unwrap(), given);
    check_rest(&store);
    match exactly(&store, "a", "net.2", "10.0.0.6").unwrap_err() {
        IpamError::Taken { address, handle } => {
            assert_eq!((address, handle.as_deref()), (ip("10.0.0.6"), Some("net.1")));
        }
        other => panic!("{other}"),
    }
    // From the block of another host.
    exactly(&store, "b", "net.3", "10.0.0.7").unwrap();
    assert_eq!(run(host(&store, "b").of_host()).unwrap()[0].block, cidr("10.0.0.4/30"));
    check_rest(&store);
    assert_eq!(run(host(&store, "b").release_handle("net.3")).unwrap(), [ip("10.0.0.7")]);
    check_rest(&store);
}

#[test]
fn strict_affinity_keeps_others_out() {
    let store = small();
    put(&store, keys::IPAM_CONFIG_KEY, r#"{"strict_affinity":true}"#);
    exactly(&store, "a", "net.1", "10.0.0.6").unwrap();
    let error = exactly(&store, "b", "net.2", "10.0.0.7").unwrap_err();
    assert!(matches!(error, IpamError::Strict { .. }), "{error}");
    exactly(&store, "a", "net.2", "10.0.0.7").unwrap();
    check_rest(&store);
}

#[test]
fn outside_of_every_pool() {
    let store = small();
    for (name, spec) in [
        ("x1", r#"{"cidr":"10.1.0.0/28","blockSize":30,"disabled":true}"#),
        ("x2", r#"{"cidr":"10.2.0.0/28","blockSize":30,"nodeSelector":"has(x)"}"#),
        ("x3", r#"{"cidr":"10.3.0.0/28","blockSize":30,"allowedUses":["LoadBalancer"]}"#),
        ("x4", r#"{"cidr":"10.4.0.0/28","blockSize":30,"assignmentMode":"Manual"}"#),
    ] {
        let (key, value) = pool(name, spec);
        put(&store, &key, &value);
    }
    for (address, text) in [
        ("172.16.0.1", "172.16.0.1 is in no IPPool that this host may use"),
        ("10.1.0.1", "10.1.0.1 is in no IPPool that this host may use (IPPool x1 is disabled)"),
        (
            "10.2.0.1",
            "10.2.0.1 is in no IPPool that this host may use (IPPool x2 is not for this node (nodeSelector))",
        ),
        (
            "10.3.0.1",
            "10.3.0.1 is in no IPPool that this host may use (IPPool x3 is not for workloads (allowedUses))",
        ),
    ] {
        let error = exactly(&store, "a", "net.1", address).unwrap_err();
        assert!(matches!(error, IpamError::OutsidePools { .. }));
        assert_eq!(error.to_string(), text);
    }
    exactly(&store, "a", "net.1", "10.4.0.1").unwrap();
    check_rest(&store);
}

#[test]
fn who_asks_for_a_reserved_address_gets_it() {
    let store = small();
    let key = format!("{}r", keys::RESERVATIONS_PREFIX);
    put(&store, &key, r#"{"spec":{"reservedCIDRs":["10.0.0.0/28"]}}"#);
    exactly(&store, "a", "net.1", "10.0.0.0").unwrap();
    run(host(&store, "a").assign(&owner("a", "net.2"), &v4(1))).unwrap_err();
    check_rest(&store);
}

#[test]
fn several_or_none() {
    let store = small();
    let ipam = host(&store, "a");
    exactly(&store, "b", "net.0", "10.0.0.9").unwrap();
    exactly(&store, "a", "net.1", "10.0.0.1").unwrap();
    let wanted = ["10.0.0.1", "10.0.0.5", "fd00::5", "10.0.0.9"].map(ip);
    let error = run(ipam.assign_exactly(&owner("a", "net.1"), &wanted)).unwrap_err();
    assert!(matches!(error, IpamError::Taken { .. }), "{error}");
    let left: Vec<_> = held(&store).into_keys().collect();
    assert_eq!(left, ["10.0.0.1", "10.0.0.9"].map(ip), "what it had before stays");
    check_rest(&store);
    let given = run(ipam.assign_exactly(&owner("a", "net.1"), &wanted[..3])).unwrap();
    assert_eq!(addresses(&given), wanted[..3]);
    check_rest(&store);
}
