//! Names of workload endpoints, in the keys of resources and in those of statuses.
#![no_main]

use calico_datastore::layout::v3::{self, keys};
use calico_datastore::model::{Name, ResourceId, WorkloadEndpointId};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let key = format!("{}workloadendpoints/{text}", v3::RESOURCES_PREFIX);
    if let Some(id) = v3::id_of(&key) {
        assert_eq!(keys::key_of(&id).as_deref(), Some(key.as_str()));
        let ResourceId::WorkloadEndpoint(id) = id else { panic!("{id:?}") };
        let status = keys::workload_status(&id);
        assert_eq!(keys::workload_of_status(&status), Some(id));
    }
    // A status names whom it is about, whatever the names are made of.
    let mut names = text.split('\n').map(Name::from);
    let mut next = || names.next().unwrap_or_else(|| Name::from("x"));
    let (orchestrator, workload, endpoint) = (next(), next(), next());
    let id = WorkloadEndpointId { node: "n".into(), orchestrator, workload, endpoint };
    let status = keys::workload_status(&id);
    assert!(status.starts_with(&keys::workload_statuses_of(&id.node)));
    assert_eq!(keys::workload_of_status(&status), Some(id));
    let _ = keys::workload_of_status(text);
});
