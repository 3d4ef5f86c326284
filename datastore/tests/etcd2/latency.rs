//! How long a change takes from its writer to the reader. Printed; a busy machine proves nothing.

use std::time::{Duration, Instant};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn from_put_to_batch() {
    let Some(etcd) = etcd().await else { return };
    let writer = fill(&etcd, &[]).await;
    let mut reader = Reader::start(etcd.config());
    reader.changes().await;
    reader.watching().await;
    let mut times = Vec::new();
    for i in 0..300 {
        let value = format!("[\"t{i}\"]");
        let begun = Instant::now();
        let key = tags("a");
        let (put, batch) = tokio::join!(writer.put(&key, value.as_bytes(), None), async {
            reader.changes().await;
            begun.elapsed()
        });
        put.unwrap();
        times.push(batch);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(reader.listings(), 1);
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
    let client = fill(&etcd, &[]).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let client = client.clone();
        writers.spawn(async move {
            let text = "x".repeat(600);
            for number in 0..125 {
                let key = format!("/calico/v1/policy/profile/n{writer}-{number}/labels");
                client.put(&key, format!("{{\"v\":\"{text}\"}}").as_bytes(), None).await.unwrap();
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let begun = Instant::now();
    let mut reader = Reader::start(etcd.config());
    let batch = reader.changes().await;
    // And the ready key.
    let count = batch.updates.len() - 1;
    assert_eq!(count, 2_000);
    eprintln!("snapshot of {count} values of 600 bytes: {:?}", begun.elapsed());
}
