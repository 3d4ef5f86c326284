//! Many callers at once: between any two calls of one, the others come to their turn.

use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;

use super::*;
use crate::store::{Seen, StoreError, Stored};

/// Lets others go first, as often as its seed says.
#[derive(Clone, Debug)]
pub(super) struct Yielding {
    store: Arc<Memory>,
    state: Arc<Mutex<u64>>,
    /// The pools as they were when somebody read them, whatever became of them since.
    pools: Option<Vec<(String, Stored)>>,
}

impl Yielding {
    pub(super) fn new(store: Arc<Memory>, seed: u64) -> Self {
        Self { store, state: Arc::new(Mutex::new(seed)), pools: None }
    }

    /// The same store for somebody who read the pools just now, and goes on later.
    pub(super) fn with_pools_of_now(&self) -> Self {
        Self { pools: Some(run(self.store.list(keys::POOLS_PREFIX)).unwrap()), ..self.clone() }
    }

    async fn pause(&self) {
        let turns = {
            let mut state = self.state.lock().unwrap();
            // Knuth's linear congruential generator.
            *state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (*state >> 33) % 4
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

macro_rules! after_a_pause {
    ($self:ident, $call:expr) => {{
        $self.pause().await;
        let answer = $call.await;
        $self.pause().await;
        answer
    }};
}

impl Store for Yielding {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        after_a_pause!(self, self.store.get(key))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
        if let Some(pools) = self.pools.as_ref().filter(|_| prefix == keys::POOLS_PREFIX) {
            return Ok(pools.clone());
        }
        after_a_pause!(self, self.store.list(prefix))
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<bool, StoreError> {
        after_a_pause!(self, self.store.create(key, value))
    }

    async fn create_beside(
        &self,
        key: &str,
        value: &[u8],
        seen: &Seen,
    ) -> Result<bool, StoreError> {
        after_a_pause!(self, self.store.create_beside(key, value, seen))
    }

    async fn replace(&self, key: &str, value: &[u8], revision: i64) -> Result<bool, StoreError> {
        after_a_pause!(self, self.store.replace(key, value, revision))
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), StoreError> {
        after_a_pause!(self, self.store.put(key, value, ttl))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        after_a_pause!(self, self.store.delete(key))
    }

    async fn delete_if(&self, key: &str, revision: i64) -> Result<bool, StoreError> {
        after_a_pause!(self, self.store.delete_if(key, revision))
    }
}

const HOSTS: [&str; 4] = ["a", "b", "c", "d"];

pub(super) fn on(store: &Yielding, name: &str) -> Ipam<Yielding> {
    Ipam::new(store.clone(), Name::from(name))
}

#[test]
fn as_many_pods_as_addresses() {
    for seed in 0..20 {
        let store = small();
        let yielding = Yielding::new(store.clone(), seed);
        let pods = (0..16).map(|i| {
            let name = HOSTS[i % HOSTS.len()];
            let ipam = on(&yielding, name);
            async move {
                let owner = owner(name, &format!("net.{i}"));
                ipam.assign(&owner, &v4(1)).await.map(|given| given[0].address)
            }
        });
        let given: Result<BTreeSet<_>, _> = run(join_all(pods)).into_iter().collect();
        assert_eq!(given.unwrap().len(), 16, "{seed}");
        assert_eq!(held(&store).len(), 16);
        check_rest(&store);
        let error = run(on(&yielding, "a").assign(&owner("a", "net.x"), &v4(1))).unwrap_err();
        assert!(matches!(error, IpamError::NoAddress { why: Shortage::Full, .. }), "{error}");

        let releases = (0..16).map(|i| {
            let ipam = on(&yielding, HOSTS[(i + 1) % HOSTS.len()]);
            async move { ipam.release_handle(&format!("net.{i}")).await.unwrap().len() }
        });
        assert_eq!(run(join_all(releases)), [1; 16], "{seed}");
        assert!(held(&store).is_empty());
        check_rest(&store);
    }
}

#[test]
fn more_pods_than_addresses_that_come_and_go() {
    for seed in 0..10 {
        let store = small();
        let yielding = Yielding::new(store.clone(), seed);
        let taken = Arc::new(Mutex::new(BTreeSet::new()));
        let pods = (0..12).map(|i| {
            let name = HOSTS[i % HOSTS.len()];
            let (ipam, taken) = (on(&yielding, name), taken.clone());
            async move {
                let handle = format!("net.{i}");
                for _ in 0..3 {
                    match ipam.assign(&owner(name, &handle), &v4(1 + i % 3)).await {
                        Ok(given) => {
                            for address in addresses(&given) {
                                assert!(taken.lock().unwrap().insert(address), "{address} twice");
                            }
                            tokio::task::yield_now().await;
                            for address in addresses(&given) {
                                taken.lock().unwrap().remove(&address);
                            }
                        }
                        Err(IpamError::NoAddress { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                    ipam.release_handle(&handle).await.unwrap();
                }
            }
        });
        run(join_all(pods));
        assert!(held(&store).is_empty(), "{seed}");
        check_rest(&store);
    }
}

#[test]
fn one_address_for_one_of_many() {
    for seed in 0..20 {
        let store = small();
        let yielding = Yielding::new(store.clone(), seed);
        let pods = (0..8).map(|i| {
            let name = HOSTS[i % HOSTS.len()];
            let ipam = on(&yielding, name);
            async move {
                let owner = owner(name, &format!("net.{i}"));
                ipam.assign_exactly(&owner, &[ip("10.0.0.6")]).await
            }
        });
        let results = run(join_all(pods));
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 7), "{seed}");
        assert!(lost.iter().all(|lost| matches!(lost, Err(IpamError::Taken { .. }))), "{lost:?}");
        check_rest(&store);
    }
}

#[test]
fn processes_of_one_host_and_of_one_pod() {
    for seed in 0..20 {
        let store = small();
        let yielding = Yielding::new(store.clone(), seed);
        let ipam = on(&yielding, "a");
        let pods = (0..4).map(|i| {
            let ipam = &ipam;
            async move {
                // Two containers with one handle, added and removed at once.
                let handle = format!("net.{}", i % 2);
                ipam.assign(&owner("a", &handle), &v4(2)).await.unwrap();
                if i == 3 {
                    ipam.release_handle(&handle).await.unwrap();
                }
            }
        });
        run(join_all(pods));
        held(&store);
        let left = run(ipam.release_handle("net.1")).unwrap();
        assert!(left.len() <= 2, "{seed}: {left:?}");
        assert_eq!(run(ipam.release_handle("net.0")).unwrap().len(), 4, "{seed}");
        assert!(held(&store).is_empty(), "{seed}");
        check_rest(&store);
    }
}

/// Some processes of a host give up a block whose pool was disabled; others have read the pools
/// before and want an address of it.
#[test]
fn a_block_that_is_given_up_and_wanted_at_once() {
    for (givers, begun) in [(1, false), (1, true), (2, false), (2, true)] {
        for seed in 0..100 {
            let store = small();
            let given = run(host(&store, "a").assign(&owner("a", "net.x"), &v4(1))).unwrap();
            run(host(&store, "a").release_handle("net.x")).unwrap();
            let block = Cidr::new(given[0].address, 30).unwrap();
            let now = Yielding::new(store.clone(), seed);
            let outdated = now.with_pools_of_now();
            let (key, value) =
                pool("p4", r#"{"cidr":"10.0.0.0/28","blockSize":30,"disabled":true}"#);
            put(&store, &key, &value);
            let (key, value) = pool("q4", r#"{"cidr":"10.1.0.0/28","blockSize":30}"#);
            put(&store, &key, &value);
            if begun {
                let affinity = keys::affinity(&"a".into(), block);
                put(&store, &affinity, r#"{"state":"pendingDeletion"}"#);
            }
            let pods = (0..givers + 2).map(|i| {
                let ipam = on(if i < givers { &now } else { &outdated }, "a");
                async move { ipam.assign(&owner("a", &format!("net.{i}")), &v4(1)).await.unwrap() }
            });
            let given: BTreeSet<_> =
                run(join_all(pods)).iter().flat_map(|given| addresses(given)).collect();
            assert_eq!(given.len(), givers + 2, "{seed}");
            assert_eq!(held(&store).len(), givers + 2, "{seed}");
            check_rest(&store);
        }
    }
}
