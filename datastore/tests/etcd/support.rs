//! An etcd to break, a layout to decode, and a reader that checks what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_datastore::backend::etcd3::{Etcd3, Etcd3Config, Etcd3Source, SourceStatus};
use calico_datastore::backend::{Batch, Layout, SyncEvent};
use calico_datastore::layout::{Decoded, Rejection};
use calico_datastore::model::{
    ClusterInformation, FelixConfiguration, Name, Profile, ResourceId, Update,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(crate) const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
pub(crate) const IPAM: &str = "/calico/ipam/v2/";
pub(crate) const READY_KEY: &str =
    "/calico/resources/v3/projectcalico.org/clusterinformations/default";
pub(crate) const READY: &[u8] = br#"{"spec":{"datastoreReady":true}}"#;
pub(crate) const NOT_READY: &[u8] = br#"{"spec":{"datastoreReady":false}}"#;

/// Longer than anything here takes on a busy machine; a bound, never a pause.
pub(crate) const LONG: Duration = Duration::from_secs(40);

/// Profiles with a label `v` and, in the other prefix, settings with a parameter `v`: enough to
/// tell values apart.
pub(crate) const LAYOUT: Layout =
    Layout { prefixes: &[IPAM, RESOURCES], ready_key: READY_KEY, decode, id_of };

pub(crate) fn profile_key(name: impl std::fmt::Display) -> String {
    format!("{RESOURCES}profiles/{name}")
}

pub(crate) fn ipam_key(name: impl std::fmt::Display) -> String {
    format!("{IPAM}setting/{name}")
}

pub(crate) fn value(v: impl std::fmt::Display) -> Vec<u8> {
    format!(r#"{{"v":"{v}"}}"#).into_bytes()
}

fn id_of(key: &str) -> Option<ResourceId> {
    if let Some(name) = key.strip_prefix(RESOURCES).and_then(|key| key.strip_prefix("profiles/")) {
        return Some(ResourceId::Profile(Name::from(name)));
    }
    let name = key.strip_prefix(IPAM)?.strip_prefix("setting/")?;
    Some(ResourceId::FelixConfiguration(Name::from(name)))
}

fn decode(key: &str, value: &[u8]) -> Decoded {
    let json = serde_json::from_slice::<serde_json::Value>(value);
    if key == READY_KEY {
        let ready = json.is_ok_and(|json| json["spec"]["datastoreReady"] == true);
        let info = ClusterInformation { datastore_ready: ready, guid: None, calico_version: None };
        return Decoded::Object(Update::ClusterInformation(Some(Arc::new(info))));
    }
    if key.starts_with(&format!("{RESOURCES}bgppeers/")) {
        return Decoded::Unsupported { kind: "bgppeers".to_owned() };
    }
    let Some(id) = id_of(key) else { return Decoded::Ignored };
    let v = json.ok().and_then(|json| Some(json.get("v")?.as_str()?.to_owned()));
    let Some(v) = v else {
        let reason = "v: not a string".to_owned();
        return Decoded::Rejected(Rejection { key: key.to_owned(), id: Some(id), reason });
    };
    Decoded::Object(match id {
        ResourceId::Profile(name) => {
            let labels = [("v", v)].into_iter().collect();
            Update::Profile(name, Some(Arc::new(Profile { labels, ..Profile::default() })))
        }
        ResourceId::FelixConfiguration(name) => {
            let parameters = [("v".into(), v.into())].into();
            Update::FelixConfiguration(name, Some(Arc::new(FelixConfiguration { parameters })))
        }
        other => unreachable!("{other}"),
    })
}

/// An etcd process of our own.
pub(crate) struct Etcd {
    /// What its clients need beside the address.
    pub(crate) access: Etcd3Config,
    process: Option<Child>,
    args: Vec<String>,
    pub(crate) endpoint: String,
    dir: Arc<TempDir>,
    pub(crate) data: PathBuf,
}

/// `None`, said aloud, on a machine without etcd.
pub(crate) async fn etcd() -> Option<Etcd> {
    etcd_with(&[], "http", Etcd3Config::default()).await
}

/// An etcd with more arguments, and what its clients need then.
pub(crate) async fn etcd_with(args: &[&str], scheme: &str, access: Etcd3Config) -> Option<Etcd> {
    if !Path::new("/usr/bin/etcd").exists() {
        eprintln!("skipped: there is no /usr/bin/etcd");
        return None;
    }
    let mut log = String::new();
    // Another test may take the port between looking for it and using it.
    for _ in 0..5 {
        let mut etcd = Etcd::new(args, scheme);
        etcd.access = access.clone();
        etcd.start();
        if etcd.answers().await {
            return Some(etcd);
        }
        log = etcd.log();
    }
    panic!("etcd does not start: {log}");
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    fn new(more: &[&str], scheme: &str) -> Self {
        let (client, peer) = (free_port(), free_port());
        let client = format!("{scheme}://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let args = ["--name", "one", "--initial-cluster", &format!("one={peer}")]
            .iter()
            .chain(more)
            .map(|arg| (*arg).to_owned())
            .collect();
        Self::with(Arc::new(TempDir::new().unwrap()), "one", client, &peer, args)
    }

    /// A member with its own name, directory and addresses.
    pub(crate) fn with(
        dir: Arc<TempDir>,
        name: &str,
        client: String,
        peer: &str,
        mut args: Vec<String>,
    ) -> Self {
        let data = dir.path().join(name);
        let more = [
            ("--data-dir", data.to_str().unwrap()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", peer),
            ("--initial-advertise-peer-urls", peer),
            ("--log-level", "error"),
        ];
        args.extend(
            more.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]),
        );
        Self { access: Etcd3Config::default(), process: None, args, endpoint: client, dir, data }
    }

    #[allow(clippy::disallowed_methods, reason = "exec.rs bounds a run; this outlives the call")]
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none());
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let child = std::process::Command::new("/usr/bin/etcd")
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// Waits until it serves; false when the process ended instead.
    pub(crate) async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.process = None;
                return false;
            }
            if self.client().get("/probe").await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not answer: {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.as_ref().unwrap().id()).unwrap())
    }

    /// Stops it where it stands: its connections stay open and nobody answers.
    pub(crate) fn pause(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        // A thread that runs on another processor goes on for a moment, and may answer in it.
        let which = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(self.pid()), which).unwrap();
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// kill -9.
    pub(crate) fn crash(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.start();
        assert!(self.answers().await, "{}", self.log());
    }

    /// Deletes everything that it stored. It must not be running.
    pub(crate) fn wipe(&self) {
        assert!(self.process.is_none());
        std::fs::remove_dir_all(&self.data).unwrap();
    }

    /// Another value wherever an argument has the old one.
    pub(crate) fn replace_argument(&mut self, old: &str, new: &str) {
        for argument in self.args.iter_mut().filter(|argument| *argument == old) {
            new.clone_into(argument);
        }
    }

    pub(crate) fn config(&self) -> Etcd3Config {
        Etcd3Config { endpoints: vec![self.endpoint.clone()], ..self.access.clone() }
    }

    /// A writer of its own, not the source's.
    pub(crate) fn client(&self) -> Etcd3 {
        Etcd3::new(self.config()).unwrap()
    }

    /// The bare client, for what the agent never does: transactions, compaction.
    pub(crate) async fn raw(&self) -> etcd_client::Client {
        etcd_client::Client::connect([&self.endpoint], None).await.unwrap()
    }

    /// A source that follows this etcd.
    pub(crate) fn follow(&self) -> Reader {
        Reader::start(self.config())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // SIGKILL ends a stopped process too.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Reads a source and checks what holds always: no deletion of what was never there, no key
/// accepted that was not refused, revisions that do not fall unless the store was replaced.
pub(crate) struct Reader {
    events: mpsc::Receiver<SyncEvent>,
    task: JoinHandle<()>,
    pub(crate) status: watch::Receiver<SourceStatus>,
    /// Id → `v`.
    pub(crate) objects: BTreeMap<ResourceId, String>,
    pub(crate) rejected: BTreeMap<String, Rejection>,
    pub(crate) unsupported: BTreeMap<String, usize>,
}

impl Reader {
    pub(crate) fn start(config: Etcd3Config) -> Self {
        let source = Etcd3Source::new(Etcd3::new(config).unwrap(), LAYOUT);
        let status = source.status();
        let (events, task) = source.start();
        Self {
            events,
            task,
            status,
            objects: BTreeMap::new(),
            rejected: BTreeMap::new(),
            unsupported: BTreeMap::new(),
        }
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

    pub(crate) async fn waiting(&mut self) -> String {
        match self.next().await {
            SyncEvent::Waiting { reason } => reason,
            SyncEvent::Changes(batch) => panic!("changes: {batch:?}"),
        }
    }

    /// Waits until the watch is running; returns the member that serves it.
    pub(crate) async fn watching(&mut self) -> Arc<str> {
        let watching = self.status.wait_for(|status| status.endpoint.is_some());
        let status = tokio::time::timeout(LONG, watching).await.expect("no watch").unwrap();
        status.endpoint.clone().unwrap()
    }

    /// Reads until the profiles are these; returns the batches.
    pub(crate) async fn until_profiles(
        &mut self,
        expected: &BTreeMap<String, String>,
    ) -> Vec<Batch> {
        let mut batches = Vec::new();
        while self.profiles() != *expected {
            match self.next().await {
                SyncEvent::Changes(batch) => batches.push(batch),
                SyncEvent::Waiting { .. } => {}
            }
        }
        batches
    }

    pub(crate) fn profiles(&self) -> BTreeMap<String, String> {
        let profiles = self.objects.iter().filter_map(|(id, v)| match id {
            ResourceId::Profile(name) => Some((name.to_string(), v.clone())),
            _ => None,
        });
        profiles.collect()
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
        let mut seen = BTreeSet::new();
        for update in &batch.updates {
            let id = update.id();
            assert!(seen.insert(id.clone()), "{id} is twice in one batch");
            let value = match update {
                Update::Profile(_, Some(profile)) => profile.labels.get("v").map(ToOwned::to_owned),
                Update::FelixConfiguration(_, Some(config)) => {
                    config.parameters.get("v").map(|v| v.to_string())
                }
                Update::ClusterInformation(Some(_)) => Some(String::new()),
                _ => None,
            };
            match value {
                Some(value) => {
                    self.objects.insert(id, value);
                }
                None => assert!(self.objects.remove(&id).is_some(), "{id} was never there"),
            }
        }
        for key in &batch.accepted {
            assert!(self.rejected.remove(key).is_some(), "{key} was never refused");
        }
        for rejection in &batch.rejections {
            self.rejected.insert(rejection.key.clone(), rejection.clone());
        }
        self.unsupported.extend(batch.unsupported.iter().cloned());
    }
}
