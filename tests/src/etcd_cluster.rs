//! An etcd of three members, each in a namespace of its own on the wire, and what can happen to it.
//!
//! Only the members and their faults. Reading and writing is [`Etcd`](crate::etcd::Etcd)'s.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::cluster::{ETCD, plug};
use crate::netns::Netns;
use crate::process::{Command, Process};
use crate::run::Run;
use crate::wait;

const NAMES: [&str; 3] = ["etcd-a", "etcd-b", "etcd-c"];

/// Where clients come in.
const CLIENT_PORT: u16 = 2379;

/// How long members may take to agree on a leader.
const ELECTION: Duration = Duration::from_secs(15);

/// The three members, in order. Dropping it ends them.
#[derive(Debug)]
pub struct Members {
    members: Vec<Member>,
    dir: PathBuf,
}

/// One member.
#[derive(Debug)]
pub struct Member {
    name: &'static str,
    address: Ipv4Addr,
    data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
    ns: Netns,
}

/// Which packets of a member are dropped, without a word to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All: its clients and the other members see nothing of it any more.
    Everything,
    /// What the hosts send to it. Who writes from the wire itself still may.
    FromHosts,
    /// What it sends to the hosts.
    ToHosts,
}

impl Members {
    /// Three members that know each other, with a leader.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start(run: &Run, wire: &Netns) -> Result<Self> {
        let mut members = Vec::new();
        for (index, name) in (1_u8..).zip(NAMES) {
            let ns = Netns::new(run, name)?;
            let address = Ipv4Addr::new(172, 18, 18, 10 + index);
            let v6 = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0x18, 0, 0, 0, 0x10 + u16::from(index));
            plug(wire, name, &ns, address, v6)?;
            let data = run.dir().join(name);
            let log = run.dir().join(format!("{name}.log"));
            members.push(Member { name, address, data, log, process: None, ns });
        }
        let mut all = Self { members, dir: run.dir().to_owned() };
        all.start_all()?;
        Ok(all)
    }

    /// The client URLs of all, with commas between.
    pub fn endpoints(&self) -> String {
        self.members.iter().map(Member::url).collect::<Vec<_>>().join(",")
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Starts those that do not run and waits for a leader.
    ///
    /// # Errors
    /// When a majority does not come to be.
    pub fn start_all(&mut self) -> Result<()> {
        self.start_all_at_once()?;
        self.leader().map(drop)
    }

    /// Starts those that do not run.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_all_at_once(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(Member::start)
    }

    /// The member that leads, as soon as one does.
    ///
    /// # Errors
    /// When none does in time; carries the logs.
    pub fn leader(&self) -> Result<usize> {
        wait::until("leader of the etcd cluster", ELECTION, || {
            Ok(self.members.iter().position(Member::leads))
        })
        .with_context(|| self.logs())
    }

    /// The member with which a process in `ns` talks: the one with an established connection.
    ///
    /// # Errors
    /// When there is none.
    pub fn serving(&self, ns: &Netns) -> Result<usize> {
        wait::until("connection to a member", Duration::from_secs(10), || {
            let filter = format!("dport = :{CLIENT_PORT}");
            let text = ns.command("ss").args(["-Htn", "state", "established", &filter]).run()?;
            Ok(self.members.iter().position(|m| text.contains(&format!("{}:", m.address))))
        })
    }

    /// Ends one with SIGKILL.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill();
        }
    }

    /// Ends all with SIGKILL.
    pub fn kill_all(&mut self) {
        (0..self.count()).for_each(|index| self.kill(index));
    }

    /// Stops one where it stands: its connections stay open and nobody answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, index: usize) -> Result<()> {
        self.members[index].process()?.pause()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, index: usize) -> Result<()> {
        self.members[index].process()?.signal(Signal::SIGCONT)
    }

    /// Drops packets of one member.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self, index: usize, cut: Cut) -> Result<()> {
        let chain = |hook, what: &str| {
            format!("chain {hook} {{ type filter hook {hook} priority 0; {what} drop; }}\n")
        };
        // Its own loopback stays.
        let chains = match cut {
            Cut::Everything => chain("input", "iifname eth0") + &chain("output", "oifname eth0"),
            Cut::FromHosts => {
                chain("input", &format!("iifname eth0 ip saddr != {ETCD} tcp dport {CLIENT_PORT}"))
            }
            Cut::ToHosts => {
                chain("output", &format!("oifname eth0 ip daddr != {ETCD} tcp sport {CLIENT_PORT}"))
            }
        };
        let text = format!("table inet cut {{\n{chains}}}\n");
        self.members[index].ns.command("nft").args(["-f", "-"]).input(text).run().map(drop)
    }

    /// Ends [`Members::cut`].
    ///
    /// # Errors
    /// When nothing was cut.
    pub fn heal(&self, index: usize) -> Result<()> {
        let args = ["delete", "table", "inet", "cut"];
        self.members[index].ns.command("nft").args(args).run().map(drop)
    }

    /// Forgets the history of one member's store up to now, and gives its space back.
    ///
    /// # Errors
    /// When etcd refuses.
    pub fn compact(&self, revision: i64) -> Result<()> {
        for member in &self.members {
            let compacted = member.ctl().args(["compact", "--physical", &revision.to_string()]);
            // The whole cluster is compacted by the first.
            let output = compacted.output()?;
            anyhow::ensure!(
                output.status.success() || output.stderr.contains("has been compacted"),
                "{}",
                output.stderr
            );
        }
        self.members.iter().try_for_each(|member| member.ctl().arg("defrag").run().map(drop))
    }

    /// Saves the store into a file, which it returns.
    ///
    /// # Errors
    /// When etcd does not give it.
    pub fn snapshot(&self) -> Result<PathBuf> {
        let file = self.dir.join("snapshot.db");
        self.members[0].ctl().args(["snapshot", "save"]).arg(&file).run()?;
        Ok(file)
    }

    /// Puts the store of a snapshot in the place of this one. The cluster's id is made of `token`
    /// and the members' addresses: with the token `etcd-cluster` it is what it was.
    ///
    /// # Errors
    /// When the snapshot cannot be restored.
    pub fn restore(&mut self, snapshot: &Path, token: &str) -> Result<()> {
        self.wipe()?;
        for member in &self.members {
            let peer = member.peer();
            let args =
                ["snapshot", "restore", "--name", member.name, "--initial-cluster", &peers()];
            let restore = Command::new("etcdctl").args(args).arg(snapshot).arg("--data-dir");
            let restore = restore.arg(&member.data).args(["--initial-cluster-token", token]);
            restore.args(["--initial-advertise-peer-urls", &peer]).env("ETCDCTL_API", "3").run()?;
        }
        Ok(())
    }

    /// Ends all members and deletes their data.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn wipe(&mut self) -> Result<()> {
        self.kill_all();
        for member in &self.members {
            fs::remove_dir_all(&member.data).context("cannot delete a member's data")?;
        }
        Ok(())
    }

    fn logs(&self) -> String {
        let log = |member: &Member| {
            let text = fs::read_to_string(&member.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(10)..].join("\n");
            format!("--- {}\n{tail}\n", member.name)
        };
        self.members.iter().map(log).collect()
    }
}

/// `--initial-cluster`.
fn peers() -> String {
    let all = (11..).zip(NAMES).map(|(last, name)| format!("{name}=http://172.18.18.{last}:2380"));
    all.collect::<Vec<_>>().join(",")
}

impl Member {
    fn url(&self) -> String {
        format!("http://{}:{CLIENT_PORT}", self.address)
    }

    fn peer(&self) -> String {
        format!("http://{}:2380", self.address)
    }

    fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        let (client, peer) = (self.url(), self.peer());
        let local = format!("{client},http://127.0.0.1:{CLIENT_PORT}");
        let args = [
            ("--name", self.name),
            ("--listen-client-urls", &local),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &peers()),
            ("--log-level", "warn"),
        ];
        let command = self.ns.command("etcd").args(args.iter().flat_map(|(k, v)| [*k, *v]));
        let command = command.arg("--unsafe-no-fsync").arg("--data-dir").arg(&self.data);
        self.process = Some(command.start(&self.log)?);
        Ok(())
    }

    /// `etcdctl` with this member, over loopback: no cut is in its way.
    fn ctl(&self) -> Command {
        let local = format!("http://127.0.0.1:{CLIENT_PORT}");
        let command = self.ns.command("etcdctl").env("ETCDCTL_API", "3");
        command.args(["--command-timeout=5s", "--endpoints", &local])
    }

    fn leads(&self) -> bool {
        let status = self.ctl().args(["endpoint", "status", "-w", "json"]).run();
        let status = status.ok().and_then(|text| serde_json::from_str(&text).ok());
        status.is_some_and(|status: serde_json::Value| {
            let status = &status[0]["Status"];
            let leader = status["leader"].as_u64();
            leader.is_some_and(|id| id != 0 && Some(id) == status["header"]["member_id"].as_u64())
        })
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("the member does not run")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // One that was stopped by a signal would not hear that it should end.
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }
}
