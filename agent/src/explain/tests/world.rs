//! Two hosts with pods, as manifests, and what follows from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_datastore::backend::Batch;
use calico_datastore::layout::Decoded;
use calico_datastore::layout::v3::{self, manifest};
use calico_datastore::model::{Name, Update, WorkloadEndpoint, WorkloadEndpointId};

use crate::calculation::{Layers, once};
use crate::explain::document::Basis;
use crate::explain::{Directory, Place, World};

/// What the tests ask about.
pub(crate) const MANIFESTS: &str = include_str!("manifests.yaml");

/// The objects of manifests.
pub(crate) fn updates(text: &str) -> Vec<Update> {
    let found = manifest::read(text.as_bytes());
    assert_eq!(found.mistakes, []);
    let decoded = found.good.iter().map(|one| (v3::LAYOUT.decode)(&one.key, &one.value));
    decoded
        .map(|decoded| match decoded {
            Decoded::Object(update) => update,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// The state of one host.
pub(crate) fn place(updates: &[Update], node: &str) -> Place {
    let layers = Layers::default();
    let batch = Batch { revision: 42, updates: updates.to_vec(), ..Batch::default() };
    let (state, _) = once(Name::from(node), layers, batch);
    let directory = Directory::of_store(None, updates.iter());
    let addresses = directory.hosts.get(node).into_iter().flatten().copied().collect();
    Place::new(state, addresses)
}

fn basis(agent: Option<&str>) -> Basis {
    Basis {
        agent: agent.map(str::to_owned),
        datastore: "directory /etc/calico/resources".to_owned(),
        revision: 42,
        changes: Vec::new(),
    }
}

/// Both hosts, as they are calculated from the datastore on the first.
pub(crate) fn whole(text: &str) -> World {
    whole_of(&updates(text))
}

/// The same of objects.
pub(crate) fn whole_of(updates: &[Update]) -> World {
    let nodes = ["calico-01", "calico-02"];
    let places = nodes.map(|node| (Name::from(node), place(updates, node)));
    World {
        directory: Directory::of_store(Some(Name::from("calico-01")), updates.iter()),
        places: BTreeMap::from(places),
        basis: basis(None),
        notes: Vec::new(),
    }
}

/// One more pod on the first host, like its frontend.
pub(crate) fn frontend(name: &str, address: &str, profile: &str, label: (&str, &str)) -> Update {
    let like = updates(MANIFESTS).into_iter().find_map(|update| match update {
        Update::WorkloadEndpoint(id, endpoint)
            if id.workload.as_str() == "default/c89f2f35-1b7e" =>
        {
            Some((id, endpoint.unwrap()))
        }
        _ => None,
    });
    let (id, endpoint) = like.unwrap();
    let own = endpoint.labels.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let own = own.chain([(label.0.to_owned(), label.1.to_owned())]);
    let endpoint = WorkloadEndpoint {
        interface: format!("cali{name}").parse().unwrap(),
        addresses: vec![address.parse().unwrap()],
        profiles: vec![Name::from(profile)],
        labels: own.collect(),
        ..(*endpoint).clone()
    };
    let id = WorkloadEndpointId { workload: format!("default/{name}").into(), ..id };
    Update::WorkloadEndpoint(id, Some(Arc::new(endpoint)))
}

/// The first host, as its agent knows it.
pub(crate) fn running(text: &str) -> World {
    running_of(&updates(text))
}

/// The same of objects.
pub(crate) fn running_of(updates: &[Update]) -> World {
    let (node, place) = (Name::from("calico-01"), place(updates, "calico-01"));
    let addresses: Vec<_> = place.addresses.iter().copied().collect();
    World {
        directory: Directory::of_host(&node, &place.state, &addresses),
        places: BTreeMap::from([(node, place)]),
        basis: basis(Some("calico-01")),
        notes: Vec::new(),
    }
}
