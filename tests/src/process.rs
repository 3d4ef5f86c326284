//! The only place of this crate that starts processes: bounded in time, output kept, ended by pid.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::netns::{self, Place};
use crate::run;

/// What to run and where. The environment is only what is given here and `PATH`: settings of the
/// caller's shell (`ETCD_ENDPOINTS`…) must not reach an agent under test.
#[derive(Clone, Debug)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    input: Vec<u8>,
    netns: Option<String>,
    dir: Option<PathBuf>,
    limit: Duration,
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Command {
    /// A program, found through `PATH` or by its path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: vec![("PATH".into(), path), ("LC_ALL".into(), "C".into())],
            input: Vec::new(),
            netns: None,
            dir: None,
            limit: Duration::from_secs(30),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable; a later one wins.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What it reads on standard input.
    #[must_use]
    pub fn input(mut self, input: impl AsRef<[u8]>) -> Self {
        self.input = input.as_ref().to_vec();
        self
    }

    /// Runs it inside a namespace.
    #[must_use]
    pub fn within(mut self, ns: &Place) -> Self {
        self.netns = Some(ns.name().to_owned());
        self
    }

    /// Runs it in this directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Kills it after this long (30 s unless set).
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end and returns standard output.
    ///
    /// # Errors
    /// When it cannot be started, takes too long, or ends with an error; says what it wrote.
    pub fn run(&self) -> Result<String> {
        let output = self.output()?;
        let what = self.describe();
        ensure!(output.status.success(), "{what}: {}: {}", output.status, output.stderr.trim());
        Ok(output.stdout)
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started, or takes too long.
    pub fn output(&self) -> Result<Output> {
        let output = self.output_unless_killed()?;
        output.with_context(|| format!("{} did not end within {:?}", self.describe(), self.limit))
    }

    /// As [`Command::output`] for a program that may be killed at its limit: `None` then. What it
    /// started is not.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output_unless_killed(&self) -> Result<Option<Output>> {
        let mut child = self.spawn(Stdio::piped(), Stdio::piped())?;
        let end = Instant::now() + self.limit;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A program that ends early closes the pipe; its status says more than EPIPE.
                stdin.map(|mut pipe| pipe.write_all(&self.input))
            });
            let (closed, is_closed) = std::sync::mpsc::channel();
            let stdout = scope.spawn(move || {
                let all = read_all(stdout);
                let _ = closed.send(());
                all
            });
            let stderr = scope.spawn(move || read_all(stderr));
            // The end of its output is noticed at once, and mostly the end of itself.
            let _ = is_closed.recv_timeout(self.limit);
            let status = wait_for(&mut child, end.saturating_duration_since(Instant::now()));
            if status.is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
            let text = |bytes: std::thread::Result<Vec<u8>>| {
                String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
            };
            let (stdout, stderr) = (text(stdout.join()), text(stderr.join()));
            Ok(status.map(|status| Output { status, stdout, stderr }))
        })
    }

    /// Starts it in the background with both outputs appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened, or the program not started.
    pub fn start(&self, log: &Path) -> Result<Process> {
        run::stop_if_interrupted();
        let open = || {
            let file = File::options().create(true).append(true).open(log);
            file.with_context(|| format!("cannot open {}", log.display()))
        };
        let child = self.spawn(Stdio::from(open()?), Stdio::from(open()?))?;
        Ok(Process { child, what: self.describe(), log: log.to_owned(), kept: false })
    }

    fn spawn(&self, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        #[expect(clippy::disallowed_methods, reason = "this is the place of this crate")]
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env.iter().cloned());
        command.stdin(if self.input.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(stdout).stderr(stderr);
        // Its own process group: Ctrl-C on the terminal reaches only us, and we end it in order.
        command.process_group(0);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let mut start =
            || command.spawn().with_context(|| format!("cannot start {}", self.describe()));
        match &self.netns {
            Some(name) => netns::enter(name, start),
            None => start(),
        }
    }

    fn describe(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args).map(|w| w.to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    }
}

fn read_all(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// Waits for the end of `child`, at most `limit`.
fn wait_for(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(50);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// A program in the background. Dropping it ends it: SIGTERM, and SIGKILL after 5 s.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
    kept: bool,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = wait_for(&mut self.child, limit);
        status.with_context(|| format!("{} still runs after {limit:?}", self.what))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal)
            .with_context(|| format!("{signal} to {}", self.what))
    }

    /// Stops it where it stands, all its threads: back when none of them runs any more.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let id = Id::Pid(Pid::from_raw(i32::try_from(self.pid())?));
        // Also for one that ends in this moment, or nobody would ever wake us.
        let which = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        let state = waitid(id, which).with_context(|| format!("the pause of {}", self.what))?;
        ensure!(matches!(state, WaitStatus::Stopped(..)), "{} ended: {state:?}", self.what);
        Ok(())
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// When it does not end by itself within 5 s; it is killed then.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(Duration::from_secs(5));
        if status.is_err() {
            self.kill();
        }
        status
    }

    /// Ends it with SIGKILL: what a power cut leaves.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets it run on when this value goes.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// How many children it has right now.
    pub fn children(&self) -> usize {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let children = |task: std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("children")).unwrap_or_default()
        };
        let tasks = tasks.into_iter().flatten().flatten().map(children);
        tasks.map(|pids| pids.split_whitespace().count()).sum()
    }

    /// Everything it said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.stop();
        }
    }
}

/// Ends processes that are not our children: SIGTERM, and SIGKILL to what is left after `limit`.
pub fn end_all(pids: &[i32], limit: Duration) {
    let each = |signal: Option<Signal>| {
        pids.iter().filter(|pid| kill(Pid::from_raw(**pid), signal).is_ok()).count()
    };
    let end = Instant::now() + limit;
    each(Some(Signal::SIGTERM));
    while Instant::now() < end {
        if pids.iter().all(|pid| is_over(*pid)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    each(Some(Signal::SIGKILL));
}

/// Gone, or a zombie that only waits for its parent to ask.
fn is_over(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_input_go_through() {
        let text = "x".repeat(1 << 20);
        assert_eq!(Command::new("cat").input(&text).run().unwrap(), text);
    }

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let error = Command::new("sh").args(["-c", "echo no >&2; exit 4"]).run().unwrap_err();
        assert!(error.to_string().ends_with("exit status: 4: no"), "{error}");
    }

    #[test]
    fn a_hanging_program_is_ended() {
        let command = Command::new("sleep").arg("60").limit(Duration::from_millis(50));
        assert!(command.run().unwrap_err().to_string().contains("did not end within"));
    }

    #[test]
    fn only_the_given_environment_reaches_the_program() {
        let said = Command::new("env").env("A", "1").env("A", "2").run().unwrap();
        assert!(said.contains("A=2") && !said.contains("CARGO"), "{said}");
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let command = Command::new("sh").args(["-c", "trap '' TERM; echo up; exec sleep 60"]);
        let process = command.start(log.path()).unwrap();
        while process.log().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = i32::try_from(process.pid()).unwrap();
        end_all(&[pid], Duration::from_millis(50));
        std::thread::sleep(Duration::from_millis(50));
        assert!(is_over(pid));
        drop(process);
    }
}
