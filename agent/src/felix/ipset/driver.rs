//! Runs `ipset`. It decides nothing but how to go on after a line that was refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use tracing::debug;

use super::{ActualSet, Command, Entry, save};
use crate::exec::{Exec, ExecError};
use crate::felix::counters::Counters;
use crate::felix::iptables::names::owns_set;
use crate::telemetry::chain;

/// How many refused lines one write may have before it is given up.
const MOST_REFUSED: usize = 512;
/// How many members of one set may be refused before the others of it are not asked for any more.
const MOST_OF_ONE: usize = 8;
/// How many lines go into one call.
const CHUNK: usize = 50_000;

/// A call that failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// The sets could not be read.
    #[error("cannot read the address sets")]
    Read(#[source] ExecError),
    /// The sets could not be written.
    #[error("cannot write the address sets")]
    Write(#[source] ExecError),
}

/// A command that the kernel refused; the others were carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was refused.
    pub command: Command,
    /// What the tool said.
    pub message: String,
}

impl Refused {
    /// True when the set has no room (`maxelem`).
    pub fn is_full(&self) -> bool {
        self.message.contains("is full")
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`ipset {}`: {}", self.command, self.message)
    }
}

/// The kernel's address sets.
#[derive(Clone, Debug)]
pub struct Sets {
    exec: Exec,
    counters: Counters,
}

impl Sets {
    /// The sets of this network namespace.
    pub fn new(exec: Exec, counters: Counters) -> Self {
        Self { exec, counters }
    }

    /// Reads all sets that are ours. A set that the tool cannot print is one that we did not make: it
    /// comes without type and members.
    ///
    /// # Errors
    /// When the tool fails.
    pub async fn read(&self) -> Result<BTreeMap<String, ActualSet>, SetError> {
        let error = match self.save(None).await {
            // A set of somebody else that this tool does not understand (it is older than what made
            // the set) ends the output in the middle.
            Err(error @ ExecError::Failed { .. }) => error,
            other => return other.map_err(SetError::Read),
        };
        let names = match self.exec.run("ipset", &["list", "-name"], b"").await {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(_) => return Err(SetError::Read(error)),
        };
        debug!(error = %chain(&error), "reading sets one by one");
        let mut sets = BTreeMap::new();
        for name in names.lines().filter(|name| owns_set(name)) {
            match self.save(Some(name)).await {
                Ok(one) => sets.extend(one),
                Err(ExecError::Failed { .. }) => {
                    sets.insert(name.to_owned(), ActualSet::default());
                }
                Err(error) => return Err(SetError::Read(error)),
            }
        }
        Ok(sets)
    }

    async fn save(&self, name: Option<&str>) -> Result<BTreeMap<String, ActualSet>, ExecError> {
        self.counters.ipset_saves.count(1);
        let args: Vec<&str> = ["save"].into_iter().chain(name).collect();
        let output = self.exec.run("ipset", &args, b"").await?;
        Ok(save::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Carries out `commands` in their order. A refused one is left out, and so are all others
    /// about a set that could not be made.
    ///
    /// # Errors
    /// When the tool fails without saying where, or refuses too much.
    pub async fn write(&self, commands: &[Command]) -> Result<Vec<Refused>, SetError> {
        let mut refused: Vec<Refused> = Vec::new();
        let mut hopeless: BTreeSet<&str> = BTreeSet::new();
        let mut full: BTreeSet<&str> = BTreeSet::new();
        let (mut rest, mut asked) = (commands, 0);
        while !rest.is_empty() {
            let chunk = &rest[..rest.len().min(CHUNK)];
            let mut text = String::new();
            let mut sent = Vec::new();
            for (i, command) in chunk.iter().enumerate() {
                let adds = matches!(command, Command::Add(..) | Command::Count(..));
                let refuses = full.contains(command.set()) && adds;
                if !refuses && !hopeless.contains(command.set()) {
                    let _ = writeln!(text, "{command}");
                    sent.push(i);
                }
            }
            if sent.is_empty() {
                rest = &rest[chunk.len()..];
                continue;
            }
            self.counters.ipset_restores.count(1);
            // With -exist a member that is there already, or is gone already, is no error.
            let error = match self.exec.run("ipset", &["restore", "-exist"], text.as_bytes()).await
            {
                Ok(_) => {
                    self.counters.ipset_lines.count(sent.len() as u64);
                    rest = &rest[chunk.len()..];
                    continue;
                }
                Err(error) => error,
            };
            let Some((line, message)) = refused_line(&error) else {
                return Err(SetError::Write(error));
            };
            let Some(&at) = line.checked_sub(1).and_then(|line| sent.get(line)) else {
                return Err(SetError::Write(error));
            };
            self.counters.ipset_lines.count(line as u64);
            if asked >= MOST_REFUSED {
                return Err(SetError::Write(error));
            }
            let command = &chunk[at];
            if matches!(command, Command::Create(..) | Command::Swap(..)) {
                hopeless.insert(command.set());
            }
            let one = Refused { command: command.clone(), message };
            let adds = |one: &&Refused| {
                one.command.set() == command.set() && matches!(one.command, Command::Add(..))
            };
            let enough = one.is_full() || refused.iter().filter(adds).count() + 1 >= MOST_OF_ONE;
            if enough && matches!(command, Command::Add(..)) && full.insert(command.set()) {
                // None of the others is asked for: there may be a hundred thousand of them. Those
                // that are an endpoint are told one by one.
                let others = rest[at + 1..].iter().filter(|other| {
                    other.set() == command.set()
                        && matches!(other, Command::Add(_, Entry::NetIface(..)))
                });
                refused.extend(
                    others.map(|o| Refused { command: o.clone(), message: one.message.clone() }),
                );
            }
            refused.push(one);
            asked += 1;
            rest = &rest[at + 1..];
        }
        Ok(refused)
    }
}

/// The line, counted from 1, that `ipset restore` stopped at, and what it said about it.
fn refused_line(error: &ExecError) -> Option<(usize, String)> {
    let ExecError::Failed { stderr, .. } = error else { return None };
    let (_, rest) = stderr.split_once("Error in line ")?;
    let (line, message) = rest.split_once(':')?;
    Some((line.parse().ok()?, message.trim().to_owned()))
}
