//! Writes the registration: reads, plans, writes by compare-and-swap, and tries until it is done.

use std::future::Future;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use calico_datastore::layout::v3::keys;
use calico_datastore::layout::v3::write::{Birth, Change};

use super::addresses::{AddressError, HostAddress};
use super::name::{self, NameError};
use super::registration::{Claim, Identity, PlanError, plan_cluster, plan_felix, plan_node};
use crate::paths::Paths;
use crate::reconcile::Problem;
use crate::telemetry::chain;
use calico_datastore::store::{Store, StoreError};

/// The host is not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The store did not answer.
    #[error("cannot register this node")]
    Store(#[source] StoreError),
    /// Other writers were faster each time.
    #[error("cannot register this node: {key} is changed by somebody else all the time")]
    Raced {
        /// The key.
        key: String,
    },
    /// This host was part of a cluster, and the store knows none: it was wiped, or is another one.
    /// If this host declared it ready, every host would take its emptiness for the truth.
    #[error(
        "the datastore has no ClusterInformation, but this host was part of a cluster: restore what \
         was there; to begin anew with an empty datastore, remove {} and policy.json beside it on \
         one host and restart its agent",
        nodename.display()
    )]
    Wiped {
        /// The nodename file.
        nodename: PathBuf,
    },
    /// What is stored stands in the way.
    #[error("cannot register this node")]
    Plan(#[source] PlanError),
    /// The nodename file cannot be written.
    #[error("cannot keep this node's name")]
    Name(#[source] NameError),
    /// The kernel gave no random numbers.
    #[error("cannot read /dev/urandom")]
    Random(#[source] std::io::Error),
}

impl RegisterError {
    /// True when trying again soon may help; else somebody must do something first.
    fn is_transient(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Raced { .. } | Self::Wiped { .. })
    }
}

/// A host that is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its addresses as stored.
    pub addresses: Vec<IpAddr>,
    /// Standing conditions for `status`.
    pub problems: Vec<Problem>,
    /// Addresses that it was given and that no interface of it has.
    pub absent: Vec<IpAddr>,
    /// The keys that were written; empty when everything was as it should be.
    pub written: Vec<String>,
}

/// How often a write is tried against faster writers before the whole is given up for now.
const RACES: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// When somebody must do something first: often enough that nobody has to restart the agent.
const PATIENT_PAUSE: Duration = Duration::from_secs(30);

/// True when nothing says that this host was ever part of a cluster: neither a name that was kept
/// when it was registered, nor a policy that was in force. What cannot be looked at may be there.
pub fn is_newcomer(paths: &Paths) -> bool {
    let absent = |path: PathBuf| path.try_exists().is_ok_and(|there| !there);
    absent(paths.nodename()) && absent(paths.stored_policy())
}

/// Registers the host once: ClusterInformation, Node, FelixConfiguration, at last the nodename
/// file, which tells the CNI plugin that it may begin. Nothing is written into a store without
/// ClusterInformation by a host that may not make it.
///
/// # Errors
/// When the store fails, or what is stored stands in the way. What was written stays; running
/// again continues.
pub async fn register<S: Store>(
    store: &S,
    identity: &Identity,
    interfaces: &[HostAddress],
    nodename: &Path,
) -> Result<Registered, RegisterError> {
    let mut done = Done::default();
    let guid = hex(&random()?);
    let kind = &identity.cluster_type;
    if identity.may_initialise {
        write(store, keys::READY_KEY, &mut done, |stored, birth| {
            Ok((plan_cluster(stored, &guid, kind, birth), ()))
        })
        .await?;
    } else if store.get(keys::READY_KEY).await.map_err(RegisterError::Store)?.is_none() {
        return Err(RegisterError::Wiped { nodename: nodename.to_owned() });
    }

    let nodes = store.list(keys::NODES_PREFIX).await.map_err(RegisterError::Store)?;
    let claims: Vec<_> =
        nodes.iter().filter_map(|(key, stored)| Claim::read(key, &stored.value)).collect();
    let plan = write(store, &keys::node(&identity.name), &mut done, |stored, birth| {
        let mut plan = plan_node(identity, stored, &claims, interfaces, birth)?;
        Ok((plan.change.take(), plan))
    })
    .await?;
    for note in plan.notes {
        tracing::warn!(node = %identity.name, "{note}");
    }

    let felix = keys::felix_configuration_of(&identity.name);
    write(store, &felix, &mut done, |stored, birth| Ok((plan_felix(identity, stored, birth)?, ())))
        .await?;
    name::keep(&identity.name, nodename).map_err(RegisterError::Name)?;
    let Done { written, mut problems } = done;
    problems.extend(plan.problems);
    let absent = identity.absent(interfaces);
    Ok(Registered { addresses: plan.addresses, problems, absent, written })
}

/// Registers the host, trying until it is done: soon again, with growing pauses of at most 3 s,
/// when the store fails; every 30 s when somebody must do something first. `failed` hears of each
/// reason once, for `status`; so does the log, but for a store that is away. `interfaces` is asked
/// each time: while the store is away the network may come up. Dropping the future ends it at any time.
pub async fn register_until_done<S: Store, F>(
    store: &S,
    identity: &Identity,
    interfaces: impl Fn() -> F,
    nodename: &Path,
    mut failed: impl FnMut(Problem),
) -> Registered
where
    F: Future<Output = Result<Vec<HostAddress>, AddressError>>,
{
    let mut said = String::new();
    let mut unasked = false;
    let mut pause = FIRST_PAUSE;
    loop {
        let interfaces = interfaces().await.unwrap_or_else(|error| {
            // Only needed to complete an address given without its prefix length.
            if !std::mem::replace(&mut unasked, true) {
                tracing::warn!(error = chain(&error), "no interface addresses");
            }
            Vec::new()
        });
        let error = match register(store, identity, &interfaces, nodename).await {
            Ok(registered) => {
                for key in &registered.written {
                    tracing::info!(%key, "registered");
                }
                return registered;
            }
            Err(error) => error,
        };
        let message = chain(&error);
        if message != said {
            if matches!(error, RegisterError::Store(_)) {
                // That the store is away is said once, by who reads it.
                tracing::debug!(reason = %message, "not registered; trying again");
            } else {
                tracing::warn!(reason = %message, "not registered; trying again");
            }
            failed(Problem { subject: "registration".to_owned(), message: message.clone() });
            said = message;
        }
        if error.is_transient() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        } else {
            tokio::time::sleep(PATIENT_PAUSE).await;
        }
    }
}

/// What became of the writes.
#[derive(Debug, Default)]
struct Done {
    /// The keys that were written.
    written: Vec<String>,
    /// What could not be written, and never will be by trying again.
    problems: Vec<Problem>,
}

/// Reads `key`, plans, and writes what differs, again when somebody else was faster. An object that
/// the administrator has in a file stays as it is, and what it lacks is told.
async fn write<S: Store, T>(
    store: &S,
    key: &str,
    done: &mut Done,
    mut plan: impl FnMut(Option<&[u8]>, &Birth) -> Result<(Change, T), PlanError>,
) -> Result<T, RegisterError> {
    for _ in 0..RACES {
        let birth = Birth::now().map_err(RegisterError::Random)?;
        let stored = store.get(key).await.map_err(RegisterError::Store)?;
        let bytes = stored.as_ref().map(|stored| stored.value.as_slice());
        let (change, outcome) = plan(bytes, &birth).map_err(RegisterError::Plan)?;
        let Some(value) = change else { return Ok(outcome) };
        let wrote = match &stored {
            None => store.create(key, &value).await,
            Some(stored) => store.replace(key, &value, stored.revision).await,
        };
        match wrote {
            Ok(true) => {
                done.written.push(key.to_owned());
                return Ok(outcome);
            }
            Ok(false) => {}
            Err(error) => {
                let Some(file) = error.owner() else { return Err(RegisterError::Store(error)) };
                let message = format!(
                    "{} is only read; this host would write there: {}",
                    file.display(),
                    String::from_utf8_lossy(&value)
                );
                done.problems.push(Problem { subject: key.to_owned(), message });
                return Ok(outcome);
            }
        }
    }
    Err(RegisterError::Raced { key: key.to_owned() })
}

fn random() -> Result<[u8; 16], RegisterError> {
    let mut bytes = [0; 16];
    let mut file = std::fs::File::open("/dev/urandom").map_err(RegisterError::Random)?;
    file.read_exact(&mut bytes).map_err(RegisterError::Random)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AddressChoice;
    use crate::node::registration::tests::calico_01;
    use calico_datastore::model::Name;
    use calico_datastore::store::memory::Memory;
    use serde_json::Value;

    fn identity() -> Identity {
        let ip = AddressChoice::Fixed([172, 18, 18, 101].into(), Some(24));
        Identity { ip, ..calico_01() }
    }

    async fn none() -> Result<Vec<HostAddress>, AddressError> {
        Ok(Vec::new())
    }

    #[tokio::test]
    async fn an_empty_store_is_initialised_and_the_second_time_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let nodename = dir.path().join("nodename");
        let store = Memory::default();
        let first = register(&store, &identity(), &[], &nodename).await.unwrap();
        assert_eq!(first.written.len(), 3);
        assert_eq!(store.keys().len(), 3);
        let node: Value =
            serde_json::from_str(&store.text(&keys::node(&Name::from("calico-01"))).unwrap())
                .unwrap();
        assert_eq!(node["spec"]["bgp"]["ipv4Address"], "172.18.18.101/24");
        let cluster: Value = serde_json::from_str(&store.text(keys::READY_KEY).unwrap()).unwrap();
        let guid = cluster["spec"]["clusterGUID"].as_str().unwrap();
        assert!(guid.len() == 32 && guid.bytes().all(|b| b.is_ascii_hexdigit()), "{guid}");
        assert_ne!(node["metadata"]["uid"], cluster["metadata"]["uid"]);
        assert_eq!(std::fs::read_to_string(&nodename).unwrap(), "calico-01");

        store.take_writes();
        let second = register(&store, &identity(), &[], &nodename).await.unwrap();
        assert_eq!(second.written, [""; 0]);
        assert_eq!(store.take_writes(), [""; 0]);
    }

    #[tokio::test]
    async fn a_faster_writer_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let key = keys::node(&Name::from("calico-01"));
        let theirs =
            r#"{"metadata":{"labels":{"rack":"r9"}},"spec":{"bgp":{"ipv4Address":"1.2.3.4/8"}}}"#;
        let store = Memory::with(&[(&key, r#"{"spec":{}}"#)]);
        store.race(&key, theirs);
        register(&store, &identity(), &[], &dir.path().join("nodename")).await.unwrap();
        let expected = theirs.replace("1.2.3.4/8", "172.18.18.101/24");
        assert_eq!(store.text(&key), Some(expected));

        // A cluster that another node makes at the same moment stays that node's.
        let store = Memory::default();
        store.race(keys::READY_KEY, r#"{"spec":{"clusterGUID":"theirs"}}"#);
        register(&store, &identity(), &[], &dir.path().join("nodename")).await.unwrap();
        assert!(store.text(keys::READY_KEY).unwrap().contains("theirs"));
    }

    #[tokio::test]
    async fn without_end_of_races_it_gives_up_for_now() {
        let dir = tempfile::tempdir().unwrap();
        let key = keys::node(&Name::from("calico-01"));
        let store = Memory::default();
        for n in 0..RACES {
            store.race(&key, &format!(r#"{{"n":{n}}}"#));
        }
        let nodename = dir.path().join("nodename");
        let error = register(&store, &identity(), &[], &nodename).await.unwrap_err();
        assert!(matches!(error, RegisterError::Raced { .. }) && error.is_transient());
        assert!(!nodename.exists(), "the CNI plugin was told to begin");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_is_asked_again_and_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Memory::default();
        store.fail(5);
        let mut said = vec![];
        let nodename = dir.path().join("nodename");
        let done =
            register_until_done(&store, &identity(), none, &nodename, |p| said.push(p.message))
                .await;
        assert_eq!(done.written.len(), 3);
        let expected =
            format!("cannot register this node: cannot read {}: not reachable", keys::READY_KEY);
        assert_eq!(said, [expected]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_ends_when_somebody_solves_it() {
        let dir = tempfile::tempdir().unwrap();
        let other = keys::node(&Name::from("calico-02"));
        let store =
            Memory::with(&[(&other, r#"{"spec":{"bgp":{"ipv4Address":"172.18.18.101/24"}}}"#)]);
        let mut said = vec![];
        let nodename = dir.path().join("nodename");
        let (identity, mut seen) = (identity(), vec![]);
        let work =
            register_until_done(&store, &identity, none, &nodename, |p| said.push(p.message));
        tokio::select! {
            _ = work => panic!("registered with an address that is taken"),
            () = tokio::time::sleep(Duration::from_secs(100)) => seen.extend(store.take_writes()),
        }
        assert_eq!(seen, [keys::READY_KEY], "the node was written in spite of the conflict");
        assert_eq!(said.len(), 1, "{said:?}");
        store.delete(&other).await.unwrap();
        register_until_done(&store, &identity, none, &nodename, |_| {}).await;
        assert!(nodename.exists());
    }

    #[tokio::test]
    async fn a_store_that_was_wiped_is_not_declared_ready_by_a_host_that_runs() {
        let dir = tempfile::tempdir().unwrap();
        let nodename = dir.path().join("nodename");
        let store = Memory::default();
        let again = Identity { may_initialise: false, ..identity() };
        let error = register(&store, &again, &[], &nodename).await.unwrap_err();
        assert!(matches!(error, RegisterError::Wiped { .. }) && error.is_transient(), "{error}");
        assert!(error.to_string().contains("restore what was there"), "{error}");
        assert_eq!(store.take_writes(), [""; 0]);
        // Somebody else says what is what.
        let theirs = r#"{"spec":{"datastoreReady":false}}"#;
        let store = Memory::with(&[(keys::READY_KEY, theirs)]);
        let registered = register(&store, &again, &[], &nodename).await.unwrap();
        assert_eq!(registered.written.len(), 2, "{registered:?}");
        assert_eq!(store.text(keys::READY_KEY).as_deref(), Some(theirs));
    }

    #[test]
    fn a_host_that_was_part_of_a_cluster_is_no_newcomer() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state_dir: dir.path().to_owned(), ..Paths::default() };
        assert!(is_newcomer(&paths));
        for path in [paths.nodename(), paths.stored_policy()] {
            std::fs::write(&path, "").unwrap();
            assert!(!is_newcomer(&paths), "{}", path.display());
            std::fs::remove_file(&path).unwrap();
        }
        // What cannot be looked at.
        std::os::unix::fs::symlink(paths.nodename(), paths.nodename()).unwrap();
        assert!(!is_newcomer(&paths));
    }
}
