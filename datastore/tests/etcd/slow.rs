//! A way to etcd that holds back what etcd says: a network that is slow, a host that was asleep.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use calico_datastore::backend::etcd3::Etcd3Config;
use etcd_client::{CompactionOptions, Txn, TxnOp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::*;

/// How much of what etcd says goes through.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Open,
    Closed,
    /// Some 3 MB/s.
    Narrow,
}

/// A proxy in front of one etcd. What clients say goes through at any time.
struct Gate {
    endpoint: String,
    way: watch::Sender<Way>,
    connections: Arc<AtomicUsize>,
}

impl Gate {
    async fn before(etcd: &Etcd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let target = etcd.endpoint.trim_start_matches("http://").to_owned();
        let (way, seen) = watch::channel(Way::Open);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let server = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(pass(client, server, seen.clone()));
            }
        });
        Self { endpoint, way, connections }
    }
}

async fn pass(client: TcpStream, server: TcpStream, mut way: watch::Receiver<Way>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut buffer = vec![0; 16 << 10];
    while way.wait_for(|way| *way != Way::Closed).await.is_ok() {
        let Ok(length @ 1..) = from_server.read(&mut buffer).await else { break };
        if *way.borrow() == Way::Narrow {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if way.wait_for(|way| *way != Way::Closed).await.is_err()
            || to_client.write_all(&buffer[..length]).await.is_err()
        {
            break;
        }
    }
    up.abort();
}

/// A reader whose way to etcd is closed, while more happens than etcd keeps for it, and is compacted.
struct Behind {
    etcd: Etcd,
    gate: Gate,
    reader: Reader,
    /// What it must find.
    profiles: BTreeMap<String, String>,
    since: Instant,
}

impl Behind {
    /// A connection that is silent for longer is given up: on a machine that is busy with other things
    /// the writes may take that long, and it is done again.
    async fn new() -> Option<Self> {
        for _ in 0..3 {
            let behind = Self::once().await?;
            let took = behind.since.elapsed();
            if took < Duration::from_millis(4_500) {
                return Some(behind);
            }
            eprintln!("too slow, once more: {took:?}");
        }
        panic!("this machine is too slow for this test");
    }

    async fn once() -> Option<Self> {
        let etcd = etcd().await?;
        let mut raw = etcd.raw().await;
        let writer = etcd.client();
        writer.put(READY_KEY, READY).await.unwrap();
        writer.put(&profile_key("gone"), &value(1)).await.unwrap();
        let gate = Gate::before(&etcd).await;
        let config =
            Etcd3Config { endpoints: vec![gate.endpoint.clone()], ..Etcd3Config::default() };
        let mut reader = Reader::start(config);
        reader.changes().await;
        reader.watching().await;
        // What was doubted when the watch was opened is settled.
        tokio::time::sleep(Duration::from_secs(3)).await;

        let since = Instant::now();
        gate.way.send_replace(Way::Closed);
        // 20 MB, which fill what the connection holds, in messages of more than a megabyte…
        let large = value("x".repeat(64 << 10));
        for _ in 0..16 {
            let puts = (0..20).map(|i| TxnOp::put(profile_key(i), large.clone(), None));
            raw.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
        }
        // …and more messages than etcd keeps, in newer releases too.
        let mut writers = JoinSet::new();
        for first in 0..20 {
            let mut raw = raw.clone();
            writers.spawn(async move {
                for i in (first..1_500).step_by(20) {
                    raw.put(profile_key(first), value(i), None).await.unwrap();
                }
            });
        }
        writers.join_all().await;
        let last = raw.delete(profile_key("gone"), None).await.unwrap();
        let last = last.header().unwrap().revision();
        raw.compact(last, Some(CompactionOptions::new().with_physical())).await.unwrap();
        let profiles = (0..20).map(|i| (i.to_string(), (1_480 + i).to_string())).collect();
        Some(Self { etcd, gate, reader, profiles, since })
    }

    async fn ends_in_a_listing(mut self) {
        self.reader.until_profiles(&self.profiles).await;
        assert_eq!(self.reader.listings(), 2, "the watch went on");
        assert_eq!(self.gate.connections.load(Ordering::Relaxed), 1, "the connection broke");
        // And it goes on from there.
        self.etcd.client().delete(&profile_key(5)).await.unwrap();
        self.profiles.remove("5");
        self.reader.until_profiles(&self.profiles).await;
        assert_eq!(self.reader.listings(), 2);
    }
}

/// etcd keeps what a watch has not read: 128 messages (3.4), and what the connection holds. What
/// comes then the watch must look up in the history; when that is gone, it is told so on the stream,
/// which stays open and silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_falls_behind_what_was_compacted_is_a_listing() {
    let Some(behind) = Behind::new().await else { return };
    behind.gate.way.send_replace(Way::Open);
    behind.ends_in_a_listing().await;
}

/// But there must be room to tell it. etcd before 3.4.31 and 3.5.13 otherwise takes the watch for
/// up to date, and all that it has missed is never told: here the first of what was kept frees the
/// place into which the next goes, and etcd looks after the watch before there is another.
#[tokio::test(flavor = "multi_thread")]
async fn what_etcd_leaves_out_of_a_watch_is_noticed() {
    let Some(behind) = Behind::new().await else { return };
    behind.gate.way.send_replace(Way::Narrow);
    tokio::time::sleep(Duration::from_secs(2)).await;
    behind.gate.way.send_replace(Way::Open);
    behind.ends_in_a_listing().await;
}
