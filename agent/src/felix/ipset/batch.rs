//! Which commands are told to the kernel together, and what follows from a refusal: pure.
//!
//! The kernel carries out messages in their order, but does not stop at one that it refuses; the members
//! of one message it takes up to the first that it refuses. So that everything happens in the order of
//! the commands and nothing is done that depends on something refused:
//!
//! * no set is named twice in one batch,
//! * a message with several members is the last one of its batch.

use std::collections::BTreeSet;
use std::fmt;

use super::{Command, Entry};

/// How many refused commands one write may have before it is given up: each may cost another message. A set
/// that does not go costs none, so those are not counted.
const MOST_REFUSED: usize = 512;
/// How many members of one set may be refused before the others of it are not asked for any more.
const MOST_OF_ONE: usize = 8;
/// How many members go into one message: at up to 88 bytes each they fit an attribute, of 64 KiB.
pub(super) const MEMBERS: usize = 500;
/// How many messages go into one batch: their answers have to fit the receive buffer.
const MESSAGES: usize = 64;

/// A command that the kernel refused; the others were carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was refused.
    pub command: Command,
    /// What the kernel said, in words.
    pub message: String,
    pub(super) full: bool,
}

impl Refused {
    /// True when the set has no room (`maxelem`).
    pub fn is_full(&self) -> bool {
        self.full
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.command, self.message)
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it was carried out.
    Done,
    /// The commands before the one at this place were carried out, those behind it were not.
    Refused {
        /// Which command of the message, from 0.
        at: usize,
        /// Why, in words.
        message: String,
        /// The set has no room.
        full: bool,
    },
}

/// More was refused than is worth going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TooMuch;

/// The places of commands, message by message.
pub(super) type Batch = Vec<Vec<usize>>;

/// The commands that are still to be told.
#[derive(Debug)]
pub(super) struct Queue<'c> {
    commands: &'c [Command],
    /// The next one.
    at: usize,
    /// Sets that could not be made, or not be put in their place.
    hopeless: BTreeSet<&'c str>,
    /// Sets that take no more.
    full: BTreeSet<&'c str>,
    refused: Vec<Refused>,
    asked: usize,
}

impl<'c> Queue<'c> {
    pub(super) fn new(commands: &'c [Command]) -> Self {
        let (hopeless, full, refused) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        Self { commands, at: 0, hopeless, full, refused, asked: 0 }
    }

    /// What comes next; empty at the end.
    pub(super) fn next(&mut self) -> Batch {
        let mut batch = Batch::new();
        let mut named: BTreeSet<&str> = BTreeSet::new();
        while let Some(command) = self.commands.get(self.at) {
            let set = command.set();
            if self.hopeless.contains(set) || (is_add(command) && self.full.contains(set)) {
                self.at += 1;
                continue;
            }
            let run = batch.last_mut().filter(|run| {
                run.first().is_some_and(|first| goes_with(&self.commands[*first], command))
            });
            if let Some(run) = run {
                if run.len() == MEMBERS {
                    break;
                }
                run.push(self.at);
            } else {
                let closed = batch.last().is_some_and(|last| last.len() > 1);
                let again = names(command).any(|set| named.contains(set));
                if closed || again || batch.len() == MESSAGES {
                    break;
                }
                named.extend(names(command));
                batch.push(vec![self.at]);
            }
            self.at += 1;
        }
        batch
    }

    /// Notes what became of a message of the last batch, in the order of the batch. Returns how many
    /// commands the kernel has looked at.
    pub(super) fn settle(&mut self, message: &[usize], verdict: Verdict) -> Result<usize, TooMuch> {
        let Verdict::Refused { at, message: said, full } = verdict else {
            return Ok(message.len());
        };
        let Some(&place) = message.get(at) else { return Err(TooMuch) };
        if message.len() > 1 {
            self.at = place + 1;
        }
        let commands = self.commands;
        let command = &commands[place];
        if let Command::Destroy(_) = command {
            self.refused.push(Refused { command: command.clone(), message: said, full });
            return Ok(at + 1);
        }
        if self.asked >= MOST_REFUSED {
            self.refused.push(Refused { command: command.clone(), message: said, full });
            return Err(TooMuch);
        }
        self.asked += 1;
        if matches!(command, Command::Create(..) | Command::Swap(..)) {
            self.hopeless.insert(command.set());
        }
        let one = Refused { command: command.clone(), message: said, full };
        let of_same =
            |other: &Command| other.set() == command.set() && matches!(other, Command::Add(..));
        let before = self.refused.iter().filter(|other| of_same(&other.command)).count();
        let enough = full || before + 1 >= MOST_OF_ONE;
        if enough && matches!(command, Command::Add(..)) && self.full.insert(command.set()) {
            // None of the others is asked for: there may be a hundred thousand of them. Those that are
            // an endpoint are told one by one.
            let others = commands[place + 1..].iter().filter(|other| {
                of_same(other) && matches!(other, Command::Add(_, Entry::NetIface(..)))
            });
            let also = |other: &Command| Refused { command: other.clone(), ..one.clone() };
            self.refused.extend(others.map(also));
        }
        self.refused.push(one);
        Ok(at + 1)
    }

    /// What was refused.
    pub(super) fn refused(self) -> Vec<Refused> {
        self.refused
    }
}

fn is_add(command: &Command) -> bool {
    matches!(command, Command::Add(..) | Command::Count(..))
}

/// One message can tell both.
fn goes_with(first: &Command, next: &Command) -> bool {
    let is_delete = |command: &Command| matches!(command, Command::Delete(..));
    let alike = (is_add(first) && is_add(next)) || (is_delete(first) && is_delete(next));
    alike && first.set() == next.set()
}

/// The sets that a command is about.
fn names(command: &Command) -> impl Iterator<Item = &str> {
    let other = match command {
        Command::Swap(_, other) => Some(other.as_str()),
        _ => None,
    };
    std::iter::once(command.set()).chain(other)
}

#[cfg(test)]
mod tests;
