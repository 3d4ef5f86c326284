//! One rule, in a policy that is otherwise well-formed: all of the input is spent on it.
#![no_main]

use calico_datastore::layout::v3::RESOURCES_PREFIX;
use calico_datastore::model::{Peer, Update};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let key = format!("{RESOURCES_PREFIX}globalnetworkpolicies/default.p");
    let value = format!("{{\"spec\":{{\"ingress\":[{text}],\"types\":[\"Ingress\"]}}}}");
    let Some(Update::Policy(_, Some(policy))) = calico_fuzz::resource(&key, value.as_bytes())
    else {
        return;
    };
    for rule in &policy.ingress {
        let peers = [&rule.source, &rule.destination];
        let lists = |peer: &Peer| [peer.ports.clone(), peer.not_ports.clone()];
        for ports in peers.into_iter().flat_map(lists) {
            assert!(ports.ranges.iter().all(|range| range.first() <= range.last()));
            assert!(ports.named.iter().all(|name| !name.as_str().is_empty()));
            // A match on ports without a protocol that has ports is refused by the kernel.
            let fits = rule.protocol.is_some_and(|protocol| protocol.has_ports());
            assert!(ports.is_empty() || fits || rule.protocol.is_none(), "{rule:?}");
        }
    }
    let state = calico_fuzz::state_with(&policy);
    for rules in state.policies.values() {
        assert!(rules.ingress.len() <= policy.ingress.len(), "a rule is one rule or none");
        for rule in &rules.ingress {
            let sides = [&rule.source, &rule.destination];
            let ids = sides.into_iter().flat_map(|side| {
                let ports = side.named_ports.iter().chain(&side.not_named_ports);
                side.sets.iter().chain(&side.not_sets).chain(ports)
            });
            assert!(ids.into_iter().all(|id| state.sets.contains_key(id)), "every set is there");
        }
    }
});
