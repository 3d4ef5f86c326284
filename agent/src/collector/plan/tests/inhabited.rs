//! What somebody lives with is kept.

use super::*;

/// rkt was told to keep its pods elsewhere (`--dir`): what its directory says is not all.
#[test]
fn not_while_somebody_uses_the_network() {
    for look in [
        with_record(record(GONE, Stage::Added)),
        with_record(record(OTHER, adding())),
        with_record(record(OTHER, Stage::Failed)),
        with_record(record(GONE, Stage::Deleting)),
    ] {
        never(&lived_in(wired(look.clone())), Keep::InUse);
        // Who lives where cannot be told.
        never(&Look { inhabited: None, ..wired(look.clone()) }, Keep::InUse);
        // The interface alone, or an address of the same number in somebody else's namespace.
        assert!(collected(&wired(look.clone())).is_some());
        assert!(collected(&lived_in(look)).is_some());
    }
}

/// A bridge with addresses of ours, for a runtime that calls its containers by UUIDs: no record.
#[test]
fn not_an_address_that_somebody_lives_with() {
    for look in [
        with_endpoint(endpoint("cni", &format!("default/{GONE}"))),
        with_address(&format!("frontend.{GONE}"), Some("calico-01")),
    ] {
        never(&lived_in(look.clone()), Keep::InUse);
        never(&lived_in_by(look.clone(), Some(OWN)), Keep::InUse);
        never(&Look { inhabited: None, ..look.clone() }, Keep::InUse);
        let other = Inhabited { namespace: None, addresses: [address(10)].into() };
        let other = Look { inhabited: Some(vec![other]), ..look };
        assert_eq!(collected(&other), Some(POD_GONE));
    }
}

/// The number of a namespace decides where it is told; the same address may be somebody else's.
#[test]
fn a_namespace_is_known_by_its_number_or_by_its_addresses() {
    let mut look = wired(with_record(record(GONE, Stage::Added)));
    look.namespaces = [(look.records[0].attachment.netns.clone().unwrap(), OWN)].into();
    let other = Namespace::new(4, 41);
    never(&lived_in_by(look.clone(), Some(OWN)), Keep::InUse);
    never(&lived_in_by(look.clone(), None), Keep::InUse);
    assert!(collected(&lived_in_by(look.clone(), Some(other))).is_some());
    // Its own is not told: its file is gone.
    look.namespaces.clear();
    never(&lived_in_by(look.clone(), Some(other)), Keep::InUse);
    look.records[0].attachment.addresses = vec![address(10)];
    assert!(collected(&lived_in_by(look, Some(other))).is_some());
}
