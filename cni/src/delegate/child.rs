//! The process of a plugin, from its start to its end.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Child;
use tokio::time::timeout;

use super::Delegate;
use crate::protocol::Command;
use crate::protocol::invocation::{COMMAND, PATH};

/// The longest answer that is read, bytes.
const MAX_STDOUT: u64 = 1 << 20;

/// How much of standard error is kept for a message, bytes.
const TAIL: usize = 2_000;

/// How long an answer may come after the plugin's end: something that it has left running may hold
/// its pipes open.
const LINGER: Duration = Duration::from_millis(500);

/// What a plugin left behind.
pub(super) struct Answer {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// The end of it, trimmed.
    pub(super) stderr: String,
}

pub(super) enum ChildError {
    Start(std::io::Error),
    Pipe(std::io::Error),
    /// It has more than so many bytes.
    TooLong(u64),
    TimedOut,
}

/// Runs a plugin to its end. What it says on standard error goes to ours at once.
pub(super) async fn run(
    program: &Path,
    command: Command,
    call: &Delegate<'_>,
) -> Result<Answer, ChildError> {
    let mut child = start(program, command, call).map_err(ChildError::Start)?;
    let answer = timeout(call.limit, listen(&mut child)).await.unwrap_or(Err(ChildError::TimedOut));
    // It has a number for as long as it was not waited for, so that cannot be another's by now.
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // An error means that it has ended just now.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = timeout(LINGER, child.wait()).await;
    }
    answer
}

fn start(program: &Path, command: Command, call: &Delegate<'_>) -> std::io::Result<Child> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the plugin's only place; the agent's is its own"
    )]
    let mut process = tokio::process::Command::new(program);
    let path = std::env::join_paths(call.path).map_err(std::io::Error::other)?;
    process.env(COMMAND, command.as_str()).env(PATH, path);
    process.envs(call.variables.iter().map(|(name, value)| (name, value)));
    process
        .stdin(input(call.stdin)?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: what it has started is killed with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// A standard input that holds all of `bytes` from the start.
fn input(bytes: &[u8]) -> std::io::Result<Stdio> {
    let mut file = File::from(memfd_create(c"input", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

async fn listen(child: &mut Child) -> Result<Answer, ChildError> {
    let (mut stdout, mut stderr) = (vec![], vec![]);
    let pipes = (child.stdout.take(), child.stderr.take());
    let status = {
        let mut read = pin!(async {
            tokio::try_join!(take(pipes.0, &mut stdout), pass(pipes.1, &mut stderr))
        });
        let mut wait = pin!(child.wait());
        // Both branches go on with the other future, which neither of them has consumed.
        tokio::select! {
            status = &mut wait => {
                let status = status.map_err(ChildError::Pipe)?;
                // Who holds the pipes open is not waited for: what came is the answer.
                timeout(LINGER, &mut read).await.unwrap_or(Ok(((), ())))?;
                status
            }
            done = &mut read => {
                done?;
                wait.await.map_err(ChildError::Pipe)?
            }
        }
    };
    let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
    Ok(Answer { status, stdout, stderr })
}

/// Reads all of a pipe.
async fn take(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), ChildError> {
    let Some(pipe) = pipe else { return Ok(()) };
    let read = pipe.take(MAX_STDOUT + 1).read_to_end(into).await.map_err(ChildError::Pipe)?;
    if u64::try_from(read).is_ok_and(|read| read > MAX_STDOUT) {
        return Err(ChildError::TooLong(MAX_STDOUT));
    }
    Ok(())
}

/// Passes a pipe on to our standard error, and keeps the end of it.
async fn pass(pipe: Option<impl AsyncRead + Unpin>, tail: &mut Vec<u8>) -> Result<(), ChildError> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut buffer = [0; 4096];
    loop {
        let read = pipe.read(&mut buffer).await.map_err(ChildError::Pipe)?;
        if read == 0 {
            return Ok(());
        }
        // Nobody may listen there.
        let _ = std::io::stderr().write_all(&buffer[..read]);
        tail.extend_from_slice(&buffer[..read]);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }
}
