//! What is in force of both directories, and what a change of them is for the reader: pure but for
//! the scans that fill it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::DirectoryConfig;
use super::UNSETTLED_LOOKS;
use super::admin::Admin;
use super::error::DirectoryError;
use super::state::{Files, Identity, State};
use crate::backend::{Batch, Entry, Event, Syncer};
use crate::layout::Rejection;
use crate::layout::v3::LAYOUT;

/// The two directories as they were at the last look.
pub(super) struct View {
    config: DirectoryConfig,
    admin: Admin,
    state: State,
    files: Files,
    /// Looks in a row that left out a file because it changed a moment ago.
    unsettled: usize,
    /// The state directory as it was last there. Gone, it is not empty but gone.
    seen: Option<Identity>,
    syncer: Syncer,
    /// What the syncer was told.
    told: BTreeMap<String, Arc<[u8]>>,
    /// Files that the reader knows to be refused, and why.
    refused: BTreeMap<String, String>,
    /// Grows with every batch that says something new.
    revision: i64,
    /// The reader has a complete snapshot, and was not told since that nothing can be read.
    in_sync: bool,
    listings: u64,
}

impl View {
    pub(super) fn new(config: DirectoryConfig) -> Self {
        Self {
            admin: Admin::new(config.admin.clone()),
            state: State::new(&config.state),
            config,
            files: Files::new(),
            unsettled: 0,
            seen: None,
            syncer: Syncer::new(LAYOUT),
            told: BTreeMap::new(),
            refused: BTreeMap::new(),
            revision: 0,
            in_sync: false,
            listings: 0,
        }
    }

    /// The revision of the last batch.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// Complete snapshots so far: the first, and one each time that another state directory has taken
    /// the place of the one before.
    pub(super) fn listings(&self) -> u64 {
        self.listings
    }

    /// Another look is due soon: a file was left out because it changed a moment ago.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled > 0
    }

    /// Looks at both directories. `directories` becomes what should be watched. The reader gets the
    /// batch, if any; or the reason why nothing can be read.
    pub(super) fn look(
        &mut self,
        busy: &dyn Fn(&str) -> bool,
        directories: &mut BTreeSet<PathBuf>,
    ) -> Result<Option<Batch>, String> {
        let looked = self.scan(busy, directories);
        directories.insert(self.config.admin.clone());
        let there = looked.map_err(|error| error.chain()).inspect_err(|_| self.in_sync = false)?;
        if there.is_none() && self.seen.is_some() {
            self.in_sync = false;
            return Err(format!("{} is gone", self.config.state.display()));
        }
        if there != self.seen || self.listings == 0 {
            self.listings += 1;
        }
        self.seen = there;
        if self.is_unsettled() && !self.in_sync {
            // A snapshot is complete, or it is none.
            return Ok(None);
        }
        // The reader has what was in force before it was started; half of a policy is nobody's.
        if self.revision == 0
            && let Some(reason) = self.admin.unknown()
        {
            return Err(reason);
        }
        let now = self.effective();
        if let Some(value) = now.get(LAYOUT.ready_key)
            && !LAYOUT.is_ready(Some(value))
        {
            self.in_sync = false;
            let whose = self.admin.get(LAYOUT.ready_key).map(|owned| self.admin.path_of(owned));
            let whose = whose.unwrap_or_else(|| self.config.state.clone());
            return Err(format!("ClusterInformation in {} is not ready", whose.display()));
        }
        Ok(self.batch(now))
    }

    fn scan(
        &mut self,
        busy: &dyn Fn(&str) -> bool,
        directories: &mut BTreeSet<PathBuf>,
    ) -> Result<Option<Identity>, DirectoryError> {
        let there = self.state.scan(&mut self.files, directories)?;
        self.admin.scan(busy, self.unsettled >= UNSETTLED_LOOKS)?;
        self.unsettled = if self.admin.is_unsettled() { self.unsettled + 1 } else { 0 };
        Ok(there)
    }

    /// What is in force: the administrator's objects cover those of the state directory.
    fn effective(&self) -> BTreeMap<String, Arc<[u8]>> {
        let state = self
            .files
            .iter()
            .filter_map(|(path, value)| Some((self.state.key_of(path)?, Arc::clone(&value.bytes))));
        let admin = self.admin.objects().iter();
        let admin = admin.map(|(key, owned)| (key.clone(), Arc::clone(&owned.value)));
        state.chain(admin).filter(|(key, _)| LAYOUT.contains(key)).collect()
    }

    fn batch(&mut self, now: BTreeMap<String, Arc<[u8]>>) -> Option<Batch> {
        let next = self.revision + 1;
        if self.syncer.needs_listing() {
            list(&mut self.syncer, &now, next);
        } else {
            let puts = now.iter().filter(|(key, value)| {
                let told = self.told.get(*key);
                told.is_none_or(|told| !Arc::ptr_eq(told, value) && told != *value)
            });
            let puts = puts.map(|(key, value)| Event::Put(entry(key, value, next)));
            let gone = self.told.keys().filter(|key| !now.contains_key(*key));
            let gone = gone.map(|key| Event::Delete { key, revision: next });
            // In this order an object that moves to another key is never away.
            self.syncer.apply(next, puts.chain(gone));
            if self.syncer.needs_listing() {
                list(&mut self.syncer, &now, next);
            }
        }
        self.told = now;
        let (rejections, accepted) = self.refusals();
        if !self.in_sync || !rejections.is_empty() || !accepted.is_empty() {
            self.syncer.announce();
        }
        let mut batch = self.syncer.take()?;
        self.in_sync = true;
        self.revision = next;
        batch.revision = next;
        batch.rejections.extend(rejections);
        batch.accepted.extend(accepted);
        Some(batch)
    }

    /// What the reader must learn about files.
    fn refusals(&mut self) -> (Vec<Rejection>, Vec<String>) {
        let now = self.admin.refused();
        let news = now.iter().filter(|(path, reason)| self.refused.get(*path) != Some(reason));
        let rejections = news.map(|(path, reason)| Rejection {
            key: path.clone(),
            id: None,
            reason: reason.clone(),
        });
        let rejections = rejections.collect();
        let accepted = self.refused.keys().filter(|path| !now.contains_key(*path)).cloned();
        let accepted = accepted.collect();
        self.refused.clone_from(now);
        (rejections, accepted)
    }
}

fn list(syncer: &mut Syncer, now: &BTreeMap<String, Arc<[u8]>>, revision: i64) {
    syncer.begin_listing();
    for (key, value) in now {
        syncer.list(entry(key, value, revision));
    }
    syncer.finish_listing(revision);
}

/// Where two keys describe one object the smaller key has it: files have no age.
fn entry<'a>(key: &'a str, value: &'a [u8], revision: i64) -> Entry<'a> {
    Entry { key, value, mod_revision: revision, create_revision: 1 }
}
