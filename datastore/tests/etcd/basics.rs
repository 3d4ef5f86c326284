//! Snapshots, revisions and the order of things.

use std::collections::BTreeMap;
use std::time::Duration;

use calico_datastore::backend::{Batch, SyncEvent};
use etcd_client::{Txn, TxnOp};

use crate::support::*;

const MANY: usize = 5_000;

/// Writes pairs of keys, one under each prefix, 60 pairs a transaction.
async fn fill(etcd: &Etcd, pairs: std::ops::Range<usize>, v: &str) {
    let mut client = etcd.raw().await;
    let pairs: Vec<_> = pairs.collect();
    for chunk in pairs.chunks(60) {
        let puts: Vec<_> = chunk
            .iter()
            .flat_map(|i| {
                let name = format!("n{i:05}");
                [
                    TxnOp::put(profile_key(&name), value(v), None),
                    TxnOp::put(ipam_key(&name), value(v), None),
                ]
            })
            .collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_many_pages_is_one_revision_while_others_write() {
    let Some(etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    fill(&etcd, 0..MANY, "0").await;

    // Every write changes the first and the last key of both prefixes in one transaction. A
    // listing of more than one revision would see them differ.
    let mut raw = etcd.raw().await;
    let churn = tokio::spawn(async move {
        for i in 1_u32.. {
            let puts =
                ["n00000", "n04999"].map(|name| TxnOp::put(profile_key(name), value(i), None));
            raw.txn(Txn::new().and_then(puts.to_vec())).await.unwrap();
        }
    });
    let mut reader = etcd.follow();
    let first = reader.changes().await;
    assert_eq!(first.updates.len(), 2 * MANY + 1, "everything in the first batch");
    for _ in 0..50 {
        let profiles = reader.profiles();
        assert_eq!(profiles["n00000"], profiles["n04999"], "half a revision was handed out");
        reader.changes().await;
    }
    churn.abort();
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_over_both_prefixes_is_one_batch() {
    let Some(etcd) = etcd().await else { return };
    etcd.client().put(READY_KEY, READY).await.unwrap();
    let mut reader = etcd.follow();
    reader.changes().await;
    let mut raw = etcd.raw().await;
    for round in 0..20 {
        let puts: Vec<_> = (0..50)
            .flat_map(|i| {
                let name = format!("r{round}-{i}");
                [
                    TxnOp::put(profile_key(&name), value(round), None),
                    TxnOp::put(ipam_key(&name), value(round), None),
                ]
            })
            .collect();
        assert_eq!(puts.len(), 100);
        let done = raw.txn(Txn::new().and_then(puts)).await.unwrap();
        let batch = reader.changes().await;
        assert_eq!(batch.updates.len(), 100, "round {round}");
        assert_eq!(batch.revision, done.header().unwrap().revision());
    }
    // A deletion of a whole prefix is one revision as well.
    let all = etcd_client::DeleteOptions::new().with_prefix();
    raw.delete(ipam_key(""), Some(all)).await.unwrap();
    let batch = reader.changes().await;
    assert_eq!(batch.updates.len(), 20 * 50);
    assert_eq!(reader.profiles().len(), 20 * 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_gets_whole_revisions_and_the_newest_state() {
    let Some(etcd) = etcd().await else { return };
    etcd.client().put(READY_KEY, READY).await.unwrap();
    let mut reader = etcd.follow();
    reader.changes().await;
    let mut raw = etcd.raw().await;
    let mut expected = BTreeMap::new();
    for i in 0..300 {
        let names = [format!("a{}", i % 7), format!("b{}", i % 7)];
        let puts = names.clone().map(|name| TxnOp::put(profile_key(name), value(i), None));
        raw.txn(Txn::new().and_then(puts.to_vec())).await.unwrap();
        expected.extend(names.map(|name| (name, i.to_string())));
    }
    // Longer than a keepalive: the source must go on reading although nobody reads from it.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let batches = reader.until_profiles(&expected).await;
    assert!(batches.len() < 20, "{} batches for 300 revisions: not coalesced", batches.len());
    for batch in &batches {
        assert_eq!(pairs(batch), 0, "half a revision: {batch:?}");
    }
    assert_eq!(reader.status.borrow().watches, 1, "the watch was lost");
}

/// Updates of `a…` minus updates of `b…`.
fn pairs(batch: &Batch) -> i32 {
    let sign = |name: &str| match name.as_bytes()[0] {
        b'a' => 1,
        b'b' => -1,
        _ => 0,
    };
    batch
        .updates
        .iter()
        .map(|update| match update.id() {
            calico_datastore::model::ResourceId::Profile(name) => sign(name.as_str()),
            _ => 0,
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_watch_is_not_taken_for_abuse_and_foreign_keys_wake_nobody() {
    let Some(etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    let mut reader = etcd.follow();
    reader.changes().await;
    // etcd closes a connection after three pings that come too early.
    let silence = tokio::spawn(async move {
        let quiet = reader.quiet(Duration::from_secs(26)).await;
        (quiet, reader)
    });
    writer.put("/calico/felix/v1/host/h/status", b"{}").await.unwrap();
    writer.put("/calico/felix/v2/no-region/host/h/status", b"{}").await.unwrap();
    writer.put("/calico/ipam/v2/handle/x", b"{}").await.unwrap();
    writer.put("/calico/resources/v3/other.org/x", b"{}").await.unwrap();
    writer.put("/calico/v1/Ready", b"true").await.unwrap();
    let (quiet, mut reader) = silence.await.unwrap();
    assert!(quiet, "something was said");
    assert_eq!(reader.status.borrow().watches, 1, "the watch was lost while idle");
    writer.put(&profile_key("a"), &value(1)).await.unwrap();
    assert_eq!(reader.changes().await.updates.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_the_agents_are_not_watched() {
    let Some(etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    let mut reader = etcd.follow();
    reader.changes().await;
    reader.watching().await;
    let before = reader.status.borrow().revision;
    for key in ["felix/v1/host/h/status", "felix/v2/no-region/host/h/status", "bgp/v1/x", "v1/x"] {
        writer.put(&format!("/calico/{key}"), b"{}").await.unwrap();
    }
    assert!(reader.quiet(Duration::from_millis(500)).await);
    assert_eq!(reader.status.borrow().revision, before, "the watch covers them");
    // The counterpart: what lies in the span moves the revision, even when it means nothing.
    writer.put("/calico/ipam/v2/handle/x", b"{}").await.unwrap();
    let moved = reader.status.wait_for(|status| status.revision == before + 5);
    tokio::time::timeout(LONG, moved).await.expect("the watch does not cover it").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_keeps_the_resume_revision_fresh() {
    let often = ["--experimental-watch-progress-notify-interval", "200ms"];
    let Some(etcd) = etcd_with(&often, "http", Default::default()).await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    let mut reader = etcd.follow();
    reader.changes().await;
    let before = reader.status.borrow().revision;
    for i in 0..20 {
        writer.put("/of/others", &value(i)).await.unwrap();
    }
    let moved = reader.status.wait_for(|status| status.revision == before + 20);
    tokio::time::timeout(LONG, moved).await.expect("no progress is seen").unwrap();
    assert!(reader.quiet(Duration::from_millis(300)).await, "progress is not a change");
}

#[tokio::test(flavor = "multi_thread")]
async fn aborting_the_task_or_dropping_the_receiver_ends_everything() {
    let Some(etcd) = etcd().await else { return };
    etcd.client().put(READY_KEY, READY).await.unwrap();
    let mut reader = etcd.follow();
    reader.changes().await;
    reader.close().await;
    // Before anything was read, and while waiting for a store that is not there.
    etcd.follow().close().await;
    let dead = calico_datastore::backend::etcd3::Etcd3Config {
        endpoints: vec![format!("http://127.0.0.1:{}", free_port())],
        ..Default::default()
    };
    let mut reader = Reader::start(dead);
    assert!(matches!(reader.next().await, SyncEvent::Waiting { .. }));
    reader.close().await;
}
