//! Reads and writes sets through netlink. It decides nothing but how to go on after a command that was
//! refused, which is [`super::batch`]'s to say.
//!
//! The kernel does its work within the calls. What may take longer than some tenths of a millisecond is
//! done by a thread that may block; the socket is opened in the caller's, which has the namespace.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::task::spawn_blocking;

use super::batch::{Batch, Queue, Refused, Verdict};
use super::encode::{Encoded, encode};
use super::wire::{Link, NFGENMSG, attr, code};
use super::{ActualSet, Command, SetSpec, list, words};
use crate::felix::counters::Counters;
use crate::felix::watch::Answer;
use crate::netlink::{attribute, u32_at};

/// How many members are written without another thread.
const FEW: usize = 64;
/// How long, in one write of however many sets, somebody is waited for who lists one that is to change its
/// place. One who lists it again and again leaves moments between; on a busy host it may take many tries to
/// meet one.
const SWAP_PATIENCE: Duration = Duration::from_secs(2);
/// The pauses between tries in milliseconds, over and over: of different lengths, so that they do not keep
/// the step of whoever lists.
const SWAP_PAUSES: [u64; 6] = [1, 2, 3, 5, 8, 13];
/// What every message that is refused as a whole begins with.
const HEADERS: usize = 16 + NFGENMSG.len();

/// The sets could not be read or written at all.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// The kernel lacks them.
    #[error("this kernel has no address sets: is its module ip_set there?")]
    Unsupported(#[source] io::Error),
    /// We may not.
    #[error("not permitted to use the kernel's address sets")]
    NotPermitted(#[source] io::Error),
    /// The sets could not be read.
    #[error("cannot read the address sets")]
    Read(#[source] io::Error),
    /// The sets could not be written.
    #[error("cannot write the address sets")]
    Write(#[source] io::Error),
    /// Too much was refused to go on.
    #[error("cannot write the address sets: too much is refused, at last {0}")]
    Refused(Box<Refused>),
}

impl SetError {
    fn of(error: io::Error, other: impl FnOnce(io::Error) -> Self) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::EACCES) => Self::NotPermitted(error),
            _ => other(error),
        }
    }
}

/// A socket in the network namespace of the calling thread.
fn open(other: impl FnOnce(io::Error) -> SetError) -> Result<Link, SetError> {
    Link::open().map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        // What is said about a part of the kernel that it does not have.
        Some(Errno::EINVAL | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT) => {
            SetError::Unsupported(error)
        }
        _ => SetError::of(error, other),
    })
}

/// The kernel's address sets.
#[derive(Clone, Debug)]
pub struct Sets {
    counters: Counters,
}

impl Sets {
    /// The sets of the network namespace of whoever reads or writes them.
    pub fn new(counters: Counters) -> Self {
        Self { counters }
    }

    /// Ends with an error when there are none in this kernel, or we may not use them.
    ///
    /// # Errors
    /// See there.
    pub fn probe(&self) -> Result<(), SetError> {
        open(SetError::Read).map(drop)
    }

    /// True when there is a set of that name.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn has(&self, name: &str) -> Result<bool, SetError> {
        match open(SetError::Read)?.list_head(name, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(SetError::of(error, SetError::Read)),
        }
    }

    /// Reads all sets that are ours. One that we would not make comes without what it is, one of a type
    /// that we do not use also without its members. What others write meanwhile may be in it or not.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub async fn read(&self) -> Result<BTreeMap<String, ActualSet>, SetError> {
        self.counters.ipset_saves.count(1);
        let link = open(SetError::Read)?;
        blocking(move || read(link)).await.map_err(|error| SetError::of(error, SetError::Read))
    }

    /// Carries out `commands` in their order. A refused one is left out, and so are all others
    /// about a set that could not be made.
    ///
    /// # Errors
    /// When the kernel does not take commands, or refuses too much.
    pub async fn write(&self, commands: &[Command]) -> Result<Vec<Refused>, SetError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |error| SetError::of(error, SetError::Write);
        let mut link = open(SetError::Write)?;
        let new: Vec<SetSpec> = commands
            .iter()
            .filter_map(|command| match command {
                Command::Create(_, spec) => Some(*spec),
                _ => None,
            })
            .collect();
        if !new.is_empty() {
            link = blocking(move || {
                for spec in new {
                    link.learn(spec.kind, spec.family)?;
                }
                Ok(link)
            })
            .await
            .map_err(failed)?;
        }
        let mut queue = Queue::new(commands);
        let patient_until = Instant::now() + SWAP_PATIENCE;
        loop {
            let batch = queue.next();
            if batch.is_empty() {
                return Ok(queue.refused());
            }
            self.counters.ipset_restores.count(1);
            let verdicts;
            let bytes;
            (link, verdicts, bytes) =
                tell(link, commands, &batch, patient_until).await.map_err(failed)?;
            self.counters.ipset_bytes.count(bytes);
            for (message, verdict) in batch.iter().zip(verdicts) {
                match queue.settle(message, verdict) {
                    Ok(looked_at) => self.counters.ipset_lines.count(looked_at as u64),
                    Err(_) => {
                        let last = queue.refused().pop().map(Box::new);
                        let unknown = || failed(io::ErrorKind::InvalidData.into());
                        return Err(last.map_or_else(unknown, SetError::Refused));
                    }
                }
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOENT as i32)
}

fn read(mut link: Link) -> io::Result<BTreeMap<String, ActualSet>> {
    // Heads first: a set of somebody else, however large, is not read.
    let mut sets = link.list(None, list::add)?;
    let known: Vec<String> =
        sets.iter().filter(|(_, set)| set.shape.is_some()).map(|(name, _)| name.clone()).collect();
    for name in known {
        match link.list(Some(&name), list::add) {
            // It has gone since.
            Err(error) if is_missing(&error) => drop(sets.remove(&name)),
            other => sets.append(&mut other?),
        }
    }
    Ok(sets)
}

/// Also how many bytes were sent.
async fn tell(
    mut link: Link,
    commands: &[Command],
    batch: &Batch,
    patient_until: Instant,
) -> io::Result<(Link, Vec<Verdict>, u64)> {
    let encode = |places: &Vec<usize>| encode(&link.dialect, commands, places);
    let encoded: Vec<Encoded> = batch.iter().map(encode).collect();
    let requests: Vec<Vec<u8>> = encoded.iter().filter_map(|one| one.bytes.clone()).collect();
    let sent = requests.iter().map(|request| request.len() as u64).sum();
    let quick = |place: &usize| {
        use Command::{Add, Count, Delete};
        matches!(commands[*place], Add(..) | Count(..) | Delete(..))
    };
    let places = || batch.iter().flatten();
    let answers;
    if places().count() <= FEW && places().all(quick) {
        answers = link.tell(&requests)?;
    } else {
        (link, answers) = blocking(move || {
            let answers = link.tell(&requests)?;
            Ok((link, answers))
        })
        .await?;
    }
    let mut answers = answers.into_iter();
    let mut verdicts = Vec::new();
    for (places, Encoded { bytes, unspeakable }) in batch.iter().zip(encoded) {
        let mut answer = match bytes {
            Some(bytes) => {
                let missing = || io::Error::from(io::ErrorKind::UnexpectedEof);
                let mut answer = answers.next().ok_or_else(missing)?;
                if matches!(commands[places[0]], Command::Swap(..)) {
                    (link, answer) = swap_again(link, bytes, answer, patient_until).await?;
                }
                answer
            }
            None => Answer { code: 0, request: Vec::new() },
        };
        if matches!(commands[places[0]], Command::Destroy(_)) && answer.code == Errno::ENOENT as i32
        {
            // Old kernels say so where it was only asked to be gone.
            answer.code = 0;
        }
        if [Errno::EPERM, Errno::EACCES].map(|errno| errno as i32).contains(&answer.code) {
            return Err(io::Error::from_raw_os_error(answer.code));
        }
        verdicts.push(if answer.code == 0 {
            match unspeakable {
                Some((at, message)) => Verdict::Refused { at, message, full: false },
                None => Verdict::Done,
            }
        } else {
            let at = refused_line(&answer).filter(|at| *at < places.len()).unwrap_or(0);
            let command = &commands[places[at]];
            let full = answer.code == code::FULL;
            let mut message = words::refusal(answer.code, command);
            if full {
                message = format!("{message}{}", room(&mut link, command.set()));
            }
            Verdict::Refused { at, message, full }
        });
    }
    Ok((link, verdicts, sent))
}

/// A set that somebody lists cannot change its place.
async fn swap_again(
    mut link: Link,
    request: Vec<u8>,
    mut answer: Answer,
    patient_until: Instant,
) -> io::Result<(Link, Answer)> {
    for pause in SWAP_PAUSES.into_iter().cycle() {
        if answer.code != Errno::EBUSY as i32 || Instant::now() > patient_until {
            break;
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let request = request.clone();
        let mut answers;
        (link, answers) = blocking(move || {
            let answers = link.tell(&[request])?;
            Ok((link, answers))
        })
        .await?;
        answer = answers.pop().ok_or(io::ErrorKind::UnexpectedEof)?;
    }
    Ok((link, answer))
}

/// Which of the commands of a message was refused, from 0, when the kernel says so.
fn refused_line(answer: &Answer) -> Option<usize> {
    let line = attribute(answer.request.get(HEADERS..)?, attr::LINE)?;
    usize::try_from(u32_at(line, 0)?).ok()?.checked_sub(1)
}

/// How much room a set has, in words.
fn room(link: &mut Link, set: &str) -> String {
    let mut max = None;
    // It only makes the message better.
    let _ = link.list_head(set, |body| max = list::most(body).or(max));
    max.map(|max| format!(" (maxelem {max})")).unwrap_or_default()
}
