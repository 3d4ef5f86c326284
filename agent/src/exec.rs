//! The only place that starts processes: bounded in time, killed when dropped, errors captured.
//!
//! A program that does not even end when it is killed (it hangs in the kernel) is left behind: who
//! waited for it goes on. Of those there may be a few; then nothing more is started, or the host
//! would fill with them.
//!
//! Input is handed over as a whole, as a file in memory. Through a pipe it would come in pieces,
//! and a program that outlives us would take for complete what had arrived by then: a last line that was
//! cut off, say, and `10.0.0.0/2` is not `10.0.0.0/24`.

mod children;

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::watch;

pub use self::children::Children;
use self::children::Running;

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
mod tests;
