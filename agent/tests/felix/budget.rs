//! What it costs on a full host. Not run by default: `cargo test --test felix budget -- --ignored`.

use std::sync::Arc;
use std::time::Instant;

use calico_agent::desired::{DesiredState, LocalEndpoint};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, Cidr, Mac};

use crate::host::each_dataplane;
use crate::world::*;

fn add(state: &mut DesiredState, n: u32, class: &calico_agent::desired::AclClass) {
    let [_, _, a, b] = n.to_be_bytes();
    let endpoint = LocalEndpoint {
        interface: format!("cali{n:011x}").parse().unwrap(),
        active: true,
        mac: Some(Mac::new([2, 0, 0, 0, a, b])),
        addresses: vec![Cidr::host(format!("10.65.{a}.{b}").parse().unwrap())],
        nat: Vec::new(),
        spoof: Vec::new(),
        class: class.id(),
    };
    let mut id = id_of(0);
    id.workload = format!("default/pod{n}").into();
    state.endpoints.insert(id, Arc::new(endpoint));
    state.classes.insert(class.id(), Arc::new(class.clone()));
}

#[test]
#[ignore = "a measurement"]
fn two_thousand_endpoints_of_a_hundred_classes() {
    each_dataplane(|host, flavour| {
        let mut state = empty(flavour);
        let classes: Vec<_> = (0..100)
            .map(|i| {
                let name = format!("net{i}");
                profile(
                    &mut state,
                    &name,
                    vec![tcp(Action::Allow, &[80])],
                    vec![any(Action::Allow)],
                );
                profiles(&[&name])
            })
            .collect();
        for n in 0..2000 {
            add(&mut state, n, &classes[n as usize % 100]);
        }
        let start = Instant::now();
        host.apply(&state, Wake::Start);
        println!("{flavour:?}: full load {:?}", start.elapsed());
        for mac in [true, false] {
            let mut times = Vec::new();
            let first = state.endpoints.len() as u32;
            for n in first..first + 20 {
                let mut with = next(&state);
                add(&mut with, n, &classes[n as usize % 100]);
                if !mac {
                    let mut id = id_of(0);
                    id.workload = format!("default/pod{n}").into();
                    let mut endpoint = with.endpoints[&id].as_ref().clone();
                    endpoint.mac = None;
                    with.endpoints.insert(id, Arc::new(endpoint));
                }
                state = with;
                let start = Instant::now();
                host.apply(&state, Wake::Desired);
                times.push(start.elapsed());
            }
            times.sort();
            println!("{flavour:?}: one more, MAC {mac}, median {:?}", times[10]);
        }
        let start = Instant::now();
        host.apply(&state, Wake::Retry);
        println!("{flavour:?}: everything read again, nothing to do, {:?}", start.elapsed());
    });
}
