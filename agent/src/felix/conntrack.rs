//! Lists connections, and forgets some: those of an address that left (an established connection is
//! not asked again, so the next pod with that address would inherit it), and those that came to be
//! while our rules were not in force and that policy denies. Which these are others say.

mod entry;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use calico_datastore::model::Family;

pub use self::entry::{BadEntry, Connection, Order, Tuple, Zones, parse};
use super::counters::Counters;
use crate::exec::{Exec, ExecError};

/// How many orders one process is given: it walks the table once for each.
const AT_ONCE: usize = 32;

/// Runs `conntrack`.
#[derive(Clone, Debug)]
pub struct Conntrack {
    exec: Exec,
    counters: Counters,
}

impl Conntrack {
    /// The connections of this network namespace.
    pub fn new(exec: Exec, counters: Counters) -> Self {
        Self { exec, counters }
    }

    /// Deletes every connection from or to one of `addresses`, and every one that was opened to one
    /// of `external`, whoever it was led to. Deleting none is success.
    ///
    /// # Errors
    /// When the tool is missing or fails.
    pub async fn forget(
        &self,
        addresses: &BTreeSet<IpAddr>,
        external: &BTreeSet<IpAddr>,
    ) -> Result<(), ExecError> {
        // Connections that it opened, and those that were opened to it: behind NAT only the source of
        // the reply says so.
        let own = addresses.iter().flat_map(|a| [("--orig-src", a), ("--reply-src", a)]);
        let external = external.iter().map(|address| ("--orig-dst", address));
        let command = |(side, address): (&str, &IpAddr)| {
            let family = match Family::of(*address) {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            let words = ["-D", "-f", family, side].map(str::to_owned);
            words.into_iter().chain([address.to_string()]).collect::<Vec<_>>()
        };
        let commands: Vec<_> = own.chain(external).map(command).collect();
        if commands.is_empty() {
            return Ok(());
        }
        self.delete(&commands).await
    }

    /// Ends with an error when the tool is not there.
    ///
    /// # Errors
    /// When it cannot be started or does not work at all.
    pub async fn version(&self) -> Result<(), ExecError> {
        self.exec.run("conntrack", &["--version"], b"").await.map(drop)
    }

    /// Every connection of a family, and the first of the lines that could not be read, if any.
    ///
    /// # Errors
    /// When the tool is missing or fails.
    pub async fn list(
        &self,
        family: Family,
    ) -> Result<(Vec<Connection>, Option<BadEntry>), ExecError> {
        let family = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let args = ["-L", "-f", family, "-o", "extended"];
        let output = self.exec.run("conntrack", &args, b"").await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (mut connections, mut bad) = (Vec::new(), None);
        for line in text.lines() {
            match parse(line) {
                Ok(connection) => connections.push(connection),
                Err(error) => drop(bad.get_or_insert(error)),
            }
        }
        Ok((connections, bad))
    }

    /// Carries out orders, so many at once that one process stays far below its bound. An order that
    /// finds nothing is carried out.
    ///
    /// # Errors
    /// When the tool is missing or fails.
    pub async fn cut(&self, orders: &[Order]) -> Result<(), ExecError> {
        for some in orders.chunks(AT_ONCE) {
            let commands: Vec<_> = some.iter().map(Order::args).collect();
            self.delete(&commands).await?;
        }
        Ok(())
    }

    async fn delete(&self, commands: &[Vec<String>]) -> Result<(), ExecError> {
        // The tool walks the whole table for each command, but one process does them all.
        let mut batch = String::new();
        for command in commands {
            let _ = writeln!(batch, "{}", command.join(" "));
        }
        self.counters.conntrack_calls.count(1);
        match self.exec.run("conntrack", &["--load-file", "-"], batch.as_bytes()).await {
            Ok(_) => return Ok(()),
            Err(error @ (ExecError::Start { .. } | ExecError::TimedOut { .. })) => {
                return Err(error);
            }
            // Before 1.4.7 it cannot read commands.
            Err(_) => {}
        }
        for command in commands {
            self.counters.conntrack_calls.count(1);
            match self.exec.run("conntrack", command, b"").await {
                // Nothing was there to delete.
                Ok(_) | Err(ExecError::Failed { code: Some(1), .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
