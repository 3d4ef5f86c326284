//! Runs `iptables-save` and `iptables-restore` of the chosen flavour. It decides nothing.

use std::collections::BTreeMap;

use calico_datastore::model::Family;

use super::lock;
use super::probe::Dataplane;
use super::save::{self, ActualTable, Table};
use crate::exec::{Exec, ExecError};
use crate::felix::counters::Counters;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// What the kernel holds could not be read.
    #[error("cannot read the {family} tables{}", without_ipv6(*family, source))]
    Save {
        /// The family.
        family: Family,
        /// Why.
        #[source]
        source: ExecError,
    },
    /// Somebody held the lock of the legacy tables for too long. Nothing was tried.
    #[error("cannot write the {family} tables: {} holds the xtables lock", holder.as_deref().unwrap_or("another program"))]
    Locked {
        /// The family.
        family: Family,
        /// The program, as far as this host tells.
        holder: Option<String>,
    },
    /// So much was refused that the search for what is bad took too long. It goes on in the next run.
    #[error("the kernel refuses many {family} rules; {left} chains are still to be tried")]
    Unfinished {
        /// The family.
        family: Family,
        /// How many chains wait, as they were or closed.
        left: usize,
    },
    /// The kernel did not take a transaction. It holds what it held before.
    #[error("cannot write the {family} tables")]
    Restore {
        /// The family.
        family: Family,
        /// Why.
        #[source]
        source: ExecError,
    },
}

/// What to do on a host that has no IPv6 at all.
fn without_ipv6(family: Family, source: &ExecError) -> &'static str {
    match family {
        Family::V6 if source.is_missing() => {
            " (install ip6tables, or set FELIX_IPV6SUPPORT=false on a host without IPv6)"
        }
        _ => "",
    }
}

impl IptablesError {
    /// True when the program is missing.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Save { source, .. } | Self::Restore { source, .. } => source.is_missing(),
            Self::Locked { .. } | Self::Unfinished { .. } => false,
        }
    }

    /// True when the rules themselves were refused, so that leaving some out may help. A program
    /// that is missing or hangs, or a lock that somebody holds, says nothing about any rule.
    pub fn blames_the_rules(&self) -> bool {
        match self {
            Self::Restore { source: ExecError::Failed { code, .. }, .. } => code.is_some(),
            Self::Unfinished { .. } => true,
            Self::Save { .. } | Self::Locked { .. } | Self::Restore { .. } => false,
        }
    }

    /// True when the kernel surely holds what it held, but for tables that were taken before.
    pub fn leaves_all_as_it_was(&self) -> bool {
        self.blames_the_rules() || matches!(self, Self::Locked { .. })
    }
}

/// How long a call waits for the lock, in seconds. One run waits at most three times, and families
/// wait side by side: far from what any watchdog allows. The next run comes after a back-off.
const WAIT: u32 = 3;

/// The programs of one flavour.
#[derive(Clone, Debug)]
pub struct Driver {
    exec: Exec,
    dataplane: Dataplane,
    counters: Counters,
}

impl Driver {
    /// A driver for what the probe chose.
    pub fn new(exec: Exec, dataplane: Dataplane, counters: Counters) -> Self {
        Self { exec, dataplane, counters }
    }

    /// Reads all tables that exist. Tables that do not exist are not made by looking.
    ///
    /// # Errors
    /// When the program fails.
    pub async fn save(
        &self,
        family: Family,
    ) -> Result<BTreeMap<Table, ActualTable>, IptablesError> {
        self.counters.iptables_saves.count(1);
        let program = self.dataplane.program(family, "save");
        let output = self
            .exec
            .run::<&str>(&program, &[], b"")
            .await
            .map_err(|source| IptablesError::Save { family, source })?;
        Ok(save::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Writes `text`: any number of tables, each one transaction.
    ///
    /// # Errors
    /// When one of the tables was not taken; those before it are in force.
    pub async fn restore(&self, family: Family, text: &str) -> Result<(), IptablesError> {
        self.counters.iptables_restores.count(1);
        self.counters.iptables_bytes.count(text.len() as u64);
        let program = self.dataplane.program(family, "restore");
        let mut args = vec!["--noflush"];
        // The lock is shared with every other user of the legacy tables.
        let wait = format!("--wait={WAIT}");
        if self.dataplane.waits {
            args.push(&wait);
        }
        let error = match self.exec.run(&program, &args, text.as_bytes()).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match &error {
            ExecError::Failed { stderr, .. } if stderr.contains("xtables lock") => {
                Err(IptablesError::Locked { family, holder: lock::holder() })
            }
            _ => Err(IptablesError::Restore { family, source: error }),
        }
    }
}
