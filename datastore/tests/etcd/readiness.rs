//! Nothing before the store is ready, nothing after it stopped being ready.

use std::time::Duration;

use calico_datastore::backend::SyncEvent;
use etcd_client::{DeleteOptions, Txn, TxnOp};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_before_the_store_is_ready() {
    let Some(etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(&profile_key("a"), &value(1)).await.unwrap();
    let mut reader = etcd.follow();
    let reason = reader.waiting().await;
    assert!(reason.contains(READY_KEY), "{reason}");
    // Absent, malformed, without the field and false all mean: not ready.
    for value in [b"{".as_slice(), b"{}", NOT_READY] {
        writer.put(READY_KEY, value).await.unwrap();
    }
    writer.put(&profile_key("b"), &value(1)).await.unwrap();
    assert!(reader.quiet(Duration::from_millis(500)).await, "said twice, or told too early");
    writer.put(READY_KEY, READY).await.unwrap();
    reader.changes().await;
    assert_eq!(reader.profiles().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stops_being_ready_changes_nothing_until_it_is_again() {
    let Some(etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    for name in ["a", "b", "c"] {
        writer.put(&profile_key(name), &value(1)).await.unwrap();
    }
    let mut reader = etcd.follow();
    reader.changes().await;
    writer.put(READY_KEY, NOT_READY).await.unwrap();
    reader.waiting().await;
    writer.delete(&profile_key("a")).await.unwrap();
    writer.put(&profile_key("b"), &value(2)).await.unwrap();
    assert!(reader.quiet(Duration::from_millis(500)).await);
    assert_eq!(reader.profiles().len(), 3);
    writer.put(READY_KEY, READY).await.unwrap();
    let batch = reader.changes().await;
    // a, b, and nothing about c. ClusterInformation is as it was.
    assert_eq!(batch.updates.len(), 2, "{batch:?}");
    assert_eq!(reader.profiles().len(), 2);
    assert_eq!(reader.profiles()["b"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_together_with_readiness_is_not_applied() {
    let Some(etcd) = etcd().await else { return };
    let writer = etcd.client();
    let mut raw = etcd.raw().await;
    for wipe in ["one prefix", "a transaction, ready key last"] {
        writer.put(READY_KEY, READY).await.unwrap();
        for name in ["a", "b"] {
            writer.put(&profile_key(name), &value(wipe)).await.unwrap();
            writer.put(&ipam_key(name), &value(wipe)).await.unwrap();
        }
        let mut reader = etcd.follow();
        reader.changes().await;
        if wipe == "one prefix" {
            let all = DeleteOptions::new().with_prefix();
            raw.delete("/calico/", Some(all)).await.unwrap();
        } else {
            let keys = [profile_key("a"), ipam_key("a"), READY_KEY.to_owned()];
            let deletes = keys.map(|key| TxnOp::delete(key, None));
            raw.txn(Txn::new().and_then(deletes.to_vec())).await.unwrap();
        }
        reader.waiting().await;
        assert!(reader.quiet(Duration::from_millis(300)).await, "{wipe}");
        assert_eq!(reader.objects.len(), 5, "{wipe}: something was deleted");
        writer.put(READY_KEY, READY).await.unwrap();
        reader.changes().await;
        let left = if wipe == "one prefix" { 1 } else { 3 };
        assert_eq!(reader.objects.len(), left, "{wipe}: mark and sweep");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_store_deletes_nothing_until_it_is_ready_again() {
    let Some(mut etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    for i in 0..10 {
        writer.put(&profile_key(i), &value(1)).await.unwrap();
    }
    let mut reader = etcd.follow();
    reader.changes().await;
    etcd.crash();
    etcd.wipe();
    // The same addresses and token make the same cluster id.
    etcd.restart().await;
    loop {
        // Unreachable first, when it took long enough to notice; then not ready.
        if reader.waiting().await.contains(READY_KEY) {
            break;
        }
    }
    let writer = etcd.client();
    for i in 0..3 {
        writer.put(&profile_key(i), &value(1)).await.unwrap();
    }
    assert!(reader.quiet(Duration::from_millis(500)).await);
    assert_eq!(reader.profiles().len(), 10);
    writer.put(READY_KEY, READY).await.unwrap();
    let batch = reader.changes().await;
    assert_eq!(batch.updates.len(), 7, "only what is gone: {batch:?}");
    assert_eq!(reader.profiles().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_replaced_by_one_with_a_higher_revision_is_listed() {
    let Some(mut etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    for i in 0..5 {
        writer.put(&profile_key(i), &value(1)).await.unwrap();
    }
    let mut reader = etcd.follow();
    reader.changes().await;
    let revision = reader.status.borrow().revision;
    // A backup of before the last writes, and then others write past our revision: the ready key
    // was even written by the same revision. Only the history tells.
    etcd.crash();
    etcd.wipe();
    etcd.start_elsewhere_and_fill(revision).await;
    let batches = reader.until_profiles(&[("new".to_owned(), "1".to_owned())].into()).await;
    let last = batches.last().unwrap();
    assert!(last.revision > revision);
    assert_eq!(reader.listings(), 2);
}

impl Etcd {
    /// Makes a store out of the reader's sight that has the same cluster id, the same ready key
    /// at the same revision, other keys, and a higher revision; then puts it in place.
    async fn start_elsewhere_and_fill(&mut self, revision: i64) {
        // The reader may look in between: it must see nothing at this address until it is done.
        let hidden = free_port();
        let visible = self.endpoint.clone();
        self.serve_at(&format!("http://127.0.0.1:{hidden}"));
        self.restart().await;
        let writer = self.client();
        writer.put(READY_KEY, READY).await.unwrap();
        for i in 0..revision {
            writer.put("/elsewhere", format!("{i}").as_bytes()).await.unwrap();
        }
        writer.put(&profile_key("new"), &value(1)).await.unwrap();
        self.crash();
        self.serve_at(&visible);
        self.restart().await;
    }

    /// Another client address; the peer address, and so the cluster id, stays.
    pub(crate) fn serve_at(&mut self, endpoint: &str) {
        let old = std::mem::replace(&mut self.endpoint, endpoint.to_owned());
        self.replace_argument(&old, endpoint);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_not_there_is_said_once() {
    let Some(mut etcd) = etcd().await else { return };
    etcd.client().put(READY_KEY, READY).await.unwrap();
    etcd.crash();
    let mut reader = etcd.follow();
    let reason = reader.waiting().await;
    assert!(reason.contains(&etcd.endpoint), "{reason}");
    assert!(reason.contains("Connection refused"), "{reason}");
    // Some ten tries.
    assert!(reader.quiet(Duration::from_secs(8)).await, "said again");
    etcd.restart().await;
    assert!(matches!(reader.next().await, SyncEvent::Changes(_)));
}
