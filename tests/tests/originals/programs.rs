//! The original programs, and a cluster in which both kinds of plugin are installed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::process::{Command, Output};
use calico_e2e::rkt::{Rkt, Sandbox, draw_uuid};
use calico_e2e::world::{IPPool, Pair, Resource};
use calico_e2e::{run, tutorial};
use serde_json::{Value, json};

/// Where they are.
const VARIABLE: &str = "CALICO_ORIGINALS";
const PROGRAMS: [&str; 3] = ["calico", "calico-ipam", "calicoctl"];
/// A DEL of the original leaves our record of the pod; the collector's two minutes are for people.
const COLLECTOR: &str = "interval = 0.5\ngrace = 2\n";

/// The original programs.
#[derive(Clone, Debug)]
pub(crate) struct Originals {
    dir: PathBuf,
}

impl Originals {
    /// `None`, aloud, where they cannot be had.
    pub(crate) fn find() -> Result<Option<Self>> {
        if !run::can_run() {
            return Ok(None);
        }
        let Some(dir) = std::env::var_os(VARIABLE) else {
            println!("skipped: {VARIABLE} is not set");
            return Ok(None);
        };
        let dir = std::fs::canonicalize(&dir).with_context(|| format!("{VARIABLE}={dir:?}"))?;
        for program in PROGRAMS {
            ensure!(dir.join(program).is_file(), "{VARIABLE}={}: no {program}", dir.display());
        }
        let originals = Self { dir };
        println!("the originals are {}", originals.version()?);
        Ok(Some(originals))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the plugin says of itself: `v3.32.1`.
    pub(crate) fn version(&self) -> Result<String> {
        Ok(Command::new(self.dir.join("calico")).arg("-v").run()?.trim().to_owned())
    }

    /// True for this version and later ones.
    pub(crate) fn is_at_least(&self, major: u32, minor: u32) -> Result<bool> {
        let text = self.version()?;
        let mut parts = text.trim_start_matches('v').split('.').map(str::parse);
        let mut next = || parts.next()?.ok();
        let version = next().zip(next()).with_context(|| format!("no version: {text}"))?;
        Ok(version >= (major, minor))
    }

    /// The administrator on a host.
    pub(crate) fn calicoctl(&self, host: &Host, words: &str) -> Command {
        let command = host.ns().command(self.dir.join("calicoctl"));
        command
            .args(words.split_whitespace())
            .env("DATASTORE_TYPE", "etcdv3")
            .env("ETCD_ENDPOINTS", host.etcd())
    }

    /// What it prints of objects.
    pub(crate) fn get(&self, host: &Host, words: &str) -> Result<Value> {
        let text = self.calicoctl(host, &format!("get {words} -o json")).run()?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// `calicoctl <words> -f -`.
    pub(crate) fn submit(&self, host: &Host, words: &str, document: &Value) -> Result<Output> {
        let command = self.calicoctl(host, &format!("{words} -f -"));
        command.input(document.to_string()).output()
    }

    /// The same, and it must be taken.
    pub(crate) fn apply(&self, host: &Host, document: &Value) -> Result<()> {
        let output = self.submit(host, "apply", document)?;
        let Output { status, stdout, stderr } = output;
        ensure!(status.success(), "apply {document}: {stdout}{stderr}");
        Ok(())
    }
}

/// A host's rkt with our plugins, and with the original ones. The confs are the same files.
#[derive(Debug)]
pub(crate) struct Both {
    pub(crate) ours: Rkt,
    pub(crate) theirs: Rkt,
}

impl Both {
    pub(crate) fn of(&self, maker: Maker) -> &Rkt {
        match maker {
            Maker::Ours => &self.ours,
            Maker::Theirs => &self.theirs,
        }
    }
}

/// Whose plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    Ours,
    Theirs,
}

impl Maker {
    pub(crate) const ALL: [Self; 2] = [Self::Ours, Self::Theirs];
}

/// Two hosts with agents, and both kinds of plugin.
#[derive(Debug)]
pub(crate) struct Lab {
    /// By host. Before the cluster: it goes first.
    pub(crate) rkts: Vec<Both>,
    pub(crate) cluster: Cluster,
    pub(crate) originals: Originals,
}

/// How long a plugin may wait for the agent: two cores do the work of all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

impl Lab {
    pub(crate) fn new(originals: Originals, label: &str, pools: &[Pair]) -> Result<Self> {
        let mut cluster = Cluster::new(label)?;
        let mut all = tutorial::before_pods();
        all.retain(|(key, _)| !key.contains("/ippools/"));
        all.extend_from_slice(pools);
        cluster.etcd.put_all(&all)?;
        let mut rkts = Vec::new();
        for host in &cluster.hosts {
            let ours = Rkt::new(host)?.as_installed(host)?;
            let toml = format!("[collector]\n{COLLECTOR}rkt_data_dir = {:?}\n", ours.data());
            std::fs::write(host.config_dir().join("agent.toml"), toml)?;
            let theirs = ours.clone().with_plugins(originals.dir());
            rkts.push(Both { ours, theirs });
        }
        cluster.start_agents(Flavour::Auto)?;
        cluster.wait_until_ready()?;
        let lab = Self { rkts, cluster, originals };
        lab.network("network1", &json!({}))?;
        let v6 = json!({ "ipam": { "type": "calico-ipam", "assign_ipv6": "true" } });
        lab.network("network2", &v6)?;
        Ok(lab)
    }

    /// A network on every host: one conf for both plugins, as one that changes over has it.
    pub(crate) fn network(&self, name: &str, more: &Value) -> Result<()> {
        let mut conf = json!({
            "datastore_type": "etcdv3",
            "etcd_endpoints": self.cluster.etcd.endpoint(),
            "policy_setup_timeout_seconds": PATIENCE.as_secs(),
            "log_level": "info",
        });
        if let Some((conf, more)) = conf.as_object_mut().zip(more.as_object()) {
            conf.extend(more.clone());
        }
        self.rkts.iter().try_for_each(|rkt| rkt.ours.network(name, &conf))
    }

    /// A new pod on a network, which has its `CNI_ARGS`.
    pub(crate) fn add(&self, host: usize, maker: Maker, network: (&str, &str)) -> Result<Sandbox> {
        let rkt = self.rkts[host].of(maker);
        let mut pod = rkt.prepare(self.cluster.run(), &draw_uuid()?)?;
        rkt.connect(&mut pod, &[network])?;
        Ok(pod)
    }

    /// The pod goes, and its DEL finds nothing to complain of.
    pub(crate) fn remove(&self, host: usize, by: Maker, mut pod: Sandbox) -> Result<()> {
        let rkt = self.rkts[host].of(by);
        pod.hand_over(rkt);
        let refusals = rkt.remove(pod)?;
        ensure!(refusals.is_empty(), "{refusals:?}");
        Ok(())
    }

    pub(crate) fn host(&self, index: usize) -> &Host {
        &self.cluster.hosts[index]
    }
}

pub(crate) fn pool(name: &str, cidr: &str, block_size: u8) -> Pair {
    Resource::new(name, IPPool::plain(cidr, block_size, false)).pair()
}
