//! One run of a test or of the demo: its unique name, its directory, and its end.
//!
//! Everything a run makes is found again from its name alone: namespaces are called
//! `<run>-<what>` or listed in the run's directory, every process lives in one of them, every file in
//! that directory. So the same few lines clean up after a success, a panic, an interrupt, and after the next start when
//! the last owner was killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{netns, process};

/// Where runs keep their files. Short, because a unix socket's path has at most 107 bytes.
const BASE: &str = "/run/calico-e2e";

/// Below a run's directory: a file for each namespace of another name.
const NAMESPACES: &str = "namespaces";

/// Set by the signal thread: nothing new may be made any more.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A unique name and what hangs off it. Dropping it cleans up.
#[derive(Debug)]
pub struct Run {
    name: String,
    dir: PathBuf,
}

impl Run {
    /// Begins a run whose name starts with `label` (a few letters).
    ///
    /// # Errors
    /// Without root, or when the directory cannot be made.
    pub fn new(label: &str) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        ensure!(is_root(), "network namespaces need root");
        on_signals()?;
        sweep();
        let name =
            format!("{label}{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        // Under its final name a directory always has an owner: the sweep of another process must
        // not find it half made.
        let dir = Path::new(BASE).join(&name);
        let young = Path::new(BASE).join(format!(".{name}"));
        fs::create_dir_all(&young).with_context(|| format!("cannot make {}", young.display()))?;
        fs::write(young.join("owner"), owner_line(std::process::id()).unwrap_or_default())?;
        fs::rename(&young, &dir)?;
        Ok(Self { name, dir })
    }

    /// The name that everything of this run begins with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Notes a namespace whose name does not begin with the run's. Before it is made.
    pub(crate) fn will_own(&self, namespace: &str) -> Result<()> {
        let dir = self.dir.join(NAMESPACES);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(namespace), "").context("cannot note a namespace")
    }

    /// Leaves everything as it is when this value goes; `calico-demo clean` removes it later.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn keep(&self) -> Result<()> {
        fs::write(self.dir.join("keep"), "").context("cannot mark the run as kept")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.dir.join("keep").exists() {
            destroy(&self.name);
        }
    }
}

/// True when this process may make namespaces.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// False without root, saying that the test is skipped: there are no namespaces to be had.
pub fn can_run() -> bool {
    if !is_root() {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: network namespaces need root");
        }
    }
    is_root()
}

/// Does not return once the process was asked to end: the signal's thread cleans up and ends it, and
/// nothing new may be made meanwhile.
pub fn stop_if_interrupted() {
    while INTERRUPTED.load(Ordering::Relaxed) {
        std::thread::park();
    }
}

/// Ends what a run left behind. What is gone already is not an error.
pub fn destroy(name: &str) {
    let all = namespaces(name);
    let pids: Vec<i32> = all.iter().flat_map(|n| netns::pids(n)).collect();
    process::end_all(&pids, Duration::from_secs(2));
    for namespace in &all {
        netns::delete(namespace);
    }
    let _ = fs::remove_dir_all(Path::new(BASE).join(name));
}

/// The namespaces of a run that are there.
pub fn namespaces(name: &str) -> Vec<String> {
    let prefix = format!("{name}-");
    let noted = Path::new(BASE).join(name).join(NAMESPACES);
    let all = netns::list().into_iter();
    all.filter(|ns| ns.starts_with(&prefix) || noted.join(ns).exists()).collect()
}

/// The runs on this machine: name, and whether it was kept on purpose.
pub fn list() -> Vec<(String, bool)> {
    let Ok(entries) = fs::read_dir(BASE) else { return Vec::new() };
    let mut all: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            (!name.starts_with('.')).then(|| (name, entry.path().join("keep").exists()))
        })
        .collect();
    all.sort();
    all
}

/// Ends the runs whose owner died without cleaning up (`kill -9`), unless they were kept.
pub fn sweep() {
    for (name, kept) in list() {
        let owner = fs::read_to_string(Path::new(BASE).join(&name).join("owner"));
        if !kept && owner.is_ok_and(|line| !is_alive(&line)) {
            destroy(&name);
        }
    }
}

/// `pid start-time`: the second number tells a reused pid from its first owner.
fn owner_line(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may hold spaces and parentheses; fields count from behind it.
    let start = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("{pid} {start}"))
}

fn is_alive(line: &str) -> bool {
    let pid = line.split(' ').next().and_then(|pid| pid.parse().ok());
    pid.and_then(owner_line).is_some_and(|now| now == line)
}

/// Cleans up on SIGINT, SIGTERM and SIGHUP, then ends with the shell's code for that signal.
fn on_signals() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]);
        result = signals.context("cannot listen for signals").map(|mut signals| {
            std::thread::spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    INTERRUPTED.store(true, Ordering::Relaxed);
                    let mine = owner_line(std::process::id()).unwrap_or_default();
                    for (name, kept) in list() {
                        let owner = fs::read_to_string(Path::new(BASE).join(&name).join("owner"));
                        if !kept && owner.is_ok_and(|line| line == mine) {
                            destroy(&name);
                        }
                    }
                    std::process::exit(128 + signal);
                }
            });
        });
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_not_its_first_owner() {
        let line = owner_line(std::process::id()).unwrap();
        assert!(is_alive(&line));
        assert!(!is_alive(&format!("{line}1")));
        assert!(!is_alive(""));
    }
}
