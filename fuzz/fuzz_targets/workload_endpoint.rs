//! WorkloadEndpoint.
#![no_main]

use calico_datastore::layout::v3::RESOURCES_PREFIX;
use calico_datastore::model::Update;

libfuzzer_sys::fuzz_target!(|value: &[u8]| {
    let key = format!("{RESOURCES_PREFIX}workloadendpoints/default/a-cni-w-eth0");
    if let Some(Update::WorkloadEndpoint(_, Some(endpoint))) = calico_fuzz::resource(&key, value) {
        assert!(!endpoint.addresses.is_empty(), "one without addresses counts as gone");
        assert!(endpoint.ports.iter().all(|port| port.port > 0 && !port.name.as_str().is_empty()));
        let foreign = |key: &str| key.starts_with("pcns.") || key.starts_with("pcsa.");
        assert!(!endpoint.labels.iter().any(|(key, _)| foreign(key)), "labels of a namespace");
    }
});
