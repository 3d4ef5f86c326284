//! A host with an etcd, its pods, and calls of the plugin.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use calico_datastore::backend::etcd3::{Etcd3, Etcd3Config};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tempfile::TempDir;

static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) const POD: &str = "c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11";
pub(crate) const OTHER: &str = "0b61d5d2-77aa-4c3f-8a52-5f0d9f1e6c02";
pub(crate) const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";

/// An address of the host, and what its Node says.
pub(crate) const HOST_ADDRESS: &str = "172.18.18.101";

const SEEDS: [(&str, &str); 3] = [
    ("clusterinformations/default", r#"{"spec":{"datastoreReady":true}}"#),
    ("nodes/calico-01", r#"{"spec":{"bgp":{"ipv4Address":"172.18.18.101/24"}}}"#),
    (
        "ippools/first",
        r#"{"spec":{"cidr":"192.168.0.0/16","blockSize":26,"nodeSelector":"all()"}}"#,
    ),
];

/// A namespace under `/run/netns`, gone with the value.
pub(crate) struct Netns(pub(crate) String);

impl Netns {
    pub(crate) fn new(what: &str) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cniplug-{}-{what}{count}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        Self(name)
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/var/run/netns").join(&self.0)
    }

    /// `ip -j` inside.
    pub(crate) fn ip(&self, words: &str) -> Value {
        let mut ip = Command::new("ip");
        let text = run(ip.args(["-n", &self.0, "-j"]).args(words.split(' ')));
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// The names of its interfaces but `lo`.
    pub(crate) fn links(&self) -> Vec<String> {
        let all = self.ip("link show");
        let names = all.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap());
        let mut names: Vec<_> = names.filter(|n| *n != "lo").map(str::to_owned).collect();
        names.sort();
        names
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).stderr(Stdio::null()).status();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The host.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    // Before the namespace: it must be gone first.
    etcd: Option<Etcd>,
    pub(crate) host: Netns,
}

/// `None`, aloud, where namespaces or etcd cannot be had.
pub(crate) fn world() -> Option<World> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for network namespaces");
        return None;
    }
    if Command::new("etcd").arg("--version").output().is_err() {
        println!("skipped: there is no etcd here");
        return None;
    }
    let host = Netns::new("host");
    run(Command::new("ip").args(["-n", &host.0, "link", "set", "lo", "up"]));
    let address = format!("{HOST_ADDRESS}/32");
    run(Command::new("ip").args(["-n", &host.0, "addr", "add", &address, "dev", "lo"]));
    let mut world = World { dir: tempfile::tempdir().unwrap(), etcd: None, host };
    for dir in ["etc", "run", "state", "pod", "bin"] {
        std::fs::create_dir(world.path(dir)).unwrap();
    }
    std::fs::write(world.path("state/nodename"), "calico-01\n").unwrap();
    world.start_etcd();
    for (key, value) in SEEDS {
        world.put(key, value);
    }
    Some(world)
}

impl World {
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Starts etcd where everybody looks for it.
    pub(crate) fn start_etcd(&mut self) {
        let mut etcd = Command::new("ip");
        etcd.args(["netns", "exec", &self.host.0, "etcd", "--unsafe-no-fsync"]);
        etcd.arg("--data-dir").arg(self.path("etcd"));
        etcd.args(["--listen-client-urls", "http://127.0.0.1:2379"]);
        etcd.args(["--advertise-client-urls", "http://127.0.0.1:2379"]);
        etcd.args(["--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "error"]);
        let log = File::create(self.path("etcd.log")).unwrap();
        etcd.stdout(log.try_clone().unwrap()).stderr(log);
        if !Command::new("etcd").arg("--help").output().is_ok_and(|output| {
            String::from_utf8_lossy(&output.stderr).contains("unsafe-no-fsync")
                || String::from_utf8_lossy(&output.stdout).contains("unsafe-no-fsync")
        }) {
            let args: Vec<_> = etcd.get_args().map(std::ffi::OsStr::to_owned).collect();
            let kept = args.iter().filter(|arg| *arg != "--unsafe-no-fsync");
            let mut plain = Command::new("ip");
            plain.args(kept);
            let log = File::create(self.path("etcd.log")).unwrap();
            plain.stdout(log.try_clone().unwrap()).stderr(log);
            etcd = plain;
        }
        self.etcd = Some(Etcd(etcd.spawn().unwrap()));
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.store(async |store| store.get("/x").await.is_err()) {
            assert!(Instant::now() < deadline, "etcd does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn stop_etcd(&mut self) {
        self.etcd = None;
    }

    /// Works with etcd from inside the host.
    pub(crate) fn store<T: Send>(&self, work: impl AsyncFnOnce(Etcd3) -> T + Send) -> T {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let endpoints = vec!["http://127.0.0.1:2379".to_owned()];
            let config = Etcd3Config { endpoints, ..Etcd3Config::default() };
            runtime.unwrap().block_on(work(Etcd3::new(config).unwrap()))
        })
    }

    /// Runs on a thread inside the host.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(self.host.path()).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    pub(crate) fn put(&self, resource: &str, value: &str) {
        let key = format!("{RESOURCES}{resource}");
        self.store(async |store| store.put(&key, value.as_bytes()).await.unwrap());
    }

    /// Everything below a prefix.
    pub(crate) fn stored(&self, prefix: &str) -> BTreeMap<String, String> {
        // On a busy machine etcd may be silent for longer than a client waits.
        let deadline = Instant::now() + Duration::from_secs(30);
        let list = loop {
            match self.store(async |store| store.list(prefix).await) {
                Ok(list) => break list,
                Err(error) => assert!(Instant::now() < deadline, "{}", error.chain()),
            }
        };
        let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
        list.into_iter().map(|(key, value)| (key, text(value.value))).collect()
    }

    /// What pods have: endpoints, handles, allocated addresses, interfaces of the host, records.
    /// Empty on a host without pods.
    pub(crate) fn holdings(&self) -> Vec<String> {
        let mut found: Vec<String> = self
            .stored(&format!("{RESOURCES}workloadendpoints/"))
            .into_keys()
            .chain(self.stored("/calico/ipam/v2/handle/").into_keys())
            .collect();
        for (key, block) in self.stored("/calico/ipam/v2/assignment/") {
            let block: Value = serde_json::from_str(&block).unwrap();
            let taken = block["allocations"].as_array().unwrap().iter();
            let taken = taken.enumerate().filter(|(_, owner)| !owner.is_null());
            found.extend(taken.map(|(at, _)| format!("{key} #{at}")));
        }
        found.extend(self.host.links());
        found.extend(self.records());
        found
    }

    /// The files that remember attachments.
    pub(crate) fn records(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("state/attachments")) else { return vec![] };
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The configuration of a network, with the directories of this host; `more` replaces.
    pub(crate) fn conf(&self, network: &str, more: Value) -> Value {
        let mut conf = json!({
            "name": network,
            "type": "calico",
            "ipam": {"type": "calico-ipam"},
            "policy_setup_timeout_seconds": 0,
            "config_dir": self.path("etc"),
            "run_dir": self.path("run"),
            "state_dir": self.path("state"),
        });
        for (key, value) in more.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf
    }

    /// A call, as rkt makes it.
    pub(crate) fn call(&self, command: &str, conf: &Value) -> Call<'_> {
        Call {
            world: self,
            program: PathBuf::from(env!("CARGO_BIN_EXE_calico")),
            command: command.to_owned(),
            container: POD.to_owned(),
            netns: String::new(),
            ifname: "eth0".to_owned(),
            args: String::new(),
            stdin: conf.to_string(),
            stdout: None,
        }
    }
}

/// A call of the plugin.
pub(crate) struct Call<'a> {
    world: &'a World,
    program: PathBuf,
    command: String,
    container: String,
    netns: String,
    ifname: String,
    args: String,
    stdin: String,
    stdout: Option<PathBuf>,
}

impl Call<'_> {
    pub(crate) fn container(mut self, id: &str) -> Self {
        self.container = id.to_owned();
        self
    }

    pub(crate) fn netns(mut self, path: impl AsRef<Path>) -> Self {
        self.netns = path.as_ref().to_str().unwrap().to_owned();
        self
    }

    pub(crate) fn ifname(mut self, name: &str) -> Self {
        self.ifname = name.to_owned();
        self
    }

    pub(crate) fn args(mut self, args: &str) -> Self {
        self.args = args.to_owned();
        self
    }

    pub(crate) fn program(mut self, path: &Path) -> Self {
        self.program = path.to_owned();
        self
    }

    pub(crate) fn stdout(mut self, path: &str) -> Self {
        self.stdout = Some(path.into());
        self
    }

    pub(crate) fn spawn(&self) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.world.host.0]).arg(&self.program);
        // The pod's directory: the third entry of CNI_PATH is relative to it.
        command.current_dir(self.world.path("pod")).env_clear();
        let path = std::env::var("PATH").unwrap();
        let plugins = format!("/nowhere:{}:../bin", self.world.path("etc").display());
        command.envs([
            ("PATH", &*path),
            ("CNI_COMMAND", &*self.command),
            ("CNI_CONTAINERID", &*self.container),
            ("CNI_NETNS", &*self.netns),
            ("CNI_IFNAME", &*self.ifname),
            ("CNI_ARGS", &*self.args),
            ("CNI_PATH", &*plugins),
            ("CNI_VERSION", "0.1.0"),
        ]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        match &self.stdout {
            Some(path) => command.stdout(File::options().write(true).open(path).unwrap()),
            None => command.stdout(Stdio::piped()),
        };
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(self.stdin.as_bytes());
        child
    }

    fn output(&self) -> Output {
        self.spawn().wait_with_output().unwrap()
    }

    /// Succeeds; what it printed, or null.
    pub(crate) fn succeeds(&self) -> Value {
        let output = self.output();
        let text = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} failed: {text} {stderr}", self.command);
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Fails with this code; `msg; details`.
    pub(crate) fn fails(&self, code: u32) -> String {
        let output = self.output();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{} succeeded: {text}", self.command);
        let said: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        assert_eq!(said["code"], code, "{said}");
        let words = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        format!("{}; {}", words("msg"), words("details"))
    }
}
