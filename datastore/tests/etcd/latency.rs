//! How long a change takes from its writer to the reader. Printed; a busy machine proves nothing.

use std::time::{Duration, Instant};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn from_put_to_batch() {
    let Some(etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    let mut reader = etcd.follow();
    reader.changes().await;
    let mut times = Vec::new();
    for i in 0..300 {
        let (key, value) = (profile_key("a"), value(i));
        let begun = Instant::now();
        let (put, batch) = tokio::join!(writer.put(&key, &value), async {
            reader.changes().await;
            begun.elapsed()
        });
        put.unwrap();
        times.push(batch);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort();
    eprintln!(
        "put to batch: p50 {:?}, p99 {:?}, max {:?} ({} events)",
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1],
        times.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn from_start_to_snapshot() {
    let Some(etcd) = etcd().await else { return };
    let mut raw = etcd.raw().await;
    let text = "x".repeat(600);
    for chunk in (0..20_000).collect::<Vec<_>>().chunks(100) {
        let puts = chunk
            .iter()
            .map(|i| etcd_client::TxnOp::put(profile_key(format!("n{i}")), value(&text), None));
        raw.txn(etcd_client::Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
    raw.put(READY_KEY, READY, None).await.unwrap();
    let begun = Instant::now();
    let mut reader = etcd.follow();
    let batch = reader.changes().await;
    eprintln!("snapshot of {} values of 600 bytes: {:?}", batch.updates.len(), begun.elapsed());
}
