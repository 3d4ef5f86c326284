//! Lists connections, and forgets some: those of an address that left (an established connection is
//! not asked again, so the next pod with that address would inherit it), and those that came to be
//! while our rules were not in force and that policy denies. Which these are others say.
//!
//! It speaks netlink (`ctnetlink`): no program is started. The kernel does its work within the calls, so a
//! thread that may block makes them; the socket is opened in the caller's, which has the namespace.

mod entry;
/// What `conntrack -L` prints: the connections of tests.
#[cfg(test)]
mod printed;
mod wire;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use calico_datastore::model::Family;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use tokio::task::spawn_blocking;

pub use self::entry::{BadEntry, Connection, Tuple, Zones};
#[cfg(test)]
pub(in crate::felix) use self::printed::parse;
use self::wire::Side;
use super::counters::Counters;
use super::watch::{Answer, Dialogue};

/// How many connections are deleted with one call.
const AT_ONCE: usize = 64;
/// Up to how many IPv4 addresses the kernel is asked for one by one. It walks its table for each; for more it
/// lists all connections once.
const ONE_BY_ONE: usize = 8;

/// Up to how many connections of the namespace are listed all at once, both families with one walk through
/// the kernel's table: to read so many takes less than another walk.
const FEW: u32 = 4096;

/// The kernel did not list connections, or not delete them.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// It knows nothing of them.
    #[error(
        "this kernel does not tell about connections: is its module nf_conntrack_netlink there?"
    )]
    Unsupported(#[source] io::Error),
    /// They could not be listed.
    #[error("cannot list connections")]
    List(#[source] io::Error),
    /// They could not be deleted at all.
    #[error("cannot cut connections")]
    Tell(#[source] io::Error),
    /// This one could not be deleted.
    #[error("cannot cut the connection {0}")]
    Cut(Box<Connection>, #[source] io::Error),
}

impl ConntrackError {
    fn of(error: io::Error, other: impl FnOnce(io::Error) -> Self) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            // What netfilter says about a part that it does not have.
            Some(Errno::EINVAL | Errno::EPROTONOSUPPORT) => Self::Unsupported(error),
            _ => other(error),
        }
    }
}

/// The kernel's connections.
#[derive(Clone, Debug)]
pub struct Conntrack {
    counters: Counters,
}

impl Conntrack {
    /// The connections of the network namespace of whoever asks.
    pub fn new(counters: Counters) -> Self {
        Self { counters }
    }

    /// Ends with an error when the kernel tells nothing about connections.
    ///
    /// # Errors
    /// See there.
    pub async fn probe(&self) -> Result<(), ConntrackError> {
        blocking(ConntrackError::List, |socket| {
            socket
                .ask(&wire::statistics(), |_| {})
                .map_err(|error| ConntrackError::of(error, ConntrackError::List))
        })
        .await
    }

    /// Deletes every connection from or to one of `addresses`, and every one that was opened to one
    /// of `external`, whoever it was led to. Deleting none is success.
    ///
    /// # Errors
    /// When the kernel does not list or delete connections.
    pub async fn forget(
        &self,
        addresses: &BTreeSet<IpAddr>,
        external: &BTreeSet<IpAddr>,
    ) -> Result<(), ConntrackError> {
        // Connections that it opened, and those that were opened to it: behind NAT only the source of
        // the reply says so.
        let own = addresses.iter().flat_map(|a| [(Side::Opener, *a), (Side::Answerer, *a)]);
        let external = external.iter().map(|address| (Side::Asked, *address));
        let wanted: BTreeSet<(Side, IpAddr)> = own.chain(external).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let counters = self.counters.clone();
        blocking(ConntrackError::List, move |socket| {
            let mut found = BTreeSet::new();
            if count(socket)? <= FEW {
                let request = wire::list_all();
                list(socket, &request, |body| found.extend(belonging(body, &wanted)))
                    .map_err(|error| ConntrackError::of(error, ConntrackError::List))?;
            } else {
                for family in Family::ALL {
                    find(socket, family, &wanted, &mut found)?;
                }
            }
            let (_, failed) = delete(socket, &found.into_iter().collect::<Vec<_>>(), &counters);
            failed.map_or(Ok(()), Err)
        })
        .await
    }

    /// Every connection of a family, and what is wrong with the first that could not be read, if any.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub async fn list(
        &self,
        family: Family,
    ) -> Result<(Vec<Connection>, Option<BadEntry>), ConntrackError> {
        blocking(ConntrackError::List, move |socket| {
            let (mut connections, mut bad) = (Vec::new(), None);
            list(socket, &wire::list(family, None), |body| match wire::connection(body) {
                Ok(connection) => connections.push(connection),
                Err(error) => drop(bad.get_or_insert(error)),
            })
            .map_err(|error| ConntrackError::of(error, ConntrackError::List))?;
            Ok((connections, bad))
        })
        .await
    }

    /// Deletes these connections, each as it was listed: another one that took its place since stays.
    /// Returns those that are gone, whoever deleted them, and what was wrong with the first that is not.
    pub async fn cut(
        &self,
        connections: &[Connection],
    ) -> (Vec<Connection>, Option<ConntrackError>) {
        if connections.is_empty() {
            return (Vec::new(), None);
        }
        let (connections, counters) = (connections.to_vec(), self.counters.clone());
        let work = move |socket: &mut Dialogue| Ok(delete(socket, &connections, &counters));
        let done = blocking(ConntrackError::Tell, work).await;
        done.unwrap_or_else(|error| (Vec::new(), Some(error)))
    }
}

async fn blocking<T: Send + 'static>(
    failed: fn(io::Error) -> ConntrackError,
    work: impl FnOnce(&mut Dialogue) -> Result<T, ConntrackError> + Send + 'static,
) -> Result<T, ConntrackError> {
    let opened = Dialogue::open(NETLINK_NETFILTER);
    let mut socket = opened.map_err(|error| ConntrackError::of(error, failed))?;
    let worked = spawn_blocking(move || work(&mut socket)).await;
    worked.map_err(|error| failed(io::Error::other(error)))?
}

/// Connections come and go while they are listed: what came to be or ended meanwhile is in the list or
/// not, and one may be in it twice.
fn list(socket: &mut Dialogue, request: &[u8], read: impl FnMut(&[u8])) -> io::Result<()> {
    match socket.ask(request, read) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}

/// How many connections the namespace has.
fn count(socket: &mut Dialogue) -> Result<u32, ConntrackError> {
    let mut count = None;
    socket
        .ask(&wire::statistics(), |body| count = wire::count(body))
        .map_err(|error| ConntrackError::of(error, ConntrackError::List))?;
    // Who does not say it has many.
    Ok(count.unwrap_or(u32::MAX))
}

/// A connection that has one of these addresses.
fn belonging(body: &[u8], wanted: &BTreeSet<(Side, IpAddr)>) -> Option<Connection> {
    let one = wire::connection(body).ok()?;
    let sides = [Side::Opener, Side::Asked, Side::Answerer];
    sides.iter().any(|side| wanted.contains(&(*side, side.of(&one)))).then_some(one)
}

/// The connections of a family that have one of these addresses.
fn find(
    socket: &mut Dialogue,
    family: Family,
    wanted: &BTreeSet<(Side, IpAddr)>,
    found: &mut BTreeSet<Connection>,
) -> Result<(), ConntrackError> {
    let wanted: BTreeSet<(Side, IpAddr)> =
        wanted.iter().filter(|(_, address)| Family::of(*address) == family).copied().collect();
    if wanted.is_empty() {
        return Ok(());
    }
    // What the kernel leaves out is a matter of its age: all is looked at here.
    let mut add = |body: &[u8]| found.extend(belonging(body, &wanted));
    // By IPv6 addresses the kernels up to now (6.18) leave out just those that were asked for.
    let mut filtered = wanted.len() <= ONE_BY_ONE && family == Family::V4;
    if filtered {
        for one in &wanted {
            let request = wire::list(family, Some(*one));
            match list(socket, &request, &mut add).map_err(Errno::try_from) {
                Ok(()) => {}
                Err(Ok(Errno::EINVAL | Errno::EOPNOTSUPP)) => filtered = false,
                Err(Ok(errno)) => return Err(ConntrackError::List(errno.into())),
                Err(Err(error)) => return Err(ConntrackError::List(error)),
            }
        }
    }
    if !filtered {
        list(socket, &wire::list(family, None), &mut add)
            .map_err(|error| ConntrackError::of(error, ConntrackError::List))?;
    }
    Ok(())
}

/// Deletes them. Returns those that are gone, and what was wrong with the first that is not.
fn delete(
    socket: &mut Dialogue,
    connections: &[Connection],
    counters: &Counters,
) -> (Vec<Connection>, Option<ConntrackError>) {
    let (mut gone, mut failed) = (Vec::with_capacity(connections.len()), None);
    for some in connections.chunks(AT_ONCE) {
        let requests: Vec<_> = some.iter().map(wire::delete).collect();
        counters.conntrack_calls.count(1);
        match socket.tell(&requests) {
            Ok(answers) => {
                let refused = sort(some, &answers, &mut gone);
                failed = failed.or(refused);
            }
            Err(error) => {
                failed.get_or_insert(ConntrackError::Tell(error));
                break;
            }
        }
    }
    (gone, failed)
}

/// Adds those to `gone` that are, by what the kernel answered to each; returns the first refusal.
fn sort(
    connections: &[Connection],
    answers: &[Answer],
    gone: &mut Vec<Connection>,
) -> Option<ConntrackError> {
    let mut refused = None;
    for (one, answer) in connections.iter().zip(answers) {
        // One that is gone is as it should be.
        if [0, Errno::ENOENT as i32].contains(&answer.code) {
            gone.push(*one);
        } else {
            let error = || io::Error::from_raw_os_error(answer.code);
            refused.get_or_insert_with(|| ConntrackError::Cut(Box::new(*one), error()));
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::chain;

    #[test]
    fn one_that_is_refused_is_named_and_the_others_are_gone() {
        let all: Vec<Connection> = (1..=4)
            .map(|port| {
                let line = format!(
                    "ipv4 2 tcp 6 29 ESTABLISHED src=10.65.0.1 dst=10.65.0.2 sport={port} dport=80 \
                     src=10.65.0.2 dst=10.65.0.1 sport=80 dport={port} use=1"
                );
                parse(&line).unwrap()
            })
            .collect();
        // One is gone already, and two are with the hardware.
        let codes = [Errno::ENOENT as i32, Errno::EBUSY as i32, 0, Errno::EBUSY as i32];
        let answers = codes.map(|code| Answer { code, request: Vec::new() });
        let mut gone = Vec::new();
        let refused = sort(&all, &answers, &mut gone).unwrap();
        assert_eq!(gone, [all[0], all[2]]);
        let said = chain(&refused);
        assert!(said.contains("10.65.0.1:2 → 10.65.0.2:80: Device or resource busy"), "{said}");
        assert!(sort(&all[..1], &answers[..1], &mut gone).is_none());
    }
}
