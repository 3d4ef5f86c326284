//! Groups in the datastore.

use calico_datastore::layout::v3::write::endpoint::{self, NAMESPACE, ORCHESTRATOR};
use calico_datastore::layout::v3::write::{Birth, Malformed, profile};
use calico_datastore::layout::v3::{id_of, keys};
use calico_datastore::model::{Name, ResourceId, WorkloadEndpointId};
use calico_datastore::store::{Store, StoreError, Stored};

/// How often another writer may be faster before we give up.
const RACES: usize = 10;
/// The shortest beginning of an id that counts for it.
const SHORTEST: usize = 4;
/// How many pods an error names.
const NAMED: usize = 12;

/// It was not done.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The store did not answer, or refused.
    #[error("the datastore does not do it")]
    Store(#[source] StoreError),
    /// The kernel gives no random numbers for a new object.
    #[error("cannot read /dev/urandom")]
    Birth(#[source] std::io::Error),
    /// The group's name cannot be stored, or what is stored cannot be changed.
    #[error(transparent)]
    Malformed(Malformed),
    /// No profile has that name.
    #[error("there is no group {0}: `calico-agent addgroup {0}` makes it")]
    NoGroup(Name),
    /// The host has no such pod.
    #[error("the host {node} has no pod {container}{}", listed(.pods))]
    NoPod {
        /// The host.
        node: Name,
        /// What was typed.
        container: String,
        /// Which there are.
        pods: Vec<String>,
    },
    /// The host has several.
    #[error("{container} may be any of {}", .pods.join(", "))]
    Ambiguous {
        /// What was typed.
        container: String,
        /// Which.
        pods: Vec<String>,
    },
    /// The pod has no such interface.
    #[error("the pod {pod} has no interface {interface}; it has {}", .has.join(", "))]
    NoInterface {
        /// The pod.
        pod: String,
        /// What was typed.
        interface: String,
        /// Which it has.
        has: Vec<String>,
    },
    /// It was there a moment ago.
    #[error("the endpoint {0} is gone")]
    Gone(WorkloadEndpointId),
    /// Somebody else is always faster.
    #[error("the endpoint {0} is not written: somebody else writes it all the time")]
    Races(WorkloadEndpointId),
}

fn listed(pods: &[String]) -> String {
    match pods {
        [] => " (none at all)".to_owned(),
        [some @ .., _] if some.len() >= NAMED => {
            format!("; it has {} and {} more", some[..NAMED].join(", "), pods.len() - NAMED)
        }
        _ => format!("; it has {}", pods.join(", ")),
    }
}

/// An endpoint that is in the group now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Which.
    pub endpoint: WorkloadEndpointId,
    /// It was before.
    pub already: bool,
}

/// Makes the group, unless there is one of that name: false.
///
/// # Errors
/// When the name cannot be stored, or the store does not answer.
pub async fn create<S: Store>(store: &S, group: &Name) -> Result<bool, GroupError> {
    let birth = Birth::now().map_err(GroupError::Birth)?;
    let new = profile::of_network(group, &birth).map_err(GroupError::Malformed)?;
    store.create(&keys::profile(group), &new).await.map_err(GroupError::Store)
}

/// Every group, in order.
///
/// # Errors
/// When the store does not answer.
pub async fn names<S: Store>(store: &S) -> Result<Vec<Name>, GroupError> {
    let stored = store.list(keys::PROFILES_PREFIX).await.map_err(GroupError::Store)?;
    let mut names: Vec<Name> = stored
        .iter()
        .filter_map(|(key, _)| match id_of(key)? {
            ResourceId::Profile(name) => Some(name),
            _ => None,
        })
        .collect();
    names.sort();
    Ok(names)
}

/// Makes a pod of the host `node` a member of a group: its first interface, or the one that is named.
///
/// # Errors
/// When there is no such group, pod or interface, or the store does not answer.
pub async fn join<S: Store>(
    store: &S,
    node: &Name,
    container: &str,
    interface: Option<&str>,
    group: &Name,
) -> Result<Joined, GroupError> {
    must_exist(store, group).await?;
    let prefix = keys::workload_endpoints_of(node, ORCHESTRATOR, NAMESPACE);
    let stored = store.list(&prefix).await.map_err(GroupError::Store)?;
    let endpoints = stored.into_iter().filter_map(|(key, stored)| match id_of(&key)? {
        ResourceId::WorkloadEndpoint(id) => Some((key, id, stored)),
        _ => None,
    });
    let endpoints: Vec<_> = endpoints.collect();
    let ids: Vec<&WorkloadEndpointId> = endpoints.iter().map(|(_, id, _)| id).collect();
    let chosen = choose(&ids, node, container, interface)?;
    let (key, id, stored) = endpoints
        .iter()
        .find(|(_, id, _)| id == chosen)
        .ok_or_else(|| GroupError::Gone(chosen.clone()))?;
    let already = !write(store, key, id, stored.clone(), group).await?;
    // A group that went meanwhile would cut the pod off.
    must_exist(store, group).await?;
    Ok(Joined { endpoint: id.clone(), already })
}

async fn must_exist<S: Store>(store: &S, group: &Name) -> Result<(), GroupError> {
    let found = store.get(&keys::profile(group)).await.map_err(GroupError::Store)?;
    found.map(drop).ok_or_else(|| GroupError::NoGroup(group.clone()))
}

/// False: it lists the group already.
async fn write<S: Store>(
    store: &S,
    key: &str,
    id: &WorkloadEndpointId,
    mut stored: Stored,
    group: &Name,
) -> Result<bool, GroupError> {
    for _ in 0..RACES {
        let new = endpoint::with_profile(id, group, &stored.value);
        let Some(new) = new.map_err(GroupError::Malformed)? else { return Ok(false) };
        if store.replace(key, &new, stored.revision).await.map_err(GroupError::Store)? {
            return Ok(true);
        }
        let now = store.get(key).await.map_err(GroupError::Store)?;
        stored = now.ok_or_else(|| GroupError::Gone(id.clone()))?;
    }
    Err(GroupError::Races(id.clone()))
}

/// The endpoint that is meant, of all of a host.
fn choose<'a>(
    ids: &[&'a WorkloadEndpointId],
    node: &Name,
    container: &str,
    interface: Option<&str>,
) -> Result<&'a WorkloadEndpointId, GroupError> {
    // As `status` shows it.
    let shown = |id: &WorkloadEndpointId| {
        format!("{}/{}/{}", id.orchestrator.as_str(), id.workload.as_str(), id.endpoint.as_str())
    };
    if let Some(id) = ids.iter().find(|id| shown(id) == container) {
        return Ok(id);
    }
    let mut pods: Vec<&str> = ids.iter().map(|id| pod(id)).collect();
    pods.sort_unstable();
    pods.dedup();
    let meant: Vec<&str> = match pods.iter().find(|pod| **pod == container) {
        Some(exactly) => vec![*exactly],
        None if container.len() >= SHORTEST => {
            pods.iter().filter(|pod| pod.starts_with(container)).copied().collect()
        }
        None => Vec::new(),
    };
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let meant = match meant[..] {
        [meant] => meant,
        [] => {
            let (node, container) = (node.clone(), container.to_owned());
            return Err(GroupError::NoPod { node, container, pods: owned(&pods) });
        }
        _ => {
            let container = container.to_owned();
            return Err(GroupError::Ambiguous { container, pods: owned(&meant) });
        }
    };
    let mut own: Vec<&WorkloadEndpointId> =
        ids.iter().copied().filter(|id| pod(id) == meant).collect();
    // eth2 goes before eth10.
    own.sort_by_key(|id| (id.endpoint.as_str().len(), id.endpoint.as_str().to_owned()));
    let found = match interface {
        None => own.first(),
        Some(name) => own.iter().find(|id| id.endpoint.as_str() == name),
    };
    found.copied().ok_or_else(|| GroupError::NoInterface {
        pod: meant.to_owned(),
        interface: interface.unwrap_or_default().to_owned(),
        has: own.iter().map(|id| id.endpoint.as_str().to_owned()).collect(),
    })
}

/// The container's id.
fn pod(id: &WorkloadEndpointId) -> &str {
    let workload = id.workload.as_str();
    workload.rsplit_once('/').map_or(workload, |(_, container)| container)
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::store::memory::Memory;

    const POD: &str = "c89f2f35-1b7e-4a4e-8f0e-0c4c1de8b7f1";

    fn key(node: &str, container: &str, interface: &str) -> String {
        let id = endpoint::id(&Name::from(node), container, interface);
        keys::workload_endpoint(&id).unwrap()
    }

    async fn joined(
        store: &Memory,
        container: &str,
        interface: Option<&str>,
    ) -> Result<String, String> {
        let (node, group) = (Name::from("n-1"), Name::from("web"));
        let joined = join(store, &node, container, interface, &group).await;
        joined.map(|joined| joined.endpoint.to_string()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_group_is_made_once_and_listed() {
        let (store, web) = (Memory::default(), Name::from("web"));
        assert!(create(&store, &web).await.unwrap());
        let text = store.text(&keys::profile(&web)).unwrap();
        assert!(text.contains("has(web)"), "{text}");
        assert!(!create(&store, &web).await.unwrap());
        assert_eq!(store.text(&keys::profile(&web)).unwrap(), text);
        assert_eq!(names(&store).await.unwrap(), [web]);
        for bad in ["a/b", "", "projectcalico-default-allow"] {
            assert!(create(&store, &Name::from(bad)).await.is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_pod_of_this_host_joins_once_whoever_else_writes() {
        let spec = r#"{"metadata":{"uid":"u"},"spec":{"profiles":["net"]}}"#;
        let (one, two) = (key("n-1", POD, "eth0"), key("n-1", POD, "eth1"));
        let other = key("n-2", "elsewhere", "eth0");
        let store = Memory::with(&[(&one, spec), (&two, spec), (&other, spec)]);
        let error = joined(&store, POD, None).await.unwrap_err();
        assert!(error.contains("no group web") && error.contains("addgroup web"), "{error}");
        create(&store, &Name::from("web")).await.unwrap();
        // Somebody labels it at the same moment.
        store.race(&one, r#"{"metadata":{"uid":"u"},"spec":{"profiles":["net"],"x":1}}"#);
        let first = joined(&store, &POD[..6], None).await.unwrap();
        assert!(first.contains(POD) && first.ends_with("eth0"), "{first}");
        let now = r#"{"metadata":{"uid":"u"},"spec":{"profiles":["net","web"],"x":1}}"#;
        assert_eq!(store.text(&one).unwrap(), now);
        assert_eq!(store.text(&two).unwrap(), spec);
        assert!(joined(&store, POD, Some("eth1")).await.unwrap().ends_with("eth1"));
        store.take_writes();
        let again = format!("cni/default/{POD}/eth1");
        assert!(joined(&store, &again, None).await.is_ok());
        assert_eq!(store.take_writes(), [""; 0]);

        let error = joined(&store, POD, Some("eth7")).await.unwrap_err();
        assert!(error.contains("no interface eth7; it has eth0, eth1"), "{error}");
        for bad in ["elsewhere", "c89", "d"] {
            let error = joined(&store, bad, None).await.unwrap_err();
            assert!(error.contains(&format!("n-1 has no pod {bad}; it has {POD}")), "{error}");
        }
        store.fail(1);
        assert!(joined(&store, POD, None).await.is_err());
    }

    #[tokio::test]
    async fn what_may_be_two_is_neither() {
        let keys = ["abcd-1", "abcd-2"].map(|pod| key("n-1", pod, "eth0"));
        let store = Memory::with(&[(&keys[0], "{}"), (&keys[1], "{}")]);
        create(&store, &Name::from("web")).await.unwrap();
        let error = joined(&store, "abcd", None).await.unwrap_err();
        assert_eq!(error, "abcd may be any of abcd-1, abcd-2");
        assert!(joined(&store, "abcd-2", None).await.is_ok());
    }
}
