//! One agent per run directory: a second one must not take the first one's socket, empty its
//! directory of endpoint files, or fight with it over the kernel.
//!
//! A lock of the kernel (flock(2)) on a file that stays: it ends with the process however that
//! ends, so there is nothing stale to clean up.
//!
//! The programs that an agent starts hold a second one. Those of a killed agent may live on: what
//! they still write would come after what the next agent read, so it waits for their end.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::mem::ManuallyDrop;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};

/// How long programs of a killed agent are waited for. Longer than any of them waits by itself:
/// `iptables-restore` gives up the lock of the tables after 10 s.
const OUTLIVED: Duration = Duration::from_secs(15);
/// How long the lock of an agent that is dead is waited for.
const LINGERS: Duration = Duration::from_secs(1);
/// How often is looked whether they are gone.
const LOOK: Duration = Duration::from_millis(5);

/// The run directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error(
        "another calico-agent ({}) uses {}: stop it first, or give this one another --run-dir",
        holder.map_or("pid unknown".to_owned(), |pid| format!("pid {pid}")),
        path.parent().unwrap_or(path).display()
    )]
    Taken {
        /// The lock file.
        path: PathBuf,
        /// Its process id, as far as the file says.
        holder: Option<u32>,
    },
    /// The file cannot be made, written or locked.
    #[error("cannot lock {}", path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Takes the lock, without waiting for anybody who is alive, and writes this process's id into the file.
///
/// # Errors
/// When another process has it, or the file cannot be used.
pub fn take(path: &Path) -> Result<Lock, LockError> {
    let failed = |source| LockError::File { path: path.to_owned(), source };
    // Not emptied before it is ours: it holds the id of the one who has it. std opens with
    // O_CLOEXEC, so no program that we start keeps the lock. Only its first moment has it, between
    // fork and exec: an agent that is killed just then is outlived by its lock.
    let end = Instant::now() + LINGERS;
    let mut file = loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => break file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                let holder = read.ok().and_then(|_| text.trim().parse().ok());
                let dead = |pid: u32| !Path::new(&format!("/proc/{pid}")).exists();
                if !holder.is_some_and(dead) || Instant::now() >= end {
                    return Err(LockError::Taken { path: path.to_owned(), holder });
                }
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        }
        std::thread::sleep(LOOK);
    };
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(failed)?;
    Ok(Lock { _file: file })
}

/// Held by this process and by every program that it starts from now on. It is never given back:
/// that would take it from those programs, too.
#[derive(Debug)]
pub struct Programs {
    _file: ManuallyDrop<Flock<File>>,
}

/// Waits until no program of an earlier agent is left, and lets those of this one hold the lock.
/// `None`: one did not end in time, which is said in the log.
///
/// # Errors
/// When the file cannot be used.
pub async fn outlive(path: &Path) -> Result<Option<Programs>, LockError> {
    outlive_for(path, OUTLIVED).await
}

async fn outlive_for(path: &Path, limit: Duration) -> Result<Option<Programs>, LockError> {
    let failed = |source| LockError::File { path: path.to_owned(), source };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path)
        .map_err(failed)?;
    let end = tokio::time::Instant::now() + limit;
    let mut told = false;
    let file = loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => break file,
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        if tokio::time::Instant::now() >= end {
            tracing::warn!("a program that an earlier agent started does not end; not waited for");
            return Ok(None);
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("waiting for the end of programs that an earlier agent started");
        }
        tokio::time::sleep(LOOK).await;
    };
    // Opened with O_CLOEXEC by std. A program that is started inherits the descriptor, and with it
    // the lock: that belongs to what is open, not to a process.
    fcntl(&*file, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|errno| failed(errno.into()))?;
    Ok(Some(Programs { _file: ManuallyDrop::new(file) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Exec;
    use nix::sys::signal::Signal;
    use nix::unistd::Pid;

    #[test]
    fn a_second_one_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        // What a process that died left behind is no obstacle.
        std::fs::write(&path, "4194304000\n").unwrap();
        let first = take(&path).unwrap();
        let error = take(&path).unwrap_err();
        let own = std::process::id();
        assert!(matches!(error, LockError::Taken { holder: Some(pid), .. } if pid == own));
        let text = error.to_string();
        assert!(text.contains(&format!("(pid {own}) uses {}:", dir.path().display())), "{text}");
        drop(first);
        take(&path).unwrap();
    }

    #[test]
    fn a_lock_that_lingers_after_its_holder_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        let first = take(&path).unwrap();
        std::fs::write(&path, "4194304000\n").unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| take(&path).map(drop));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!second.is_finished(), "it was not waited for");
            drop(first);
            second.join().unwrap().unwrap();
        });
        // Not for ever.
        let _first = take(&path).unwrap();
        std::fs::write(&path, "4194304000\n").unwrap();
        assert!(matches!(take(&path), Err(LockError::Taken { .. })));
    }

    #[test]
    fn a_holder_that_has_not_written_yet_holds_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        let _first = take(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        let error = take(&path).unwrap_err();
        assert!(error.to_string().contains("(pid unknown)"), "{error}");
    }

    #[tokio::test]
    async fn programs_of_an_agent_that_is_gone_are_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("programs.lock");
        let file = path.to_str().unwrap();
        // The shell is the agent; it ends, and its program lives on.
        let agent = "exec 9>>$0; flock 9; sleep 60 >/dev/null 2>&1 & echo $!";
        let output = Exec::default().run("sh", &["-c", agent, file], b"").await.unwrap();
        let orphan = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let brief = Duration::from_millis(50);
        assert!(outlive_for(&path, brief).await.unwrap().is_none(), "it was not waited for");
        nix::sys::signal::kill(Pid::from_raw(orphan), Signal::SIGKILL).unwrap();
        let programs = outlive_for(&path, Duration::from_secs(5)).await.unwrap();
        assert!(programs.is_some());
    }

    #[tokio::test]
    async fn a_program_holds_what_its_agent_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("inherited.lock");
        let exec = Exec::default();
        let list = ["-l", "/proc/self/fd"];
        let before = exec.run("ls", &list, b"").await.unwrap().stdout;
        let _programs = outlive_for(&path, Duration::ZERO).await.unwrap().unwrap();
        let after = exec.run("ls", &list, b"").await.unwrap().stdout;
        let holds = |output: &[u8]| String::from_utf8_lossy(output).contains("inherited.lock");
        assert_eq!((holds(&before), holds(&after)), (false, true));
    }

    #[test]
    fn a_directory_that_is_not_there_is_another_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = take(&dir.path().join("no/agent.lock")).unwrap_err();
        assert!(matches!(error, LockError::File { .. }), "{error}");
    }
}
