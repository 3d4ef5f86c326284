//! Takes back what an attachment has: for `DEL` and `GC`, for an ADD that failed, and for the
//! agent's collector, which finishes what nobody will ask for again.
//!
//! Every step is tried, whatever became of the others; what failed is told at the end. Nothing here
//! prints, and nothing decides *whether* an attachment is to go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use calico_datastore::ipam::{Ipam, IpamError};
use calico_datastore::layout::v3::write::endpoint::{self, Holdings};
use calico_datastore::layout::v3::{id_of, keys};
use calico_datastore::model::{InterfaceName, Name, ResourceId, WorkloadEndpointId};
use calico_datastore::store::{Store, StoreError};

use crate::attachment::{Attachment, Delegated};
use crate::delegation;
use crate::network::{self, NetworkError};
use crate::protocol::CniError;

/// What an attachment may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Its endpoint in the datastore. The last part is the interface's name inside the pod.
    pub endpoint: WorkloadEndpointId,
    /// The pod's namespace; `None`: gone, or not known.
    pub netns: Option<PathBuf>,
    /// The host side of its interface, when that name is known to be its own.
    pub host_name: Option<InterfaceName>,
    /// Names of host sides that belong to others: never removed, whoever says so.
    pub others: BTreeSet<InterfaceName>,
    /// The handle of its addresses.
    pub handle: String,
    /// Addresses with the same handle that are another interface's: not given back.
    pub kept: Vec<IpAddr>,
    /// The foreign plugin that gave its addresses.
    pub delegated: Option<Delegated>,
}

impl Remains {
    /// Of an attachment that has a record. `all`: every record of this host, to know what is
    /// others'; the attachment's own may be among them.
    pub fn of_record(record: &Attachment, all: &[Attachment]) -> Self {
        let node = Name::from(&*record.node);
        let endpoint = endpoint::id(&node, &record.container_id, &record.ifname);
        let known = record.host_name.as_ref().and_then(|name| name.parse().ok());
        Self {
            netns: record.netns.clone(),
            delegated: record.delegated.clone(),
            ..Self::of_endpoint(endpoint, known, record.handle.clone(), all)
        }
    }

    /// Of an endpoint that has no record: made before there were any, or by another plugin.
    /// `handle`: `<network>.<container id>` for those of a CNI plugin.
    pub fn of_endpoint(
        endpoint: WorkloadEndpointId,
        host_name: Option<InterfaceName>,
        handle: String,
        all: &[Attachment],
    ) -> Self {
        let container = container_of(&endpoint);
        let own = |a: &&Attachment| {
            a.container_id == container && a.ifname == *endpoint.endpoint.as_str()
        };
        let others: Vec<_> = all.iter().filter(|a| !own(a)).collect();
        let kept = others
            .iter()
            // Names have dots: another network and container may make the same handle.
            .filter(|a| a.handle == handle)
            .flat_map(|a| a.addresses.iter().copied());
        let names = others.iter().filter_map(|a| a.host_name.as_ref()?.parse().ok());
        let (kept, others): (_, BTreeSet<InterfaceName>) = (kept.collect(), names.collect());
        let host_name = host_name.filter(|name| !others.contains(name));
        Self { endpoint, netns: None, host_name, others, handle, kept, delegated: None }
    }
}

/// The container of an endpoint: its workload's name without the namespace.
pub fn container_of(endpoint: &WorkloadEndpointId) -> &str {
    let workload = endpoint.workload.as_str();
    workload.split_once('/').map_or(workload, |(_, container)| container)
}

/// What was taken back, and what could not be.
#[derive(Debug, Default)]
pub struct Removed {
    /// There was an endpoint, and it is gone now.
    pub endpoint: bool,
    /// There was an interface, and it is gone now.
    pub interface: bool,
    /// Addresses that are free again.
    pub addresses: Vec<IpAddr>,
    /// What failed; empty: nothing of the attachment is left.
    pub failures: Vec<TeardownError>,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// The datastore did not let the endpoint be read or removed.
    #[error("cannot remove the endpoint {endpoint}")]
    Endpoint {
        /// The endpoint.
        endpoint: Box<WorkloadEndpointId>,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The kernel did not let the interface be removed.
    #[error("cannot remove the interface {interface}")]
    Interface {
        /// Its name on the host, or inside where that is all that is known.
        interface: String,
        /// Why.
        #[source]
        source: NetworkError,
    },
    /// The addresses could not be given back.
    #[error("cannot give back the addresses of {handle}")]
    Addresses {
        /// Their handle.
        handle: String,
        /// Why.
        #[source]
        source: IpamError,
    },
    /// A foreign plugin could not take its addresses back.
    #[error("the plugin {plugin} cannot take its addresses back")]
    Delegated {
        /// The plugin.
        plugin: String,
        /// What it said.
        #[source]
        source: CniError,
    },
}

/// Takes everything back: the endpoint first, so that no agent keeps routes and policy for it, then
/// the interface, then the addresses.
///
/// Addresses stay while the endpoint cannot be removed: it would claim them beside their next
/// owner's.
pub async fn teardown<S: Store + Clone>(store: &S, remains: &Remains) -> Removed {
    let mut removed = Removed::default();
    let found = match find(store, remains).await {
        Ok(found) => found,
        Err(source) => {
            removed.fail_endpoint(remains, source);
            removed.remove_interface(remains, None).await;
            removed.take_back(remains).await;
            return removed;
        }
    };
    let key = keys::workload_endpoint(&remains.endpoint).filter(|_| found.own.is_some());
    let deleted = match key {
        Some(key) => store.delete(&key).await,
        None => Ok(()),
    };
    let gone = deleted.is_ok();
    removed.endpoint = gone && found.own.is_some();
    if let Err(source) = deleted {
        removed.fail_endpoint(remains, source);
    }
    let stored_name = found.own.as_ref().and_then(|held| held.interface.clone());
    removed.remove_interface(remains, stored_name).await;
    removed.take_back(remains).await;
    if gone {
        removed.release(store, remains, &found.siblings).await;
    }
    removed
}

/// Gives back a handle of an attachment whose endpoint and interface are gone: of one that nothing was
/// written down about there may be several. What the endpoints of the container's other interfaces
/// have of it stays.
///
/// # Errors
/// When the datastore does not say which those are, or does not take the addresses.
pub async fn give_back<S: Store + Clone>(
    store: &S,
    remains: &Remains,
) -> Result<Vec<IpAddr>, TeardownError> {
    let found = find(store, remains).await.map_err(|source| {
        let endpoint = Box::new(remains.endpoint.clone());
        TeardownError::Endpoint { endpoint, source }
    })?;
    let mut removed = Removed::default();
    removed.release(store, remains, &found.siblings).await;
    match removed.failures.pop() {
        None => Ok(removed.addresses),
        Some(error) => Err(error),
    }
}

/// Only what this host can do by itself, for when the datastore does not answer: removes the
/// interface.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove_interface(remains: &Remains) -> Result<bool, TeardownError> {
    interface(remains, None).await
}

/// Lets the foreign plugin take back what it gave, if there is one. It needs no datastore either.
///
/// # Errors
/// What the plugin says, or that there is none.
pub(crate) async fn take_back(remains: &Remains) -> Result<(), TeardownError> {
    let Some(delegated) = &remains.delegated else { return Ok(()) };
    let (container, netns) = (container_of(&remains.endpoint), remains.netns.as_deref());
    let ifname = remains.endpoint.endpoint.as_str();
    let taken = delegation::take_back(delegated, container, ifname, netns).await;
    let plugin = delegated.plugin.clone();
    taken.map_err(|source| TeardownError::Delegated { plugin, source })
}

/// What the datastore has of an attachment's container.
struct Found {
    own: Option<Holdings>,
    siblings: Vec<IpAddr>,
}

async fn find<S: Store>(store: &S, remains: &Remains) -> Result<Found, StoreError> {
    let mut found = Found { own: None, siblings: vec![] };
    let Some(prefix) = keys::workload_endpoints_beside(&remains.endpoint) else { return Ok(found) };
    for (key, stored) in store.list(&prefix).await? {
        let Some(ResourceId::WorkloadEndpoint(id)) = id_of(&key) else { continue };
        let holdings = endpoint::holdings(&stored.value);
        if id == remains.endpoint {
            found.own = Some(holdings);
        } else if id.workload == remains.endpoint.workload {
            found.siblings.extend(holdings.addresses);
        }
    }
    Ok(found)
}

impl Removed {
    fn fail_endpoint(&mut self, remains: &Remains, source: StoreError) {
        let endpoint = Box::new(remains.endpoint.clone());
        self.failures.push(TeardownError::Endpoint { endpoint, source });
    }

    async fn remove_interface(&mut self, remains: &Remains, stored: Option<InterfaceName>) {
        match interface(remains, stored).await {
            Ok(was_there) => self.interface = was_there,
            Err(error) => self.failures.push(error),
        }
    }

    async fn take_back(&mut self, remains: &Remains) {
        self.failures.extend(take_back(remains).await.err());
    }

    async fn release<S: Store + Clone>(&mut self, store: &S, remains: &Remains, kept: &[IpAddr]) {
        let ipam = Ipam::new(store.clone(), remains.endpoint.node.clone());
        match release(&ipam, remains, kept).await {
            Ok(addresses) => self.addresses = addresses,
            Err(source) => {
                let handle = remains.handle.clone();
                self.failures.push(TeardownError::Addresses { handle, source });
            }
        }
    }
}

/// Gives the addresses back: all that the handle has, but for those of other interfaces.
async fn release<S: Store>(
    ipam: &Ipam<S>,
    remains: &Remains,
    siblings: &[IpAddr],
) -> Result<Vec<IpAddr>, IpamError> {
    if remains.kept.is_empty() && siblings.is_empty() {
        return ipam.release_handle(&remains.handle).await;
    }
    let mut released = vec![];
    for allocation in ipam.of_handle(&remains.handle).await? {
        let address = allocation.address;
        let kept = remains.kept.contains(&address) || siblings.contains(&address);
        if !kept && ipam.release(address, &remains.handle).await? {
            released.push(address);
        }
    }
    Ok(released)
}

/// Removes the interface: from inside, where what is there is this attachment's, else by the name
/// of its host side.
async fn interface(
    remains: &Remains,
    stored: Option<InterfaceName>,
) -> Result<bool, TeardownError> {
    let known = |name: &InterfaceName| {
        remains.host_name.as_ref() == Some(name) || stored.as_ref() == Some(name)
    };
    let inside = remains.endpoint.endpoint.as_str();
    let fail = |interface: &str| {
        let interface = interface.to_owned();
        move |source| TeardownError::Interface { interface, source }
    };
    if let (Some(netns), Ok(ifname)) = (&remains.netns, inside.parse::<InterfaceName>())
        && network::is_namespace(netns)
    {
        let found = network::inspect(netns, &ifname).await.map_err(fail(inside))?;
        // The interface of another plugin has no peer here that is ours.
        let ours = found.and_then(|found| found.host_name).is_some_and(|name| known(&name));
        if ours && network::delete_inside(netns, &ifname).await.map_err(fail(inside))? {
            return Ok(true);
        }
    }
    let names: BTreeSet<_> = remains.host_name.iter().chain(&stored).cloned().collect();
    let mut removed = false;
    for name in names.difference(&remains.others) {
        removed |= network::delete(name).await.map_err(fail(name.as_str()))?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests;
