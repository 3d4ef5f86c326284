//! Selectors: reading, writing, and what they match.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use calico_datastore::model::{Labels, Selector};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    labels: [(u8, u8); 3],
    one: &'a str,
    other: &'a str,
}

/// Names and values that selectors are likely to speak of.
const WORDS: [&str; 8] = ["a", "b", "c", "has", "a-b", "projectcalico.org/namespace", "", "\u{e9}"];

fn word(number: u8) -> &'static str {
    WORDS[usize::from(number) % WORDS.len()]
}

fn check(text: &str, labels: &[&Labels]) -> Option<Selector> {
    let selector: Selector = match text.parse() {
        Ok(selector) => selector,
        Err(error) => {
            assert!(error.offset <= text.len(), "{error}");
            assert!(error.to_string().len() < 2000, "goes into a log");
            return None;
        }
    };
    let canonical = selector.canonical();
    let read: Selector = canonical.parse().expect("a canonical text is a selector");
    assert_eq!(read.canonical(), canonical, "the canonical text of {text:?}");
    assert_eq!(read.id(), selector.id());
    assert!(canonical.len() <= 8 * text.len() + 16, "{canonical}");
    let restrictions = selector.restrictions();
    let not = selector.not();
    let again: Selector = not.canonical().parse().expect("so is that of its opposite");
    for labels in labels {
        let matches = selector.matches(*labels);
        assert_eq!(read.matches(*labels), matches, "{text:?} and {canonical:?}: {labels:?}");
        assert_eq!(not.matches(*labels), !matches, "not {canonical}: {labels:?}");
        assert_eq!(again.matches(*labels), !matches, "{}: {labels:?}", not.canonical());
        if !matches {
            continue;
        }
        // What matches fulfils every restriction: an index that asks for them misses nothing.
        for (key, demand) in &restrictions {
            let value = labels.get(key);
            assert!(!demand.is_impossible(), "{canonical}: {labels:?}");
            assert!(!demand.must_be_present || value.is_some(), "{canonical}: {labels:?}");
            assert!(!demand.must_be_absent || value.is_none(), "{canonical}: {labels:?}");
            if let Some(values) = &demand.one_of {
                assert!(value.is_some_and(|v| values.iter().any(|one| **one == *v)));
            }
        }
    }
    Some(selector)
}

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let some: BTreeMap<&str, &str> =
        input.labels.iter().map(|(key, value)| (word(*key), word(*value))).collect();
    let some: Labels = some.into_iter().collect();
    let prefixed: Labels = some.iter().map(|(k, v)| (format!("pcns.{k}"), v.to_string())).collect();
    let none = Labels::default();
    let all = [&some, &prefixed, &none];
    let Some(one) = check(input.one, &all) else { return };
    // Over names with a prefix it says what it said over those without; `global()` and `all()` do
    // not speak of labels.
    assert_eq!(one.with_label_prefix("pcns.").matches(&prefixed), one.matches(&some), "{one}");
    let Some(other) = check(input.other, &all) else { return };
    let both = one.and(&other);
    let read: Selector = both.canonical().parse().expect("the canonical text of both");
    for labels in all {
        assert_eq!(both.matches(labels), one.matches(labels) && other.matches(labels), "{both}");
        assert_eq!(read.matches(labels), both.matches(labels), "{both}");
    }
    assert_eq!(one == other, one.id() == other.id(), "{one} {other}");
});
