//! Network namespaces under `/run/netns`, made with `ip netns` so that an operator can enter them.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::process::{Command, end_all};
use crate::run::{self, Run};

const DIRECTORY: &str = "/run/netns";

/// A namespace by its name: somewhere to run things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    name: String,
}

/// A namespace of this run. Dropping it ends what runs inside and removes it.
#[derive(Debug)]
pub struct Netns {
    place: Place,
    keep: PathBuf,
}

impl std::ops::Deref for Netns {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Netns {
    /// Makes `<run>-<what>`: loopback up, no duplicate address detection (it would cost a second
    /// per address), and unprivileged echo sockets allowed (the probes use them).
    ///
    /// # Errors
    /// When the kernel or `ip` refuses.
    pub fn new(run: &Run, what: &str) -> Result<Self> {
        let ns = Self::fresh(run, what)?;
        ns.ip("link set lo up")?;
        for key in ["ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad"] {
            ns.sysctl(key, "0")?;
        }
        Ok(ns)
    }

    /// Makes `<run>-<what>` as the kernel makes it: loopback down, no setting changed but what the
    /// probes need.
    ///
    /// # Errors
    /// When the kernel or `ip` refuses.
    pub fn fresh(run: &Run, what: &str) -> Result<Self> {
        Self::make(run, format!("{}-{what}", run.name()))
    }

    /// The same under a name that does not tell its run, such as runtimes give.
    ///
    /// # Errors
    /// When the kernel or `ip` refuses.
    pub fn named(run: &Run, name: &str) -> Result<Self> {
        run.will_own(name)?;
        Self::make(run, name.to_owned())
    }

    fn make(run: &Run, name: String) -> Result<Self> {
        run::stop_if_interrupted();
        Command::new("ip").args(["netns", "add", &name]).run()?;
        let ns = Self { place: Place { name }, keep: run.dir().join("keep") };
        for (key, value) in [
            ("ipv4/ping_group_range", "0 2147483647"),
            // "No route" must not look like silence because it was said too often.
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv6/icmp/ratelimit", "0"),
        ] {
            ns.sysctl(key, value)?;
        }
        Ok(ns)
    }
}

impl Place {
    /// The same place, whoever owns the namespace.
    pub fn place(&self) -> Place {
        self.clone()
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` wants.
    pub fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// Runs `work` on a thread that is inside. Sockets and processes made there stay inside.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what `work` returns.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        enter(&self.name, work)
    }

    /// Runs several `ip` commands, one a line, in one process.
    ///
    /// # Errors
    /// When one fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let command = Command::new("ip").args(["-batch", "-"]).input(lines).within(self);
        command.run().with_context(|| format!("in {}:\n{lines}", self.name))?;
        Ok(())
    }

    /// Writes `/proc/sys/net/<key>`.
    ///
    /// # Errors
    /// When there is no such key, or it takes no such value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| std::fs::write(&path, value).with_context(|| format!("{path} = {value}")))
    }

    /// Reads `/proc/sys/net/<key>`, trimmed.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = format!("/proc/sys/net/{key}");
        let text = self.enter(|| std::fs::read_to_string(&path).context(path.clone()))?;
        Ok(text.trim().to_owned())
    }

    /// A command that runs inside, ready for its arguments.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        Command::new(program).within(self)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.keep.exists() {
            end_all(&pids(&self.name), Duration::from_secs(2));
            delete(&self.name);
        }
    }
}

/// A namespace that somebody else owns.
pub fn place(name: &str) -> Place {
    Place { name: name.to_owned() }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(DIRECTORY).join(name)
}

/// As [`Place::enter`], by name.
///
/// # Errors
/// When there is no such namespace, or what `work` returns.
pub fn enter<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(path(name)).with_context(|| format!("no namespace {name}"))?;
    // A namespace belongs to a thread: a fresh one cannot leak it into a test's own.
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {name}"))?;
            work()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The names of all namespaces on this machine.
pub fn list() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The processes inside, never this one.
pub fn pids(name: &str) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let output = Command::new("ip").args(["netns", "pids", name]).run().unwrap_or_default();
    output.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != own).collect()
}

/// Removes a namespace; absent is fine.
pub fn delete(name: &str) {
    let _ = Command::new("ip").args(["netns", "delete", name]).run();
}
