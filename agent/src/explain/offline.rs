//! The question answered from a datastore, without an agent: one snapshot, every host that is
//! concerned, and changes that nobody has applied yet. Nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use calico_datastore::backend::Batch;
use calico_datastore::layout::Decoded;
use calico_datastore::layout::v3::{self, manifest};
use calico_datastore::model::{Name, ResourceId, Update};

use super::answer::explain;
use super::directory::Directory;
use super::document::{Basis, Explanation};
use super::error::ExplainError;
use super::graph::{self, Graph};
use super::here;
use super::peers::Peers;
use super::question::Question;
use super::world::{Place, World};
use crate::calculation::{self, Layers};
use crate::node::addresses::host_addresses;
use crate::node::name;
use crate::preview::snapshot::{self, SnapshotError};
use crate::startup::Startup;

/// The longest that the datastore is waited for.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(10);
/// How many refused keys are named.
const NAMED: usize = 5;

/// What is changed for the question.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Files with manifests, as calicoctl takes them. The later one counts.
    pub with: Vec<PathBuf>,
    /// Objects to leave out: `GlobalNetworkPolicy/default.x`, `NetworkPolicy/ns/default.y`.
    pub without: Vec<String>,
}

/// It could not be told.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The datastore could not be read.
    #[error("cannot read the datastore")]
    Snapshot(#[source] SnapshotError),
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file has mistakes.
    #[error("{}: {}", path.display(), mistakes.join("; "))]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        mistakes: Vec<String>,
    },
    /// There is no such object.
    #[error("there is no {0:?} to leave out (kind/name, as GlobalNetworkPolicy/default.x)")]
    NoSuchObject(String),
    /// The graph is of one host.
    #[error("this host is not in the datastore: say with --nodename which host is meant")]
    NotInTheCluster,
    /// The question has no answer.
    #[error(transparent)]
    Explain(#[from] ExplainError),
}

/// Everything that was read, changed as asked.
#[derive(Debug)]
pub struct Read {
    batch: Batch,
    directory: Directory,
    basis: Basis,
    notes: Vec<String>,
    here: Option<Name>,
    layers: Layers,
}

/// Reads the datastore that the host is told to use, and changes what was read.
///
/// # Errors
/// When the datastore or a file cannot be read.
pub async fn read(startup: Startup, changes: &Changes) -> Result<Read, OfflineError> {
    let Startup { paths, local, layers, .. } = startup;
    // A machine without a name of its own in the cluster may ask all the same.
    let here = name::determine(&local.node, &paths.nodename()).ok().map(|(name, _)| name);
    let location = local.datastore.below(&paths.state_dir);
    let batch = snapshot::read_batch(&location, SNAPSHOT_LIMIT).await;
    let batch = batch.map_err(OfflineError::Snapshot)?;
    Read::of(batch, location.describe(), here, layers, changes)
}

/// What was read, with what is changed for the question.
fn changed(
    mut batch: Batch,
    datastore: String,
    here: Option<Name>,
    layers: Layers,
    changes: &Changes,
) -> Result<Read, OfflineError> {
    let mut basis = Basis { agent: None, datastore, revision: batch.revision, changes: Vec::new() };
    let mut notes = Vec::new();
    for (count, rejection) in batch.rejections.iter().enumerate() {
        match count {
            0..NAMED => notes.push(format!(
                "{} is refused and counts as absent: {}",
                rejection.key, rejection.reason
            )),
            NAMED => notes.push(format!("and {} more", batch.rejections.len() - NAMED)),
            _ => break,
        }
    }
    for path in &changes.with {
        for change in manifests(path, &mut notes)? {
            let there = batch.updates.iter().any(|update| update.id() == change.id());
            let sign = if there { '~' } else { '+' };
            basis.changes.push(format!("{sign} {}", change.id()));
            batch.updates.push(change);
        }
    }
    for text in &changes.without {
        let mut ids = batch.updates.iter().rev().map(Update::id);
        let found = ids.find(|id| is_called(id, text));
        let id = found.ok_or_else(|| OfflineError::NoSuchObject(text.clone()))?;
        basis.changes.push(format!("- {id}"));
        batch.updates.push(Update::deleted(id));
    }
    let mut directory = Directory::of_store(None, batch.updates.iter());
    let known = |name: &Name| {
        directory.hosts.contains_key(name) || directory.pods.iter().any(|pod| pod.id.node == *name)
    };
    let here = here.filter(known);
    directory.here.clone_from(&here);
    Ok(Read { batch, directory, basis, notes, here, layers })
}

/// `kind/name` in any case of the kind, a blank for the slash allowed.
fn is_called(id: &ResourceId, text: &str) -> bool {
    let id = id.to_string();
    let (Some((kind, name)), Some((asked_kind, asked_name))) =
        (id.split_once(' '), text.split_once(['/', ' ']))
    else {
        return false;
    };
    kind.eq_ignore_ascii_case(asked_kind) && name == asked_name
}

/// The objects of a file.
fn manifests(path: &Path, notes: &mut Vec<String>) -> Result<Vec<Update>, OfflineError> {
    let text = std::fs::read(path)
        .map_err(|source| OfflineError::File { path: path.to_owned(), source })?;
    let found = manifest::read(&text);
    let mut mistakes: Vec<String> = found.mistakes.iter().map(ToString::to_string).collect();
    let mut updates = Vec::new();
    for one in found.good {
        let name = manifest::name_of(&one.key);
        match (v3::LAYOUT.decode)(&one.key, &one.value) {
            Decoded::Object(update) => updates.push(update),
            Decoded::Rejected(rejection) => mistakes.push(format!("{name}: {}", rejection.reason)),
            Decoded::Unsupported { .. } | Decoded::Ignored | Decoded::Part(_) => {
                notes.push(format!("{name} of {} changes no verdict", path.display()));
            }
        }
    }
    if mistakes.is_empty() && found.blank {
        mistakes.push("nothing stands there".to_owned());
    }
    if mistakes.is_empty() {
        Ok(updates)
    } else {
        Err(OfflineError::Manifest { path: path.to_owned(), mistakes })
    }
}

impl Read {
    /// A snapshot that is there already, of a datastore that is called so. `here`: the host that this is,
    /// with its own settings in `layers`.
    ///
    /// # Errors
    /// When a file with changes cannot be read, or there is nothing of that name to leave out.
    pub fn of(
        batch: Batch,
        datastore: String,
        here: Option<Name>,
        layers: Layers,
        changes: &Changes,
    ) -> Result<Self, OfflineError> {
        changed(batch, datastore, here, layers, changes)
    }

    /// All that is known of these hosts.
    pub async fn world(self, hosts: BTreeSet<Name>) -> World {
        let mut places = BTreeMap::new();
        for host in hosts {
            let place = self.place(&host).await;
            places.insert(host, place);
        }
        let mut notes = self.notes;
        if places.keys().any(|host| Some(host) != self.here.as_ref()) {
            notes.push(
                "of other hosts only those settings are known that are in the datastore".to_owned(),
            );
        }
        World { directory: self.directory, places, basis: self.basis, notes }
    }

    /// Answers a question.
    ///
    /// # Errors
    /// When it has no answer.
    pub async fn explain(self, question: &Question) -> Result<Explanation, OfflineError> {
        let hosts = Peers::find(question, &self.directory)?.hosts(&self.directory);
        let mut world = self.world(hosts).await;
        here::look(&mut world, question);
        Ok(explain(question, &world)?)
    }

    /// Who reaches whom on a host: this one.
    ///
    /// # Errors
    /// When this host is not in the datastore, or the question cannot be meant.
    pub async fn graph(self, question: &Question) -> Result<Graph, OfflineError> {
        let here = self.here.clone().ok_or(OfflineError::NotInTheCluster)?;
        let place = self.place(&here).await;
        let mut graph = graph::graph(question, &here, &place, &self.directory)?;
        graph.notes.extend(self.notes);
        Ok(graph)
    }

    /// What should be in force on a host.
    async fn place(&self, host: &Name) -> Place {
        let of_node = self.directory.hosts.get(host).into_iter().flatten().copied();
        let mut addresses: BTreeSet<_> = of_node.collect();
        let own = Some(host) == self.here.as_ref();
        if own {
            let all = host_addresses().await.unwrap_or_default();
            addresses.extend(all.into_iter().map(|one| one.address));
        }
        let layers = if own { self.layers.clone() } else { foreign() };
        let (state, _) = calculation::once(host.clone(), layers, self.batch.clone());
        Place::new(state, addresses)
    }
}

/// What is known of another host's own settings: nothing.
fn foreign() -> Layers {
    Layers::default()
}
