//! Values of the v1 layout, of every kind of key.
#![no_main]

use arbitrary::Arbitrary;
use calico_datastore::layout::{Decoded, v1};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    which: u8,
    value: &'a [u8],
}

const KEYS: [&str; 16] = [
    "/calico/v1/host/h/workload/o/w/endpoint/e",
    "/calico/v1/policy/profile/p/rules",
    "/calico/v1/policy/tier/t/policy/p",
    "/calico/v1/policy/profile/p/tags",
    "/calico/v1/policy/profile/p/labels",
    "/calico/v1/policy/tier/t/metadata",
    "/calico/v1/host/h/endpoint/e",
    "/calico/v1/ipam/v4/pool/10.0.0.0-8",
    "/calico/v1/ipam/v6/pool/fd80::-64",
    "/calico/v1/host/h/bird_ip",
    "/calico/v1/host/h/config/LogPrefix",
    "/calico/bgp/v1/global/node_mesh",
    "/calico/bgp/v1/host/h/ip_addr_v6",
    "/calico/bgp/v1/host/h/network_v4",
    "/calico/bgp/v1/host/h/as_num",
    "/calico/v1/Ready",
];

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let key = KEYS[usize::from(input.which) % KEYS.len()];
    let id = v1::id_of(key).expect("the key of an object or of a part");
    let decoded = v1::decode(key, input.value);
    assert_eq!(v1::decode(key, input.value), decoded, "equal values decode equally");
    match &decoded {
        Decoded::Object(update) => assert_eq!(update.id(), id, "names come from the key"),
        Decoded::Part(part) => assert_eq!(*part.id(), id, "names come from the key"),
        Decoded::Rejected(rejection) => {
            assert_eq!((rejection.key.as_str(), &rejection.id), (key, &Some(id.clone())));
            calico_fuzz::reason(&rejection.reason);
        }
        other => panic!("{key} is known, and decodes to {other:?}"),
    }
    // What several keys describe is put together by whoever follows the store.
    let (objects, refused) = v1::decode_all([(key, input.value)]);
    assert_eq!(
        objects.contains_key(&id),
        !matches!(decoded, Decoded::Rejected(_)) && !gone(&decoded)
    );
    assert_eq!(refused.len(), usize::from(matches!(decoded, Decoded::Rejected(_))));
});

/// A document that says that there is no such object.
fn gone(decoded: &Decoded) -> bool {
    let Decoded::Object(update) = decoded else { return false };
    *update == calico_datastore::model::Update::deleted(update.id())
}
