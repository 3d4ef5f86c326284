//! Other plugins for address management (`host-local`, `dhcp`, `static`): found, started, and heard.
//!
//! The only place of the plugin that starts processes: bounded in time, killed with all that they
//! have started, answers captured. Input is handed over as a whole, as a file in memory: nothing
//! has to be written while the answer is read, and nobody sees half of it.

mod child;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::protocol::invocation::{CONTAINER_ID, IFNAME, NETNS};
use crate::protocol::{CniError, Code, Command, Invocation, Success};
use child::{Answer, ChildError};

/// How long a plugin may take. The original library waits without an end; DHCP takes seconds.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Asks the plugin of a call for addresses: see [`Delegate::add`].
///
/// # Errors
/// As [`Delegate::add`].
pub async fn add(call: &Invocation) -> Result<Success, CniError> {
    Delegate::of_call(call).add().await
}

/// Passes the command of a call on: see [`Delegate::run`].
///
/// # Errors
/// As [`Delegate::add`].
pub async fn pass_on(call: &Invocation) -> Result<(), CniError> {
    Delegate::of_call(call).run(call.command).await
}

/// A plugin and what it is told. It gets our environment and working directory; only the variables
/// named here, and `CNI_COMMAND`, may be others.
#[derive(Clone)]
pub struct Delegate<'a> {
    name: &'a str,
    path: &'a [PathBuf],
    variables: Vec<(&'static str, OsString)>,
    stdin: &'a [u8],
    limit: Duration,
}

impl<'a> Delegate<'a> {
    /// The plugin of that name in the directories of a `CNI_PATH`, with a network configuration.
    pub fn new(name: &'a str, path: &'a [PathBuf], stdin: &'a [u8]) -> Self {
        Self { name, path, variables: vec![], stdin, limit: LIMIT }
    }

    /// The plugin that `ipam.type` names, told what we were told.
    pub fn of_call(call: &'a Invocation) -> Self {
        let mut this = Self::new(&call.conf.ipam.kind, &call.path, &call.stdin);
        // All that a command lacks stays as it is: absent.
        for (name, value) in [(CONTAINER_ID, &call.container_id), (IFNAME, &call.ifname)] {
            if !value.is_empty() {
                this = this.variable(name, value);
            }
        }
        match &call.netns {
            Some(netns) => this.variable(NETNS, netns),
            None => this,
        }
    }

    /// A variable that differs from our own, or that we do not have: who takes back for a runtime
    /// that is gone has none of them.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Another bound than [`LIMIT`].
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Asks for addresses: at least one is in the answer. When that fails the plugin is asked to
    /// release what it may have given out.
    ///
    /// # Errors
    /// What the plugin says, as it says it. Else code 4 without `CNI_PATH`; 7 for a `type` that
    /// names no file; 106 when it is not found, cannot be started, takes too long, or answers
    /// something that is neither a result nor an error.
    pub async fn add(&self) -> Result<Success, CniError> {
        let program = self.find()?;
        let result = match self.call(&program, Command::Add).await {
            Ok(stdout) => self.result(&stdout),
            Err(error) => Err(error),
        };
        if result.is_err() {
            // The first failure is the one to tell.
            let _ = self.call(&program, Command::Del).await;
        }
        result
    }

    /// Passes DEL, CHECK, GC or STATUS on. What the plugin prints when it succeeds is no matter.
    ///
    /// # Errors
    /// As [`Delegate::add`].
    pub async fn run(&self, command: Command) -> Result<(), CniError> {
        let program = self.find()?;
        self.call(&program, command).await.map(|_| ())
    }

    /// Whether there is such a plugin, without asking it.
    ///
    /// # Errors
    /// As [`Delegate::add`].
    pub fn found(&self) -> Result<(), CniError> {
        self.find().map(drop)
    }

    /// The first executable file of that name. Directories may be relative: rkt's last one is.
    fn find(&self) -> Result<PathBuf, CniError> {
        let (name, path) = (self.name, self.path);
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(CniError::new(
                Code::InvalidConfig,
                format!("\"ipam.type\" {name:?} is not the name of a plugin"),
                "it is looked for in the directories of CNI_PATH",
            ));
        }
        if path.is_empty() {
            return Err(CniError::new(
                Code::InvalidEnvironment,
                "CNI_PATH is missing",
                format!("the IPAM plugin {name:?} is looked for in its directories"),
            ));
        }
        let mut candidates = path.iter().map(|dir| dir.join(name));
        candidates.find(|file| is_executable(file)).ok_or_else(|| {
            let dirs: Vec<_> = path.iter().map(|dir| dir.display().to_string()).collect();
            CniError::new(
                Code::Delegate,
                format!("the IPAM plugin {name:?} is not found"),
                format!("none of CNI_PATH has an executable file of that name: {}", dirs.join(":")),
            )
        })
    }

    /// What it prints when it succeeds.
    async fn call(&self, program: &Path, command: Command) -> Result<Vec<u8>, CniError> {
        let failed = |details: String| self.failed(command, details);
        let answer = child::run(program, command, self).await;
        let Answer { status, stdout, stderr } = answer.map_err(|error| match error {
            ChildError::Start(error) => {
                failed(format!("{} cannot be started: {error}", program.display()))
            }
            ChildError::Pipe(error) => failed(format!("its answer cannot be read: {error}")),
            ChildError::TooLong(most) => failed(format!("its answer has more than {most} bytes")),
            ChildError::TimedOut => {
                failed(format!("it did not end within {:?} and was killed", self.limit))
            }
        })?;
        if status.success() {
            return Ok(stdout);
        }
        // Its own words, if it has any in the right form.
        let said = serde_json::from_slice(&stdout).ok();
        Err(said.and_then(|value| CniError::from_json(&value)).unwrap_or_else(|| {
            let stderr = if stderr.is_empty() { "nothing on standard error" } else { &stderr };
            failed(format!("{status}; {stderr}"))
        }))
    }

    fn result(&self, stdout: &[u8]) -> Result<Success, CniError> {
        let failed = |details: String| self.failed(Command::Add, details);
        let value = serde_json::from_slice(stdout)
            .map_err(|error| failed(format!("its answer is not JSON: {error}")))?;
        let result = Success::from_json(&value)
            .map_err(|error| failed(format!("its answer is not a result: {error}")))?;
        if result.ips.is_empty() {
            return Err(failed("its answer has no address".to_owned()));
        }
        Ok(result)
    }

    fn failed(&self, command: Command, details: String) -> CniError {
        let (name, command) = (self.name, command.as_str());
        CniError::new(
            Code::Delegate,
            format!("{command} of the IPAM plugin {name:?} failed"),
            details,
        )
    }
}

fn is_executable(file: &Path) -> bool {
    let metadata = std::fs::metadata(file);
    metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
