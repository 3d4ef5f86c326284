//! etcd goes, comes back, is another one, or does not serve.

use std::time::Duration;

use calico_datastore::backend::etcd3::Etcd3Config;
use calico_datastore::layout::v1;

use crate::process::free_port;
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_once_and_made_up_for() {
    let Some(mut etcd) = etcd().await else { return };
    let client = fill(&etcd, &[(&tags("a"), "[]"), (&tags("b"), "[]")]).await;
    let mut reader = Reader::start(etcd.config());
    reader.until_profiles(&["a", "b"]).await;
    reader.watching().await;

    etcd.crash();
    let reason = reader.waiting().await;
    assert!(reason.starts_with("etcd: cannot connect to http://127.0.0.1:"), "{reason}");
    assert!(reader.quiet(Duration::from_secs(2)).await, "said once");
    assert_eq!(reader.profiles(), ["a", "b"], "nothing is forgotten");

    etcd.restart().await;
    let back = reader.changes().await;
    assert!(back.updates.is_empty(), "{back:?}");
    client.delete(&tags("a")).await.unwrap();
    reader.until_profiles(&["b"]).await;
}

/// A restart that is over soon is not worth a word, and what happened meanwhile is not missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_made_up_for() {
    let Some(mut etcd) = etcd().await else { return };
    fill(&etcd, &[(&tags("a"), "[]")]).await;
    let mut reader = Reader::start(etcd.config());
    reader.until_profiles(&["a"]).await;
    for round in 0..3 {
        etcd.crash();
        etcd.restart().await;
        let name = format!("b{round}");
        client(&etcd).put(&tags(&name), b"[]", None).await.unwrap();
        while !reader.profiles().contains(&name) {
            reader.next().await;
        }
    }
}

/// Another store at the same address: it is not ready, so nothing of it counts; when it is, only what
/// it has is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_wiped_counts_when_it_is_ready() {
    let Some(mut etcd) = etcd().await else { return };
    fill(&etcd, &[(&tags("a"), "[]"), (&tags("b"), "[]")]).await;
    let mut reader = Reader::start(etcd.config());
    reader.until_profiles(&["a", "b"]).await;
    etcd.crash();
    etcd.wipe();
    etcd.restart().await;
    while !reader.waiting().await.contains(v1::READY_KEY) {}
    assert_eq!(reader.profiles(), ["a", "b"]);
    fill(&etcd, &[(&tags("b"), "[\"new\"]")]).await;
    reader.until_profiles(&["b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_counts_while_the_store_is_not_ready() {
    let Some(etcd) = etcd().await else { return };
    let client = client(&etcd);
    client.put(&tags("a"), b"[]", None).await.unwrap();
    let mut reader = Reader::start(etcd.config());
    assert!(reader.waiting().await.contains(v1::READY_KEY));
    client.put(v1::READY_KEY, b"false", None).await.unwrap();
    assert!(reader.quiet(Duration::from_millis(1500)).await);
    client.put(v1::READY_KEY, b"true", None).await.unwrap();
    reader.until_profiles(&["a"]).await;

    // It stops being ready, in three ways; what happens then is not applied before it is again.
    for way in 0..3 {
        match way {
            0 => client.put(v1::READY_KEY, b"false", None).await.unwrap(),
            1 => drop(client.delete(v1::READY_KEY).await.unwrap()),
            _ => remove_directory(&etcd, "/calico"),
        }
        assert!(reader.waiting().await.contains(v1::READY_KEY), "{way}");
        let name = format!("b{way}");
        client.put(&tags(&name), b"[]", None).await.unwrap();
        assert!(reader.quiet(Duration::from_millis(1500)).await, "{way}");
        assert!(!reader.profiles().contains(&name));
        client.put(v1::READY_KEY, b"true", None).await.unwrap();
        while !reader.profiles().contains(&name) {
            reader.next().await;
        }
    }
    assert_eq!(reader.profiles(), ["b2"], "what the directory held is gone");
}

/// Any of several addresses will do, also when the one that served dies without a word.
#[tokio::test(flavor = "multi_thread")]
async fn one_member_that_answers_is_enough() {
    let Some(etcd) = etcd().await else { return };
    let client = fill(&etcd, &[(&tags("a"), "[]")]).await;
    let proxy = Proxy::to(&etcd).await;
    let dead = format!("http://127.0.0.1:{}", free_port());
    let endpoints = vec![dead, proxy.url.clone(), etcd.endpoint.clone()];
    let mut reader = Reader::start(Etcd3Config { endpoints, ..etcd.config() });
    reader.until_profiles(&["a"]).await;
    assert_eq!(reader.watching().await, proxy.url);
    // The way stands still: no end, no error.
    proxy.hold(true);
    client.put(&tags("b"), b"[]", None).await.unwrap();
    reader.until_profiles(&["a", "b"]).await;
    assert_eq!(reader.watching().await, etcd.endpoint);
}

/// A process that hangs keeps its connections.
#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_hangs_is_noticed() {
    let Some(etcd) = etcd().await else { return };
    let client = fill(&etcd, &[(&tags("a"), "[]")]).await;
    let mut reader = Reader::start(etcd.config());
    reader.until_profiles(&["a"]).await;
    etcd.pause();
    let reason = reader.waiting().await;
    assert!(reason.contains("no answer within"), "{reason}");
    etcd.resume();
    client.put(&tags("b"), b"[]", None).await.unwrap();
    reader.until_profiles(&["a", "b"]).await;
}

/// Of an etcd without the v2 API it is said what to do.
#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_without_the_api_is_told() {
    let Some(etcd) = crate::process::etcd().await else { return };
    let mut reader = Reader::start(etcd.config());
    let reason = reader.waiting().await;
    assert!(reason.contains("--enable-v2"), "{reason}");
}
