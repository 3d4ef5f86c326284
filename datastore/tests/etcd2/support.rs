//! An etcd with its v2 API, a reader that checks what holds always, and a proxy that can be held.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use calico_datastore::backend::etcd2::{Etcd2, Etcd2Source};
use calico_datastore::backend::etcd3::{Etcd3Config, SourceStatus};
use calico_datastore::backend::{Batch, SyncEvent};
use calico_datastore::layout::v1;
use calico_datastore::model::{ResourceId, Update};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(crate) use crate::process::Etcd;
use crate::process::etcd_with;

pub(crate) const LONG: Duration = Duration::from_secs(30);

/// `None`, said aloud, on a machine without etcd.
pub(crate) async fn etcd() -> Option<Etcd> {
    etcd_with(&["--enable-v2"], "http", Etcd3Config::default()).await
}

/// A writer of its own, not the source's.
pub(crate) fn client(etcd: &Etcd) -> Etcd2 {
    Etcd2::new(etcd.config()).unwrap()
}

/// A store that is ready and holds these.
pub(crate) async fn fill(etcd: &Etcd, store: &[(&str, &str)]) -> Etcd2 {
    let client = client(etcd);
    for (key, value) in store.iter().chain(&[(v1::READY_KEY, "true")]) {
        client.put(key, value.as_bytes(), None).await.unwrap();
    }
    client
}

pub(crate) fn tags(profile: &str) -> String {
    format!("/calico/v1/policy/profile/{profile}/tags")
}

/// A request that the agent never makes, by hand: what the API answers, as text.
pub(crate) fn raw(etcd: &Etcd, method: &str, path: &str, body: &str, kind: &str) -> String {
    let authority = etcd.endpoint.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(authority).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {authority}\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// `etcdctl rm --recursive`.
pub(crate) fn remove_directory(etcd: &Etcd, directory: &str) {
    let answer =
        raw(etcd, "DELETE", &format!("/v2/keys{directory}?recursive=true"), "", "text/plain");
    assert!(answer.contains("\"action\":\"delete\""), "{answer}");
}

/// Reads a source and checks what holds always: no deletion of what was never there, no key accepted
/// that was not refused.
pub(crate) struct Reader {
    events: mpsc::Receiver<SyncEvent>,
    task: JoinHandle<()>,
    pub(crate) status: watch::Receiver<SourceStatus>,
    pub(crate) objects: BTreeMap<ResourceId, Update>,
    pub(crate) refused: BTreeMap<String, Option<ResourceId>>,
}

impl Reader {
    pub(crate) fn start(config: Etcd3Config) -> Self {
        let source = Etcd2Source::new(Etcd2::new(config).unwrap(), v1::LAYOUT);
        let status = source.status();
        let (tx, events) = mpsc::channel(1);
        let task = tokio::spawn(source.run(tx));
        Self { events, task, status, objects: BTreeMap::new(), refused: BTreeMap::new() }
    }

    pub(crate) async fn next(&mut self) -> SyncEvent {
        let event = tokio::time::timeout(LONG, self.events.recv()).await;
        let event = event.expect("the source says nothing").expect("the source ended");
        if let SyncEvent::Changes(batch) = &event {
            self.apply(batch);
        }
        event
    }

    /// True when nothing is said for so long.
    pub(crate) async fn quiet(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.events.recv()).await.is_err()
    }

    pub(crate) async fn changes(&mut self) -> Batch {
        match self.next().await {
            SyncEvent::Changes(batch) => batch,
            SyncEvent::Waiting { reason } => panic!("waiting: {reason}"),
        }
    }

    /// Skips changes until the source waits; returns why.
    pub(crate) async fn waiting(&mut self) -> String {
        loop {
            if let SyncEvent::Waiting { reason } = self.next().await {
                return reason;
            }
        }
    }

    /// Reads until the objects are what the layout makes of this store; returns the batches.
    pub(crate) async fn until(&mut self, store: &BTreeMap<String, String>) -> Vec<Batch> {
        let bytes = store.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
        let expected = v1::decode_all(bytes).0;
        let deadline = Instant::now() + LONG;
        let mut batches = Vec::new();
        while self.objects != expected {
            assert!(Instant::now() < deadline, "{:#?} is not {expected:#?}", self.objects);
            if let SyncEvent::Changes(batch) = self.next().await {
                batches.push(batch);
            }
        }
        batches
    }

    /// The names of the profiles.
    pub(crate) fn profiles(&self) -> Vec<String> {
        let profile = |id: &ResourceId| match id {
            ResourceId::Profile(name) => Some(name.to_string()),
            _ => None,
        };
        self.objects.keys().filter_map(profile).collect()
    }

    /// Reads until these are the profiles, in order.
    pub(crate) async fn until_profiles(&mut self, expected: &[&str]) {
        let deadline = Instant::now() + LONG;
        while self.profiles() != expected {
            assert!(Instant::now() < deadline, "{:?} is not {expected:?}", self.profiles());
            self.next().await;
        }
    }

    /// Waits until the watch is running; returns the member that serves it.
    pub(crate) async fn watching(&mut self) -> String {
        let watching = self.status.wait_for(|status| status.endpoint.is_some());
        let status = tokio::time::timeout(LONG, watching).await.expect("no watch").unwrap();
        status.endpoint.as_ref().unwrap().to_string()
    }

    pub(crate) fn listings(&self) -> u64 {
        self.status.borrow().listings
    }

    /// Ends the reader the way the daemon does: by dropping the receiver.
    pub(crate) async fn close(self) {
        drop(self.events);
        tokio::time::timeout(Duration::from_secs(5), self.task)
            .await
            .expect("the task outlives its receiver")
            .unwrap();
    }

    fn apply(&mut self, batch: &Batch) {
        for update in &batch.updates {
            let id = update.id();
            if *update == Update::deleted(id.clone()) {
                assert!(self.objects.remove(&id).is_some(), "{id} was never there");
            } else {
                self.objects.insert(id, update.clone());
            }
        }
        for key in &batch.accepted {
            assert!(self.refused.remove(key).is_some(), "{key} was never refused");
        }
        for rejection in &batch.rejections {
            self.refused.insert(rejection.key.clone(), rejection.id.clone());
        }
    }
}

/// A way to etcd that can be held: what was sent arrives later.
pub(crate) struct Proxy {
    pub(crate) url: String,
    held: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(etcd: &Etcd) -> Self {
        let target = etcd.endpoint.strip_prefix("http://").unwrap().to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (held, gate) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, gate) = (target.clone(), gate.clone());
                tokio::spawn(async move {
                    let Ok(server) = tokio::net::TcpStream::connect(target).await else { return };
                    let (client_read, client_write) = client.into_split();
                    let (server_read, server_write) = server.into_split();
                    tokio::spawn(pass(client_read, server_write, gate.clone()));
                    pass(server_read, client_write, gate).await;
                });
            }
        });
        Self { url, held, task }
    }

    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut gate: watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || gate.wait_for(|held| !held).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
