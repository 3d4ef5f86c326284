//! A way to etcd that holds back what etcd says: a network that is slow, a host that was asleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use calico_datastore::backend::etcd3::Etcd3Config;
use etcd_client::{CompactionOptions, Txn, TxnOp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::*;

/// A proxy in front of one etcd. What clients say goes through at any time.
struct Gate {
    endpoint: String,
    open: watch::Sender<bool>,
    connections: Arc<AtomicUsize>,
}

impl Gate {
    async fn before(etcd: &Etcd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let target = etcd.endpoint.trim_start_matches("http://").to_owned();
        let (open, opened) = watch::channel(true);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let server = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(pass(client, server, opened.clone()));
            }
        });
        Self { endpoint, open, connections }
    }
}

async fn pass(client: TcpStream, server: TcpStream, mut open: watch::Receiver<bool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut buffer = vec![0; 16 << 10];
    while open.wait_for(|open| *open).await.is_ok() {
        let Ok(length @ 1..) = from_server.read(&mut buffer).await else { break };
        if open.wait_for(|open| *open).await.is_err()
            || to_client.write_all(&buffer[..length]).await.is_err()
        {
            break;
        }
    }
    up.abort();
}

/// etcd keeps what a watch has not read: 128 messages (3.4), and what the connection holds. What
/// comes then the watch must look up in the history; when that is gone, it is told so on the stream,
/// which stays open and silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_falls_behind_what_was_compacted_is_a_listing() {
    let Some(etcd) = etcd().await else { return };
    let mut raw = etcd.raw().await;
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    writer.put(&profile_key("gone"), &value(1)).await.unwrap();
    let gate = Gate::before(&etcd).await;
    let config = Etcd3Config { endpoints: vec![gate.endpoint.clone()], ..Etcd3Config::default() };
    let mut reader = Reader::start(config);
    reader.changes().await;
    reader.watching().await;

    let begun = Instant::now();
    gate.open.send_replace(false);
    // 20 MB, which fill what the connection holds…
    let large = value("x".repeat(64 << 10));
    for _ in 0..32 {
        let puts = (0..10).map(|i| TxnOp::put(profile_key(i), large.clone(), None));
        raw.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
    // …and more messages than etcd keeps, in newer releases too.
    for i in 0..1_500 {
        raw.put(profile_key(i % 10), value(i), None).await.unwrap();
    }
    let last = raw.delete(profile_key("gone"), None).await.unwrap();
    let last = last.header().unwrap().revision();
    raw.compact(last, Some(CompactionOptions::new().with_physical())).await.unwrap();
    // Else the connection is given up first, for its silence.
    let took = begun.elapsed();
    gate.open.send_replace(true);
    assert!(took < Duration::from_secs(5), "this machine is too slow for this test: {took:?}");

    let expected = (0..10).map(|i| (i.to_string(), (1_490 + i).to_string())).collect();
    reader.until_profiles(&expected).await;
    assert_eq!(reader.listings(), 2, "the watch was not told");
    assert_eq!(gate.connections.load(Ordering::Relaxed), 1, "the connection broke");
    // And it goes on from there.
    writer.delete(&profile_key(5)).await.unwrap();
    let expected = expected.into_iter().filter(|(name, _)| name != "5").collect();
    reader.until_profiles(&expected).await;
    assert_eq!(reader.listings(), 2);
}
