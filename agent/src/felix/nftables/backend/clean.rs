//! Removes what a run with this dataplane left: the table, and the groups of interfaces.

use std::io;

use crate::felix::counters::Counters;
use crate::felix::nftables::TABLE;
use crate::felix::nftables::groups::{Grouped, Groups};
use crate::felix::nftables::render::groups::is_ours;
use crate::felix::nftables::table::{ReadError, Table};
use crate::telemetry::chain;

use super::places::NONE;
use super::sockets::apart;

/// What is there of ours.
#[derive(Debug, Default)]
pub(in crate::felix) struct Remains {
    /// The table.
    pub(in crate::felix) table: bool,
    /// Interfaces in groups of ours.
    pub(in crate::felix) links: Vec<Grouped>,
}

impl Remains {
    /// Looks.
    ///
    /// # Errors
    /// In words, when the kernel does not say.
    pub(in crate::felix) async fn find() -> Result<Self, String> {
        let unlisted = |error: io::Error| format!("cannot list interfaces: {error}");
        let mut table = Table::open(TABLE, Counters::default()).map_err(|error| chain(&error))?;
        let mut groups = Groups::open().map_err(unlisted)?;
        let read = move || {
            let table = table.read().map_err(|error| chain(&error))?.is_some();
            let links = links(&mut groups).map_err(unlisted)?;
            Ok(Self { table, links })
        };
        apart(read).await.map_err(|error| error.to_string())?
    }

    /// Removes it all: first the table, or what is in no group any more would be dropped.
    ///
    /// # Errors
    /// In words, when something stays.
    pub(in crate::felix) fn remove(&self, counters: &Counters) -> Result<(), String> {
        if self.table {
            let table = Table::open(TABLE, counters.clone()).map_err(|error| chain(&error));
            table?.remove().map_err(|error| chain(&error))?;
        }
        if self.links.is_empty() {
            return Ok(());
        }
        let mut groups = Groups::open().map_err(|error| format!("interfaces: {error}"))?;
        for link in &self.links {
            counters.link_groups.count(1);
            let set = groups.set(link.index, NONE);
            set.map_err(|error| format!("group of interface {}: {error}", link.name))?;
        }
        Ok(())
    }
}

/// True when anything of ours is there, as far as the kernel says it: a table is there also when interfaces
/// cannot be listed, and so is one that does not stop changing.
pub(in crate::felix) async fn is_there() -> bool {
    let (table, groups) = (Table::open(TABLE, Counters::default()), Groups::open());
    let read = move || {
        let table = table.is_ok_and(|mut table| match table.read() {
            Ok(found) => found.is_some(),
            Err(error) => matches!(error, ReadError::Restless),
        });
        let grouped = || groups.and_then(|mut groups| links(&mut groups));
        table || grouped().is_ok_and(|links| !links.is_empty())
    };
    apart(read).await.unwrap_or(false)
}

/// The interfaces in groups of ours.
fn links(groups: &mut Groups) -> io::Result<Vec<Grouped>> {
    let links = groups.read()?;
    Ok(links.into_values().filter(|link| is_ours(link.group)).collect())
}
