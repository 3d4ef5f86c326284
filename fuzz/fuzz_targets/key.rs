//! Keys of the store.
#![no_main]

use calico_datastore::layout::{Decoded, v3};

libfuzzer_sys::fuzz_target!(|text: &str| {
    for key in [
        text.to_owned(),
        format!("{}{text}", v3::RESOURCES_PREFIX),
        format!("{}{text}", v3::IPAM_PREFIX),
    ] {
        match v3::id_of(&key) {
            Some(id) => {
                // An object has one key: two would be two objects in the store and one here.
                assert_eq!(v3::keys::key_of(&id).as_deref(), Some(key.as_str()), "{id:?}");
                assert!(v3::LAYOUT.contains(&key));
                assert!(!id.to_string().contains(['\n', '\0']));
            }
            None => match v3::decode(&key, b"{}") {
                Decoded::Object(update) => panic!("{key:?} is no object, and is {update:?}"),
                Decoded::Rejected(rejection) => assert_eq!(rejection.id, None),
                Decoded::Unsupported { .. } | Decoded::Ignored => {}
                Decoded::Part(part) => panic!("{key:?} is no object, and is {part:?}"),
            },
        }
    }
});
