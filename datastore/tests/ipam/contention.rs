//! Many hosts that want the last addresses at once.

use std::collections::BTreeSet;
use std::time::Instant;

use calico_datastore::ipam::{IpamError, Request, Shortage};
use futures::future::join_all;

use super::*;

const HOSTS: usize = 8;
const PODS: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn as_many_pods_as_addresses() {
    let Some(etcd) = support::etcd().await else { return };
    let store = etcd.client();
    // 64 addresses in 8 blocks, and the same of IPv6: every host finds one, in any order.
    put_pool(&store, "p4", r#"{"cidr":"10.0.0.0/26","blockSize":29}"#).await;
    put_pool(&store, "p6", r#"{"cidr":"fd00::/122","blockSize":125}"#).await;
    let request = Request { v4: 1, v6: 1, ..Request::default() };
    for round in 0..3 {
        let begun = Instant::now();
        let pods = (0..PODS).map(|pod| {
            // Hosts with more pods than a block has must borrow.
            let host = format!("host-{}", if pod < PODS / 2 { pod % HOSTS } else { 0 });
            let (store, request) = (etcd.client(), request.clone());
            tokio::spawn(async move {
                let owner = owner(&host, &format!("net.{pod}"));
                ipam(&store, &host).assign(&owner, &request).await.map_err(|e| (pod, e))
            })
        });
        let mut addresses = BTreeSet::new();
        for given in join_all(pods).await {
            for assigned in given.unwrap().unwrap() {
                assert!(addresses.insert(assigned.address), "{} twice", assigned.address);
            }
        }
        assert_eq!(addresses.len(), 2 * PODS);
        assert_eq!(held(&store).await.len(), 2 * PODS);
        eprintln!("round {round}: {PODS} pods at once in {:?}", begun.elapsed());
        let error = ipam(&store, "host-1").assign(&owner("host-1", "x"), &request).await;
        assert!(
            matches!(error, Err(IpamError::NoAddress { why: Shortage::Full, .. })),
            "{error:?}"
        );

        // Each from another host than the one that it ran on.
        let releases = (0..PODS).map(|pod| {
            let store = etcd.client();
            tokio::spawn(async move {
                let ipam = ipam(&store, &format!("host-{}", (pod + 3) % HOSTS));
                ipam.release_handle(&format!("net.{pod}")).await.unwrap().len()
            })
        });
        for released in join_all(releases).await {
            assert_eq!(released.unwrap(), 2);
        }
        assert!(held(&store).await.is_empty());
        assert_eq!(store.list(keys::HANDLES_PREFIX).await.unwrap(), []);
        let blocks = store.list(keys::BLOCKS_PREFIX).await.unwrap();
        assert_eq!(blocks.len(), 16);
        for (key, stored) in blocks {
            let text = String::from_utf8(stored.value).unwrap();
            assert!(text.contains(r#""attributes":[]"#), "{key}: {text}");
            assert!(text.contains(r#""sequenceNumberForAllocation":{}"#), "{key}: {text}");
            assert!(text.contains(r#""affinity":"host:host-"#), "{key}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_for_one_of_many() {
    let Some(etcd) = support::etcd().await else { return };
    let store = etcd.client();
    put_pool(&store, "p4", r#"{"cidr":"10.0.0.0/26","blockSize":29}"#).await;
    let address: IpAddr = "10.0.0.13".parse().unwrap();
    let pods = (0..24).map(|pod| {
        let store = store.clone();
        tokio::spawn(async move {
            let host = format!("host-{}", pod % HOSTS);
            let owner = owner(&host, &format!("net.{pod}"));
            ipam(&store, &host).assign_exactly(&owner, &[address]).await
        })
    });
    let mut won = 0;
    for result in join_all(pods).await {
        match result.unwrap() {
            Ok(given) => {
                assert_eq!(given[0].address, address);
                won += 1;
            }
            Err(IpamError::Taken { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(store.list(keys::HANDLES_PREFIX).await.unwrap().len(), 1);
}

/// A cluster that comes up: each host needs a block of its own, and each block that is made changes
/// what the others have listed.
#[tokio::test(flavor = "multi_thread")]
async fn every_host_claims_at_once() {
    let Some(etcd) = support::etcd().await else { return };
    let store = etcd.client();
    put_pool(&store, "p4", r#"{"cidr":"10.0.0.0/16","blockSize":26}"#).await;
    let strict = r#"{"strict_affinity":true,"auto_allocate_blocks":true}"#;
    store.put(keys::IPAM_CONFIG_KEY, strict.as_bytes()).await.unwrap();
    let begun = Instant::now();
    let clients: Vec<_> = (0..HOSTS).map(|_| etcd.client()).collect();
    let hosts = (0..100).map(|at| {
        let store = clients[at % HOSTS].clone();
        tokio::spawn(async move {
            let host = format!("host-{at}");
            let owner = owner(&host, &format!("net.{at}"));
            let request = Request { v4: 1, ..Request::default() };
            ipam(&store, &host).assign(&owner, &request).await.map_err(|e| (at, e))
        })
    });
    for given in join_all(hosts).await {
        assert_eq!(given.unwrap().unwrap().len(), 1);
    }
    eprintln!("100 hosts claimed at once in {:?}", begun.elapsed());
    assert_eq!(store.list(keys::BLOCKS_PREFIX).await.unwrap().len(), 100);
    assert_eq!(held(&store).await.len(), 100);
}

/// Somebody changes the size of the blocks all the time, while hosts make their first ones.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_never_overlap_whatever_becomes_of_the_pool() {
    let Some(etcd) = support::etcd().await else { return };
    let store = etcd.client();
    let spec = |size: u8| format!(r#"{{"cidr":"10.0.0.0/25","blockSize":{size}}}"#);
    let clients: Vec<_> = (0..HOSTS).map(|_| etcd.client()).collect();
    let (mut given, mut tried, mut sizes) = (0, 0, BTreeSet::new());
    for round in 0..12 {
        for (key, _) in store.list("/calico/ipam/v2/").await.unwrap() {
            store.delete(&key).await.unwrap();
        }
        put_pool(&store, "p4", &spec(26)).await;
        let pods = (0..3 * HOSTS).map(|pod| {
            let (store, host) = (clients[pod % HOSTS].clone(), format!("host-{round}-{pod}"));
            tokio::spawn(async move {
                let owner = owner(&host, &format!("net.{pod}"));
                let request = Request { v4: 1, ..Request::default() };
                // Somewhere between the changes.
                tokio::time::sleep(std::time::Duration::from_millis(pod as u64 * 2)).await;
                ipam(&store, &host).assign(&owner, &request).await
            })
        });
        let pods: Vec<_> = pods.collect();
        for size in [29, 27, 30, 28, 26].into_iter().cycle() {
            put_pool(&store, "p4", &spec(size)).await;
            if pods.iter().all(tokio::task::JoinHandle::is_finished) {
                break;
            }
        }
        for pod in join_all(pods).await {
            tried += 1;
            match pod.unwrap() {
                Ok(assigned) => given += assigned.len(),
                // Beside blocks of other sizes there may be none left.
                Err(IpamError::NoAddress { .. }) => {}
                Err(other) => panic!("{round}: {other}"),
            }
        }
        let blocks = store.list(keys::BLOCKS_PREFIX).await.unwrap();
        let blocks: Vec<_> =
            blocks.iter().filter_map(|(key, _)| keys::cidr_of_block(key)).collect();
        for (at, one) in blocks.iter().enumerate() {
            sizes.insert(one.prefix_len());
            let other = blocks[at + 1..].iter().find(|other| other.overlaps(one));
            assert_eq!(other, None, "{round}: {one}");
        }
        held(&store).await;
    }
    assert!(sizes.len() > 1 && given * 2 > tried, "{given} of {tried} in blocks of {sizes:?}");
}
