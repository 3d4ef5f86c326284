//! etcd dies, stalls, forgets and returns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use calico_datastore::backend::SyncEvent;
use etcd_client::CompactionOptions;

use crate::support::*;

/// A store with ten profiles and a reader that knows them.
async fn world() -> Option<(Etcd, Reader, BTreeMap<String, String>)> {
    let etcd = etcd().await?;
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    let mut expected = BTreeMap::new();
    for i in 0..10 {
        writer.put(&profile_key(i), &value(0)).await.unwrap();
        expected.insert(i.to_string(), "0".to_owned());
    }
    let mut reader = etcd.follow();
    reader.changes().await;
    assert_eq!(reader.profiles(), expected);
    reader.watching().await;
    Some((etcd, reader, expected))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_resumed_without_a_listing_and_without_losing_anything() {
    let Some((mut etcd, mut reader, mut expected)) = world().await else { return };
    for round in 1..=3 {
        etcd.crash();
        etcd.restart().await;
        let writer = etcd.client();
        writer.delete(&profile_key(round)).await.unwrap();
        writer.put(&profile_key(0), &value(round)).await.unwrap();
        expected.remove(&round.to_string());
        expected.insert("0".to_owned(), round.to_string());
        let batches = reader.until_profiles(&expected).await;
        let told: usize = batches.iter().map(|batch| batch.updates.len()).sum();
        assert_eq!(told, 2, "told twice: {batches:?}");
        reader.watching().await;
    }
    assert_eq!(reader.listings(), 1, "the store was listed again");
    assert_eq!(reader.status.borrow().watches, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_we_could_not_see_it_is_caught_up() {
    let Some((mut etcd, mut reader, mut expected)) = world().await else { return };
    // The reader's address is dead, the store is not.
    let visible = etcd.endpoint.clone();
    etcd.crash();
    let hidden = format!("http://127.0.0.1:{}", free_port());
    etcd.replace_argument(&visible, &hidden);
    etcd.endpoint.clone_from(&hidden);
    etcd.restart().await;
    assert!(matches!(reader.next().await, SyncEvent::Waiting { .. }));
    let writer = etcd.client();
    // More revisions than etcd puts into one message when a watch catches up (1,000).
    for i in 0..2_500 {
        writer.put(&profile_key(i % 10), &value(i)).await.unwrap();
        expected.insert((i % 10).to_string(), i.to_string());
    }
    writer.delete(&profile_key(5)).await.unwrap();
    expected.remove("5");
    etcd.crash();
    etcd.replace_argument(&hidden, &visible);
    etcd.endpoint = visible;
    etcd.restart().await;
    reader.until_profiles(&expected).await;
    assert_eq!(reader.listings(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_during_an_outage_is_a_listing_with_mark_and_sweep() {
    let Some((mut etcd, mut reader, mut expected)) = world().await else { return };
    let visible = etcd.endpoint.clone();
    etcd.crash();
    let hidden = format!("http://127.0.0.1:{}", free_port());
    etcd.replace_argument(&visible, &hidden);
    etcd.endpoint.clone_from(&hidden);
    etcd.restart().await;
    reader.waiting().await;
    let writer = etcd.client();
    writer.delete(&profile_key(3)).await.unwrap();
    writer.put(&profile_key(4), &value(1)).await.unwrap();
    writer.put(&profile_key("new"), &value(1)).await.unwrap();
    expected.remove("3");
    expected.insert("4".to_owned(), "1".to_owned());
    expected.insert("new".to_owned(), "1".to_owned());
    let mut raw = etcd.raw().await;
    let now = raw.get("x", None).await.unwrap().header().unwrap().revision();
    raw.compact(now, Some(CompactionOptions::new().with_physical())).await.unwrap();
    etcd.crash();
    etcd.replace_argument(&hidden, &visible);
    etcd.endpoint = visible;
    etcd.restart().await;
    let batch = reader.changes().await;
    assert_eq!(batch.updates.len(), 3, "only what differs: {batch:?}");
    assert_eq!(reader.profiles(), expected);
    assert_eq!(reader.listings(), 2);
    // And it goes on from there.
    etcd.client().delete(&profile_key("new")).await.unwrap();
    expected.remove("new");
    reader.until_profiles(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_does_not_disturb_a_watch_that_is_up_to_date() {
    let Some((etcd, mut reader, _)) = world().await else { return };
    let mut raw = etcd.raw().await;
    let now = raw.get("x", None).await.unwrap().header().unwrap().revision();
    raw.compact(now, None).await.unwrap();
    etcd.client().put(&profile_key("after"), &value(1)).await.unwrap();
    assert_eq!(reader.changes().await.updates.len(), 1);
    assert_eq!(reader.listings(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_etcd_is_noticed_and_resumed() {
    let Some((etcd, mut reader, mut expected)) = world().await else { return };
    let stopped = Instant::now();
    etcd.pause();
    let mut status = reader.status.clone();
    let noticed = status.wait_for(|status| status.endpoint.is_none());
    tokio::time::timeout(LONG, noticed).await.expect("the silence goes unnoticed").unwrap();
    let noticed = stopped.elapsed();
    eprintln!("a stalled etcd was noticed after {noticed:?}");
    // 5.5 s of silence and 2 s for an answer; the rest is a busy machine.
    assert!(noticed < Duration::from_secs(11), "{noticed:?}");
    reader.waiting().await;
    etcd.resume();
    assert!(matches!(reader.next().await, SyncEvent::Changes(batch) if batch.updates.is_empty()));
    etcd.client().put(&profile_key(0), &value(1)).await.unwrap();
    expected.insert("0".to_owned(), "1".to_owned());
    reader.until_profiles(&expected).await;
    assert_eq!(reader.listings(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_bounded_in_time() {
    let Some(etcd) = etcd().await else { return };
    let client = etcd.client();
    client.put("/a", b"1").await.unwrap();
    etcd.pause();
    let begun = Instant::now();
    let error = client.get("/a").await.unwrap_err();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(error.is_unavailable(), "{}", error.chain());
    etcd.resume();
    assert_eq!(client.get("/a").await.unwrap().unwrap().value, b"1");
}

/// Whatever ends a watch that was good for a while, the failures from before it are forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_is_due_after_a_good_watch_comes_at_once() {
    let Some((mut etcd, mut reader, expected)) = world().await else { return };
    etcd.crash();
    reader.waiting().await;
    // Until the pauses have grown to their longest.
    tokio::time::sleep(Duration::from_secs(6)).await;
    etcd.restart().await;
    reader.watching().await;
    // As long as that: a server that works.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!(reader.listings(), 1);
    let writer = etcd.client();
    writer.delete(READY_KEY).await.unwrap();
    writer.put(READY_KEY, READY).await.unwrap();
    // The time of etcd's disk is not the reader's.
    let begun = Instant::now();
    let listed = reader.status.wait_for(|status| status.listings == 2);
    tokio::time::timeout(LONG, listed).await.expect("not listed again").unwrap();
    let took = begun.elapsed();
    eprintln!("listed again after {took:?}");
    // The longest pause is 1.5 to 3 s.
    assert!(took < Duration::from_millis(1_400), "{took:?}");
    assert_eq!(reader.profiles(), expected);
}
