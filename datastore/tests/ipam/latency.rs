//! How long an assignment takes. Printed; a busy machine proves nothing.

use std::time::{Duration, Instant};

use calico_datastore::ipam::Request;

use super::*;

const PODS: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn one_after_another() {
    let Some(etcd) = support::etcd().await else { return };
    let store = etcd.client();
    put_pool(&store, "p4", r#"{"cidr":"10.0.0.0/16"}"#).await;
    put_pool(&store, "p6", r#"{"cidr":"fd00::/64"}"#).await;
    let ipam = ipam(&store, "calico-01");
    for (what, v6) in [("IPv4", 0), ("IPv4 and IPv6", 1)] {
        let request = Request { v4: 1, v6, ..Request::default() };
        let (mut assigned, mut released) = (Vec::new(), Vec::new());
        for pod in 0..PODS {
            let begun = Instant::now();
            let owner = owner("calico-01", &format!("net.{pod}"));
            ipam.assign(&owner, &request).await.unwrap();
            assigned.push(begun.elapsed());
        }
        assert_eq!(held(&store).await.len(), PODS * (1 + v6));
        for pod in 0..PODS {
            let begun = Instant::now();
            ipam.release_handle(&format!("net.{pod}")).await.unwrap();
            released.push(begun.elapsed());
        }
        assert!(held(&store).await.is_empty());
        report(&format!("assign {what}"), assigned);
        report(&format!("release {what}"), released);
    }
    let mut reads = Vec::new();
    for _ in 0..PODS {
        let begun = Instant::now();
        Store::get(&store, keys::IPAM_CONFIG_KEY).await.unwrap();
        reads.push(begun.elapsed());
    }
    report("one read, to compare", reads);
    let mut writes = Vec::new();
    for _ in 0..PODS {
        let begun = Instant::now();
        Store::put(&store, "/probe", &[b'x'; 2000], None).await.unwrap();
        writes.push(begun.elapsed());
    }
    report("one write, to compare", writes);
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (count, last) = (times.len(), times.len() - 1);
    eprintln!(
        "{what}: p50 {:?}, p99 {:?}, max {:?} of {count}",
        times[count / 2],
        times[count * 99 / 100],
        times[last],
    );
}
