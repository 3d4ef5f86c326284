//! A list of address sets, as the kernel sends it.
#![no_main]

use calico_agent::felix::ipset::listed;
use calico_agent::felix::iptables::names::owns_set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut members = 0;
    for (name, set) in listed(bytes) {
        assert!(owns_set(&name));
        let shape = set.shape;
        assert!(set.spec.is_none_or(|spec| shape == Some((spec.kind, spec.family))));
        let all = set.members.len() + set.negated.len();
        assert!(shape.is_some() || all == 0, "members of an unknown type");
        assert!(
            set.counts.keys().all(|one| set.members.contains(one) || set.negated.contains(one))
        );
        members += all;
    }
    // Each has a head and an address.
    assert!(members <= bytes.len() / 12, "{members} members in {} bytes", bytes.len());
});
