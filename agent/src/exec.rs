//! The only place that starts processes: bounded in time, killed when dropped, errors captured.
//!
//! A program that does not even end when it is killed (it hangs in the kernel) is left behind: who
//! waited for it goes on. Of those there may be a few; then nothing more is started, or the host
//! would fill with them.
//!
//! Input is handed over as a whole, as a file in memory. Through a pipe it would come in pieces,
//! and a program that outlives us would take for complete what had arrived by then: a last line that was
//! cut off, say, and `10.0.0.0/2` is not `10.0.0.0/24`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::watch;

/// What a finished program left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, trimmed.
    pub stderr: String,
}

/// A program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It is not installed, or may not be executed.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its input could not be prepared, or its output not be read.
    #[error("cannot talk to {program}")]
    Pipe {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} did not finish within {limit:?}")]
    TimedOut {
        /// The program.
        program: String,
        /// The bound.
        limit: Duration,
    },
    /// Programs that were killed have not ended yet, too many to start another.
    #[error(
        "{program} is not started: {left_behind} programs that were killed do not end; they hang \
         in the kernel (see `ps -eo pid,stat,wchan,args`)"
    )]
    LeftBehind {
        /// The program.
        program: String,
        /// How many there are.
        left_behind: usize,
    },
    /// It ended with an error.
    #[error("{program} {status}: {stderr}")]
    Failed {
        /// The program.
        program: String,
        /// `exit status: 1`, `signal: 9`…
        status: String,
        /// The exit code, when it ended by itself.
        code: Option<i32>,
        /// What it said.
        stderr: String,
    },
}

impl ExecError {
    /// True when the program is missing.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// How many programs may be left behind before no more are started.
const MOST_LEFT_BEHIND: usize = 4;

/// How many programs that have ended are remembered when nobody forgets them.
const REMEMBERED: usize = 64;

/// The programs that run, and those that have ended and may have left events behind: whoever hears
/// from the kernel what a process did can tell whether it is one of ours. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Children(Arc<Mutex<BTreeMap<u32, Option<u64>>>>);

impl Children {
    /// True when a process of that number is or was ours.
    pub fn contains(&self, pid: u32) -> bool {
        self.lock().contains_key(&pid)
    }

    /// Those that have ended, for [`Children::forget`].
    pub fn ended(&self) -> Vec<u32> {
        self.lock().iter().filter(|(_, end)| end.is_some()).map(|(pid, _)| *pid).collect()
    }

    /// Forgets those that have ended: their numbers may be somebody else's from now on.
    pub fn forget(&self, pids: &[u32]) {
        let mut children = self.lock();
        for pid in pids {
            // Another child of ours may run under the same number.
            if children.get(pid).is_some_and(Option::is_some) {
                children.remove(pid);
            }
        }
    }

    fn started(&self, pid: u32) {
        self.lock().insert(pid, None);
    }

    /// `order` grows from child to child.
    fn end(&self, pid: u32, order: u64) {
        let mut children = self.lock();
        children.insert(pid, Some(order));
        let ended = || children.iter().filter_map(|(pid, end)| Some((end.as_ref()?, *pid)));
        if ended().count() > REMEMBERED
            && let Some((_, oldest)) = ended().min()
        {
            children.remove(&oldest);
        }
    }

    /// Nothing inside can be left half-changed, so a panic elsewhere does not matter here.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Option<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes the end of a child, also when nobody waits for it any more.
struct Running<'a>(&'a Children, Option<u32>, u64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(pid) = self.1 {
            self.0.end(pid, self.2);
        }
    }
}

/// Starts programs. Clones share their counters.
#[derive(Clone)]
pub struct Exec {
    limit: Duration,
    spawned: Arc<AtomicU64>,
    children: Children,
    left_behind: Arc<AtomicUsize>,
    steps: watch::Sender<u64>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("limit", &self.limit)
            .field("spawned", &self.spawned())
            .finish()
    }
}

impl Default for Exec {
    fn default() -> Self {
        Self::new(Duration::from_secs(30))
    }
}

impl Exec {
    /// A runner that kills what takes longer than `limit`.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            spawned: Arc::default(),
            left_behind: Arc::default(),
            steps: watch::Sender::default(),
            children: Children::default(),
        }
    }

    /// The programs that it started.
    pub fn children(&self) -> Children {
        self.children.clone()
    }

    /// How many processes were started so far.
    pub fn spawned(&self) -> u64 {
        self.spawned.load(Ordering::Relaxed)
    }

    /// The ends of programs, counted, whatever the ends were: each is a step that is over.
    pub fn steps(&self) -> watch::Receiver<u64> {
        self.steps.subscribe()
    }

    /// Runs `program` to its end with `stdin` on its standard input.
    ///
    /// # Errors
    /// When it cannot be started, takes longer than the limit, or ends with another status than 0.
    pub async fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        args: &[A],
        stdin: &[u8],
    ) -> Result<Output, ExecError> {
        let name = || program.to_owned();
        let left_behind = self.left_behind.load(Ordering::Relaxed);
        if left_behind >= MOST_LEFT_BEHIND {
            return Err(ExecError::LeftBehind { program: name(), left_behind });
        }
        let stdin = input(stdin).map_err(|source| ExecError::Pipe { program: name(), source })?;
        let order = self.spawned.fetch_add(1, Ordering::Relaxed);
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        let mut child = tokio::process::Command::new(program)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ExecError::Start { program: name(), source })?;
        // Whoever asks about what it did waits until this run is over: it is known by then.
        let running = Running(&self.children, child.id(), order);
        running.1.inspect(|pid| self.children.started(*pid));
        let outcome = tokio::time::timeout(self.limit, listen(&mut child)).await;
        self.steps.send_modify(|steps| *steps += 1);
        let output = match outcome {
            Ok(output) => output,
            Err(_) => {
                self.leave_behind(child);
                return Err(ExecError::TimedOut { program: name(), limit: self.limit });
            }
        };
        let output = output.map_err(|source| ExecError::Pipe { program: name(), source })?;
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() {
            return Ok(Output { stdout: output.stdout, stderr });
        }
        Err(ExecError::Failed {
            program: name(),
            status: output.status.to_string(),
            code: output.status.code(),
            stderr,
        })
    }

    /// Kills a program without waiting for its end.
    fn leave_behind(&self, mut child: Child) {
        // An error means that it has ended just now.
        let _ = child.start_kill();
        self.left_behind.fetch_add(1, Ordering::Relaxed);
        let left_behind = Arc::clone(&self.left_behind);
        tokio::spawn(async move {
            let _ = child.wait().await;
            left_behind.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Reads from a program until it ends. It is still ours when this is dropped.
async fn listen(child: &mut Child) -> std::io::Result<std::process::Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr, status) =
        tokio::try_join!(read_all(stdout), read_all(stderr), child.wait())?;
    Ok(std::process::Output { status, stdout, stderr })
}

async fn read_all(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// A standard input that holds all of `bytes` from the start.
fn input(bytes: &[u8]) -> std::io::Result<Stdio> {
    if bytes.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = File::from(memfd_create(c"input", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&str; 0] = [];

    #[tokio::test]
    async fn output_and_input_go_through() {
        let exec = Exec::default();
        let output = exec.run("cat", &NONE, &vec![b'x'; 1 << 20]).await.unwrap();
        assert_eq!(output.stdout.len(), 1 << 20);
        assert_eq!(exec.spawned(), 1);
    }

    #[tokio::test]
    async fn children_are_known_while_they_run_and_until_they_are_forgotten() {
        let exec = Exec::default();
        let children = exec.children();
        let output = exec.run("sh", &["-c", "cat >&2; echo $$"], b"x").await.unwrap();
        let pid: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        assert!(children.contains(pid));
        assert_eq!(children.ended(), [pid]);
        // One that runs under the same number is not forgotten.
        children.started(pid);
        children.forget(&[pid]);
        assert!(children.contains(pid) && children.ended().is_empty());
        children.end(pid, 1);
        children.forget(&[pid]);
        assert!(!children.contains(pid));
        (0..1000).for_each(|n| children.end(n, u64::from(n)));
        assert_eq!(children.ended().len(), REMEMBERED);
        assert!(children.contains(999) && !children.contains(0));
    }

    #[tokio::test]
    async fn a_failure_carries_what_the_program_said() {
        let error =
            Exec::default().run("sh", &["-c", "echo no >&2; exit 4"], b"").await.unwrap_err();
        let ExecError::Failed { code, stderr, .. } = error else { panic!("{error:?}") };
        assert_eq!((code, stderr.as_str()), (Some(4), "no"));
    }

    #[tokio::test]
    async fn a_missing_program_is_told_apart() {
        let error = Exec::default().run("no-such-program", &NONE, b"").await.unwrap_err();
        assert!(error.is_missing(), "{error:?}");
    }

    #[tokio::test]
    async fn a_hanging_program_is_ended() {
        let exec = Exec::new(Duration::from_millis(50));
        let error = exec.run("sleep", &["60"], b"").await.unwrap_err();
        assert!(matches!(error, ExecError::TimedOut { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn the_end_of_a_program_is_a_step_also_when_it_was_killed() {
        let exec = Exec::new(Duration::from_millis(50));
        let mut steps = exec.steps();
        let _ = exec.run("true", &NONE, b"").await;
        assert_eq!(*steps.borrow_and_update(), 1);
        let _ = exec.run("sleep", &["60"], b"").await;
        assert_eq!(*steps.borrow_and_update(), 2);
    }

    #[tokio::test]
    async fn what_a_killed_program_has_started_is_not_waited_for() {
        // The grandchild holds the pipes open.
        let exec = Exec::new(Duration::from_millis(100));
        for _ in 0..MOST_LEFT_BEHIND * 2 {
            let error = exec.run("sh", &["-c", "sleep 2 & sleep 60"], b"").await.unwrap_err();
            assert!(matches!(error, ExecError::TimedOut { .. }), "{error:?}");
        }
    }

    /// A group whose frozen processes do not even end when they are killed: what a program looks
    /// like that hangs in the kernel.
    struct Freezer(std::path::PathBuf);

    impl Freezer {
        fn new() -> Option<Self> {
            let name = format!("calico-exec-test-{}", std::process::id());
            let dir = std::path::Path::new("/sys/fs/cgroup/freezer").join(name);
            std::fs::create_dir(&dir).ok()?;
            Some(Self(dir))
        }

        fn thaw(&self) {
            let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        }
    }

    impl Drop for Freezer {
        fn drop(&mut self) {
            self.thaw();
            for _ in 0..100 {
                if std::fs::remove_dir(&self.0).is_ok() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_killed_blocks_nobody_and_is_not_multiplied() {
        let Some(freezer) = Freezer::new() else {
            eprintln!("skipped: no freezer (cgroup v1, root)");
            return;
        };
        let exec = Exec::new(Duration::from_millis(300));
        let script = format!(
            "echo $$ >{0}/cgroup.procs; echo FROZEN >{0}/freezer.state; true",
            freezer.0.display()
        );
        for _ in 0..MOST_LEFT_BEHIND {
            let error = exec.run("sh", &["-c", &script], b"").await.unwrap_err();
            assert!(matches!(error, ExecError::TimedOut { .. }), "{error:?}");
        }
        let started = exec.spawned();
        let error = exec.run("true", &NONE, b"").await.unwrap_err();
        assert!(error.to_string().contains("true is not started: 4 programs"), "{error}");
        assert_eq!(exec.spawned(), started);
        freezer.thaw();
        tokio::time::sleep(Duration::from_millis(300)).await;
        exec.run("true", &NONE, b"").await.unwrap();
    }
}
