//! A file of manifests: YAML or JSON, any number of documents.
#![no_main]

use std::collections::BTreeSet;

use calico_datastore::layout::Decoded;
use calico_datastore::layout::v3::{self, manifest};

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let found = manifest::read(text);
    assert_eq!(manifest::read(text), found);
    let lines = text.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 2;
    let mut keys = BTreeSet::new();
    for manifest in &found.good {
        assert!((1..=lines).contains(&manifest.place.line), "{manifest:?}");
        assert!(keys.insert(&manifest.key), "{} is there twice", manifest.key);
        // What is good here is good for everybody behind it.
        let decoded = v3::decode(&manifest.key, &manifest.value);
        assert!(!matches!(decoded, Decoded::Rejected(_)), "{decoded:?}");
        // What would be stored is a manifest of itself. (YAML takes keys of 1024 characters.)
        if text.len() > 1000 {
            continue;
        }
        let again = manifest::read(&manifest.value);
        assert_eq!(again.mistakes, [], "{:?}", String::from_utf8_lossy(&manifest.value));
        assert_eq!(again.good.len(), 1);
        assert_eq!((&again.good[0].key, &again.good[0].value), (&manifest.key, &manifest.value));
    }
    for mistake in &found.mistakes {
        assert!((1..=lines).contains(&mistake.place.line), "{mistake:?}");
        assert!(!mistake.reason.is_empty());
    }
});
