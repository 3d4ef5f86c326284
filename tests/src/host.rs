//! A host: a namespace on the wire, the agent's three directories, the agent, BIRD.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::dataplane;
pub use crate::dataplane::Flavour;
use crate::matrix::Site;
use crate::netns::Netns;
use crate::process::{Command, Output, Process};
use crate::run::Run;
use crate::status::Status;
use crate::tutorial::HostSpec;
use crate::wait;

/// A host.
#[derive(Debug)]
pub struct Host {
    /// What it is.
    pub spec: HostSpec,
    /// Which dataplane its agent uses.
    pub flavour: Flavour,
    /// More environment for its agent: `FELIX_…`, `PATH`.
    pub env: Vec<(String, String)>,
    ns: Netns,
    dir: PathBuf,
    etcd: String,
    agent: Option<Process>,
    bird: Option<Process>,
    run: String,
    was_read: AtomicBool,
}

impl Host {
    /// A namespace with loopback; [`crate::cluster`] plugs in the wire. `etcd`: its URLs, or
    /// `dir:/path` for a host by itself.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(run: &Run, spec: &HostSpec, etcd: &str) -> Result<Self> {
        let ns = Netns::new(run, spec.name)?;
        let dir = run.dir().join(spec.name);
        for sub in ["etc", "run", "lib"] {
            std::fs::create_dir_all(dir.join(sub))?;
        }
        Ok(Self {
            spec: *spec,
            flavour: Flavour::Auto,
            env: Vec::new(),
            ns,
            dir,
            etcd: etcd.to_owned(),
            agent: None,
            bird: None,
            run: run.name().to_owned(),
            was_read: AtomicBool::new(false),
        })
    }

    /// Its namespace.
    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    /// Where everything of it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// etcd's client URLs, with commas between.
    pub fn etcd(&self) -> &str {
        &self.etcd
    }

    /// The agent's `--config-dir`.
    pub fn config_dir(&self) -> PathBuf {
        self.dir.join("etc")
    }

    /// The agent's `--run-dir`.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The agent's `--state-dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("lib")
    }

    /// The last good policy, as the agent keeps it on disk; see [`crate::reboot::content`].
    pub fn stored_policy(&self) -> PathBuf {
        self.state_dir().join("policy.json")
    }

    /// The agent's log.
    pub fn agent_log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// The lock of the legacy tables, as this host's programs know it.
    pub fn xtables_lock(&self) -> PathBuf {
        self.dir.join("xtables.lock")
    }

    /// Where the host is asked.
    pub fn site(&self) -> Site {
        let HostSpec { name, v4, v6, .. } = self.spec;
        Site { name: name.to_owned(), netns: self.ns.name().to_owned(), v4, v6 }
    }

    /// The agent's command line.
    ///
    /// # Errors
    /// When the agent is not built.
    pub fn agent_command(&self) -> Result<Command> {
        self.command("run", &[])
    }

    /// `run`, `check` or `plan`, which take the same options, started by `how` (`setpriv …`).
    ///
    /// # Errors
    /// When the agent is not built.
    pub fn command(&self, what: &str, how: &[&str]) -> Result<Command> {
        let words = how.iter().map(OsString::from).chain([agent_binary()?.into_os_string()]);
        let mut words = words.collect::<Vec<_>>().into_iter();
        let program = words.next().context("no program")?;
        let (setting, value) = self.flavour.setting();
        let mut command = self
            .ns
            .command(program)
            .args(words)
            .arg(what)
            .arg("--config-dir")
            .arg(self.config_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(["--nodename", self.spec.name, "--ip", &format!("{}/24", self.spec.v4)])
            .args([if self.etcd.starts_with("dir:") { "--datastore" } else { "--etcd-endpoints" }])
            .arg(&self.etcd)
            .env(setting, value)
            // Otherwise all hosts of all tests on this machine share one lock file.
            .env("XTABLES_LOCKFILE", self.xtables_lock());
        for (key, value) in &self.env {
            command = command.env(key, value);
        }
        Ok(command)
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// When it is not built or cannot be started.
    pub fn start_agent(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent of {} runs already", self.spec.name);
        self.agent = Some(self.agent_command()?.start(&self.agent_log())?);
        self.was_read.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Reads back from the kernel which dataplane the running agent uses, once after each start of it:
    /// that it is the one of this host, and that nothing of an agent is in another. To be called when
    /// policy is in force; [`crate::cluster`] does.
    ///
    /// # Errors
    /// When it is another.
    pub fn read_back(&self) -> Result<()> {
        if self.agent.is_some() && !self.was_read.load(Ordering::Relaxed) {
            dataplane::read_back(&self.run, self.spec.name, self.flavour, self.ns())?;
            self.was_read.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The running agent.
    ///
    /// # Errors
    /// When none was started.
    pub fn agent(&mut self) -> Result<&mut Process> {
        self.agent.as_mut().with_context(|| format!("no agent on {}", self.spec.name))
    }

    /// Ends the agent as systemd would.
    ///
    /// # Errors
    /// When it does not end by itself, or not with success.
    pub fn stop_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        let status = agent.stop()?;
        ensure!(status.success(), "the agent ended with {status}:\n{}", tail(&agent.log()));
        Ok(())
    }

    /// Ends the agent as a crash would.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Starts BIRD once the agent has written its configuration, as the systemd unit does.
    ///
    /// # Errors
    /// When there is no configuration after `limit`.
    pub fn start_bird(&mut self, limit: Duration) -> Result<()> {
        let config = self.state_dir().join("bird/bird.cfg");
        let name = self.spec.name;
        wait::until(&format!("BIRD configuration of {name}"), limit, || {
            let over = self.agent.as_mut().and_then(Process::ended);
            // No use in waiting for a dead agent: its log says why.
            Ok(if let Some(status) = over {
                Some(Err(status))
            } else {
                config.exists().then_some(Ok(()))
            })
        })?
        .map_err(|status| anyhow::anyhow!("the agent on {name} ended with {status}"))?;
        let command = self.ns.command("bird").arg("-f").arg("-c").arg(config).arg("-s");
        let bird = command.arg(self.bird_socket()).start(&self.dir.join("bird.log"))?;
        self.bird = Some(bird);
        Ok(())
    }

    /// Ends BIRD.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_bird(&mut self) -> Result<()> {
        self.bird.take().map_or(Ok(()), |mut bird| bird.stop().map(drop))
    }

    /// BIRD's control socket.
    pub fn bird_socket(&self) -> PathBuf {
        self.run_dir().join("bird.ctl")
    }

    /// `calico-agent status` with more arguments.
    ///
    /// # Errors
    /// When the agent is not built.
    pub fn ask_agent(&self, args: &[&str]) -> Result<Output> {
        let command = Command::new(agent_binary()?).arg("status").arg("--run-dir");
        command.arg(self.run_dir()).args(args).limit(Duration::from_secs(5)).output()
    }

    /// `calico-agent explain` about what its own agent says, or (`offline`) the datastore.
    ///
    /// # Errors
    /// When the agent is not built.
    pub fn explain(&self, offline: bool, words: &str) -> Result<Output> {
        let command = self.ns.command(agent_binary()?).arg("explain");
        let command = command.arg("--config-dir").arg(self.config_dir());
        let command = command.arg("--run-dir").arg(self.run_dir());
        let mut command = command.arg("--state-dir").arg(self.state_dir());
        if offline {
            command = command.args(["--nodename", self.spec.name, "--etcd-endpoints", &self.etcd]);
        }
        command.args(words.split_whitespace()).output()
    }

    /// `calico-agent reset` with more arguments. It knows nothing of the datastore.
    ///
    /// # Errors
    /// When the agent is not built.
    pub fn reset(&self, args: &[&str]) -> Result<Output> {
        let command = self.ns.command(agent_binary()?).arg("reset");
        let command = command.arg("--config-dir").arg(self.config_dir());
        let command = command.arg("--run-dir").arg(self.run_dir());
        let command = command.arg("--state-dir").arg(self.state_dir());
        command.env("XTABLES_LOCKFILE", self.xtables_lock()).args(args).output()
    }

    /// The table for people.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status_text(&self) -> Result<String> {
        let output = self.ask_agent(&[])?;
        ensure!(!output.stdout.is_empty(), "no status of {}: {}", self.spec.name, output.stderr);
        Ok(output.stdout)
    }

    /// The same for programs.
    ///
    /// # Errors
    /// When the agent does not answer, or not with JSON.
    pub fn status(&self) -> Result<Status> {
        let output = self.ask_agent(&["--output", "json"])?;
        Status::parse(&output.stdout)
            .with_context(|| format!("status of {}: {}", self.spec.name, output.stderr.trim()))
    }

    /// True when the agent says that this endpoint's policy is in the kernel.
    pub fn has_status_file(&self, name: &str) -> bool {
        self.run_dir().join("endpoint-status").join(name).exists()
    }

    /// Lets everything run on when this value goes.
    pub fn keep(&mut self) {
        for process in [&mut self.agent, &mut self.bird].into_iter().flatten() {
            process.keep();
        }
    }

    /// The last lines of its logs.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for name in ["agent.log", "bird.log"] {
            let log = std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
            text += &format!("--- {} {name}\n{}\n", self.spec.name, tail(&log));
        }
        text
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// The agent under test: `CALICO_AGENT_BIN`, or the one in the directory where this program was
/// built.
///
/// # Errors
/// When there is none.
pub fn agent_binary() -> Result<PathBuf> {
    built("calico-agent", "calico-agent", "CALICO_AGENT_BIN")
}

/// A program under test: what `variable` says, or the one in the directory where this program was
/// built.
pub(crate) fn built(program: &str, package: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    let beside = here.ancestors().skip(1).take(2).map(|dir: &Path| dir.join(program));
    match beside.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => {
            bail!("{program} is not built: run `cargo build -p {package}`, or set {variable}")
        }
    }
}
