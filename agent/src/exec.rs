//! The only place that starts processes: bounded in time, killed when dropped, errors captured.
//!
//! Input is handed over as a whole, as a file in memory. Through a pipe it would come in pieces,
//! and a program that outlives us would take for complete what had arrived by then: `ipset restore`
//! carries out a last line that was cut off, and `10.0.0.0/2` is not `10.0.0.0/24`.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

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

/// Starts programs. Clones share their counters.
#[derive(Clone)]
pub struct Exec {
    limit: Duration,
    spawned: Arc<AtomicU64>,
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
        Self { limit, spawned: Arc::default() }
    }

    /// How many processes were started so far.
    pub fn spawned(&self) -> u64 {
        self.spawned.load(Ordering::Relaxed)
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
        let stdin = input(stdin).map_err(|source| ExecError::Pipe { program: name(), source })?;
        self.spawned.fetch_add(1, Ordering::Relaxed);
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        let child = tokio::process::Command::new(program)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ExecError::Start { program: name(), source })?;
        let output = tokio::time::timeout(self.limit, child.wait_with_output())
            .await
            .map_err(|_| ExecError::TimedOut { program: name(), limit: self.limit })?;
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
}

/// A standard input that holds all of `bytes` from the start.
fn input(bytes: &[u8]) -> std::io::Result<Stdio> {
    if bytes.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = File::from(memfd_create(c"input", MFdFlags::MFD_CLOEXEC)?);
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
}
