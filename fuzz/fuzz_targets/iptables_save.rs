//! The output of `iptables-save`, written by whoever else uses the tables.
#![no_main]

use calico_agent::felix::iptables::names::owns_chain;
use calico_agent::felix::iptables::save::{Held, parse};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let tables = parse(text);
    assert_eq!(parse(text), tables);
    // What iptables-save writes behind it changes nothing.
    if text.ends_with('\n') {
        assert_eq!(parse(&format!("{text}COMMIT\n# Completed\n")), tables);
    }
    let appended = text.lines().filter(|line| line.starts_with("-A ")).count();
    let mut rules = 0;
    for table in tables.values() {
        assert!(table.chains.keys().all(|name| owns_chain(name)));
        for held in table.chains.values() {
            // Only a comparison says that a rule is as it was written.
            let Held::Other(found) = held else { panic!("known before it is compared") };
            assert!(found.iter().all(|rule| !rule.proven));
            rules += found.len();
        }
        for (name, chain) in &table.foreign {
            assert!(!owns_chain(name) && chain.len > 0);
            rules += chain.len;
            let places: Vec<usize> = chain.own.iter().map(|rule| rule.index).collect();
            assert!(places.is_sorted_by(|a, b| a < b) && places.iter().all(|at| *at < chain.len));
        }
        let ours = table.foreign.values().map(|chain| chain.own.len()).sum::<usize>();
        let foreign = table.foreign.values().map(|chain| chain.len).sum::<usize>();
        assert_eq!(table.foreign_rules(), foreign - ours);
        assert_eq!(table.holds_ours(), ours > 0 || !table.chains.is_empty());
    }
    assert!(rules <= appended, "a rule is a line");
});
