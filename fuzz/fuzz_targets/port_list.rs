//! The ports of a rule, and how iptables takes them.
#![no_main]

use calico_agent::felix::iptables::rules::split_ports;
use calico_datastore::layout::v3::RESOURCES_PREFIX;
use calico_datastore::model::{Ports, Update};

/// The ports of a rule with that list of them.
fn read(list: &str) -> Option<Ports> {
    let key = format!("{RESOURCES_PREFIX}globalnetworkpolicies/default.p");
    let rule = format!(
        "{{\"action\":\"Allow\",\"protocol\":\"TCP\",\"destination\":{{\"ports\":[{list}]}}}}"
    );
    let value = format!("{{\"spec\":{{\"ingress\":[{rule}]}}}}");
    match calico_fuzz::resource(&key, value.as_bytes()) {
        Some(Update::Policy(_, Some(policy))) => {
            Some(policy.ingress.first()?.destination.ports.clone())
        }
        _ => None,
    }
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Some(ports) = read(text) else { return };
    let parts = split_ports(&ports.ranges);
    assert_eq!(parts.concat(), ports.ranges, "nothing is lost, and the order stays");
    for part in parts {
        let slots = part.iter().map(|range| 1 + usize::from(range.first() != range.last()));
        assert!((1..=15).contains(&slots.sum::<usize>()), "{part:?}");
    }
    // As they are written, they are read.
    let list: Vec<String> = ports.ranges.iter().map(|range| format!("\"{range}\"")).collect();
    let again = read(&list.join(",")).expect("a list of ports");
    assert_eq!(again.ranges, ports.ranges);
});
