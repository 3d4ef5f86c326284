//! `calico-agent reset`: removes what the agent, or an original Felix before it, programmed on this
//! host and wrote to its files, and only that.
//!
//! It asks nobody but this host: what is in the datastore stays. It takes the agent's own locks, so
//! it never works against a running one, nor against programs that outlived one. Done twice, the
//! second time finds nothing.
//!
//! | goes | stays |
//! |---|---|
//! | our chains, and our rules in the kernel's chains, of both flavours and families | everything of others |
//! | our own table of nf_tables, and the groups that we put interfaces into | |
//! | our address sets | sets and chains that a rule of somebody else uses: emptied of effect, and named |
//! | routes and blackholes with our protocol number; those of BIRD into the pools | routes of the CNI plugin (protocol boot); what BIRD learned besides |
//! | permanent neighbours of pods | all other neighbours |
//! | endpoint files, the socket, the stored policy and its mark, the MTU of pods, BIRD's configuration | agent.toml, calico.env, the node's name, the lock files, directories |
//! | | kernel parameters: what they were before is not known |

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use calico_datastore::model::Cidr;

use crate::atomic_file;
use crate::calculation::Layers;
use crate::cli::ResetArgs;
use crate::config::{Env, FileConfig, Settings};
use crate::exec::Exec;
use crate::felix::leftovers::Leftovers as Rules;
use crate::lock::{self, Lock, LockError, Programs};
use crate::paths::Paths;
use crate::reconcile::Problem;
use crate::routes::leftovers::Leftovers as Routes;
use crate::startup;
use crate::stored;

/// What is not removed, for people.
const STAYS: &str = "\
Left alone: agent.toml, calico.env, the node's name, and what etcd says of this node (calicoctl
delete node removes that). Kernel parameters stay as they are, for nobody knows what they were: IP
forwarding, and those of pod interfaces, which go with the interfaces, as routes of the CNI plugin
do.
";

/// What became of a configuration with mistakes, for people.
const AS_FAR: &str = "What cannot be read of it counts as not set; everything else of it counts.";

/// Nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// An agent works with this run directory.
    #[error(
        "calico-agent{} runs: stop it first (systemctl stop calico-agent)",
        holder.map_or(String::new(), |pid| format!(" (pid {pid})"))
    )]
    Running {
        /// Its process id, as far as the lock file says.
        holder: Option<u32>,
    },
    /// The agent is gone, and a program that it started is not.
    #[error("a program that an agent started still runs: `fuser {}` names it", path.display())]
    Outlived {
        /// The file that it holds locked.
        path: PathBuf,
    },
    /// BIRD would write its routes again.
    #[error("calico-bird runs: stop it first (systemctl stop calico-bird)")]
    Bird,
    /// The lock cannot be asked.
    #[error(transparent)]
    Lock(LockError),
}

impl ResetError {
    /// True when it was refused for the sake of an agent, or of its BIRD.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Outlived { .. } | Self::Bird)
    }
}

/// What was done, or would be.
#[derive(Debug)]
pub struct Done {
    /// One line for each thing that is gone, or would go.
    pub removed: Vec<String>,
    /// What could not be looked at or removed, and why.
    pub left: Vec<Problem>,
    /// What people should know besides: it keeps nothing from being clean.
    pub notes: Vec<String>,
}

impl Done {
    /// For people.
    pub fn text(&self, dry_run: bool) -> String {
        let verb = if dry_run { "would remove" } else { "removed" };
        let mut text = String::new();
        for line in &self.removed {
            let _ = writeln!(text, "{verb} {line}");
        }
        if self.removed.is_empty() && self.left.is_empty() {
            text += "nothing to remove\n";
        }
        text + STAYS
    }
}

/// Removes everything, or only looks.
///
/// # Errors
/// When an agent runs, or its locks cannot be asked. Then nothing was touched.
pub async fn reset(args: &ResetArgs, env: Env) -> Result<Done, ResetError> {
    let paths = args.paths();
    let _locks = if args.dry_run { None } else { locked(&paths).await? };
    // It says little of what is to be removed, and may be of another version than this one.
    let (file, wrong) = FileConfig::load_as_far(&paths.agent_toml());
    let notes = wrong.iter().map(|wrong| format!("{}\n{AS_FAR}", wrong.lines())).collect();
    let known = known(&startup::layers(&paths, env, file), &paths);
    let exec = Exec::default();
    let found = Found::look(&exec, &paths, &known).await;
    let mut removed = found.lines();
    if args.dry_run {
        return Ok(Done { removed, left: found.problems, notes });
    }
    let left = found.remove(&exec).await;
    // Only what is really gone is said to be.
    let still = Found::look(&exec, &paths, &known).await.lines();
    removed.retain(|line| !still.contains(line));
    Ok(Done { removed, left, notes })
}

/// Waits for programs that outlived an agent, as the next agent would, but then gives up.
async fn locked(paths: &Paths) -> Result<Option<(Lock, Programs)>, ResetError> {
    // Where there is no directory there is no agent.
    if !paths.run_dir.exists() {
        return Ok(None);
    }
    let lock = lock::take(&paths.lock()).map_err(|error| match error {
        LockError::Taken { holder, .. } => ResetError::Running { holder },
        LockError::File { .. } => ResetError::Lock(error),
    })?;
    let path = paths.programs_lock();
    let programs = lock::outlive(&path).await.map_err(ResetError::Lock)?;
    let Some(programs) = programs else { return Err(ResetError::Outlived { path }) };
    // A socket that nobody listens at was left by one that was killed.
    if std::os::unix::net::UnixStream::connect(paths.bird_socket()).is_ok() {
        return Err(ResetError::Bird);
    }
    Ok(Some((lock, programs)))
}

/// What the agent knew.
struct Known {
    settings: Settings,
    pools: Vec<Cidr>,
}

/// As far as this host still knows: what the datastore said is in the stored policy.
fn known(layers: &Layers, paths: &Paths) -> Known {
    match stored::file::read(&paths.stored_policy()) {
        Ok(Some(stored)) => Known {
            settings: layers.state_of(&stored).settings.as_ref().clone(),
            pools: stored.state.pools.keys().copied().collect(),
        },
        // One that cannot be used goes like any other.
        Ok(None) | Err(_) => {
            let settings = layers.resolve(None, None, None).settings;
            Known { settings, pools: Vec::new() }
        }
    }
}

/// What there is to remove.
struct Found {
    rules: Rules,
    routes: Routes,
    files: Vec<PathBuf>,
    /// The one of them that tells [`Known`].
    policy: PathBuf,
    problems: Vec<Problem>,
}

impl Found {
    /// Looks at the kernel of this network namespace and at the agent's directories. Changes nothing.
    async fn look(exec: &Exec, paths: &Paths, known: &Known) -> Self {
        let Known { settings, pools } = known;
        let mut problems = Vec::new();
        let prefix = settings.endpoint_status_prefix.as_ref().unwrap_or(&paths.run_dir);
        let files = files(paths, prefix, &mut problems);
        let rules = Rules::find(exec).await;
        let routes = Routes::find(settings, pools).await;
        problems.extend(rules.problems.iter().chain(&routes.problems).cloned());
        Self { rules, routes, files, policy: paths.stored_policy(), problems }
    }

    /// One line for each thing.
    fn lines(&self) -> Vec<String> {
        let files = self.files.iter().map(|path| format!("file {}", path.display()));
        files.chain(self.routes.lines()).chain(self.rules.lines()).collect()
    }

    /// Removes it; returns what is left, with the reason.
    ///
    /// Files first: the CNI plugin must not take an endpoint for programmed. Routes before rules:
    /// what has no route any more is in no danger when its rules go. What is known of the datastore
    /// goes last: a reset that is broken off can be repeated.
    async fn remove(&self, exec: &Exec) -> Vec<Problem> {
        let mut left = self.problems.clone();
        let (last, first): (Vec<_>, Vec<_>) =
            self.files.iter().partition(|path| **path == self.policy);
        remove_files(&first, &mut left);
        left.extend(self.routes.remove().await);
        left.extend(self.rules.remove(exec).await);
        remove_files(&last, &mut left);
        left
    }
}

fn remove_files(files: &[&PathBuf], left: &mut Vec<Problem>) {
    for path in files {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => left.push(Problem {
                subject: format!("file {}", path.display()),
                message: error.to_string(),
            }),
            _ => {}
        }
    }
}

/// The files of ours that are there.
fn files(paths: &Paths, status_prefix: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let (policy, mtu, bird) = (paths.stored_policy(), paths.mtu(), paths.bird_config());
    // A write that was cut short leaves the new file beside the old one.
    let cut_short = [&policy, &mtu, &bird].map(|path| atomic_file::unfinished(path));
    let single = [paths.api_socket(), paths.policy_marker(), policy, mtu, bird].into_iter();
    let mut found: Vec<PathBuf> =
        single.chain(cut_short).filter(|path| path.symlink_metadata().is_ok()).collect();
    let dir = Paths::endpoint_status_dir(status_prefix);
    match std::fs::read_dir(&dir) {
        Ok(entries) => found.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()))
                .map(|entry| entry.path()),
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => problems.push(Problem {
            subject: format!("directory {}", dir.display()),
            message: error.to_string(),
        }),
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::DirectoryArgs;

    #[test]
    fn files_of_ours_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let sub = |name: &str| dir.path().join(name);
        let paths = Paths { config_dir: sub("etc"), run_dir: sub("run"), state_dir: sub("lib") };
        let ours = [
            "lib/bird/bird.cfg",
            "lib/mtu",
            "lib/policy.json",
            "lib/policy.json.new",
            "run/agent.sock",
            "run/endpoint-status/cni a eth0",
            "run/policy.boot",
        ];
        let others =
            ["etc/agent.toml", "etc/calico.env", "lib/nodename", "lib/other", "run/agent.lock"];
        for file in ours.into_iter().chain(others).chain(["run/endpoint-status/sub/file"]) {
            let path = sub(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut problems = Vec::new();
        let found = files(&paths, &paths.run_dir, &mut problems);
        assert_eq!(found, ours.map(sub));
        assert_eq!(problems, []);
        // Nothing at all is there.
        let none = Paths { config_dir: sub("x"), run_dir: sub("x"), state_dir: sub("x") };
        assert_eq!(files(&none, &none.run_dir, &mut problems), Vec::<PathBuf>::new());
        assert_eq!(problems, []);
    }

    #[tokio::test]
    async fn a_mistake_in_agent_toml_is_told_and_hinders_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let sub = |name: &str| dir.path().join(name);
        let directories =
            DirectoryArgs { config_dir: sub("etc"), run_dir: sub("run"), state_dir: sub("lib") };
        let args = ResetArgs { dry_run: true, etcd: None, directories };
        let paths = args.paths();
        for path in [paths.agent_toml(), paths.stored_policy()] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "[felix]\nnonsense = 1\nlog_severity_screen = \"x\"\n").unwrap();
        }
        let policy = format!("file {}", paths.stored_policy().display());
        let done = reset(&args, Env::default()).await.unwrap();
        assert!(done.removed.contains(&policy), "{done:?}");
        assert!(done.notes[0].contains(":2:1: unknown key `nonsense`"), "{done:?}");
        // One that cannot be read at all.
        std::fs::remove_file(paths.agent_toml()).unwrap();
        std::fs::create_dir(paths.agent_toml()).unwrap();
        let done = reset(&args, Env::default()).await.unwrap();
        assert!(done.removed.contains(&policy), "{done:?}");
        assert!(done.notes[0].starts_with("cannot read "), "{done:?}");
        std::fs::remove_dir(paths.agent_toml()).unwrap();
        assert_eq!(reset(&args, Env::default()).await.unwrap().notes, [""; 0]);
    }

    #[tokio::test]
    async fn it_is_refused_beside_an_agent() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { run_dir: dir.path().to_owned(), ..Paths::default() };
        let held = lock::take(&paths.lock()).unwrap();
        let error = locked(&paths).await.unwrap_err();
        let own = std::process::id();
        assert!(error.is_running() && error.to_string().contains(&format!("(pid {own}) runs")));
        drop(held);
        assert!(locked(&paths).await.unwrap().is_some());
        let none = Paths { run_dir: dir.path().join("none"), ..paths };
        assert!(locked(&none).await.unwrap().is_none());
    }
}
