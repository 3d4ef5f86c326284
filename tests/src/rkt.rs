//! rkt 1.30 as a CNI plugin sees it: how it is called, what is read of its answer, and what becomes
//! of a pod's directory. rkt itself is not needed.
//!
//! A plugin is executed directly, without arguments, in the host's namespace, with the pod's directory
//! as working directory and the conf file byte for byte on standard input. DEL is sent once, in the
//! reverse order, and never to the network whose ADD failed.

mod answer;
mod sandbox;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value, json};

pub use self::answer::{Answer, IpConfig, Refusal};
use self::answer::{refusal, understand};
pub use self::sandbox::{Attached, Sandbox};
use crate::host::{Host, built};
use crate::netns::{Netns, Place};
use crate::process::Command;
use crate::run::Run;

/// The states of a pod, each a directory below `pods`.
const STATES: [&str; 6] = ["embryo", "prepare", "prepared", "run", "exited-garbage", "garbage"];
/// Where stage 1 has its own plugins: relative to the pod's directory.
const BUILTIN: &str = "stage1/rootfs/usr/lib/rkt/plugins/net";
/// How long one call may take: the plugin's own limits are all below.
const LIMIT: Duration = Duration::from_secs(60);

/// The plugin under test: `CALICO_PLUGIN_BIN`, or the one beside this program.
///
/// # Errors
/// When there is none.
pub fn plugin_binary() -> Result<PathBuf> {
    built("calico", "calico-cni", "CALICO_PLUGIN_BIN")
}

/// What `rkt` finds on one host.
#[derive(Clone, Debug)]
pub struct Rkt {
    place: Place,
    /// `--local-config`: `/etc/rkt`.
    config: PathBuf,
    /// `/usr/lib/rkt/plugins/net`.
    plugins: PathBuf,
    /// `--dir`: `/var/lib/rkt`.
    data: PathBuf,
    /// The agent's directories, as keys of a conf.
    keys: Map<String, Value>,
    env: Vec<(String, String)>,
    limit: Duration,
    /// See [`Rkt::as_installed`].
    mounts: Option<String>,
}

impl Rkt {
    /// rkt on a host, with the built plugin installed under both its names, and no network.
    ///
    /// # Errors
    /// When the plugin is not built, or directories cannot be made.
    pub fn new(host: &Host) -> Result<Self> {
        let base = host.dir().join("rkt");
        let (config, plugins, data) = (base.join("etc"), base.join("plugins"), base.join("data"));
        fs::create_dir_all(config.join("net.d"))?;
        fs::create_dir_all(&plugins)?;
        for state in STATES {
            fs::create_dir_all(data.join("pods").join(state))?;
        }
        let binary = fs::canonicalize(plugin_binary()?)?;
        for name in ["calico", "calico-ipam"] {
            match std::os::unix::fs::symlink(&binary, plugins.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => bail!(error),
                _ => {}
            }
        }
        let path = |path: PathBuf| Value::String(path.to_string_lossy().into_owned());
        let keys = [
            ("config_dir", host.config_dir()),
            ("run_dir", host.run_dir()),
            ("state_dir", host.state_dir()),
        ];
        let keys = keys.into_iter().map(|(key, dir)| (key.to_owned(), path(dir))).collect();
        let store = match host.etcd() {
            directory if directory.starts_with("dir:") => ("CALICO_DATASTORE", directory),
            etcd => ("ETCD_ENDPOINTS", etcd),
        };
        let env = vec![(store.0.to_owned(), store.1.to_owned())];
        let place = host.ns().place();
        Ok(Self { place, config, plugins, data, keys, env, limit: LIMIT, mounts: None })
    }

    /// Without a variable of the environment.
    #[must_use]
    pub fn without_env(mut self, key: &str) -> Self {
        self.env.retain(|(known, _)| known != key);
        self
    }

    /// With another environment for rkt, and so for the plugins.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != key);
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The host's directories stand where a host has them (`/etc/calico`, `/run/calico`,
    /// `/var/lib/calico`), for the plugins alone and for as long as each runs: a conf need not name
    /// them.
    ///
    /// # Errors
    /// When directories cannot be made.
    pub fn as_installed(mut self, host: &Host) -> Result<Self> {
        let mut script = String::new();
        for (parent, source) in [("/etc", host.config_dir()), ("/var/lib", host.state_dir())] {
            // This machine may have no such directory, and must not get one.
            let below = host.dir().join("rkt/root").join(parent.trim_start_matches('/'));
            fs::create_dir_all(below.join("calico"))?;
            script += &format!(
                "mount -t overlay overlay -o lowerdir={}:{parent} {parent}\n\
                 mount --bind {} {parent}/calico\n",
                below.display(),
                source.display()
            );
        }
        // Not this one: what is mounted below /run would not be seen through an overlay.
        script += &format!(
            "mkdir -p /run/calico\nmount --bind {} /run/calico\n",
            host.run_dir().display()
        );
        self.mounts = Some(script);
        self.keys.clear();
        Ok(self)
    }

    /// The same host with other plugins installed under the same names.
    #[must_use]
    pub fn with_plugins(mut self, directory: &Path) -> Self {
        directory.clone_into(&mut self.plugins);
        self
    }

    /// Each plugin is killed (-9) when it has worked for this long.
    #[must_use]
    pub fn killing_after(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The tutorial's conf of a network, with this host's directories and `more` keys.
    pub fn conf(&self, name: &str, more: &Value) -> Value {
        let mut conf = json!({
            "name": name, "cniVersion": "0.1.0", "type": "calico", "ipam": { "type": "calico-ipam" },
        });
        if let Some(conf) = conf.as_object_mut() {
            conf.extend(self.keys.clone());
            conf.extend(more.as_object().cloned().unwrap_or_default());
        }
        conf
    }

    /// Writes `/etc/rkt/net.d/<file>`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_network(&self, file: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let path = self.config.join("net.d").join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes `10-calico-<name>.conf` with [`Rkt::conf`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn network(&self, name: &str, more: &Value) -> Result<()> {
        let text = self.conf(name, more).to_string();
        self.write_network(&format!("10-calico-{name}.conf"), text)
    }

    /// Where third-party plugins are.
    pub fn plugins(&self) -> &Path {
        &self.plugins
    }

    /// rkt's data directory: `pods/run/<uuid>`.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Makes the directory and the namespace `cni-<another uuid>` of a pod that has no network yet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prepare(&self, run: &Run, uuid: &str) -> Result<Sandbox> {
        let dir = self.data.join("pods/run").join(uuid);
        fs::create_dir_all(dir.join(BUILTIN))?;
        // Held as long as the pod runs.
        let lock = Flock::lock(File::open(&dir)?, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("{} is locked", dir.display()))?;
        let ns = Netns::named(run, &format!("cni-{}", draw_uuid()?))?;
        let netns = Path::new("/var").join(ns.path().strip_prefix("/")?);
        fs::write(dir.join("netns"), netns.to_string_lossy().as_bytes())?;
        let (uuid, place) = (uuid.to_owned(), ns.place());
        let (ns, lock) = (Some(ns), Some(lock));
        Ok(Sandbox { uuid, attached: Vec::new(), place, ns, netns, dir, lock })
    }

    /// Connects a pod to networks (name, `CNI_ARGS`) as `rkt run --net=name:args` does: in the order
    /// of the conf files' names. When one fails those before it are disconnected.
    ///
    /// # Errors
    /// A [`Refusal`] when the plugin fails; anything else when a network is not there.
    pub fn connect(&self, pod: &mut Sandbox, networks: &[(&str, &str)]) -> Result<()> {
        let confs = self.load(networks)?;
        fs::create_dir_all(pod.dir.join("net"))?;
        for (number, (file, args)) in confs.into_iter().enumerate() {
            let conf = Path::new("net").join(file.file_name().context("no file name")?);
            fs::copy(&file, pod.dir.join(&conf))?;
            let ifname = format!("eth{number}");
            if let Err(error) = self.add(pod, conf, ifname, args) {
                self.disconnect(pod);
                return Err(error);
            }
        }
        pod.place.ip("link set lo up\n")
    }

    fn add(&self, pod: &mut Sandbox, conf: PathBuf, ifname: String, args: &str) -> Result<()> {
        let bytes = fs::read(pod.dir.join(&conf))?;
        let document: Value = serde_json::from_slice(&bytes)?;
        let network = document["name"].as_str().unwrap_or_default().to_owned();
        let plugin = self.find(pod, document["type"].as_str().unwrap_or_default())?;
        let begin = Instant::now();
        let output =
            self.call(pod, &plugin, "ADD", &ifname, args).input(&bytes).output_unless_killed()?;
        let took = begin.elapsed();
        let (result, stderr) = understand(&network, output)?;
        let args = args.to_owned();
        pod.attached.push(Attached { network, ifname, args, result, took, stderr, plugin, conf });
        Ok(())
    }

    /// The conf files of networks, with the arguments of each.
    fn load<'a>(&self, networks: &[(&str, &'a str)]) -> Result<Vec<(PathBuf, &'a str)>> {
        let files = fs::read_dir(self.config.join("net.d"))?;
        let files = files.map(|entry| entry.map(|entry| entry.path()));
        let mut files = files.collect::<std::io::Result<Vec<_>>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
        files.sort();
        let mut wanted = networks.to_vec();
        let mut all = Vec::new();
        for file in files {
            let document: Value = serde_json::from_slice(&fs::read(&file)?)?;
            // The first file of a name counts.
            let at = wanted.iter().position(|(name, _)| document["name"] == **name);
            all.extend(at.map(|at| (file, wanted.remove(at).1)));
        }
        ensure!(wanted.is_empty(), "networks not found: {wanted:?}");
        Ok(all)
    }

    fn find(&self, pod: &Sandbox, kind: &str) -> Result<PathBuf> {
        let found = self.path().into_iter().map(|dir| dir.join(kind));
        let mut found = found.filter(|path| pod.dir.join(path).is_file());
        found.next().with_context(|| format!("Could not find plugin {kind:?}"))
    }

    fn path(&self) -> [PathBuf; 3] {
        [self.config.join("net.d"), self.plugins.clone(), BUILTIN.into()]
    }

    /// One call of a plugin, ready but for its standard input.
    pub fn call(
        &self,
        pod: &Sandbox,
        plugin: &Path,
        command: &str,
        ifname: &str,
        args: &str,
    ) -> Command {
        let path = self.path().map(|dir| dir.to_string_lossy().into_owned()).join(":");
        let call = match &self.mounts {
            None => self.place.command(plugin),
            Some(_) => self.shell("exec \"$0\"").arg(plugin),
        };
        let mut call = call.dir(&pod.dir).limit(self.limit);
        for (key, value) in &self.env {
            call = call.env(key, value);
        }
        call.env("CNI_VERSION", "0.1.0")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &pod.uuid)
            .env("CNI_NETNS", &pod.netns)
            .env("CNI_ARGS", args)
            .env("CNI_IFNAME", ifname)
            .env("CNI_PATH", path)
    }

    /// A script of the administrator's on this host, with what [`Rkt::as_installed`] mounts, and with
    /// this rkt's directories in the place of the real ones.
    pub fn shell(&self, script: &str) -> Command {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let script = script.replace("/usr/lib/rkt/plugins/net", &path(&self.plugins));
        let script = script.replace("/etc/rkt", &path(&self.config));
        let script = format!("{}{script}", self.mounts.as_deref().unwrap_or_default());
        let words = ["--mount", "--propagation", "slave", "bash", "-ec", &script];
        self.place.command("unshare").args(words)
    }

    /// Sends DEL to every network, the last one first, with what was saved at ADD; once.
    fn disconnect(&self, pod: &mut Sandbox) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for attached in std::mem::take(&mut pod.attached).into_iter().rev() {
            let Attached { network, ifname, args, plugin, conf, .. } = attached;
            // Without its copy a network counts as torn down.
            let conf = pod.dir.join(conf);
            let Ok(bytes) = fs::read(&conf) else { continue };
            let call = self.call(pod, &plugin, "DEL", &ifname, &args).input(bytes);
            match call.output_unless_killed() {
                Ok(Some(output)) if output.status.success() => {}
                Ok(output) => refusals.push(refusal(&network, output.as_ref())),
                Err(error) => refusals.push(Refusal::new(&network, &format!("{error:#}"))),
            }
            let _ = fs::remove_file(conf);
        }
        refusals
    }

    /// `rkt rm`, or `rkt gc` later: DEL while the namespace is still there, then nothing is left of the
    /// pod. What a DEL complains of is said and forgotten.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub fn remove(&self, mut pod: Sandbox) -> Result<Vec<Refusal>> {
        pod.stop();
        let garbage = self.data.join("pods/exited-garbage").join(&pod.uuid);
        fs::rename(&pod.dir, &garbage)?;
        pod.dir = garbage;
        let refusals = self.disconnect(&mut pod);
        drop(pod.ns);
        fs::remove_dir_all(&pod.dir)?;
        Ok(refusals)
    }

    /// The same after a reboot: the namespace is gone, and `CNI_NETNS` is empty.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub fn remove_after_reboot(&self, mut pod: Sandbox) -> Result<Vec<Refusal>> {
        pod.stop();
        pod.ns = None;
        ensure!(!pod.place.path().exists(), "the namespace is still there");
        pod.netns = PathBuf::new();
        self.remove(pod)
    }
}

/// A UUID that nobody has.
///
/// # Errors
/// When the kernel does not give one.
pub fn draw_uuid() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}
