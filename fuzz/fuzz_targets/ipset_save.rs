//! The output of `ipset save`.
#![no_main]

use std::fmt::Write as _;

use calico_agent::felix::ipset::{Command, save};
use calico_agent::felix::iptables::names::owns_set;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let sets = save::parse(text);
    let mut written = String::new();
    let mut members = 0;
    for (name, set) in &sets {
        assert!(owns_set(name));
        members += set.members.len() + set.negated.len();
        let Some(spec) = set.spec else {
            // One of another size, say, is understood as far as its type is.
            assert!(set.shape.is_some() || set.members.is_empty(), "members of an unknown type");
            continue;
        };
        let _ = writeln!(written, "{}", Command::Create(name.clone(), spec));
        for member in &set.members {
            let _ = writeln!(written, "{}", Command::Add(name.clone(), member.clone()));
        }
    }
    assert!(sets.len() + members <= text.lines().count(), "a member is a line");
    // What we would write is read as the same.
    let read = save::parse(&written);
    for (name, set) in sets.iter().filter(|(_, set)| set.spec.is_some()) {
        assert_eq!(read[name].spec, set.spec);
        assert_eq!(read[name].members, set.members, "{written}");
    }
});
