use calico_datastore::ipam::Owner;
use calico_datastore::store::memory::Memory;
use std::sync::Arc;

use super::*;
use crate::attachment::Stage;

const POOL: &str = r#"{"spec":{"cidr":"10.1.0.0/24","nodeSelector":"all()"}}"#;
const POOL_KEY: &str = "/calico/resources/v3/projectcalico.org/ippools/p";

fn record(container: &str, ifname: &str) -> Attachment {
    Attachment {
        container_id: container.to_owned(),
        ifname: ifname.to_owned(),
        network: "n".to_owned(),
        netns: None,
        host_name: None,
        handle: format!("n.{container}"),
        addresses: vec![],
        node: "calico-01".to_owned(),
        boot: String::new(),
        stage: Stage::Added,
        delegated: None,
    }
}

async fn store_with(addresses: &[(&str, &str, &str)]) -> Arc<Memory> {
    let store = Arc::new(Memory::with(&[(POOL_KEY, POOL)]));
    let node = Name::from("calico-01");
    for (container, ifname, address) in addresses {
        let handle = format!("n.{container}");
        let owner =
            Owner { handle, attributes: [("node".to_owned(), "calico-01".to_owned())].into() };
        let ipam = Ipam::new(Arc::clone(&store), node.clone());
        ipam.assign_exactly(&owner, &[address.parse().unwrap()]).await.unwrap();
        let key = keys::workload_endpoint(&endpoint::id(&node, container, ifname)).unwrap();
        let value = format!(r#"{{"spec":{{"ipNetworks":["{address}/32"],"profiles":["n"]}}}}"#);
        store.put(&key, value.as_bytes(), None).await.unwrap();
    }
    store
}

async fn addresses_of(store: &Arc<Memory>, handle: &str) -> Vec<String> {
    let ipam = Ipam::new(Arc::clone(store), Name::from("calico-01"));
    let all = ipam.of_handle(handle).await.unwrap();
    all.into_iter().map(|a| a.address.to_string()).collect()
}

fn endpoints(store: &Memory) -> usize {
    store.keys().iter().filter(|key| key.contains("/workloadendpoints/")).count()
}

#[tokio::test]
async fn only_its_own_goes() {
    let store = store_with(&[
        ("c", "eth0", "10.1.0.1"),
        ("c", "eth1", "10.1.0.2"),
        // A container whose name begins like the other one's.
        ("c-2", "eth0", "10.1.0.3"),
    ])
    .await;
    // With the other interface known by its endpoint, and by its record alone.
    let remains = Remains::of_record(&record("c", "eth0"), &[]);
    let removed = teardown(&store, &remains).await;
    assert!(removed.failures.is_empty(), "{:?}", removed.failures);
    assert!(removed.endpoint && !removed.interface);
    assert_eq!(removed.addresses, ["10.1.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(addresses_of(&store, "n.c").await, ["10.1.0.2"]);
    assert_eq!(addresses_of(&store, "n.c-2").await, ["10.1.0.3"]);
    assert_eq!(endpoints(&store), 2);

    let id = endpoint::id(&Name::from("calico-01"), "c", "eth1");
    store.delete(&keys::workload_endpoint(&id).unwrap()).await.unwrap();
    let sibling =
        Attachment { addresses: vec!["10.1.0.2".parse().unwrap()], ..record("c", "eth1") };
    let all = [record("c", "eth0"), sibling.clone()];
    teardown(&store, &Remains::of_record(&all[0], &all)).await;
    assert_eq!(addresses_of(&store, "n.c").await, ["10.1.0.2"]);
    teardown(&store, &Remains::of_record(&sibling, &all)).await;
    assert!(addresses_of(&store, "n.c").await.is_empty());
    // Nothing is left to remove: a success.
    let again = teardown(&store, &Remains::of_record(&sibling, &all)).await;
    assert!(again.failures.is_empty() && !again.endpoint && again.addresses.is_empty());
}

#[tokio::test]
async fn an_address_stays_with_an_endpoint_that_may_still_be_there() {
    let store = store_with(&[("c", "eth0", "10.1.0.1")]).await;
    let remains = Remains::of_record(&record("c", "eth0"), &[]);
    store.fail(1);
    let removed = teardown(&store, &remains).await;
    assert!(matches!(removed.failures[..], [TeardownError::Endpoint { .. }]), "{removed:?}");
    assert_eq!((endpoints(&store), addresses_of(&store, "n.c").await.len()), (1, 1));
    assert!(teardown(&store, &remains).await.failures.is_empty());
    assert_eq!((endpoints(&store), addresses_of(&store, "n.c").await.len()), (0, 0));
}

#[test]
fn a_name_that_another_attachment_has_is_never_removed() {
    let named = |container, name: &str| Attachment {
        host_name: Some(name.to_owned()),
        ..record(container, "eth0")
    };
    let (own, other) = (named("a", "cali1"), named("b", "cali1"));
    let all = [own.clone(), other];
    assert_eq!(Remains::of_record(&own, &all).host_name, None);
    assert_eq!(Remains::of_record(&own, &all[..1]).host_name, "cali1".parse().ok());
    let id = endpoint::id(&Name::from("calico-01"), "c", "eth0");
    let handle = "n.c".to_owned();
    let remains = Remains::of_endpoint(id, "cali1".parse().ok(), handle, &all);
    assert_eq!(remains.host_name, None);
    assert!(remains.others.contains(&"cali1".parse().unwrap()));
}

/// Network `a` with container `b.c`, and network `a.b` with container `c`.
#[test]
fn who_has_the_same_handle_by_its_dots_keeps_its_addresses() {
    let address: IpAddr = "10.1.0.2".parse().unwrap();
    let named = |network: &str, container| Attachment {
        network: network.to_owned(),
        handle: format!("{network}.{container}"),
        ..record(container, "eth0")
    };
    let other = Attachment { addresses: vec![address], ..named("a.b", "c") };
    let all = [named("a", "b.c"), other, named("a", "c")];
    assert_eq!(Remains::of_record(&all[0], &all).kept, [address]);
    assert!(Remains::of_record(&all[2], &all).kept.is_empty());
}
