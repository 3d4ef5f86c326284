//! Forgets the connections of an address that left: an established connection is not asked again,
//! so the next pod with that address would inherit it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use calico_datastore::model::Family;

use super::counters::Counters;
use crate::exec::{Exec, ExecError};

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

    /// Deletes every connection from or to one of `addresses`. Deleting none is success.
    ///
    /// # Errors
    /// When the tool is missing or fails.
    pub async fn forget(&self, addresses: &BTreeSet<IpAddr>) -> Result<(), ExecError> {
        if addresses.is_empty() {
            return Ok(());
        }
        let mut commands = Vec::new();
        for address in addresses {
            let family = match Family::of(*address) {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            // Connections that it opened, and those that were opened to it: behind NAT only the
            // source of the reply says so.
            for side in ["--orig-src", "--reply-src"] {
                commands.push(
                    ["-D", "-f", family, side]
                        .map(str::to_owned)
                        .into_iter()
                        .chain([address.to_string()])
                        .collect::<Vec<_>>(),
                );
            }
        }
        // The tool walks the whole table for each command, but one process does them all.
        let mut batch = String::new();
        for command in &commands {
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
        for command in &commands {
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
