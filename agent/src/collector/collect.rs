//! Removes what was judged to be left behind: dull, it decides nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_cni::attachment::{Attachment, AttachmentError, Attachments, Locked};
use calico_cni::teardown::{self, Remains, Removed, TeardownError};
use calico_datastore::ipam::{Allocation, Ipam, IpamError};
use calico_datastore::model::{InterfaceName, Name};
use calico_datastore::store::Store;

use super::plan::{self, Endpoint, Thing};

/// What became of something that was to be collected.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing of it is left.
    Collected {
        /// There was an interface, and it is gone now.
        interface: bool,
        /// Addresses that are free again.
        addresses: Vec<IpAddr>,
    },
    /// It is not what was judged any more, or the plugin is at work on it.
    Left(&'static str),
}

/// It could not be removed, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum CollectError {
    /// A record or the lock of its container cannot be used.
    #[error("cannot use the plugin's records")]
    Record(#[source] AttachmentError),
    /// The addresses of this host's pods cannot be listed.
    #[error("cannot list the addresses of this host's pods")]
    List(#[source] IpamError),
    /// Addresses cannot be given back.
    #[error("cannot give back the addresses of {handle}")]
    Release {
        /// Their handle.
        handle: String,
        /// Why.
        #[source]
        source: IpamError,
    },
    /// A step failed; the others were done.
    #[error(transparent)]
    Step(TeardownError),
    /// The thread that asks the disk is lost.
    #[error("cannot ask the disk")]
    Thread(#[source] tokio::task::JoinError),
}

/// What removes.
#[derive(Debug)]
pub(super) struct Collector<S> {
    pub(super) store: S,
    pub(super) node: Name,
    pub(super) attachments: Arc<Attachments>,
}

impl<S: Store + Clone> Collector<S> {
    /// The addresses of this host's pods.
    pub(super) async fn allocations(&self) -> Result<Vec<Allocation>, CollectError> {
        self.ipam().of_host().await.map_err(CollectError::List)
    }

    fn ipam(&self) -> Ipam<S> {
        Ipam::new(self.store.clone(), self.node.clone())
    }

    /// Removes a thing with all that is its own. `others`: interfaces of endpoints that stay.
    pub(super) async fn collect(
        &self,
        thing: &Thing,
        others: BTreeSet<InterfaceName>,
    ) -> Result<Outcome, CollectError> {
        match thing {
            Thing::Record(record) => self.record(record, others).await,
            Thing::Endpoint(endpoint) => self.endpoint(endpoint, others).await,
            Thing::Addresses { handle, allocations } => self.addresses(handle, allocations).await,
        }
    }

    async fn record(
        &self,
        judged: &Attachment,
        others: BTreeSet<InterfaceName>,
    ) -> Result<Outcome, CollectError> {
        let Some(held) = self.hold(&judged.container_id).await? else {
            return Ok(Outcome::Left("the plugin is at work on it"));
        };
        let own = |a: &&Attachment| {
            (&a.container_id, &a.ifname) == (&judged.container_id, &judged.ifname)
        };
        // Under the lock nobody changes it any more; before, somebody may have.
        if held.all.iter().find(own) != Some(judged) {
            return Ok(Outcome::Left("the plugin was at work on it"));
        }
        let mut remains = Remains::of_record(judged, &held.all);
        // The unit may not enter a namespace (RestrictNamespaces=); the two sides of a pair go
        // together.
        remains.netns = None;
        remains.others.extend(others);
        if let Some(name) = &remains.host_name {
            let name = name.clone();
            remains.host_name = Some(name).filter(|name| !remains.others.contains(name));
        }
        let removed = whole(teardown::teardown(&self.store, &remains).await)?;
        let (attachments, record) = (Arc::clone(&self.attachments), judged.clone());
        blocking(move || {
            attachments.remove(&record.container_id, &record.ifname)?;
            held.give_up(&attachments, &record.container_id);
            Ok(())
        })
        .await?;
        Ok(Outcome::Collected { interface: removed.interface, addresses: removed.addresses })
    }

    async fn endpoint(
        &self,
        endpoint: &Endpoint,
        mut others: BTreeSet<InterfaceName>,
    ) -> Result<Outcome, CollectError> {
        let container = teardown::container_of(&endpoint.id).to_owned();
        let Some(held) = self.hold(&container).await? else {
            return Ok(Outcome::Left("the plugin is at work on it"));
        };
        let ifname = endpoint.id.endpoint.as_str();
        if held.all.iter().any(|a| a.container_id == container && a.ifname == ifname) {
            return Ok(Outcome::Left("the plugin was at work on it"));
        }
        // Only endpoints without an interface are collected without a record: one that has come
        // since is somebody else's.
        others.insert(endpoint.interface.clone());
        let mut handles: BTreeSet<String> = self
            .allocations()
            .await?
            .into_iter()
            .filter_map(|allocation| allocation.handle)
            .filter(|handle| plan::pod_of_handle(handle) == Some(&*container))
            .collect();
        // Old plugins call the handle as the container.
        let first = handles.pop_first().unwrap_or_else(|| container.clone());
        let mut remains = Remains::of_endpoint(endpoint.id.clone(), None, first, &held.all);
        remains.others.extend(others);
        let removed = whole(teardown::teardown(&self.store, &remains).await)?;
        let mut addresses = removed.addresses;
        for handle in handles {
            // Another network's of the same pod, which may have a record or an endpoint of its own.
            if held.all.iter().any(|a| a.handle == handle) {
                continue;
            }
            let further = Remains { handle, ..remains.clone() };
            let given = teardown::give_back(&self.store, &further).await;
            addresses.extend(given.map_err(CollectError::Step)?);
        }
        held.give_up(&self.attachments, &container);
        Ok(Outcome::Collected { interface: removed.interface, addresses })
    }

    /// The container's lock, and every record of this host as it is under that lock.
    async fn hold(&self, container: &str) -> Result<Option<Held>, CollectError> {
        let (attachments, container) = (Arc::clone(&self.attachments), container.to_owned());
        blocking(move || {
            // Not waited for: whoever has it is at work, and there is a next look.
            let Some(lock) = attachments.lock(&container, Duration::ZERO)? else { return Ok(None) };
            Ok(Some(Held { lock, all: attachments.list()?.attachments }))
        })
        .await
    }

    async fn addresses(
        &self,
        handle: &str,
        judged: &[Allocation],
    ) -> Result<Outcome, CollectError> {
        // An ADD of the same container would get its addresses by this handle.
        let container = plan::pod_of_handle(handle).unwrap_or(handle);
        let Some(held) = self.hold(container).await? else {
            return Ok(Outcome::Left("the plugin is at work on it"));
        };
        if held.all.iter().any(|a| a.handle == handle) {
            return Ok(Outcome::Left("the plugin was at work on it"));
        }
        let ipam = self.ipam();
        let failed = |source| CollectError::Release { handle: handle.to_owned(), source };
        let now = ipam.of_handle(handle).await.map_err(failed)?;
        if !now.iter().all(|allocation| judged.contains(allocation)) {
            return Ok(Outcome::Left("it has other addresses now"));
        }
        let addresses = ipam.release_handle(handle).await.map_err(failed)?;
        held.give_up(&self.attachments, container);
        Ok(Outcome::Collected { interface: false, addresses })
    }
}

/// A container's lock and what it guards.
struct Held {
    lock: Locked,
    all: Vec<Attachment>,
}

impl Held {
    /// Gives the lock up; its file goes when nothing of the container is left.
    fn give_up(self, attachments: &Attachments, container: &str) {
        if attachments.of_container(container).is_ok_and(|left| left.is_empty()) {
            self.lock.finish();
        }
    }
}

/// All or an error: the first of what failed.
fn whole(mut removed: Removed) -> Result<Removed, CollectError> {
    if removed.failures.is_empty() {
        Ok(removed)
    } else {
        Err(CollectError::Step(removed.failures.swap_remove(0)))
    }
}

/// Asks the disk on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, AttachmentError> + Send + 'static,
) -> Result<T, CollectError> {
    let asked = tokio::task::spawn_blocking(ask).await.map_err(CollectError::Thread)?;
    asked.map_err(CollectError::Record)
}

#[cfg(test)]
mod tests;
