//! Keys of the v1 layout.
#![no_main]

use calico_datastore::layout::{Decoded, v1};

libfuzzer_sys::fuzz_target!(|text: &str| {
    for key in [
        text.to_owned(),
        format!("{}{text}", v1::V1_PREFIX),
        format!("{}host/{text}", v1::V1_PREFIX),
        format!("{}{text}", v1::BGP_PREFIX),
    ] {
        match v1::id_of(&key) {
            Some(id) => {
                // Two spellings can mean one name; written again it is the same object.
                if let Some(written) = v1::keys::key_of(&id) {
                    assert_eq!(v1::id_of(&written), Some(id.clone()), "{written}");
                }
                assert!(v1::LAYOUT.contains(&key));
                assert!(!id.to_string().contains(['\n', '\0', '"']));
            }
            None => match v1::decode(&key, b"{}") {
                Decoded::Rejected(rejection) => assert_eq!(rejection.id, None),
                Decoded::Unsupported { .. } | Decoded::Ignored => {}
                other => panic!("{key:?} is no object, and is {other:?}"),
            },
        }
    }
});
