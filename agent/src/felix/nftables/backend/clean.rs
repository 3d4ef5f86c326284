//! Removes what a run with this dataplane left: the table, and the groups of interfaces.

use crate::felix::counters::Counters;
use crate::felix::nftables::TABLE;
use crate::felix::nftables::groups::{Grouped, Groups};
use crate::felix::nftables::render::groups::is_ours;
use crate::felix::nftables::table::Table;
use crate::telemetry::chain;

use super::places::NONE;

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
    pub(in crate::felix) fn find() -> Result<Self, String> {
        let mut table = Table::open(TABLE, Counters::default()).map_err(|error| chain(&error))?;
        let table = table.read().map_err(|error| chain(&error))?.is_some();
        let links = Groups::open().and_then(|mut groups| groups.read());
        let links = links.map_err(|error| format!("cannot list interfaces: {error}"))?;
        let links = links.into_values().filter(|link| is_ours(link.group)).collect();
        Ok(Self { table, links })
    }

    /// True when nothing is there.
    pub(in crate::felix) fn is_empty(&self) -> bool {
        !self.table && self.links.is_empty()
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

/// True when anything of ours is there.
pub(in crate::felix) fn is_there() -> bool {
    Remains::find().is_ok_and(|remains| !remains.is_empty())
}
